"""What can go without any change: unheard, constant, repeated and dependent units; batch norms."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sentei.criteria.activity import steady
from sentei.criteria.repairs.affine import SingleSurvivor, least_squares, mean
from sentei.criteria.repairs.table import Repair
from sentei.errors import PruningError
from sentei.network.example import as_found
from sentei.network.mask import Mask
from sentei.network.surgery.norms import fold_norms_
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, Neurons
from sentei.probe.choosing import largest_weight_read, listeners_of, tolerance
from sentei.probe.probe import Probe, inverse_covariances
from sentei.probe.recording.data import ProbeData, read
from sentei.probe.recording.recording import model_output
from sentei.pruning.loop import mask_cut_
from sentei.pruning.rules.proposals import Cut, mixed

log = logging.getLogger("sentei")

DEPENDENT = 1e-8  # part of a unit's variance left over, below which it is a mix of others
_AT_ONCE = 1024


@dataclass(frozen=True)
class Finding:
    """Units of one group that went for one reason.

    Attributes:
        group: whose.
        units: their positions in the network as it was.
        why: "unheard", "constant", "repeated" or "dependent".
        proven: whether this holds for every input, by the weights; otherwise on the data given.
    """

    group: Group
    units: tuple[int, ...]
    why: str
    proven: bool


@dataclass(frozen=True, eq=False)
class Tidied:
    """A network without what it did not need, and what that was.

    Attributes:
        network: the smaller network.
        finds: what went, in order.
        norms: batch norms that became part of the layer before them: equal in evaluation mode.
        difference: largest change of any output over all the samples given, in evaluation mode.
        samples: how many those were.
    """

    network: nn.Module
    finds: tuple[Finding, ...]
    norms: tuple[str, ...]
    difference: float
    samples: int

    def count(self, *, proven: bool) -> int:
        """How many units went for reasons that hold always, or on the data alone."""
        return sum(len(find.units) for find in self.finds if find.proven is proven)


def tidy(model: nn.Module, data: Any, *, proven: bool = False, norms: bool = True) -> nn.Module:
    """A new network without everything that can go without any change.

    What goes holds either for every input, by the weights alone, or on the data given; the log says
    which. `examined` gives the finds as well.

    Args:
        model: any network; it stays as it is.
        data: samples as for a Probe; the more, the surer what is found on them.
        proven: take out only what holds for every input.
        norms: whether batch norms are folded into the layer before them, which is equal in
            evaluation mode alone.

    Raises:
        DataError: no samples, or none that the network can take.
        CertificateError: the smaller network is not the same function.
    """
    done = examined(model, data, proven=proven, norms=norms)
    log.info(
        "%d units went that say nothing new for any input, %d for these %d samples, %d batch norms "
        "were folded; outputs changed by %.1e at most",
        *(done.count(proven=True), done.count(proven=False), done.samples),
        *(len(done.norms), done.difference),
    )
    return done.network


def examined(model: nn.Module, data: Any, *, proven: bool = False, norms: bool = True) -> Tidied:
    """As `tidy`, with what was found."""
    samples = read(data)
    worker = copy.deepcopy(model)
    example = samples.rows(0, 64, torch.device("cpu")).inputs
    tidying = _Tidying(worker, samples, Mask.full(find_units(model, example)))
    for group in tidying.mask.groups:
        assert isinstance(group, Neurons)
        tidying.try_(group, _unread(worker, group), "unheard", None, proven=True)
        tidying.try_(group, _constant(worker, group), "constant", mean, proven=True)
        tidying.repeated_(group)
        if not proven:
            tidying.observed_(group)
    small = shrink(worker, tidying.mask, example)
    folded = fold_norms_(small, example) if norms else ()
    after = _run(small, samples)
    if not _same(tidying.before, after):  # rounding in a folded norm was too much
        small, folded = shrink(worker, tidying.mask, example), ()
        after = _run(small, samples)
    apart = (tidying.before - after).abs().max().item()
    return Tidied(small, tuple(tidying.finds), folded, apart, len(samples))


@dataclass
class _Tidying:
    """A copy of the network on its way, with what it put out at the start."""

    model: nn.Module
    samples: ProbeData
    mask: Mask
    finds: list[Finding] = field(default_factory=list)
    before: Tensor = field(init=False)
    probe: Probe = field(init=False)

    def __post_init__(self) -> None:
        self.before = _run(self.model, self.samples)
        self.probe = Probe(self.model, (self.samples.inputs, self.samples.targets), _size)

    def try_(
        self, group: Neurons, units: Tensor, why: str, repair: Repair | None, *, proven: bool
    ) -> None:
        """Take the units out if the outputs stay as they are: together, or else one by one."""
        units = units[self.mask.alive(group)[units]]
        units = units[: max(self.mask.count(group) - max(group.least, 1), 0)]
        gone = self._removed(group, units, repair)
        if not gone and len(units) > 1:
            gone = [u for unit in units for u in self._removed(group, unit[None], repair)]
        if gone:
            self.finds.append(Finding(group, tuple(gone), why, proven))

    def repeated_(self, group: Neurons) -> None:
        """Units with the weights of another: the first of each stays."""
        first: dict[bytes, int] = {}
        partners = [-1] * group.size
        for unit, weights in enumerate(_weights(self.model, group)):
            kept = first.setdefault(weights, unit)
            if kept != unit and self.mask.alive(group)[[unit, kept]].all():
                partners[unit] = kept
        again = torch.tensor([u for u, kept in enumerate(partners) if kept >= 0], dtype=torch.long)
        leaning = SingleSurvivor(affine=False, partners=tuple(partners))
        self.try_(group, again, "repeated", leaning, proven=True)

    def observed_(self, group: Neurons) -> None:
        """What is constant, or a mix of other units, on the samples."""
        still = steady(self.probe, group) & self.mask.alive(group)
        self.try_(group, still.nonzero().flatten(), "constant", mean, proven=False)
        kept = torch.zeros(group.size, dtype=torch.bool)  # dependent, but not without a trace
        while self.mask.count(group) > max(group.least, 1):
            parts = inverse_covariances(self.probe, group).items()
            left = [
                s.unexplained / s.moments.covariance.diagonal().clamp(min=1e-300) for _, s in parts
            ]
            rest = torch.stack(left).amax(0).cpu() if left else torch.full((group.size,), torch.inf)
            rest[~self.mask.alive(group) | kept] = torch.inf
            unit = int(rest.argmin())
            if rest[unit] > DEPENDENT:
                return
            before = self.mask.count(group)
            alike = SingleSurvivor(affine=True)
            for repair, why in ((alike, "repeated"), (least_squares, "dependent")):
                if self.mask.count(group) == before:
                    self.try_(group, torch.tensor([unit]), why, repair, proven=False)
            kept[unit] = self.mask.count(group) == before

    def _removed(self, group: Neurons, units: Tensor, repair: Repair | None) -> list[int]:
        """The units if they went; nothing has changed otherwise."""
        if not len(units):
            return []
        doomed: Mapping[Group, Tensor] = {group: units.sort().values}
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        try:
            cut = Cut(doomed, mixed(repair, self.probe, doomed, self.mask))
            mask = mask_cut_(self.model, self.mask, cut)
        except PruningError:  # a listener without a bias for a constant, say
            self.model.load_state_dict(state)
            return []
        if _same(self.before, _run(self.model, self.samples)):
            self.mask = mask
            self.probe.update_(cut)
            self.probe.mask = mask
            return units.tolist()
        self.model.load_state_dict(state)
        return []


def _unread(model: nn.Module, group: Neurons) -> Tensor:
    return (largest_weight_read(model, listeners_of(model, group)).cpu() == 0).nonzero().flatten()


def _constant(model: nn.Module, group: Neurons) -> Tensor:
    """Units that hear nothing: all their incoming weights are zero."""
    weights = [p for p in group.producers if model.get_parameter(p.parameter).ndim > 1]
    if not weights:
        return torch.zeros(0, dtype=torch.long)
    heard = torch.zeros(group.size, dtype=torch.bool)
    for part in weights:
        moved = model.get_parameter(part.parameter).detach().cpu().movedim(part.dim, 0)
        heard |= moved[part.index].flatten(1).count_nonzero(1) > 0
    return (~heard).nonzero().flatten()


def _weights(model: nn.Module, group: Neurons) -> Iterator[bytes]:
    """Everything that makes a unit what it is, so that equal bytes are equal units.

    Units of grouped layers read different inputs by the same weights, so they get their number.
    """
    owners = [model.get_submodule(part.layer) for part in (*group.producers, *group.followers)]
    apart = not group.producers or any(getattr(owner, "groups", 1) > 1 for owner in owners)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    parts = [
        tensors[part.parameter].detach().cpu().movedim(part.dim, 0)[part.index].flatten(1)
        for part in (*group.producers, *group.followers)
    ]
    for unit in range(group.size):
        yield (
            bytes([apart])
            + (str(unit).encode() if apart else b"")
            + b"".join(part[unit].contiguous().numpy().tobytes() for part in parts)
        )


@torch.no_grad()
def _run(model: nn.Module, samples: ProbeData) -> Tensor:
    with as_found(model):
        model.eval()
        starts = range(0, len(samples), _AT_ONCE)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        return torch.cat(
            [model_output(model, samples.rows(i, i + _AT_ONCE, device)) for i in starts]
        )


def _same(before: Tensor, after: Tensor) -> bool:
    scale = max(1.0, before.abs().max().item())
    return bool((before - after).abs().max() <= scale * tolerance(before))


def _size(outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG001 - no targets are needed
    return outputs.flatten(1).square().mean(1)
