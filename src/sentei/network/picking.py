"""Choose groups by name, as files are chosen in a shell."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from sentei.arguments import checked
from sentei.errors import GroupError
from sentei.network.units import Group


@checked
def pick(
    groups: Sequence[Group], only: Sequence[str] = ("*",), without: Sequence[str] = ()
) -> list[Group]:
    """Return the groups whose names match a pattern, in their order.

    Args:
        groups: as `find_units` or `find_synapses` returns them.
        only: patterns of names, such as "layer4.*"; `*` stands for any characters, `?` for one and
            `[ab]` for one of these. A group that matches any of them is chosen.
        without: patterns of names of groups to leave out of these.

    Raises:
        GroupError: a pattern that matches no group's name.
    """
    for pattern in (*only, *without):
        if groups and not any(matches(group, pattern) for group in groups):
            names = [group.name for group in groups]
            near = (get_close_matches(pattern.replace("*", ""), names, n=1) or names)[0]
            raise GroupError(
                f"each pattern must match the name of a group; {pattern!r} matches none of "
                f"{len(names)}, such as {near!r}. `*` stands for any characters."
            )
    return [
        group
        for group in groups
        if any(matches(group, pattern) for pattern in only)
        and not any(matches(group, pattern) for pattern in without)
    ]


def matches(group: Group, pattern: str) -> bool:
    """Return whether a group's name matches a pattern, as for `pick`."""
    return fnmatchcase(group.name, pattern)
