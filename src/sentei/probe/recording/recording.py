"""What a network did on the samples: recorded once, replayed as far as it still holds.

A recording keeps the output of every call that mixes units, for each block of samples. When weights
change from some call on, everything before it is replayed instead of computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sentei.distributed import own_blocks
from sentei.errors import DataError, LossError, StructureError
from sentei.network.calls import Call, Calls
from sentei.network.example import run, tensors
from sentei.probe.recording.data import ProbeData

PerSample = Callable[[Tensor, Tensor], Tensor]
# Of a pass: outputs and losses alone, also the outputs of all mixing calls, or what one call heard.
Need = Literal["outputs", "kept"] | int

# Blocks are fixed by model and data alone, so that sums are added in the same order everywhere.
_BLOCK_ROWS = 5000
_BLOCK_BYTES = 64 * 2**20  # of the largest output in one block
_SURVEY_ROWS = 4  # samples that show what a pass consists of
_CHECK_ROWS = 128  # samples on which the record is compared with the network itself


@dataclass(frozen=True)
class Slope:
    """Which derivative along gates is asked for.

    Attributes:
        absolute: each sample's derivative by its size, so that samples cannot cancel.
        loss: to differentiate in place of the network's own.
    """

    absolute: bool = False
    loss: PerSample | None = None


@dataclass(frozen=True)
class CallRecord:
    """One call of a pass: its weight, everything per-unit that it uses, and its size in bytes."""

    weight: str
    tensors: tuple[str, ...]
    mixes: bool
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, eq=False)
class FunctionCall:
    """One torch function that a pass called, whether or not it used a weight."""

    function: Any
    args: tuple
    kwargs: dict[str, Any]
    result: Any


@dataclass(frozen=True)
class PassSurvey:
    """What one pass consists of, from a run on a few samples.

    Attributes:
        calls: the calls that use weights; positions elsewhere count along these.
        events: every torch function that ran.
        output: what the model returned.
    """

    calls: tuple[CallRecord, ...]
    events: tuple[FunctionCall, ...]
    output: Tensor

    def users(self, parameter: str) -> list[int]:
        """Positions of the calls that use a parameter."""
        return [i for i, seen in enumerate(self.calls) if parameter in seen.tensors]


@dataclass(frozen=True, eq=False)
class CallInput:
    """What one call heard on a block, and what follows from that alone.

    Attributes:
        o: (units, n): units first.
        targets: (n, ...).
    """

    o: Tensor
    targets: Tensor

    @cached_property
    def peaks(self) -> Tensor:
        """(units,) largest |o| of each."""
        return self.o.abs().amax(1)

    @cached_property
    def by_class(self) -> Tensor:
        """(largest class + 1, units) sums of o over the samples of each class."""
        classes = torch.arange(int(self.targets.max()) + 1, device=self.o.device)
        return (classes[:, None] == self.targets).to(self.o.dtype) @ self.o.T


@dataclass
class Pass:
    """What is recorded of one block of samples.

    Attributes:
        samples: the block.
        kept: outputs of mixing calls by position.
        heard: what the wanted calls heard, by position.
        outputs: what the model put out; None until the pass has run.
        losses: (n,) per-sample losses of `outputs`.
    """

    samples: ProbeData
    call_outputs: dict[int, Tensor] = field(default_factory=dict)
    call_inputs: dict[int, CallInput] = field(default_factory=dict)
    outputs: Tensor | None = None
    losses: Tensor | None = None

    def forget_(self, position: int) -> None:
        """Drop all that depends on the output of the call at `position`."""
        self.outputs = self.losses = None
        self.call_outputs = {at: kept for at, kept in self.call_outputs.items() if at < position}
        self.call_inputs = {at: heard for at, heard in self.call_inputs.items() if at <= position}


class Recording:
    """The passes of one network over its samples, complete whenever they are handed out.

    Args:
        model: the network, in any mode.
        samples: everything it is measured on.
        per_sample: its loss.
        budget: bytes that may be kept; blocks beyond are computed again each time.
    """

    def __init__(self, model: nn.Module, samples: ProbeData, per_sample: PerSample, budget: int):
        self.model = model
        self.per_sample = per_sample
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.survey = survey(model, samples.rows(0, _SURVEY_ROWS, self.device))
        samples.check_classes(self.survey.output)
        largest = max((seen.bytes_out for seen in self.survey.calls), default=1)
        size = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // max(largest, 1)))
        self.starts = range(0, len(samples), size)
        self.wanted_inputs: set[int] = set()
        self.check_pass = Pass(samples.rows(0, _CHECK_ROWS, self.device))
        self._passes = {
            i: Pass(samples.rows(self.starts[i], self.starts[i] + size, self.device))
            for i in own_blocks(len(self.starts))
        }
        each = size * sum(seen.bytes_in + seen.bytes_out for seen in self.survey.calls)
        self._affordable = budget // max(each, 1)

    def passes(self, need: Need) -> Iterator[tuple[int, Pass]]:
        """Blocks of this rank, each with its number, complete as far as `need` says."""
        for rank, (i, block) in enumerate(self._passes.items()):
            self.complete_(block, need)
            yield i, block
            if rank >= self._affordable:
                block.call_outputs, block.call_inputs = {}, {}

    @property
    def own_passes(self) -> Iterator[tuple[int, Pass]]:
        """Blocks of this rank, each with its number, with what happens to be recorded of them."""
        return iter(self._passes.items())

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return next((p.dtype for p in self.model.parameters()), torch.get_default_dtype())

    def complete_(self, block: Pass, need: Need) -> None:
        """Run the network on a block unless what is needed of the pass is there."""
        if isinstance(need, int):
            self.wanted_inputs.add(need)
            there = need in block.call_inputs
        else:
            whole = len(block.call_outputs) == sum(seen.mixes for seen in self.survey.calls)
            there = block.outputs is not None and (whole or need == "outputs")
        if not there:
            with Calls(self.model, lambda call: self._answer(block, call)):
                block.outputs = model_output(self.model, block.samples)
            block.losses = per_sample_losses(self.per_sample, block.outputs, block.samples.targets)

    def forget_(self, position: int = 0) -> None:
        """Drop all that depends on the outputs of calls from `position` on."""
        for block in (self.check_pass, *self._passes.values()):
            block.forget_(position)

    def check(self, call: Call) -> None:
        """Refuse a pass that is not the one that was surveyed.

        Raises:
            StructureError: another weight is used at this position.
        """
        at = call.position
        if at >= len(self.survey.calls) or self.survey.calls[at].weight != call.weight:
            raise StructureError(
                "the network must use its weights in the same order for all samples; call "
                f"{at} uses {call.weight!r} here and did not before"
            )

    def _answer(self, block: Pass, call: Call) -> Tensor:
        self.check(call)
        at = call.position
        if at in self.wanted_inputs and at not in block.call_inputs:
            block.call_inputs[at] = CallInput(call.input.T.contiguous(), block.samples.targets)
        if not call.mixes:
            return call()
        if at not in block.call_outputs:
            block.call_outputs[at] = call()
        return block.call_outputs[at].clone()  # what follows may work in place


class _FunctionLog(TorchFunctionMode):
    """Notes every torch function."""

    def __init__(self, events: list[FunctionCall]):
        super().__init__()
        self.events = events

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.events.append(FunctionCall(func, args, kwargs or {}, result))
        return result


def survey(model: nn.Module, samples: ProbeData) -> PassSurvey:
    """What a pass consists of.

    Raises:
        DataError: the model cannot take these inputs, with the model's own complaint.
    """
    calls: list[CallRecord] = []
    events: list[FunctionCall] = []

    def answer(call: Call) -> Tensor:
        result = call()
        sizes = (tensor.element_size() * tensor.numel() // count for tensor in (call.input, result))
        calls.append(CallRecord(call.weight, call.tensors, call.mixes, *sizes))
        return result

    count = len(samples)
    try:
        with Calls(model, answer), _FunctionLog(events):
            result = model_output(model, samples)
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors(samples.inputs))
        raise DataError(
            f"the data must run through the model; with inputs {shapes} it stops: {error}"
        ) from error
    return PassSurvey(tuple(calls), tuple(events), result)


def model_output(model: nn.Module, samples: ProbeData) -> Tensor:
    """What the model puts out; of several tensors, the first."""
    return tensors(run(model, samples.inputs))[0]


def per_sample_losses(per_sample: PerSample, outputs: Tensor, targets: Tensor) -> Tensor:
    """(n,) losses.

    Raises:
        LossError: they are not one number per sample.
    """
    found = per_sample(outputs, targets)
    if not isinstance(found, Tensor) or found.shape != targets.shape[:1]:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise LossError(
            f"a loss must give one number per sample, shape ({targets.shape[0]},); this one gave "
            f'{shape}. Use reduction="none" and sum over what belongs to one sample.'
        )
    return found


def completed(value: Tensor | None) -> Tensor:
    """A part of a pass that is there once the pass is complete."""
    assert value is not None  # passes are complete when they are handed out
    return value


def sum_losses(block: Pass) -> Tensor:
    """Sum of the block's losses, float64."""
    return completed(block.losses).sum(dtype=torch.float64)


def count_correct(block: Pass) -> Tensor:
    """How many of the block's samples have their largest output where their target is."""
    return (completed(block.outputs).argmax(1) == block.samples.targets).sum(dtype=torch.float64)
