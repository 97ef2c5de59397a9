"""Which units say the same: second moments of a group's units, and what the others know of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from sentei.distributed import gathered, sum_across
from sentei.network.calls import names_of
from sentei.network.mask import Mask
from sentei.network.units import Listener, Neurons
from sentei.probe.choosing import listeners_of
from sentei.probe.recording.hearing import listener_positions, read_listener_inputs
from sentei.probe.recording.recording import Recording

log = logging.getLogger("sentei")

RIDGE = 1e-9  # added to each unit's variance, as a part of it: below what float32 can tell apart
SINGULAR = 1e-7  # a unit whose rest is this part of its variance is as good as a mix of the others


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """Second moments of units as one listener hears them, about an origin near their means.

    Attributes:
        count: over how many values: samples times positions times columns per unit.
        origin: (size,) float64.
        sums: (size,) float64 sums of o - origin.
        products: (size, size) float64 sums of products of o - origin.
        low, high: (size,) float64 least and largest o.
    """

    count: int
    origin: Tensor
    sums: Tensor
    products: Tensor
    low: Tensor
    high: Tensor

    @cached_property
    def means(self) -> Tensor:
        """(size,) float64."""
        return self.origin + self.sums / self.count

    @cached_property
    def covariance(self) -> Tensor:
        """(size, size) float64."""
        return self.about(self.means) / self.count

    def about(self, centre: Tensor) -> Tensor:
        """(size, size) float64 sums of products of o - centre."""
        shift = self.origin - centre
        found = self.products.addr(self.sums, shift).addr_(shift, self.sums)
        return found.addr_(shift, shift, alpha=self.count)


def accumulate(
    recording: Recording, listeners: Mapping[str, Listener], *, precise: bool = True
) -> dict[str, SecondMoments]:
    """The moments of a group by listener, in one pass over the samples that keeps no activations.

    Blocks are multiplied in float64, or in the network's own type if not `precise`, and added in
    float64, in block order on any number of ranks.
    """
    size = len(next(iter(listeners.values())).index)
    origins: dict[str, Tensor] = {}

    def first(name: str, rows: Tensor) -> None:
        origins.setdefault(name, rows.double().mean(1))

    read_listener_inputs(recording, recording.check_pass, listeners, first)
    totals = {
        name: (torch.zeros(size, **_wide(o)), torch.zeros(size, size, **_wide(o)))
        for name, o in origins.items()
    }
    reach = {n: torch.zeros(len(recording.starts), 2, size, **_wide(o)) for n, o in origins.items()}
    counts = torch.zeros(len(recording.starts), len(origins), dtype=torch.float64)
    own = dict(recording.own_passes)
    dtype = torch.float64 if precise else None
    for i in range(len(recording.starts)):
        parts = {
            name: [torch.zeros_like(t, dtype=dtype or recording.dtype) for t in total]
            for name, total in totals.items()
        }

        def add(name: str, rows: Tensor, i: int = i, parts: dict = parts) -> None:
            given = rows.to(dtype or rows.dtype)
            centred = given - origins[name].to(given)[:, None]
            sums, products = parts[name]
            sums += centred.sum(1)
            products.addmm_(centred, centred.T)
            ends = torch.stack([rows.amin(1), rows.amax(1)]).to(reach[name])
            if counts[i, list(origins).index(name)] > 0:  # one of several calls of a listener
                before = reach[name][i]
                ends = torch.stack([ends[0].minimum(before[0]), ends[1].maximum(before[1])])
            reach[name][i] = ends
            counts[i, list(origins).index(name)] += rows.shape[1]

        if i in own:
            read_listener_inputs(recording, own[i], listeners, add)
        for name, total in totals.items():
            for whole, part in zip(total, parts.pop(name), strict=True):
                whole.add_(sum_across(part[None]))
    number = dict(zip(origins, sum_across(counts).tolist(), strict=True))
    found = {}
    for name, total in totals.items():
        ends = gathered(reach[name])
        low, high = ends[:, 0].amin(0), ends[:, 1].amax(0)
        found[name] = SecondMoments(int(number[name]), origins[name], *total, low, high)
    return found


def _wide(like: Tensor) -> dict:
    return {"dtype": torch.float64, "device": like.device}


@dataclass(frozen=True, eq=False)
class InverseCovariance:
    """What alive units know of each other: the inverse of their covariance.

    With P that inverse, unit k is best mixed from the others as -P_kj / P_kk, and 1 / P_kk of its
    variance is left over. As units go, P is updated, not computed again.

    Attributes:
        gram: of all units.
        alive: (size,) bool.
        inverse: (size, size) float64; zero where a unit is dead.
    """

    moments: SecondMoments
    alive: Tensor
    inverse: Tensor = field(repr=False)

    @classmethod
    def of(cls, gram: SecondMoments, alive: Tensor, whose: str) -> InverseCovariance:
        """Ridge makes a singular covariance one that has an inverse; that is logged."""
        at = alive.nonzero().flatten()
        own = gram.covariance[at[:, None], at]
        variances = own.diagonal().clamp(min=0)
        floor = variances.mean() * RIDGE if len(at) else variances
        ridged = own + torch.diag(variances * RIDGE + floor * RIDGE + 1e-300)
        factor, failed = torch.linalg.cholesky_ex(ridged)
        if failed:  # rounding took more than the ridge gave
            ridged += torch.diag(variances * SINGULAR + floor)
            factor = torch.linalg.cholesky(ridged)
        found = torch.zeros_like(gram.covariance)
        found[at[:, None], at] = torch.cholesky_inverse(factor)
        span = cls(gram, alive.clone(), found)
        left = span.unexplained[at]
        mixed = int((left <= SINGULAR * variances).sum())
        if mixed:
            log.info(
                "%s: the Gram matrix is singular: %d of %d units are constant or mixes of others; "
                "inverted with a ridge of %.0e of each unit's variance",
                *(whose, mixed, len(at), RIDGE),
            )
        return span

    @cached_property
    def unexplained(self) -> Tensor:
        """(size,) float64 variance of each that a mix of the others leaves over; 0 for the dead."""
        own = self.inverse.diagonal()
        return torch.where(self.alive & (own > 0), 1 / own, 0.0)

    def without(self, units: Tensor) -> InverseCovariance:
        """The span of those that stay when units go: one update of the inverse."""
        if not len(units):
            return self
        columns = self.inverse[:, units]
        if len(units) == 1:
            scaled = columns[:, 0] / columns[units[0], 0]
            left = torch.addr(self.inverse, columns[:, 0], scaled, alpha=-1)
        else:
            left = self.inverse - columns @ torch.linalg.solve(columns[units], columns.T)
        left[units], left[:, units] = 0, 0
        alive = self.alive.clone()
        alive[units] = False
        return InverseCovariance(self.moments, alive, left)

    def mixes(self, units: Tensor) -> Tensor:
        """(k, size + 1) float64: each unit from all the others that are alive, and a constant."""
        shares = self.inverse[units]
        own = shares.gather(1, units[:, None])
        shares = -shares / torch.where(own > 0, own, 1.0)
        return self._whole(units, shares.scatter_(1, units[:, None], 0))

    def mixes_without(self, units: Tensor) -> Tensor:
        """(k, size + 1) float64: each unit from those that are alive once all of these are gone."""
        columns = self.inverse[:, units]
        shares = -torch.linalg.solve(columns[units], columns.T)
        shares[:, units] = 0
        return self._whole(units, shares)

    def _whole(self, units: Tensor, shares: Tensor) -> Tensor:
        constants = self.moments.means[units] - shares @ self.moments.means
        return torch.cat([shares, constants[:, None]], 1)


@dataclass
class MomentCache:
    """Gram matrices and spans by group and listener, kept until weights before them change."""

    _moments: dict[tuple[Neurons, bool], dict[str, SecondMoments]] = field(default_factory=dict)
    _inverses: dict[tuple[Neurons, str], InverseCovariance] = field(default_factory=dict)

    def second_moments(
        self, recording: Recording, group: Neurons, *, precise: bool = True
    ) -> dict[Listener, SecondMoments]:
        """Second moments as each listener hears them."""
        Mask.full([group]).check(recording.model)
        if (group, precise) not in self._moments:
            listeners = listeners_of(recording.model, group)
            self._moments[group, precise] = accumulate(recording, listeners, precise=precise)
        known, names = self._moments[group, precise], _names(recording.model, group)
        return {part: known[name] for part, name in names.items() if name in known}

    def inverse_covariances(
        self, recording: Recording, group: Neurons, alive: Tensor
    ) -> dict[Listener, InverseCovariance]:
        """What the alive units know of each other."""
        found, names = {}, _names(recording.model, group)
        for part, gram in self.second_moments(recording, group).items():
            known = self._inverses.get((group, names[part]))
            if known is None or (alive & ~known.alive).any():
                known = InverseCovariance.of(gram, alive, f"{group.kind} group {group.name!r}")
            else:
                known = known.without((known.alive & ~alive).nonzero().flatten())
            found[part] = self._inverses[group, names[part]] = known
        return found

    def forget_(self, recording: Recording, position: int) -> None:
        """Drop what was heard after the call at `position`, whose weights have changed."""
        for group, precise in [*self._moments]:
            if max(listener_positions(recording, listeners_of(recording.model, group))) > position:
                del self._moments[group, precise]
                self._inverses = {k: span for k, span in self._inverses.items() if k[0] != group}


def _names(model: nn.Module, group: Neurons) -> dict[Listener, str]:
    names = names_of(model)
    return {part: names[id(model.get_parameter(part.parameter))] for part in group.listeners}
