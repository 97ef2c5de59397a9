"""Repairs that fit the outputs of removed units by affine mixes of the remaining units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.errors import GroupError, StructureError
from sentei.network.belonging import check_groups, positions_in
from sentei.network.folding import by_column, columns_of
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons
from sentei.probe.engines.streams import NO_REPAIR
from sentei.probe.probe import Probe
from sentei.probe.second_moments import InverseCovariance, SecondMoments
from sentei.probe.summaries import inverse_covariances, second_moments

Mix = dict[Listener, Tensor]


@checked
def mean(probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False) -> Mix:  # noqa: ARG001 - fits each unit alone
    """Replace each removed unit by its mean output, added to its listeners' biases.

    Exact for constant units.

    Source: the first stage of Sietsma and Dow (1991).
    """
    remaining(probe, group, mask)
    units = positions_in(group, units)
    mix = {}
    for part, moments in second_moments(probe, group).items():
        mix[part] = torch.zeros(len(units), group.size + 1, dtype=torch.float64)
        mix[part][:, -1] = moments.means.cpu()[units]
    return mix


@checked
@dataclass(frozen=True)
class SingleSurvivor:
    """Replace each removed unit by one remaining unit: the best fit, or a given partner.

    The best fit is the unit with the least mean squared residual.

    Attributes:
        affine: if True, fit o_b = s o_a + r by least squares: exact for duplicates, scaled copies
            and complements; r = 0 where the listener has no bias. If False, s = 1 and r = 0: exact
            for duplicates only.
        partners: for each unit of the group, the position of the unit that replaces it; -1 for the
            best fit. In a chain (a replaces b, b replaces c) the remaining unit at its end replaces
            all.

    Source: affine: Babaeizadeh, Smaragdis and Campbell (2016), NoiseOut; not affine: Gedeon and
    Harris (1991), on the outgoing side, and Sietsma and Dow (1991).
    """

    affine: bool
    partners: tuple[int, ...] = ()

    def __call__(
        self, probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False
    ) -> Mix:
        """Return the mix for each listener, (k, size + 1).

        Raises:
            GroupError: a given partner is dead, or no unit remains and `affine` is False.
        """
        alive, units = remaining(probe, group, mask), positions_in(group, units)
        if not self.affine and int(alive.sum()) <= (alone and len(units) > 0):
            raise GroupError(
                f"the repair 'twin' needs at least one unit that stays; {group.name!r} has none "
                "left. Keep a unit, or use 'affine', which then leaves a constant."
            )
        partners = self._final_partners(group, units, alive)
        return {
            part: self._rows(moments, units, alive, partners, alone)
            for part, moments in second_moments(probe, group).items()
        }

    def _final_partners(self, group: Group, units: Tensor, alive: Tensor) -> Tensor:
        """(k,) the partner at the end of each unit's chain; -1 where none was given."""
        if not self.partners:
            return torch.full((len(units),), -1)
        ends = []
        for unit in units.tolist():
            end, seen = self.partners[unit], {unit}
            last = end
            while end >= 0 and not alive[end] and end not in seen:
                seen.add(end)
                last, end = end, self.partners[end]
            if last >= 0 and (end < 0 or not alive[end]):
                raise GroupError(
                    f"a removed unit can be replaced only by a unit that stays; in {group.name!r} "
                    f"the partners of unit {unit} end at a dead unit: {last} is dead. Choose a "
                    "partner that is alive."
                )
            ends.append(end)
        return torch.tensor(ends, dtype=torch.long)

    def _rows(
        self, moments: SecondMoments, units: Tensor, alive: Tensor, partners: Tensor, alone: bool
    ) -> Tensor:
        """(k, size + 1) float64 mix for one listener."""
        covariance, means = moments.spread.cpu(), moments.centre.cpu()
        if self.affine:
            variances = covariance.diagonal().clamp(min=0)
            varies = variances > 1e-20 * (variances + moments.means.cpu().square())
            scale = covariance[units] / torch.where(varies, variances, 1.0)
            scale = torch.where(varies, scale, 0.0)
            explained = scale * covariance[units]  # part of the unit's variance
        else:
            size, products = len(alive), moments.about(torch.zeros_like(moments.means)).cpu()
            squares = products.diagonal()
            explained = 2 * products[units] - squares  # |o_b|^2 minus this is |o_b - o_a|^2
            scale = torch.ones(len(units), size, dtype=torch.float64)
        explained = explained.masked_fill(~alive, -torch.inf)
        if alone:
            explained[torch.arange(len(units)), units] = -torch.inf
        best = torch.where(partners >= 0, partners, explained.argmax(1))
        rows = torch.zeros(len(units), len(alive) + 1, dtype=torch.float64)
        at = torch.arange(len(units))
        usable = explained[at, best] > -torch.inf
        rows[at, best] = torch.where(usable, scale[at, best], 0.0)
        if self.affine:
            rows[:, -1] = means[units] - rows[:, :-1] @ means
        return rows


twin = SingleSurvivor(affine=False)
affine = SingleSurvivor(affine=True)


@checked
def least_squares(
    probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False
) -> Mix:
    """Replace each removed unit by its least-squares fit: all remaining units and a constant.

    A listener without a bias holds no constant; its fit is of the remaining units alone.

    One inverse covariance serves all units and all steps: it is updated when units are removed. If
    the covariance is singular (some units are mixes of others), a ridge makes it invertible, and a
    log message says so.

    For a stream, the repair of `ranked` and `below` with this name is another one: see
    `criteria.repairs.streams`.

    Source: Castellano, Fanelli and Pelillo (1997), compensation by least squares on removal. For
    one unit at a time it equals optimal brain surgeon on the listeners' weights (Hassibi and Stork,
    1993) if everything after the listeners were linear.
    """
    alive, units = remaining(probe, group, mask), positions_in(group, units)
    mix = {}
    for part, inverse in inverse_covariances(probe, group).items():
        removed = units if alone else (inverse.alive & ~alive).nonzero().flatten()
        rows = torch.zeros(group.size, group.size + 1, dtype=torch.float64)
        rows[removed] = (inverse.mixes(removed) if alone else inverse.mixes_without(removed)).cpu()
        mix[part] = rows[units]
    return mix


@checked
def least_squares_by_column(
    probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False
) -> Mix:
    """Fit each column of the removed units: all columns of the remaining units and a constant.

    A layer may read a unit in several columns: of an attention head as many as it has features, of
    a flattened channel one for each position. `least_squares` gives them all the same share of
    another unit. Here each has its own fit, after which the outputs of the layer that reads the
    units change least. The moments of all columns take the square of their number in memory. Where
    each unit has one column, this is `least_squares`.

    Returns:
        For each listener (k * columns, size * columns + 1): a row for each column of each removed
        unit, with a coefficient for each column of each unit and a constant.

    Raises:
        GroupError: `alone`, and units have several columns: removals are measured with one share
            for each unit.

    Source: the least-squares reconstruction of the layer that reads removed channels: He, Zhang and
    Sun (2017), Channel pruning for accelerating very deep neural networks (arXiv 1707.06168).
    """
    alive, units = remaining(probe, group, mask), positions_in(group, units)
    assert isinstance(group, Neurons)
    if max((part.index.shape[1] for part in group.listeners), default=1) == 1:
        return least_squares(probe, group, units, mask, alone)
    if alone:
        raise GroupError(
            f"the units of {group.name!r} have several columns, and a removal is measured with one "
            'share for each unit. Measure with "least_squares", and use "least_squares_by_column" '
            "as the repair."
        )
    return {part: _columns_fit(probe, group, part, units, alive) for part in group.listeners}


def _columns_fit(
    probe: Probe, group: Neurons, part: Listener, units: Tensor, alive: Tensor
) -> Tensor:
    """Return the mix of a listener's columns, (k * columns, size * columns + 1) float64."""
    width, own = part.index.shape[1], by_column(part)
    name = f"{group.name}, columns of {part.parameter}"
    columns = replace(group, name=name, size=len(own.index), listeners=(own,))
    (moments,) = second_moments(probe, columns).values()
    doomed, there = columns_of(units, width), alive.repeat_interleave(width)
    there[doomed] = True  # the inverse is one of all that may fit or is fitted
    inverse = InverseCovariance.of(moments, there, name)
    return inverse.mixes_without(doomed).cpu()


def remaining(probe: Probe, group: Group, mask: Mask) -> Tensor:
    """(size,) bool: the units that may replace others: alive in the mask and for the Probe.

    Raises:
        GroupError: a group of synapses, or a stream.
        StructureError: a listener is a grouped transposed convolution.
    """
    if not isinstance(group, Neurons):
        raise GroupError(
            f"a repair applies to whole units only; {group.name!r} is a group of synapses. Leave "
            "repair= out for it."
        )
    if group.kind == "stream":
        raise GroupError(NO_REPAIR)
    check_groups(probe.model, [group])
    for part in group.listeners:
        layer = probe.model.get_submodule(part.layer)
        if getattr(layer, "transposed", False) and getattr(layer, "groups", 1) > 1:
            raise StructureError(
                f"in a grouped transposed convolution different units reach different outputs, so "
                f"no unit can replace another; {part.layer!r} is one. Leave repair= out for "
                f"{group.name!r}."
            )
    alive = mask.alive(group) if group in mask.groups else torch.ones(group.size, dtype=torch.bool)
    return alive & probe.alive(group)
