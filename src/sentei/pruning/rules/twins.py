"""Distinctiveness: of units that say the same, or the opposite, all but one go."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.criteria.activity import angles, check_centre, steady
from sentei.criteria.repairs.affine import SingleSurvivor, mean
from sentei.criteria.repairs.table import Repair, repair
from sentei.errors import unknown
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Cut, mixed
from sentei.pruning.rules.schedules import Progress

log = logging.getLogger("sentei")

ORDERS = ("best_first", "paper")


@dataclass(frozen=True)
class Pairing:
    """Which units go, and in whose favour.

    Attributes:
        alike: (gone, kept): the angle between them is small.
        opposite: (gone, kept): it is near 180 degrees.
    """

    alike: tuple[tuple[int, int], ...]
    opposite: tuple[tuple[int, int], ...]

    @property
    def gone(self) -> list[int]:
        """Everyone who goes, in order."""
        return sorted({gone for gone, _ in (*self.alike, *self.opposite)})

    def partners(self, size: int) -> tuple[int, ...]:
        """For each unit of a group who takes over from it; -1 where it stays."""
        found = [-1] * size
        for gone, kept in (*self.alike, *self.opposite):
            found[gone] = kept
        return tuple(found)


def pairs(
    found: Tensor, degrees: float, order: str = "best_first", *, both: bool = False
) -> Pairing:
    """Pairs whose angle is below `degrees` or above 180 - `degrees`.

    Args:
        found: (size, size) angles in degrees; NaN pairs with nobody.
        degrees: from 0 to 90.
        order: "best_first": similar pairs from the smallest angle on, then opposite ones from the
            largest on, until none is left. "paper": by rows, first units first, whatever the angle.
        both: whether both of an opposite pair go, as in Gedeon and Harris (1991).

    Raises:
        ValueError: a threshold outside 0 to 90, or an unknown order.
    """
    check_degrees(degrees)
    if order not in ORDERS:
        raise ValueError(unknown("order", order, ORDERS))
    first, second = torch.triu_indices(len(found), len(found), 1)
    angle = found[first, second]
    near, far = angle < degrees, angle > 180 - degrees
    if order == "paper":
        ranks = [torch.nonzero(near | far).flatten()]
    else:
        ranks = [near.nonzero().flatten(), far.nonzero().flatten()]
        ranks = [
            ranks[0][angle[ranks[0]].argsort(stable=True)],
            ranks[1][angle[ranks[1]].argsort(stable=True, descending=True)],
        ]
    alive = [True] * len(found)
    alike, opposite = [], []
    for at in torch.cat(ranks).tolist():
        kept, gone = int(first[at]), int(second[at])
        if not (alive[kept] and alive[gone]):
            continue
        alive[gone] = False
        if near[at]:
            alike.append((gone, kept))
            continue
        opposite.append((gone, kept))
        if both:
            alive[kept] = False
            opposite.append((kept, gone))
    return Pairing(tuple(alike), tuple(opposite))


@dataclass(frozen=True)
class twins:  # noqa: N801 - used like a function: twins(degrees=15)
    """Of units that say the same or the opposite all but one go; of constant ones all.

    Attributes:
        degrees: how small the angle between two units' vectors of outputs has to be, or how near
            to 180; from 0 to 90.
        centre: what outputs are measured from: see `criteria.angles`.
        repair: who takes over. "affine" and "twin" lean on the unit that was found to be alike.
        order: of the pairs: see `pairs`.

    Raises:
        ValueError: a threshold outside 0 to 90, or an unknown name.

    Source: Gedeon and Harris (1991), as applied by Zheng; they remove both of an opposite pair.
    Here one stays, since an affine fit hands the other's work over exactly, and constant units,
    dead ReLUs above all, are told apart from merged ones.
    """

    degrees: float = 15
    centre: str = "half"
    repair: str | Repair | None = "affine"
    order: str = "best_first"

    def __post_init__(self) -> None:
        check_degrees(self.degrees)
        check_centre(self.centre)
        if self.order not in ORDERS:
            raise ValueError(unknown("order", self.order, ORDERS))
        if self.repair is not None:
            repair(self.repair)

    def __call__(
        self,
        probe: Probe,
        groups: Sequence[Group],
        mask: Mask,
        progress: Progress,  # noqa: ARG002 - a pair is alike at any step
    ) -> Cut | None:
        """All that can go at once; None once no pair is left.

        At least one unit of each group stays, which is logged.
        """
        doomed: dict[Group, Tensor] = {}
        mix: dict[Listener, Tensor] = {}
        for group in groups:
            if isinstance(group, Neurons) and mask.count(group) > 1:
                self._pair(probe, group, mask, doomed, mix)
        return Cut(doomed, mix) if doomed else None

    def _pair(
        self,
        probe: Probe,
        group: Neurons,
        mask: Mask,
        doomed: dict[Group, Tensor],
        mix: dict[Listener, Tensor],
    ) -> None:
        alive = mask.alive(group)
        constant = steady(probe, group, precise=False) & alive
        found = angles(probe, group, self.centre)
        found[constant | ~alive], found[:, constant | ~alive] = torch.nan, torch.nan
        pairing = pairs(found, self.degrees, self.order)
        still = constant.nonzero().flatten()
        if len(still) == mask.count(group):
            log.warning("%s group %r says nothing; one unit stays", group.kind, group.name)
            still = still[1:]
        gone = torch.tensor([*still.tolist(), *pairing.gone], dtype=torch.long).sort().values
        if not len(gone):
            return
        log.info(
            "%s group %r: of %d units %d are constant, %d alike and %d opposite within %g degrees",
            *(group.kind, group.name, mask.count(group), len(still)),
            *(len(pairing.alike), len(pairing.opposite), self.degrees),
        )
        doomed[group] = gone
        rows = mixed(self._leaning(pairing, group), probe, {group: gone}, mask)
        if rows and len(still):
            constants = mixed(mean, probe, {group: still}, mask)
            for part in rows:
                rows[part][torch.isin(gone, still)] = constants[part]
        mix.update(rows)

    def _leaning(self, pairing: Pairing, group: Neurons) -> Repair | None:
        how = None if self.repair is None else repair(self.repair)
        return (
            SingleSurvivor(how.affine, pairing.partners(group.size))
            if isinstance(how, SingleSurvivor)
            else how
        )


def check_degrees(degrees: float) -> None:
    """Refuse an angle outside 0 to 90.

    Raises:
        ValueError: with the angle.
    """
    if not 0 <= degrees <= 90:
        raise ValueError(
            f"a threshold is an angle from 0 to 90 degrees, such as 15; got {degrees!r}"
        )
