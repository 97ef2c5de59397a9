"""Fold removed units into the listeners' weights, and sweep units that became unread or constant.

If a unit's output is an affine mix of other units' outputs, removing it changes nothing once it is
folded: its columns times the shares of the mix are added to the other units' columns, and its
columns times the constant to the listener's bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sentei.errors import GroupError, StructureError
from sentei.network.calls import Call, Calls
from sentei.network.example import as_found
from sentei.network.mask import Mask
from sentei.network.units import Listener, Neurons, tensor_of
from sentei.running import Example, run

CONSTANT = 1e-6  # an output is constant if max - min <= CONSTANT * (1 + its largest magnitude)


@torch.no_grad()
def fold_(model: nn.Module, group: Neurons, units: Tensor, mix: Mapping[Listener, Tensor]) -> None:
    """Fold `units` into the columns of the remaining units and the biases of the listeners.

    Args:
        model: changed in place, unless an error is raised.
        group: the group of the units.
        units: (k,) positions of the units to remove; their columns are zero afterwards.
        mix: for each listener (k, size + 1): each removed unit as a mix of all units (zero for the
            removed ones) and, in the last column, a constant. Or, where units have several columns,
            (k * columns, size * columns + 1): each column of them as a mix of all columns, unit by
            unit.

    Raises:
        GroupError: a mix has the wrong shape, or uses a unit that is removed.
        StructureError: a mix has a constant, and its listener has no bias.
    """
    parts = {part: _as_mixed(part, units, weights) for part, weights in mix.items()}
    for part, weights in mix.items():
        _, own = parts[part]
        wanted = len(own), len(parts[part][0].index) + 1
        if part not in group.listeners or weights.shape != wanted:
            raise GroupError(
                f"a mix for {group.name!r} needs shape {(len(units), group.size + 1)} for one "
                f"of its listeners; got {tuple(weights.shape)} for {part.parameter!r}"
            )
        if weights[:, own].count_nonzero():
            raise GroupError(
                f"a mix for group {group.name!r} may use only units that stay; it uses units that "
                "are removed: set their shares to zero"
            )
        if weights[:, -1].count_nonzero() and bias_of(model, part) is None:
            raise StructureError(
                f"listener {part.layer!r} has no bias to hold a constant; give it one (bias=True)"
            )
    for part, weights in mix.items():
        _fold_into_(model, *parts[part], weights)


def _as_mixed(part: Listener, units: Tensor, rows: Tensor) -> tuple[Listener, Tensor]:
    """Return a listener and the removed units; if the mix is by column, each column is a unit."""
    size, width = part.index.shape
    if width == 1 or rows.shape != (len(units) * width, size * width + 1):
        return part, units
    return by_column(part), columns_of(units, width)


def by_column(part: Listener) -> Listener:
    """Return a listener in which each column of each unit is a unit, one unit after the other."""
    return replace(part, index=part.index.reshape(-1, 1))


def columns_of(units: Tensor, width: int) -> Tensor:
    """Return the positions in `by_column` of the columns of units, (k * width,)."""
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()


def _fold_into_(model: nn.Module, part: Listener, units: Tensor, rows: Tensor) -> None:
    """Fold `units` into one listener in place; `rows` is its mix, (k, size + 1)."""
    weight = tensor_of(model, part.parameter)
    stays = torch.ones(len(part.index)).index_fill(0, units, 0)
    whole, constant = folded(weight, part, stays, lambda columns: columns[units], rows)
    weight.copy_(whole)
    bias = bias_of(model, part)
    if bias is not None:
        bias += constant.reshape(bias.shape)


def folded(
    weight: Tensor,
    part: Listener,
    stays: Tensor,
    take: Callable[[Tensor], Tensor],
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return a listener's weight with k units folded into the others, and what its bias gains.

    Can be differentiated, and run under `torch.func.vmap` with `stays`, `take` and `rows` that
    depend on the unit.

    Args:
        weight: the listener's weight.
        part: the listener.
        stays: (size,) 0 for the k units, 1 for all others.
        take: selects the k units from a tensor that has one row for each unit.
        rows: (k, size + 1) the mix: for each of the k units a share of each unit (zero for the k
            units) and, last, a constant.

    Returns:
        The weight, in its shape, and (rows of the weight,) what is added to the bias.
    """
    index, rows = part.index.to(weight.device), rows.to(weight)
    columns = weight.movedim(part.dim, 0)
    own = columns[index]  # (size, columns per unit, rows of the weight, ...)
    removed = take(own)
    kept = own * stays.to(weight).reshape(-1, *[1] * (own.ndim - 1))
    moved = kept + torch.tensordot(rows[:, :-1].T, removed, 1)
    whole = columns.index_copy(0, index.flatten(), moved.flatten(0, 1))
    constant = torch.tensordot(rows[:, -1], removed, 1).sum(0)
    return whole.movedim(0, part.dim), constant.reshape(constant.shape[0], -1).sum(1)


def folded_call(
    call: Call, part: Listener, stays: Tensor, take: Callable[[Tensor], Tensor], rows: Tensor
) -> Tensor:
    """Compute a listener's call with k units folded into the others; arguments as in `folded`."""
    weight, constant = folded(call.given[call.use.weight], part, stays, take, rows)
    if call.use.columns != part.dim:  # the weight is tied: another call looks its rows up
        return call(weight=weight)
    return call(weight=weight) + constant.reshape(-1, *[1] * (-1 - call.axis))


def unexplained(o: Tensor, index: Tensor, units: Tensor, rows: Tensor) -> Tensor:
    """Return what a linear listener loses of its input when each unit alone is folded.

    Args:
        o: (inputs, n) the listener's input.
        index: (size, columns per unit) the columns of each unit.
        units: (k,) positions.
        rows: (k, size + 1) the mix.

    Returns:
        (inputs, n): at the columns of `units` their output minus the mix, zero elsewhere.
    """
    lost, shares, constants = torch.zeros_like(o), rows[:, :-1], rows[:, -1:]
    partners = shares.abs().argmax(1)
    alone = bool((shares.count_nonzero(1) <= 1).all())  # one other unit at most takes over
    share = shares.gather(1, partners[:, None])
    for own in index.T:  # a unit's i-th column is a mix of the i-th columns of the others
        if alone:
            mixed = torch.addcmul(constants, share, o[own[partners]])
        else:
            mixed = torch.addmm(constants, shares, o[own])
        lost[own[units]] = o[own[units]] - mixed
    return lost


def bias_of(model: nn.Module, part: Listener) -> Tensor | None:
    """Return the bias of a listener's layer, with one entry for each row; None if it has none."""
    bias = getattr(model.get_submodule(part.layer), "bias", None)
    return bias if isinstance(bias, Tensor) else None


def sweep_(model: nn.Module, mask: Mask, example: Example) -> Mask:
    """Remove units that became unread or constant because others are dead, until no more are found.

    A unit is unread if all columns that read it are dead. A unit whose incoming weights are all
    dead outputs a constant, which is folded into its listeners' biases. Where the constant cannot
    be folded exactly (zero padding, no bias), the unit stays. Unread inputs are removed like units,
    if the mask holds them.

    Args:
        model: already masked; the listeners' biases and columns of constant units change in place.
        mask: what is alive.
        example: inputs on which the constants are measured.

    Returns:
        The mask with the swept units dead as well.
    """
    while True:
        unread = {
            g: u for g in mask.groups if isinstance(g, Neurons) for u in [_unread(model, mask, g)]
        }
        found = {group: units for group, units in unread.items() if units.numel()}
        if not found:
            found = dict(_constant_units(model, mask, example))
        if not found:
            return mask
        mask = mask.without(found)
        mask.apply_(model)


def _unread(model: nn.Module, mask: Mask, group: Neurons) -> Tensor:
    """Return the positions of the alive units whose outgoing weights are all dead."""
    read = torch.zeros(group.size, dtype=torch.bool)
    for part in group.listeners:
        read |= _connected(model, mask, part)
    return _allowed(mask, group, mask.alive(group) & ~read)


def _allowed(mask: Mask, group: Neurons, units: Tensor) -> Tensor:
    """Return the positions of the alive `units`, (size,) bool, that the group can lose.

    If they are too many to keep `group.least` units alive, only the first ones.
    """
    spare = mask.count(group) - group.least
    return units.nonzero().flatten()[: max(spare, 0)]


def _connected(model: nn.Module, mask: Mask, part: Listener) -> Tensor:
    """Return for each unit whether any weight at its positions in `part` is alive, (size,) bool."""
    weight = tensor_of(model, part.parameter)
    alive = mask.living(part.parameter, weight.shape).movedim(part.dim, 0).flatten(1).any(1)
    return alive[part.index].any(1)


def _constant_units(
    model: nn.Module, mask: Mask, example: Example
) -> Iterator[tuple[Neurons, Tensor]]:
    """Fold the constant units of the first group that has any; yield the group and the units."""
    for group in mask.groups:
        if not isinstance(group, Neurons) or not group.producers or not mask.count(group):
            continue
        weights = [p for p in group.producers if tensor_of(model, p.parameter).ndim > 1]
        has_input = torch.zeros(group.size, dtype=torch.bool)
        for part in weights:
            has_input |= _connected(model, mask, part)
        units = _allowed(mask, group, mask.alive(group) & ~has_input)
        if not units.numel() or not all(_foldable(model, part) for part in group.listeners):
            continue
        values = {part: _constants(model, part, units, example) for part in group.listeners}
        constant = torch.stack([value.isfinite() for value in values.values()]).all(0)
        if constant.any():
            mix = {}
            for part, value in values.items():
                mix[part] = torch.zeros(int(constant.sum()), group.size + 1, dtype=value.dtype)
                mix[part][:, -1] = value[constant]
            fold_(model, group, units[constant], mix)
            yield group, units[constant]
            return


def _foldable(model: nn.Module, part: Listener) -> bool:
    """Return whether a constant input of a listener can be folded exactly into its bias."""
    layer = model.get_submodule(part.layer)
    shared = getattr(layer, "groups", 1) > 1 or getattr(layer, "transposed", False)
    return bias_of(model, part) is not None and not is_padded(model, part) and not shared


def is_padded(model: nn.Module, part: Listener) -> bool:
    """Return whether a listener pads its input: in the padding a unit's constant is missing."""
    padding = getattr(model.get_submodule(part.layer), "padding", 0)
    return padding not in (0, "valid", (0,), (0, 0), (0, 0, 0))


def _constants(model: nn.Module, part: Listener, units: Tensor, example: Example) -> Tensor:
    """Return the constant that `part` reads from each unit, (k,); NaN if a unit is not constant."""
    recorded: list[Tensor] = []

    def answer(call: Call) -> Tensor:
        if call.weight == part.parameter:
            columns = call.input.movedim(call.axis, 0)[part.index[units]]
            recorded.append(columns.flatten(1).double().cpu())
        return call()

    with torch.no_grad(), as_found(model), Calls(model.eval(), answer):
        run(model, example)
    if not recorded:
        return torch.full((len(units),), torch.nan)
    values = torch.cat(recorded, 1)
    low, high = values.min(1).values, values.max(1).values
    constant = high - low <= CONSTANT * (1 + values.abs().max(1).values)
    return torch.where(constant, (low + high) / 2, torch.nan)
