"""Compute second moments of a group's outputs and the inverse of their covariance."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from sentei.devices import room
from sentei.distributed import gathered, sum_across
from sentei.network.belonging import check_groups
from sentei.network.calls import recorded_names
from sentei.network.folding import bias_of
from sentei.network.units import Listener, Neurons
from sentei.probe.choosing import listeners_of
from sentei.probe.input_moments import InputMoments, layouts_of, mean_products, mean_squares
from sentei.probe.recording.listener_inputs import read_listener_inputs
from sentei.probe.recording.recording import Recording

log = logging.getLogger("sentei")

RIDGE = 1e-9  # added to each unit's variance, as a part of it: below the resolution of float32
KEPT = 2**28  # bytes of products of what layers read that are kept
SINGULAR = 1e-7  # unexplained part of its variance at or below which a unit is a mix of the others


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """Second moments of units' outputs o at one listener, about an origin near their means.

    Attributes:
        count: the number of values per unit: samples times positions times columns per unit.
        origin: (size,) float64 reference point, near the means, that keeps the sums accurate.
        sums: (size,) float64 sums of o - origin.
        products: (size, size) float64 sums of products of o - origin.
        low, high: (size,) float64 least and largest o.
        has_constant: whether the listener has a bias, so that a fit of a unit may hold a constant.
    """

    count: int
    origin: Tensor
    sums: Tensor
    products: Tensor
    low: Tensor
    high: Tensor
    has_constant: bool = True

    @cached_property
    def means(self) -> Tensor:
        """(size,) float64 mean output of each unit."""
        return self.origin + self.sums / self.count

    @cached_property
    def covariance(self) -> Tensor:
        """(size, size) float64 covariance of the units' outputs, divided by `count`."""
        return self.about(self.means) / self.count

    @property
    def centre(self) -> Tensor:
        """(size,) float64 what fits leave to a constant: the means; 0 if there is none."""
        return self.means if self.has_constant else torch.zeros_like(self.means)

    @property
    def spread(self) -> Tensor:
        """(size, size) float64 mean products about `centre`: what least squares fits."""
        return self.covariance if self.has_constant else self.about(self.centre) / self.count

    def about(self, centre: Tensor) -> Tensor:
        """Return the (size, size) float64 sums of products of o - centre."""
        shift = self.origin - centre
        products = self.products.addr(self.sums, shift).addr_(shift, self.sums)
        return products.addr_(shift, shift, alpha=self.count)


def accumulate(
    recording: Recording, listeners: Mapping[str, Listener], *, precise: bool = True
) -> dict[str, SecondMoments]:
    """Compute the second moments by listener, in one pass over the samples.

    No activations are kept. Blocks are multiplied in float64, or in the network's dtype if not
    `precise`, and added in float64, in block order on any number of ranks.
    """
    size = len(next(iter(listeners.values())).index)
    origins: dict[str, Tensor] = {}

    def set_origin(name: str, rows: Tensor) -> None:
        origins.setdefault(name, rows.double().mean(1))

    read_listener_inputs(recording, recording.check_pass, listeners, set_origin)
    totals = {
        name: (torch.zeros(size, **_float64(o)), torch.zeros(size, size, **_float64(o)))
        for name, o in origins.items()
    }
    ranges = {
        name: torch.zeros(len(recording.starts), 2, size, **_float64(o))
        for name, o in origins.items()
    }
    counts = torch.zeros(len(recording.starts), len(origins), dtype=torch.float64)
    own_passes = recording.own_passes
    number, block = next(own_passes, (-1, None))
    dtype = torch.float64 if precise else None
    for i in range(len(recording.starts)):
        parts = {
            name: [torch.zeros_like(t, dtype=dtype or recording.dtype) for t in total]
            for name, total in totals.items()
        }

        def add(name: str, rows: Tensor, i: int = i, parts: dict = parts) -> None:
            o = rows.to(dtype or rows.dtype)
            centred = o - origins[name].to(o)[:, None]
            sums, products = parts[name]
            sums += centred.sum(1)
            products.addmm_(centred, centred.T)
            low_high = torch.stack([rows.amin(1), rows.amax(1)]).to(ranges[name])
            if counts[i, list(origins).index(name)] > 0:  # not the first call of this listener
                before = ranges[name][i]
                low_high = torch.stack(
                    [low_high[0].minimum(before[0]), low_high[1].maximum(before[1])]
                )
            ranges[name][i] = low_high
            counts[i, list(origins).index(name)] += rows.shape[1]

        if i == number and block is not None:  # else another rank has it
            read_listener_inputs(recording, block, listeners, add)
            number, block = next(own_passes, (-1, None))
        for name, total in totals.items():
            for whole, part in zip(total, parts.pop(name), strict=True):
                whole.add_(sum_across(part[None]))
    totals_of = dict(zip(origins, sum_across(counts).tolist(), strict=True))
    found = {}
    for name, total in totals.items():
        extremes = gathered(ranges[name])
        low, high = extremes[:, 0].amin(0), extremes[:, 1].amax(0)
        biased = bias_of(recording.model, listeners[name]) is not None
        own = int(totals_of[name]), origins[name], *total, low, high
        found[name] = SecondMoments(*own, has_constant=biased)
    return found


def _float64(like: Tensor) -> dict:
    """Arguments for a float64 tensor on the device of `like`."""
    return {"dtype": torch.float64, "device": like.device}


@dataclass(frozen=True, eq=False)
class InverseCovariance:
    """The inverse P of the covariance of a group's alive units: of `SecondMoments.spread`.

    The least-squares fit of unit k by the other units has the coefficients -P_kj / P_kk and the
    residual variance 1 / P_kk. When units are removed, P is updated instead of computed again.

    Attributes:
        moments: the second moments of all units.
        alive: (size,) bool, on the CPU, as masks are.
        inverse: (size, size) float64; rows and columns of dead units are zero.
    """

    moments: SecondMoments
    alive: Tensor
    inverse: Tensor = field(repr=False)

    @classmethod
    def of(cls, moments: SecondMoments, alive: Tensor, label: str) -> InverseCovariance:
        """Invert the covariance of the alive units, with a ridge.

        Logs, under `label`, how many units are constant or mixes of others.
        """
        at = alive.nonzero().flatten().to(moments.origin.device)
        own = moments.spread[at[:, None], at]
        variances = own.diagonal().clamp(min=0)
        floor = variances.mean() * RIDGE if len(at) else variances
        ridged = own + torch.diag(variances * RIDGE + floor * RIDGE + 1e-300)
        factor, failed = torch.linalg.cholesky_ex(ridged)
        if failed:  # rounding errors exceed the ridge
            ridged += torch.diag(variances * SINGULAR + floor)
            factor = torch.linalg.cholesky(ridged)
        inverse = torch.zeros_like(moments.products)
        inverse[at[:, None], at] = torch.cholesky_inverse(factor)
        result = cls(moments, alive.clone(), inverse)
        unexplained = result.unexplained[at]
        mixed = int((unexplained <= SINGULAR * variances).sum())
        if mixed:
            log.info(
                "%s: the Gram matrix is singular: %d of %d units are constant or mixes of others; "
                "inverted with a ridge of %.0e of each unit's variance",
                *(label, mixed, len(at), RIDGE),
            )
        return result

    @cached_property
    def unexplained(self) -> Tensor:
        """(size,) float64 residual variance of each unit fitted by the others; 0 if it is dead."""
        own = self.inverse.diagonal()
        return torch.where(self.alive.to(own.device) & (own > 0), 1 / own, 0.0)

    def without(self, units: Tensor) -> InverseCovariance:
        """Return the inverse covariance without some units, by one update of the inverse."""
        if not len(units):
            return self
        units = units.to(self.inverse.device)
        columns = self.inverse[:, units]
        if len(units) == 1:
            scaled = columns[:, 0] / columns[units[0], 0]
            inverse = torch.addr(self.inverse, columns[:, 0], scaled, alpha=-1)
        else:
            inverse = self.inverse - columns @ torch.linalg.solve(columns[units], columns.T)
        inverse[units], inverse[:, units] = 0, 0
        alive = self.alive.index_fill(0, units.cpu(), False)
        return InverseCovariance(self.moments, alive, inverse)

    def mixes(self, units: Tensor) -> Tensor:
        """Fit each unit by all other alive units and a constant, (k, size + 1) float64."""
        units = units.to(self.inverse.device)
        coefficients = self.inverse[units]
        own = coefficients.gather(1, units[:, None])
        coefficients = -coefficients / torch.where(own > 0, own, 1.0)
        return self._with_constants(units, coefficients.scatter_(1, units[:, None], 0))

    def mixes_without(self, units: Tensor) -> Tensor:
        """Fit each of `units` by the alive units outside `units` and a constant.

        Returns:
            (k, size + 1) float64.
        """
        units = units.to(self.inverse.device)
        columns = self.inverse[:, units]
        coefficients = -torch.linalg.solve(columns[units], columns.T)
        coefficients[:, units] = 0
        return self._with_constants(units, coefficients)

    def _with_constants(self, units: Tensor, coefficients: Tensor) -> Tensor:
        """Append the constant of each fit, which makes the means agree; 0 without a bias."""
        constants = self.moments.centre[units] - coefficients @ self.moments.centre
        return torch.cat([coefficients, constants[:, None]], 1)


@dataclass
class MomentCache:
    """Cache of second moments and inverse covariances by listener, and of what layers read.

    An entry is dropped when weights before its layer change.
    """

    _moments: dict[tuple[Neurons, bool], dict[str, SecondMoments]] = field(default_factory=dict)
    _inverses: dict[tuple[Neurons, str], InverseCovariance] = field(default_factory=dict)
    _squares: dict[str, InputMoments] = field(default_factory=dict)
    _products: dict[str, InputMoments] = field(default_factory=dict)

    def input_products(self, recording: Recording, weight: str) -> InputMoments | None:
        """Return the mean products of what a weight's columns read; None if they are not known.

        Those of the latest layers are kept, as many as do not take too much memory.
        """
        if weight not in self._products:
            layout = layouts_of(recording, [weight]).get(weight)
            if layout is None:
                return None
            found = mean_products(recording, weight, layout)
            most = room(recording.device, KEPT, 1 / 8)
            while (
                self._products
                and sum(m.means.nbytes for m in (found, *self._products.values())) > most
            ):
                del self._products[next(iter(self._products))]
            self._products[weight] = found
        return self._products[weight]

    def input_squares(self, recording: Recording, weight: str) -> InputMoments | None:
        """Return the mean squares of what a weight's columns read; None if they are not known.

        One pass over the samples computes those of all weights.
        """
        if weight not in self._squares:
            missing = {n: x for n, x in layouts_of(recording).items() if n not in self._squares}
            if weight in missing:
                self._squares |= mean_squares(recording, missing)
        return self._squares.get(weight)

    def second_moments(
        self, recording: Recording, group: Neurons, *, precise: bool = True
    ) -> dict[Listener, SecondMoments]:
        """Return the second moments of a group's outputs by listener, computed once."""
        check_groups(recording.model, [group])
        if (group, precise) not in self._moments:
            listeners = listeners_of(recording.model, group)
            self._moments[group, precise] = accumulate(recording, listeners, precise=precise)
        moments, names = self._moments[group, precise], _names(recording.model, group)
        return {part: moments[name] for part, name in names.items() if name in moments}

    def inverse_covariances(
        self, recording: Recording, group: Neurons, alive: Tensor
    ) -> dict[Listener, InverseCovariance]:
        """Return the inverse covariance of the alive units by listener, updated or computed."""
        found, names = {}, _names(recording.model, group)
        for part, moments in self.second_moments(recording, group).items():
            inverse = self._inverses.get((group, names[part]))
            if inverse is None or (alive & ~inverse.alive).any():
                inverse = InverseCovariance.of(moments, alive, f"{group.kind} group {group.name!r}")
            else:
                inverse = inverse.without((inverse.alive & ~alive).nonzero().flatten())
            found[part] = self._inverses[group, names[part]] = inverse
        return found

    def forget_(self, recording: Recording, position: int) -> None:
        """Drop all moments of layers after the call at `position`, whose weights changed."""
        for group, precise in [*self._moments]:
            if max(recording.survey.readers(listeners_of(recording.model, group))) > position:
                del self._moments[group, precise]
                self._inverses = {k: v for k, v in self._inverses.items() if k[0] != group}
        for kept in (self._squares, self._products):
            for name in [n for n in kept if max(recording.survey.users(n)) > position]:
                del kept[name]


def _names(model: nn.Module, group: Neurons) -> dict[Listener, str]:
    """The parameter names under which calls use a group's listeners."""
    names = recorded_names(model)
    return {part: names[part.parameter] for part in group.listeners}
