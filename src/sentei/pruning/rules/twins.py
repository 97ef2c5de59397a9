"""`twins`: pruning by distinctiveness, which keeps one of several units with similar outputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.arguments import checked
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
    """Pairs of similar units: which one is removed, and which one replaces it.

    Attributes:
        alike: pairs (removed, kept) whose angle is small.
        opposite: pairs (removed, kept) whose angle is near 180 degrees.
    """

    alike: tuple[tuple[int, int], ...]
    opposite: tuple[tuple[int, int], ...]

    @property
    def gone(self) -> list[int]:
        """The positions of all removed units, ascending."""
        return sorted({removed for removed, _ in (*self.alike, *self.opposite)})

    def partners(self, size: int) -> tuple[int, ...]:
        """Return for each of `size` units the one that replaces it; -1 where it stays."""
        partners = [-1] * size
        for removed, kept in (*self.alike, *self.opposite):
            partners[removed] = kept
        return tuple(partners)


def pairs(
    found: Tensor, degrees: float, order: str = "best_first", *, both: bool = False
) -> Pairing:
    """Choose pairs of units whose angle is below `degrees` or above 180 - `degrees`.

    Args:
        found: (size, size) angles in degrees; a unit whose angles are NaN is not paired.
        degrees: from 0 to 90.
        order: the order in which pairs are taken. "best_first": similar pairs by rising angle, then
            opposite pairs by falling angle. "paper": in the order of their positions, whatever the
            angle. A pair is skipped if one of its units is removed already.
        both: whether both units of an opposite pair are removed, as in Gedeon and Harris (1991).

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
        kept, removed = int(first[at]), int(second[at])
        if not (alive[kept] and alive[removed]):
            continue
        alive[removed] = False
        if near[at]:
            alike.append((removed, kept))
            continue
        opposite.append((removed, kept))
        if both:
            alive[kept] = False
            opposite.append((kept, removed))
    return Pairing(tuple(alike), tuple(opposite))


@checked
@dataclass(frozen=True)
class twins:  # noqa: N801 - used like a function: twins(degrees=15)
    """Keep one of several units with the same or opposite outputs; remove all constant units.

    Two units are alike if the angle between their vectors of outputs over the samples is small, and
    opposite if it is near 180 degrees. All pairs are proposed in one step.

    Attributes:
        degrees: the largest angle between alike units, and the largest distance of the angle
            between opposite units from 180; from 0 to 90.
        centre: the value that is subtracted from outputs before angles are computed; see
            `criteria.angles`.
        repair: how other units replace removed ones; "affine" and "twin" use the one of the pair
            that stays.
        order: the order in which pairs are taken; see `pairs`.

    Raises:
        ValueError: a threshold outside 0 to 90, or an unknown name.

    Source: Gedeon and Harris (1991), as applied by Zheng. They remove both units of an opposite
    pair. Here one stays, since an affine fit replaces the other exactly. Constant units, above all
    dead ReLUs, are treated apart from pairs.
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
        progress: Progress,  # noqa: ARG002 - the pairs do not depend on the step
    ) -> Cut | None:
        """Return a cut of all pairs and constant units; None if there are none.

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
        steady_units = constant.nonzero().flatten()
        if len(steady_units) == mask.count(group):
            log.warning(
                "all units of %s group %r are constant; one unit stays", group.kind, group.name
            )
            steady_units = steady_units[1:]
        units = [*steady_units.tolist(), *pairing.gone]
        gone = torch.tensor(units, dtype=torch.long).sort().values
        if not len(gone):
            return
        log.info(
            "%s group %r: of %d units %d are constant, %d alike and %d opposite within %g degrees",
            *(group.kind, group.name, mask.count(group), len(steady_units)),
            *(len(pairing.alike), len(pairing.opposite), self.degrees),
        )
        doomed[group] = gone
        rows = mixed(self._repair_for(pairing, group), probe, {group: gone}, mask)
        if rows and len(steady_units):
            constants = mixed(mean, probe, {group: steady_units}, mask)
            for part in rows:
                rows[part][torch.isin(gone, steady_units)] = constants[part]
        mix.update(rows)

    def _repair_for(self, pairing: Pairing, group: Neurons) -> Repair | None:
        """Return the repair; one that uses a single survivor gets the partners of the pairs."""
        how = None if self.repair is None else repair(self.repair)
        return (
            SingleSurvivor(how.affine, pairing.partners(group.size))
            if isinstance(how, SingleSurvivor)
            else how
        )


def check_degrees(degrees: float) -> None:
    """Check that an angle is from 0 to 90 degrees.

    Raises:
        ValueError: it is not; the message gives the angle.
    """
    if not 0 <= degrees <= 90:
        raise ValueError(
            f"a threshold is an angle from 0 to 90 degrees, such as 15; got {degrees!r}"
        )
