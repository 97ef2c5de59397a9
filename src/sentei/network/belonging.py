"""Check that groups are those of a network, and positions those of members of a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import GroupError
from sentei.network.units import Branches, Group, Listener, Synapses
from sentei.shards import refuse_sharded


def positions_in(group: Group, given: Tensor | Sequence[int]) -> Tensor:
    """Return positions of members of a group as int64, (k,).

    Raises:
        GroupError: positions that are not whole numbers, or lie outside the group.
    """
    positions = torch.as_tensor(given).flatten()
    if not positions.numel():
        return positions.long()
    if positions.dtype == torch.bool or positions.is_floating_point():
        raise GroupError(
            f"members are given as integer positions; {group.name!r} got {positions.dtype}. Turn "
            "a bool mask into positions with .nonzero().flatten()."
        )
    outside = positions[(positions < 0) | (positions >= group.size)]
    if outside.numel():
        raise GroupError(
            f"positions in {group.kind} group {group.name!r} run from 0 to {group.size - 1}; got "
            f"{outside.tolist()[:5]}"
        )
    return positions.long()


def members_of(
    model: nn.Module, group: Group, given: Tensor | Sequence[int] | None = None
) -> Tensor:
    """Return positions of members of one of the model's groups; all members if `given` is None.

    Returns:
        (k,) int64.

    Raises:
        GroupError: the model does not have the group, or the group no such members.
    """
    check_groups(model, [group])
    return torch.arange(group.size) if given is None else positions_in(group, given)


def check_groups(model: nn.Module, groups: Iterable[Group]) -> None:
    """Raise GroupError if a model does not have one of the groups.

    Raises:
        GroupError: a parameter of a group is missing or too small; the message names both.
        StructureError: tensors of the network are in shards on several devices.
    """
    refuse_sharded(model)
    named = model.named_parameters(remove_duplicate=False), model.named_buffers()
    check_tensors({name: tensor for each in named for name, tensor in each}, groups)


def check_tensors(tensors: Mapping[str, Tensor], groups: Iterable[Group]) -> None:
    """Raise GroupError if a model with these tensors, by name, does not have one of the groups.

    Raises:
        GroupError: a parameter of a group is missing or too small; the message names both.
    """
    for group in groups:
        for parameter, fits, want in _demands(group):
            held = tensors.get(parameter)
            if held is None or not fits(held):
                has = "no such parameter" if held is None else f"shape {tuple(held.shape)}"
                raise GroupError(
                    f"group {group.name!r} is not this model's: it needs {parameter!r} with "
                    f"{want}, the model has {has}. Find this model's groups with find_units."
                )


def _demands(group: Group) -> list[tuple[str, Any, str]]:
    """Return the parameters that a group needs in a model: (name, test for it, description)."""
    if isinstance(group, Synapses):
        return [(group.parameter, lambda t: tuple(t.shape) == group.shape, f"shape {group.shape}")]

    if isinstance(group, Branches):
        names = dict.fromkeys(name for each in group.branches for name in each.parameters)
        return [(name, lambda _: True, "any shape") for name in names]

    def reaches(part: Listener) -> Any:
        top = int(part.index.max()) if part.index.numel() else -1
        return lambda tensor: tensor.ndim > part.dim and tensor.shape[part.dim] > top

    return [
        (
            part.parameter,
            reaches(part),
            f"{part.index.numel()} positions along dimension {part.dim}",
        )
        for part in (*group.producers, *group.followers, *group.listeners)
    ]
