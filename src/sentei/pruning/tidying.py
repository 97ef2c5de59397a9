"""`tidy`: remove unread, constant, repeated and dependent units without changing the outputs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.criteria.activity import steady
from sentei.criteria.repairs.affine import SingleSurvivor, least_squares, mean
from sentei.criteria.repairs.table import Repair
from sentei.devices import device_of
from sentei.errors import PruningError
from sentei.nests import tensors
from sentei.network.copying import copied
from sentei.network.example import as_found
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.network.surgery.norms import fold_norms_
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, Neurons, Synapses, tensor_of
from sentei.probe.choosing import apart, largest_weight_read, listeners_of
from sentei.probe.probe import Probe
from sentei.probe.summaries import inverse_covariances
from sentei.pruning.loop import mask_cut_
from sentei.pruning.rules.proposals import Cut, mixed
from sentei.reading.data import Measured
from sentei.running import Forward, own_inputs, run

log = logging.getLogger("sentei")

DEPENDENT = 1e-8  # a unit is a mix of others if they leave at most this part of its variance
_AT_ONCE = 1024


@dataclass(frozen=True)
class Finding:
    """Units of one group that `tidy` removed for the same reason.

    Attributes:
        group: the group of the units.
        units: their positions in the original network.
        why: "unread" (all weights that read the unit are zero), "constant" (its output never
            changes), "repeated" (one other unit has the same weights, or gives the same output
            after scaling and a shift) or "dependent" (its output is an affine combination of the
            outputs of several others).
        proven: whether the weights show this for every input; if False, it was only observed on the
            data.
    """

    group: Group
    units: tuple[int, ...]
    why: str
    proven: bool


@dataclass(frozen=True, eq=False)
class Tidied:
    """The result of `examined`: the smaller network, and what was removed from it.

    Attributes:
        network: the smaller network.
        mask: its mask, which holds the layers that have had dead synapses.
        finds: the removed units, in order of removal.
        norms: names of the batch norms folded into the layer before them; the outputs then agree in
            evaluation mode.
        difference: largest change of any output over all samples, in evaluation mode.
        samples: number of samples.
    """

    network: nn.Module
    mask: Mask
    finds: tuple[Finding, ...]
    norms: tuple[str, ...]
    difference: float
    samples: int

    def count(self, *, proven: bool) -> int:
        """Count the removed units, either those proven for every input or those only observed."""
        return sum(len(find.units) for find in self.finds if find.proven is proven)


@checked
def tidy(
    model: nn.Module,
    data: Any,
    *,
    proven: bool = False,
    norms: bool = True,
    mask: Mask | None = None,
    forward: Forward | None = None,
) -> nn.Module:
    """Return a smaller network with the same outputs, without the units that it does not need.

    `tidy` removes units that no weight reads, constant units, repeated units, and units that are
    affine combinations of others; what they contributed is folded into the remaining weights. Some
    of these are proven by the weights for every input, others are only observed on `data`; the log
    gives the number of each. Every removal is checked: it is undone if it changes an output on
    `data` by more than rounding, or would need a synapse that is dead. `examined` also returns what
    was removed, and the mask of the smaller network.

    Args:
        model: any network; it is not changed.
        data: samples, as for a Probe. The more there are, the more reliable is what is observed.
        proven: remove only what the weights prove for every input.
        norms: whether to fold batch norms into the layer before them. The outputs then agree in
            evaluation mode only.
        mask: what is dead in the network, as `load_mask` returns it; everything is alive if None.
            Dead units are removed as well, and dead synapses stay dead.
        forward: as for `find_units`.

    Raises:
        DataError: there are no samples, or the network cannot take them.
        GroupError: the mask is not one of this network.
        CertificateError: the smaller network does not compute the same function.
    """
    done = examined(model, data, proven=proven, norms=norms, mask=mask, forward=forward)
    log.info(
        "removed %d units that are redundant for every input, %d that are redundant on these %d "
        "samples; %d batch norms were folded; outputs changed by %.1e at most",
        *(done.count(proven=True), done.count(proven=False), done.samples),
        *(len(done.norms), done.difference),
    )
    return done.network


def examined(
    model: nn.Module,
    data: Any,
    *,
    proven: bool = False,
    norms: bool = True,
    mask: Mask | None = None,
    forward: Forward | None = None,
) -> Tidied:
    """Do what `tidy` does, and return the removed units beside the smaller network.

    Args:
        model: as for `tidy`.
        data: as for `tidy`.
        proven: as for `tidy`.
        norms: as for `tidy`.
        mask: as for `tidy`.
        forward: as for `tidy`.

    Raises:
        DataError: as for `tidy`.
        GroupError: as for `tidy`.
        CertificateError: as for `tidy`.
    """
    worker = copied(model)
    probe = Probe(worker, data, _size, forward=forward)
    example = with_forward(model, own_inputs(probe.example), forward)
    units = find_units(model, example)
    start = Mask.full(units).joined(mask or Mask.full([]))
    start.apply_(worker)
    tidying = _Tidying(worker, probe, start)
    for group in units:
        tidying.try_(group, _unread(worker, group), "unread", None, proven=True)
        tidying.try_(group, _constant(worker, group), "constant", mean, proven=True)
        tidying.repeated_(group)
        if not proven:
            tidying.observed_(group)
    small = shrink(worker, tidying.mask, example)
    folded = fold_norms_(small, example) if norms else ()
    after = _run(small, probe.samples)
    if not _same(tidying.before, after):  # folding a norm changed the outputs: leave norms alone
        small, folded = shrink(worker, tidying.mask, example), ()
        after = _run(small, probe.samples)
    difference = max(
        (a.double() - b.double()).abs().max().item()
        for a, b in zip(tidying.before, after, strict=True)
    )
    left = tidying.mask.shrunk()
    dead = Mask.full(group for group in left.groups if isinstance(group, Synapses)).joined(left)
    return Tidied(small, dead, tuple(tidying.finds), folded, difference, len(probe.samples))


@dataclass
class _Tidying:
    """A copy of the network while units are removed from it, with the original outputs."""

    model: nn.Module
    probe: Probe
    mask: Mask
    finds: list[Finding] = field(default_factory=list)
    before: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.before = _run(self.model, self.probe.samples)
        self.probe.forget_()  # what is dead from the start is zero by now
        self.probe.update_(self.mask)

    def try_(
        self, group: Neurons, units: Tensor, why: str, repair: Repair | None, *, proven: bool
    ) -> None:
        """Remove units if the outputs stay the same: all together, or else one at a time."""
        units = units[self.mask.alive(group)[units]]
        units = units[: max(self.mask.count(group) - max(group.least, 1), 0)]
        removed = self._removed(group, units, repair)
        if not removed and len(units) > 1:
            removed = [u for unit in units for u in self._removed(group, unit[None], repair)]
        if removed:
            self.finds.append(Finding(group, tuple(removed), why, proven))

    def repeated_(self, group: Neurons) -> None:
        """Remove units whose weights equal those of another unit; the first of them stays."""
        first: dict[bytes, int] = {}
        partners = [-1] * group.size
        for unit, weights in enumerate(_weights(self.model, group)):
            kept = first.setdefault(weights, unit)
            if kept != unit and self.mask.alive(group)[[unit, kept]].all():
                partners[unit] = kept
        copies = torch.tensor([u for u, kept in enumerate(partners) if kept >= 0], dtype=torch.long)
        to_partner = SingleSurvivor(affine=False, partners=tuple(partners))
        self.try_(group, copies, "repeated", to_partner, proven=True)

    def observed_(self, group: Neurons) -> None:
        """Remove units that are constant, or a combination of other units, on the samples."""
        constant = steady(self.probe, group) & self.mask.alive(group)
        self.try_(group, constant.nonzero().flatten(), "constant", mean, proven=False)
        kept = torch.zeros(group.size, dtype=torch.bool)  # tried, but not removable
        while self.mask.count(group) > max(group.least, 1):
            parts = inverse_covariances(self.probe, group).items()
            shares = [
                s.unexplained / s.moments.spread.diagonal().clamp(min=1e-300) for _, s in parts
            ]
            unexplained = (
                torch.stack(shares).amax(0).cpu()
                if shares
                else torch.full((group.size,), torch.inf)
            )
            unexplained[~self.mask.alive(group) | kept] = torch.inf
            unit = int(unexplained.argmin())
            if unexplained[unit] > DEPENDENT:
                return
            before = self.mask.count(group)
            to_one = SingleSurvivor(affine=True)
            for repair, why in ((to_one, "repeated"), (least_squares, "dependent")):
                if self.mask.count(group) == before:
                    self.try_(group, torch.tensor([unit]), why, repair, proven=False)
            kept[unit] = self.mask.count(group) == before

    def _removed(self, group: Neurons, units: Tensor, repair: Repair | None) -> list[int]:
        """Remove the units and return them; if an output changes, undo that and return []."""
        if not len(units):
            return []
        doomed: Mapping[Group, Tensor] = {group: units.sort().values}
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        try:
            cut = Cut(doomed, mixed(repair, self.probe, doomed, self.mask))
            mask = mask_cut_(self.model, self.mask, cut)
        except PruningError:  # for example, a listener has no bias that could take a constant
            self.model.load_state_dict(state)
            return []
        if _same(self.before, _run(self.model, self.probe.samples)):
            self.mask = mask
            self.probe.update_(mask)
            return units.tolist()
        self.model.load_state_dict(state)
        return []


def _unread(model: nn.Module, group: Neurons) -> Tensor:
    """Return the units whose outgoing weights are all zero."""
    return (largest_weight_read(model, listeners_of(model, group)).cpu() == 0).nonzero().flatten()


def _constant(model: nn.Module, group: Neurons) -> Tensor:
    """Return the units whose incoming weights are all zero, so that their output is constant."""
    weights = [p for p in group.producers if tensor_of(model, p.parameter).ndim > 1]
    if not weights:
        return torch.zeros(0, dtype=torch.long)
    reads = torch.zeros(group.size, dtype=torch.bool)
    for part in weights:
        moved = tensor_of(model, part.parameter).detach().cpu().movedim(part.dim, 0)
        reads |= moved[part.index].flatten(1).count_nonzero(1) > 0
    return (~reads).nonzero().flatten()


def _weights(model: nn.Module, group: Neurons) -> Iterator[bytes]:
    """Yield for each unit the bytes of all weights that compute it; equal bytes mean equal units.

    Units of a grouped layer may have the same weights and read different inputs, and input features
    have no producer. Such units include their position, so that no two of them are equal.
    """
    owners = [model.get_submodule(part.layer) for part in (*group.producers, *group.followers)]
    distinct = not group.producers or any(getattr(owner, "groups", 1) > 1 for owner in owners)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    parts = [
        tensors[part.parameter].detach().cpu().movedim(part.dim, 0)[part.index].flatten(1)
        for part in (*group.producers, *group.followers)
    ]
    for unit in range(group.size):
        yield (
            bytes([distinct])
            + (str(unit).encode() if distinct else b"")
            + b"".join(part[unit].contiguous().numpy().tobytes() for part in parts)
        )


@torch.no_grad()
def _run(model: nn.Module, samples: Measured) -> list[Tensor]:
    """Return every tensor that the model gives, over all samples, on the CPU."""
    with as_found(model):
        model.eval()
        parts = [
            tensors(run(model, block.rows(0, len(block), device_of(model)).inputs))
            for block in samples.blocks(samples.boundaries(_AT_ONCE))
        ]
    return [part.cpu() for outputs in parts for part in outputs]


def _same(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return all(apart(*pair) <= 1 for pair in zip(before, after, strict=True))


def _size(outputs: Any, targets: Any) -> Tensor:  # noqa: ARG001 - no targets are needed
    found = [t.flatten(1).square().mean(1) for t in tensors(outputs) if t.is_floating_point()]
    return torch.stack(found).sum(0)
