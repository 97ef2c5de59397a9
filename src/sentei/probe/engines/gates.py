"""Compute the loss without each unit for any network, by gates at the listeners of the units.

A `Tape` holds the calls that the gates can change; these are executed again for each unit. The
output of a listener whose other inputs are unchanged is its recorded output minus the unit's
contribution. Where one unit takes little work, `torch.func.vmap` executes them for many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional as F

from sentei.devices import room
from sentei.errors import CriterionError
from sentei.losses import PerSample, per_sample_losses
from sentei.network.calls import Call
from sentei.network.folding import folded_call
from sentei.network.units import Listener, tensor_of
from sentei.probe.engines.chain_derivatives import slope
from sentei.probe.engines.gate_derivatives import (
    FIRST,
    SECOND,
    VALUE,
    Operator,
    hide_torch_warnings,
)
from sentei.probe.engines.sample_slopes import SampleSlopes
from sentei.probe.engines.tape import UntapedError, Writes, taped
from sentei.probe.recording.recording import Need, Override, Pass, Recording, Slope, completed

# Candidates are computed together until each weight is used so many times on average (or else the
# products of matrices are small), and until the largest output has so many bytes (or else calling
# functions takes longer than what they do); but its bytes stay below the most.
_USES, _BYTES = 1024, (2**20, 16 * 2**20)
_PART = 1 / 64  # of the free memory of a GPU, in place of these bytes
_DERIVATIVE_BYTES = 128 * 2**20  # of the largest output in four passes, for derivatives
_ONE_COLUMN_CONVS = (F.conv1d, F.conv2d, F.conv3d)

Run = Callable[[Mapping[str, Override]], Any]  # overrides -> what the loss takes of the outputs
CandidateLoss = Callable[[Tensor, Tensor], Tensor]  # a unit and its gate's value -> (n,) losses


@dataclass(eq=False)
class Gates:
    """Engine for units of any network: runs it from the group's listeners on, once per unit.

    Attributes:
        recording: the recording of the network.
        listeners: the group's listeners by the parameter names under which calls use them.
        batched: whether `torch.func.vmap` can run the model; False after the first failure.
        batched_derivatives: whether it can also compute derivatives; False after the first failure.
        share: the part of the most bytes that a chunk may take; halved when memory runs out.
        untaped: why a pass has no tape, so that the model itself is run; None if it has one.
        writes: which calls write in place, as found so far.

    Raises:
        StructureError: no call uses a listener's weight.
    """

    recording: Recording
    listeners: Mapping[str, Listener]
    batched: bool = True
    batched_derivatives: bool = True
    share: float = 1.0
    untaped: str | None = None
    writes: Writes = field(default_factory=Writes)

    def __post_init__(self) -> None:
        self.first = min(self.recording.survey.readers(self.listeners), default=0)

    @cached_property
    def sample_slopes(self) -> SampleSlopes:
        """How derivatives of each sample's loss are computed for all units together."""
        return SampleSlopes(self.recording, [self.listeners])

    @property
    def need(self) -> Need:
        """What a pass must record: the outputs of all mixing calls."""
        return "kept"

    def rises(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of a block's summed loss with each unit removed alone, (k,) float64."""
        return self.rises_at_gains(block, units, torch.zeros(1))[:, 0]

    def rises_at_gains(self, block: Pass, units: Tensor, gains: Tensor) -> Tensor:
        """Return the rise of the summed loss with each unit's gate at each gain, (k, g) float64."""
        pairs = units.repeat_interleave(len(gains)), gains.repeat(len(units))
        losses = self._for_each(VALUE, block, self._gated(block, VALUE), *pairs)
        return self._rises(block, losses).view(len(units), len(gains))

    def rises_after(self, block: Pass, units: Tensor, mixes: Mapping[str, Tensor]) -> Tensor:
        """As `rises`, but after each unit is repaired by its row of the mix, (k,) float64."""

        def losses(unit: Tensor, gain: Tensor) -> Tensor:  # noqa: ARG001 - its gate is 0
            overrides = {
                name: _folds(part, unit, mixes[name]) for name, part in self.listeners.items()
            }
            return self._losses(run(overrides), block)

        run = self._runner(block)
        each = self._for_each(VALUE, block, losses, units, torch.zeros(len(units)))
        return self._rises(block, each)

    def rises_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of each sample's loss with each unit removed alone, (k, n)."""
        gated = self._gated(block, VALUE)
        each = self._for_each(VALUE, block, gated, units, torch.zeros(len(units)))
        return torch.stack([*each]) - completed(block.losses)

    def slopes(self, block: Pass, units: Tensor, asked: Slope) -> Tensor:
        """Return the derivative of the summed loss along each unit's gate, (k,) float64."""
        if not asked.absolute:
            return self._gradient(block, asked.loss)[units.to(self.recording.device)]
        first = self._by_sample(block, units, asked.loss)
        return torch.stack([each.abs().sum(dtype=torch.float64) for each in first])

    def slopes_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the derivative of each sample's loss along each unit's gate, (k, n)."""
        return torch.stack([*self._by_sample(block, units, None)])

    def curvatures(self, block: Pass, units: Tensor, kind: str) -> Tensor:
        """Return the second derivative of the summed loss along each unit's gate, (k,) float64.

        Raises:
            CriterionError: `kind` is "diagonal", which exists for plain chains only.
        """
        if kind == "diagonal":
            raise CriterionError(
                "the diagonal recursion needs a single linear layer that reads the units, followed "
                "only by activations and linear layers; the network around "
                f"{', '.join(sorted(self.listeners))} is built differently. Use "
                'curvature="full", which is exact for any network.'
            )
        gated = self._gated(block, SECOND)
        second = self._for_each(SECOND, block, gated, units, torch.ones(len(units)))
        return torch.stack([each.sum(dtype=torch.float64) for each in second])

    def _gradient(self, block: Pass, loss: PerSample | None) -> Tensor:
        """(size,) float64 derivatives E' along all gates, by one backward pass."""
        first = next(iter(self.listeners.values()))
        device = self.recording.device
        gate = torch.ones(len(first.index), dtype=torch.float64, device=device).requires_grad_()

        def gated(name: str) -> Override:
            part, weight = self.listeners[name], tensor_of(self.recording.model, name)
            own = part.index.to(weight.device)
            each = gate.to(weight)[:, None].expand(own.shape).flatten()
            factors = weight.new_ones(weight.shape[part.dim]).scatter(0, own.flatten(), each)
            return lambda call, kept: _scaled(call, part, factors)  # noqa: ARG005 - all are gated

        with torch.enable_grad():
            overrides = {name: gated(name) for name in self.listeners}
            out = self.recording.replay(block, overrides, plain=True)
            return slope(self._losses(out, block, loss).double().sum(), gate).detach()

    def _by_sample(self, block: Pass, units: Tensor, loss: PerSample | None) -> Iterable[Tensor]:
        """Return, for each unit, the derivatives of the samples' losses along its gate."""
        (together,) = self.sample_slopes(block, loss)
        if together is not None:
            return together[units.to(self.recording.device)]
        gated = self._gated(block, FIRST, loss)
        return self._for_each(FIRST, block, gated, units, torch.ones(len(units)))

    def _gated(
        self, block: Pass, operator: Operator, loss: PerSample | None = None
    ) -> CandidateLoss:
        """Return the function (unit, gain) -> (n,) losses with the unit's gate at the gain."""
        if operator.differentiates:  # also through autograd functions of the user's own
            run: Run = partial(self.recording.replay, block, plain=True)
        else:
            run = self._runner(block)

        def losses(unit: Tensor, gain: Tensor) -> Tensor:
            overrides = {n: _gate(part, unit, gain) for n, part in self.listeners.items()}
            return self._losses(run(overrides), block, loss)

        return losses

    def _runner(self, block: Pass) -> Run:
        """Return what computes the outputs of a block with some calls overridden."""
        taped_run = self._unless_untaped(taped, self.recording, block, self.listeners, self.writes)

        def run(overrides: Mapping[str, Override]) -> Any:
            out = taped_run and self._unless_untaped(taped_run.output, overrides)
            return self.recording.replay(block, overrides) if out is None else out

        return run

    def _unless_untaped(self, of: Callable[..., Any], *args: Any) -> Any:
        """Return what a function of tapes returns; None from the first time that it fails on."""
        try:
            return of(*args) if self.untaped is None else None
        except UntapedError as error:
            self.untaped = str(error)
            return None

    def _losses(self, out: Any, block: Pass, loss: PerSample | None = None) -> Tensor:
        loss = self.recording.per_sample if loss is None else loss
        return per_sample_losses(loss, out, block.samples.targets)

    def _rises(self, block: Pass, losses: Iterator[Tensor]) -> Tensor:
        """(k,) float64 summed losses of each candidate minus that of the network as it is."""
        base = completed(block.losses).sum(dtype=torch.float64)
        sums = [per_sample.sum(dtype=torch.float64) for per_sample in losses]
        return torch.stack(sums) - base if sums else base.new_zeros(0)

    def _for_each(
        self,
        operator: Operator,
        block: Pass,
        losses: CandidateLoss,
        units: Tensor,
        gains: Tensor,
    ) -> Iterator[Tensor]:
        """Yield, for each unit, the losses or their derivatives along its gate.

        Args:
            operator: `VALUE`, `FIRST` or `SECOND`.
            block: the recorded pass.
            losses: the losses with one unit's gate at one value.
            units: (k,) positions.
            gains: (k,) the gate's value for each unit.
        """
        weight = tensor_of(self.recording.model, next(iter(self.listeners)))
        units, gains = units.to(weight.device), gains.to(weight)
        size = self._chunk(len(block.samples), operator)
        for chunk in zip(units.split(size), gains.split(size), strict=True):
            yield from self._together(operator, losses, *chunk)

    def _together(
        self, operator: Operator, losses: CandidateLoss, units: Tensor, gains: Tensor
    ) -> list[Tensor]:
        """Compute a chunk of `_for_each` in one batch where vmap can, else one unit at a time."""

        def along(of: Callable, unit: Tensor, gain: Tensor) -> Tensor:
            return of(lambda value: losses(unit, value))(gain)

        flag = "batched_derivatives" if operator.differentiates else "batched"
        alone = len(units) == 1 and not operator.differentiates  # vmap over one gains nothing
        if getattr(self, flag) and not alone:
            try:
                with hide_torch_warnings():
                    run = torch.func.vmap(lambda unit, gain: along(operator.batched, unit, gain))
                    return list(run(units, gains))
            except Exception as error:
                if _is_out_of_memory(error):
                    return self._halved(error, operator, losses, units, gains)
        # If the network itself fails, so does this; if it works, vmap cannot run the network.
        found = [along(operator.alone, *pair) for pair in zip(units, gains, strict=True)]
        setattr(self, flag, getattr(self, flag) and alone)
        return found

    def _halved(
        self,
        error: Exception,
        operator: Operator,
        losses: CandidateLoss,
        units: Tensor,
        gains: Tensor,
    ) -> list[Tensor]:
        """Compute a chunk that does not fit the memory in two halves, and smaller ones from now."""
        if len(units) == 1:
            raise error
        self.share /= 2
        halves = zip(units.tensor_split(2), gains.tensor_split(2), strict=True)
        return [each for half in halves for each in self._together(operator, losses, *half)]

    def _chunk(self, rows: int, operator: Operator) -> int:
        """How many candidates are computed in one chunk of work.

        For values that is as few as keep the processor busy: large tensors leave its cache. A GPU
        is given as many as its memory allows.
        """
        calls = self.recording.survey.calls[self.first :]
        each = max(1, rows * max(call.bytes_out for call in calls))
        if operator.differentiates:
            most = room(self.recording.device, _DERIVATIVE_BYTES, _PART)
            return max(1, int(self.share * most) // (4 * each))
        used = rows * sum(call.products for call in calls) / sum(call.entries for call in calls)
        least, most = (room(self.recording.device, size, _PART) for size in _BYTES)
        wanted = max(_USES / max(used, 1), least / each)
        return max(1, int(min(wanted, self.share * most / each)))


def _gate(part: Listener, unit: Tensor, gain: Tensor) -> Override:
    """Return the override that multiplies what a listener reads of one unit by a gain."""

    def gated(call: Call, kept: Tensor | None) -> Tensor:
        weight = call.given[call.use.weight]
        columns = part.index.to(weight.device)[unit]
        gain_here = gain.to(weight)
        if kept is not None and call.use.columns == part.dim and _is_small(call):
            return kept.addcmul(gain_here - 1, _contribution(call, columns))
        if not is_functorch_wrapped_tensor(unit):
            own = weight.index_select(part.dim, columns) * gain_here
            return call(weight=weight.index_copy(part.dim, columns, own))
        hit = weight.new_zeros(weight.shape[part.dim]).scatter(0, columns, 1.0)
        return _scaled(call, part, 1 + (gain_here - 1) * hit)

    return gated


def _folds(part: Listener, unit: Tensor, mix: Tensor) -> Override:
    """Return the override that folds one unit into the others by its row of a mix."""

    def folds(call: Call, kept: Tensor | None) -> Tensor:  # noqa: ARG001 - the weight changes
        # Under vmap the unit's position is not available as a number: select by a sum.
        weight = call.given[call.use.weight]
        hit = (torch.arange(len(part.index), device=unit.device) == unit).to(weight)
        row = mix.to(weight)[unit]
        return folded_call(
            call, part, 1 - hit, lambda columns: torch.tensordot(hit, columns, 1)[None], row[None]
        )

    return folds


def _scaled(call: Call, part: Listener, factors: Tensor) -> Tensor:
    """Run a listener's call with the columns that read units multiplied by factors, (columns,)."""
    if call.mixes and part.dim == call.use.columns:
        return call(call.input * _spread(factors, call))
    weight = call.given[call.use.weight]  # any other use of the weight
    shape = [1] * weight.ndim
    shape[part.dim] = -1
    return call(weight=weight * factors.reshape(shape))


def _is_small(call: Call) -> bool:
    """Whether the contribution of single columns to the call's output can be computed alone."""
    linear = call.function in (F.linear, torch.addmm)
    return linear or call.function in _ONE_COLUMN_CONVS


def _contribution(call: Call, columns: Tensor) -> Tensor:
    """Compute the contribution of some columns to the call's output: the call on them alone."""
    weight = call.given[call.use.weight]
    dim = call.use.columns
    assert dim is not None
    own = weight.index_select(dim, columns)
    inputs = call.input.index_select(call.axis, call.channels(columns))
    if call.function is torch.addmm:
        return inputs @ own
    given = {**call.given, call.use.reads: inputs, call.use.weight: own, call.use.bias: None}
    return call.function(**given)


def _spread(gate: Tensor, call: Call) -> Tensor:
    """Expand a gate over weight columns to a factor on the call's input."""
    times = call.input.shape[call.axis] // gate.shape[0]
    return gate.repeat(times).reshape(-1, *[1] * (-1 - call.axis))


def _is_out_of_memory(error: Exception) -> bool:
    cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return cpu or isinstance(error, (torch.OutOfMemoryError, MemoryError))
