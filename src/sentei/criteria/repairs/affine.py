"""Affine mixes of units that stay, fitted to what the units that go put out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.errors import GroupError, StructureError
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons
from sentei.probe.probe import Probe, inverse_covariances, second_moments
from sentei.probe.second_moments import SecondMoments

Mix = dict[Listener, Tensor]


def mean(probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False) -> Mix:  # noqa: ARG001 - leans on nobody
    """Each unit's mean goes into its listeners' biases; exact for units that never change.

    Source: the first stage of Sietsma and Dow (1991).
    """
    remaining(probe, group, mask)
    found = {}
    for part, gram in second_moments(probe, group).items():
        found[part] = torch.zeros(len(units), group.size + 1, dtype=torch.float64)
        found[part][:, -1] = gram.means.cpu()[units]
    return found


@dataclass(frozen=True)
class SingleSurvivor:
    """A single survivor takes over: the one that leaves least of the unit over, or a named one.

    Attributes:
        affine: fit o_b = s o_a + r by least squares: exact for duplicates, scaled copies and
            complements. Otherwise s = 1, r = 0: the survivor takes over as it is, exact for
            duplicates alone.
        partners: for each unit of the group who takes over from it, -1 where nobody was named. Of a
            chain (a for b, b for c) the end that stays takes over all.

    Source: affine: Babaeizadeh, Smaragdis and Campbell (2016), NoiseOut; as it is: Gedeon and
    Harris (1991), on the outgoing side, and Sietsma and Dow (1991).
    """

    affine: bool
    partners: tuple[int, ...] = ()

    def __call__(
        self, probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False
    ) -> Mix:
        """The mix for each listener.

        Raises:
            GroupError: a named partner is dead, or nobody is left to take over as it is.
        """
        alive = remaining(probe, group, mask)
        if not self.affine and int(alive.sum()) <= (alone and len(units) > 0):
            raise GroupError(
                f"somebody must stay for the repair 'twin' to lean on; {group.name!r} has nobody "
                "left. Keep a unit, or use 'affine', which then leaves a constant."
            )
        named = self._named_survivors(group, units, alive)
        return {
            part: self._rows(gram, units, alive, named, alone)
            for part, gram in second_moments(probe, group).items()
        }

    def _named_survivors(self, group: Group, units: Tensor, alive: Tensor) -> Tensor:
        """(k,) who was named, followed to the end of each chain; -1 where nobody was."""
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
                    f"a repair can lean only on units that stay; {group.name!r} has none at the "
                    f"end of what takes over from unit {unit}: {last} is dead"
                )
            ends.append(end)
        return torch.tensor(ends, dtype=torch.long)

    def _rows(
        self, gram: SecondMoments, units: Tensor, alive: Tensor, named: Tensor, alone: bool
    ) -> Tensor:
        covariance, means = gram.covariance.cpu(), gram.means.cpu()
        if self.affine:
            spread = covariance.diagonal().clamp(min=0)
            varies = spread > 1e-20 * (spread + means.square())
            share = covariance[units] / torch.where(varies, spread, 1.0)
            share = torch.where(varies, share, 0.0)
            known = share * covariance[units]  # of the unit's variance
        else:
            size, around = len(alive), gram.about(torch.zeros_like(gram.means)).cpu()
            squares = around.diagonal()
            known = 2 * around[units] - squares  # |o_b - o_a|^2 is |o_b|^2 less this
            share = torch.ones(len(units), size, dtype=torch.float64)
        known = known.masked_fill(~alive, -torch.inf)
        if alone:
            known[torch.arange(len(units)), units] = -torch.inf
        best = torch.where(named >= 0, named, known.argmax(1))
        rows = torch.zeros(len(units), len(alive) + 1, dtype=torch.float64)
        at = torch.arange(len(units))
        usable = known[at, best] > -torch.inf
        rows[at, best] = torch.where(usable, share[at, best], 0.0)
        if self.affine:
            rows[:, -1] = means[units] - rows[:, :-1] @ means
        return rows


twin = SingleSurvivor(affine=False)
affine = SingleSurvivor(affine=True)


def least_squares(
    probe: Probe, group: Group, units: Tensor, mask: Mask, alone: bool = False
) -> Mix:
    """Each unit as the best linear mix of all that stay, and a constant.

    One inverse covariance serves all units and all steps: it is updated as units go. A singular one
    (units that are mixes of others) gets a ridge, which is logged.

    Source: Castellano, Fanelli and Pelillo (1997), compensation by least squares on removal; for
    one unit at a time equal to optimal brain surgeon on the listeners' weights (Hassibi and Stork,
    1993) if what follows were linear.
    """
    alive = remaining(probe, group, mask)
    found = {}
    for part, span in inverse_covariances(probe, group).items():
        going = units if alone else (span.alive & ~alive).nonzero().flatten()
        rows = torch.zeros(group.size, group.size + 1, dtype=torch.float64)
        rows[going] = (span.mixes(going) if alone else span.mixes_without(going)).cpu()
        found[part] = rows[units]
    return found


def remaining(probe: Probe, group: Group, mask: Mask) -> Tensor:
    """(size,) bool: who may take over."""
    if not isinstance(group, Neurons):
        raise GroupError(
            f"only a unit's work can be handed over; {group.name!r} is a group of synapses. Leave "
            "repair= out for it."
        )
    for part in group.listeners:
        layer = probe.model.get_submodule(part.layer)
        if getattr(layer, "transposed", False) and getattr(layer, "groups", 1) > 1:
            raise StructureError(
                f"in a grouped transposed convolution units reach different outputs, so none can "
                f"take over from another; {part.layer!r} is one. Leave repair= out for "
                f"{group.name!r}."
            )
    alive = mask.alive(group) if group in mask.groups else torch.ones(group.size, dtype=torch.bool)
    return alive & probe.alive(group)
