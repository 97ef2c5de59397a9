"""List what can be removed from a network, what cannot, and how many parameters that is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from torch import nn

from sentei.arguments import checked
from sentei.errors import GroupError, PruningError
from sentei.network.example import guessed
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.network.parameters import removed_parameters, smallest
from sentei.network.tracing.branches import find_branches
from sentei.network.tracing.grouping import NotOffered
from sentei.network.tracing.tracing import find_units, traced
from sentei.network.units import Branches, Neurons
from sentei.running import Example, Forward

REASONS = 3  # that a message names; `not_offered` lists all


@dataclass(frozen=True)
class Offered:
    """A group of units or branches, and how many parameters it holds.

    Attributes:
        group: the group.
        parameters: entries of parameters that go when this group alone keeps `group.least` units,
            or no branch.
        by_branch: entries of parameters that go with each branch alone; of units none.
    """

    group: Neurons | Branches
    parameters: int
    by_branch: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """What can be removed from a network, and what cannot.

    Attributes:
        parameters: number of entries of all parameters of the network.
        removable: how many of them go when all groups keep as few units as they can. Where rows of
            one group cross columns of another, an entry counts once, so that this is less than the
            sum over the groups.
        offered: the groups of `find_units`, in their order.
        not_offered: as `sentei.not_offered` returns it.
    """

    parameters: int
    removable: int
    offered: tuple[Offered, ...]
    not_offered: tuple[NotOffered, ...]

    @property
    def groups(self) -> list[Neurons | Branches]:
        """The groups that are offered."""
        return [each.group for each in self.offered]

    @property
    def reasons(self) -> dict[str, list[NotOffered]]:
        """What is not offered, by reason."""
        by_reason: dict[str, list[NotOffered]] = defaultdict(list)
        for each in self.not_offered:
            by_reason[each.reason].append(each)
        return dict(by_reason)

    def share(self, parameters: int) -> float:
        """Return a number of parameters as a share of all; 0 for a network without parameters."""
        return parameters / self.parameters if self.parameters else 0.0


@checked
def inventory(
    model: nn.Module,
    example: Example,
    inputs: bool = False,
    forward: Forward | None = None,
    depth: bool = False,
) -> Inventory:
    """List the groups of units of a network with their shares of its parameters, and what is left.

    The network is traced once and not changed; the numbers follow from the shapes of its tensors.

    Args:
        model: as for `find_units`.
        example: as for `find_units`.
        inputs: whether to list input features too.
        forward: as for `find_units`.
        depth: whether to list residual branches too, as a group, and what is added to a stream and
            is no branch that can go.

    Raises:
        StructureError, DataError: as `find_units`.
    """
    example = with_forward(model, example, forward)
    offer = traced(model, example, inputs=inputs)
    branches, refused = find_branches(model, example) if depth else ([], [])
    groups = [*offer.groups, *branches]
    return Inventory(
        sum(parameter.numel() for parameter in model.parameters()),
        removed_parameters(model, smallest(groups)),
        tuple(_offered(model, group) for group in groups),
        (*offer.left_out, *refused),
    )


def _offered(model: nn.Module, group: Neurons | Branches) -> Offered:
    parameters = removed_parameters(model, smallest([group]))
    if isinstance(group, Neurons):
        return Offered(group, parameters)
    full = Mask.full([group])
    each = (removed_parameters(model, full.without({group: [at]})) for at in range(group.size))
    return Offered(group, parameters, tuple(each))


def some_units(
    model: nn.Module, example: Example, *, depth: bool = False
) -> list[Neurons | Branches]:
    """Find the groups of units of a network, as `find_units` does.

    Raises:
        GroupError: there are none; the message has the reasons.
        StructureError, DataError: as `find_units`.
    """
    found = find_units(model, example, depth=depth)
    if not found:
        raise GroupError(
            f"a network with units that can be removed is needed. {_why(model, example)}"
        )
    return found


def no_groups(model: nn.Module, example: Example | None) -> GroupError:
    """Return the error for an empty list of groups, which says what the network offers, or why not.

    Args:
        model: the network.
        example: its inputs; None if the caller has none.
    """
    return GroupError(
        "there is nothing to prune: `groups` has to hold at least one group of units or synapses, "
        f"and it is empty. {_why(model, example)}"
    )


def _why(model: nn.Module, example: Example | None) -> str:
    """Return sentences on what a network offers, and why not more."""
    where = (
        "`sentei.not_offered(model, example)`, or `sentei units` on the command line, lists "
        "everything that is left out. find_synapses(model) gives groups of single weights."
    )
    try:
        found = inventory(model, guessed(model) if example is None else example)
    except PruningError as error:
        return f"Units: {error} {where}" if example is not None else where
    if found.groups:
        count = f"{len(found.groups)} group{'s' * (len(found.groups) > 1)}"
        return f"find_units(model, example) finds {count} of units in this network. {where}"
    reasons = [f"{places[0].parameter}: {reason}" for reason, places in found.reasons.items()]
    first = "; ".join(reasons[:REASONS]) or "it has no weights that mix units"
    return f"find_units(model, example) offers nothing in this network ({first}). {where}"
