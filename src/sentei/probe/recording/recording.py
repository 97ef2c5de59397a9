"""Record the outputs of a network's layer calls on the samples, and replay those still valid.

A recording keeps the output of every call that mixes units, for each block of samples. When the
weights of a call change, the outputs of all earlier calls are replayed instead of computed.
`Recording.replay` runs the network with some calls overridden: every measurement without a unit
and every derivative is such a replay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from sentei.devices import device_of
from sentei.distributed import gathered, own_blocks, sum_across, world
from sentei.errors import DataError, LossError, StructureError
from sentei.losses import Loss, PerSample, per_sample_losses
from sentei.nests import nbytes, shapes, tensors
from sentei.network.calls import PRODUCTS, Call, Calls, names_of
from sentei.reading.data import Measured, MemoryData
from sentei.running import run

# What a pass must hold: "outputs" (the model's outputs and losses), "kept" (also the outputs of all
# mixing calls), or the position of a call whose input is needed.
Need = Literal["outputs", "kept"] | int
# Computes the output of one call anew: takes the call, and its recorded output if nothing that the
# call reads has changed in this replay; returns None to leave the call as it is.
Override = Callable[[Call, Tensor | None], Tensor | None]

# Block boundaries depend on model and data alone, so every machine adds sums in the same order.
_BLOCK_ROWS = 5000
_BLOCK_BYTES = 16 * 2**20  # of the largest output, or of the inputs, in one block
_PASS_BYTES = 64 * 2**20  # of all that is recorded of one block
SURVEY_ROWS = 4  # samples in the run that lists the calls of a pass
# Samples on which the recorded outputs are compared with the network's, at each measurement: all of
# the fewest, and of more an eighth.
_CHECK_ROWS = (32, 128)


_NOT_READ = MemoryData((), ())  # the samples of a pass that is not visited


@dataclass(frozen=True)
class Slope:
    """Options for the derivative of the loss along gates.

    Attributes:
        absolute: sum the absolute values of the per-sample derivatives, so that samples of opposite
            sign do not cancel.
        loss: the loss to differentiate; the Probe's own if None.
    """

    absolute: bool = False
    loss: PerSample | None = None


@dataclass(frozen=True)
class CallRecord:
    """One call of a pass: its weight, the per-unit tensors it uses, and its work per sample.

    Attributes:
        weight: the name of its weight.
        tensors: the names of all tensors with an entry for each unit.
        mixes: whether it computes new units.
        bytes_in: bytes of what it reads of a sample.
        bytes_out: bytes of what it returns for a sample.
        products: multiplications with the weight for a sample.
        entries: entries of the weight.
    """

    weight: str
    tensors: tuple[str, ...]
    mixes: bool
    bytes_in: int
    bytes_out: int
    products: int = 0
    entries: int = 0


@dataclass(frozen=True, eq=False)
class FunctionCall:
    """One torch function call of a pass, with or without a weight of the model."""

    function: Any
    args: tuple
    kwargs: dict[str, Any]
    result: Any


@dataclass(frozen=True)
class PassSurvey:
    """The calls of one forward pass, listed by running the model on a few samples.

    Attributes:
        calls: the calls that use weights, in order; a call's position is its index here.
        events: every torch function call, in order.
        output: what the model returned.
        elsewhere: names of the weights that are also given to functions that are no such calls,
            such as those that compute a weight from others.
    """

    calls: tuple[CallRecord, ...]
    events: tuple[FunctionCall, ...]
    output: Any
    elsewhere: frozenset[str] = frozenset()

    def users(self, parameter: str) -> list[int]:
        """Return the positions of the calls that use a parameter."""
        return [i for i, call in enumerate(self.calls) if parameter in call.tensors]

    def readers(self, listeners: Iterable[str]) -> dict[int, str]:
        """Return the positions of the calls that use these listeners' weights, with their names.

        A listener that is not used, such as that of an auxiliary head in evaluation mode, does not
        matter to the loss.

        Raises:
            StructureError: no call uses any of the weights, or other functions use one.
        """
        names = [*listeners]
        found = {at: name for name in names for at in self.users(name)}
        hidden = [name for name in names if name in self.elsewhere]
        if hidden or not found:
            raise StructureError(
                "what a listener reads is known where layer calls alone use its weight; of this "
                f"group that is not so for {', '.join(map(repr, hidden or names))}. Measure "
                "without a repair, or leave the group out."
            )
        return found


@dataclass(frozen=True, eq=False)
class CallInput:
    """The input of one call on a block of samples, with statistics computed from it.

    Attributes:
        o: (units, n) the outputs of the units that the call reads.
        targets: (n, ...) the targets of the block, a tensor or any nest of tensors.
    """

    o: Tensor
    targets: Any

    @cached_property
    def peaks(self) -> Tensor:
        """(units,) largest |o| of each unit on the block."""
        return self.o.abs().amax(1)

    @cached_property
    def by_class(self) -> Tensor:
        """(largest class + 1, units) sum of o over the samples of each class."""
        classes = torch.arange(int(self.targets.max()) + 1, device=self.o.device)
        return (classes[:, None] == self.targets).to(self.o.dtype) @ self.o.T


@dataclass
class Pass:
    """The recorded forward pass of one block of samples.

    Attributes:
        samples: the block; of samples that are read again at each pass, while it is visited.
        call_outputs: outputs of mixing calls by position.
        call_inputs: inputs of the calls in `Recording.wanted_inputs`, by position.
        outputs: what the loss takes of the model's outputs; None until the pass has run.
        losses: (n,) per-sample losses of `outputs`; None until the pass has run.
    """

    samples: MemoryData
    call_outputs: dict[int, Tensor] = field(default_factory=dict)
    call_inputs: dict[int, CallInput] = field(default_factory=dict)
    outputs: Any = None
    losses: Tensor | None = None

    def forget_(self, position: int) -> None:
        """Drop everything that depends on the output of the call at `position`."""
        self.outputs = self.losses = None
        self.call_outputs = {at: kept for at, kept in self.call_outputs.items() if at < position}
        self.call_inputs = {at: kept for at, kept in self.call_inputs.items() if at <= position}


class Recording:
    """Recorded forward passes of a network over all its samples, in blocks.

    Args:
        model: the network, in any mode.
        samples: all samples to measure on.
        loss: the loss, one number per sample.
        budget: bytes of recorded tensors to keep; blocks beyond it are computed again each time.
        calls: the model's `survey`, if there is one already.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Measured,
        loss: Loss,
        budget: int,
        calls: PassSurvey | None = None,
    ):
        self.model = model
        self.samples = samples
        self.loss = loss
        self.per_sample = loss.per_sample
        self.device = device_of(model)
        self.survey = survey(model, samples.head) if calls is None else calls
        size, each = self._block_size()
        self.starts = samples.boundaries(size)  # first rows of the blocks
        self.count = len(samples)
        self.wanted_inputs: set[int] = set()
        least, most = _CHECK_ROWS
        checked = min(most, max(least, self.count // 8))
        self.check_pass = Pass(samples.head.rows(0, checked, self.device))
        self._passes = {i: Pass(_NOT_READ) for i in own_blocks(len(self.starts))}
        self._affordable = budget // max(size * each, 1)

    def _block_size(self) -> tuple[int, int]:
        """Return how many samples are in a block, and the bytes recorded of each."""
        head, calls = self.samples.head, self.survey.calls
        inputs = nbytes(head.inputs) // len(head)
        largest = max((call.bytes_out for call in calls), default=1)
        each = sum(call.bytes_in + call.bytes_out for call in calls)
        most = min(_BLOCK_BYTES // max(largest, inputs, 1), _PASS_BYTES // max(each, 1))
        return max(1, min(_BLOCK_ROWS, most)), each

    def passes(self, need: Need) -> Iterator[tuple[int, Pass]]:
        """Yield (block number, pass) for each block of this rank, with what `need` requires."""
        for number, (i, block) in enumerate(self.own_passes):
            self.complete_(block, need)
            yield i, block
            if number >= self._affordable:
                block.call_outputs, block.call_inputs = {}, {}

    def mean(self, need: Need, of: Callable[[Pass], Tensor], count: int) -> Tensor:
        """Return the mean per sample of what `of` sums over a block, (count,) float64.

        Blocks are added in order, so that any number of ranks gives the same bits.

        Args:
            need: what a pass must hold before `of` is called on it.
            of: takes a recorded block, returns the (count,) sums over its samples.
            count: how many numbers `of` returns.

        Raises:
            LossError: a sum is not finite; the message names the samples.
            ValueError: `of` does not return `count` numbers.
        """
        slots = torch.zeros(len(self.starts), max(count, 0), dtype=torch.float64)
        for i, block in self.passes(need):
            sums = of(block)
            if sums.numel() != count:
                raise ValueError(f"of= returned {sums.numel()} numbers, and count= is {count}")
            slots[i] = sums
        total = sum_across(slots)
        if not total.isfinite().all():
            finite = gathered(slots).isfinite().all(1)
            at = int((~finite).nonzero()[0])
            start, stop = [*self.starts, self.count][at : at + 2]
            raise LossError(
                f"the loss must be finite; it is NaN or infinite on samples {start} to {stop - 1}. "
                "Check the weights for NaN and infinity, and the loss for logarithms of 0."
            )
        return total / self.count

    @property
    def own_passes(self) -> Iterator[tuple[int, Pass]]:
        """Yield (block number, pass) for each block of this rank, whether complete or not.

        Samples that are not in memory are there until the next block is asked for.
        """
        only = None if world() == 1 else [*self._passes]
        for i, part in zip(self._passes, self.samples.blocks(self.starts, only), strict=True):
            block = self._passes[i]
            if block.samples is _NOT_READ:
                block.samples = part.rows(0, len(part), self.device)
            yield i, block
            if not self.samples.in_memory:
                block.samples = _NOT_READ

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's first parameter; torch's default if it has none."""
        return next((p.dtype for p in self.model.parameters()), torch.get_default_dtype())

    def complete_(self, block: Pass, need: Need) -> None:
        """Run the network on a block unless everything that `need` requires is recorded."""
        if isinstance(need, int):
            self.wanted_inputs.add(need)
            complete = need in block.call_inputs
        else:
            whole = len(block.call_outputs) == sum(call.mixes for call in self.survey.calls)
            complete = block.outputs is not None and (whole or need == "outputs")
        if not complete:
            with Calls(self.model, lambda call: self._answer(block, call)):
                block.outputs = self.output(block.samples)
            block.losses = per_sample_losses(self.per_sample, block.outputs, block.samples.targets)

    def output(self, samples: MemoryData, weights: Mapping[str, Tensor] | None = None) -> Any:
        """Run the model and return what the loss takes of its output.

        Args:
            samples: what to run it on.
            weights: replace some weights in this run; the model does not change.
        """
        if weights is None:
            return self.loss.takes(run(self.model, samples.inputs))
        return self.loss.takes(_output_with_weights(self.model, weights, samples))

    def replay(self, block: Pass, overrides: Mapping[str, Override], *, plain: bool = False) -> Any:
        """Run the network on a block with some calls overridden; return what the loss takes.

        Calls that no override can have changed return what is recorded for the block, where it is;
        all others are computed. Nothing is recorded.

        Args:
            block: the recorded pass of the block.
            overrides: by the name of the weight that a call uses. Each may be called several times.
            plain: compute attention from its definition: fused kernels cannot be differentiated
                twice.

        Raises:
            StructureError: the network uses its weights in another order than on the first samples.
        """
        with Calls(self.model, _Replay(self, block, overrides), plain=plain):
            return self.output(block.samples)

    def forget_(self, position: int = 0) -> None:
        """Drop everything that depends on the outputs of calls from `position` on."""
        for block in (self.check_pass, *self._passes.values()):
            block.forget_(position)

    def check(self, call: Call) -> None:
        """Raise StructureError if a call uses another weight than the survey found there.

        Raises:
            StructureError: another weight is used at this position.
        """
        at = call.position
        if at >= len(self.survey.calls) or self.survey.calls[at].weight != call.weight:
            raise StructureError(
                "a network must use its weights in the same order on all samples; call number "
                f"{at} uses {call.weight!r} on these samples and another weight, or none, on the "
                "first samples. Remove data-dependent branches from forward."
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
        return block.call_outputs[at].clone()  # later functions may change it in place


@dataclass
class _Replay:
    """Answers the calls of one replay.

    Attributes:
        recording: the recording of the network.
        block: the pass to replay.
        overrides: as for `Recording.replay`.
        changed: whether an override has changed an output so far.
        traceable: whether all changed outputs are wrapped by `torch.func`. Then what depends on
            them is wrapped as well, and all other calls can still be replayed.
    """

    recording: Recording
    block: Pass
    overrides: Mapping[str, Override]
    changed: bool = False
    traceable: bool = True

    def __call__(self, call: Call) -> Tensor:
        self.recording.check(call)
        same = not self.changed or (self.traceable and not _is_wrapped(call))
        kept = self.block.call_outputs.get(call.position) if same and call.mixes else None
        override = self.overrides.get(call.weight)
        output = None if override is None else override(call, kept)
        if output is None:
            return call() if kept is None else kept.clone()
        self.changed = True
        self.traceable = self.traceable and is_functorch_wrapped_tensor(output)
        return output


def _is_wrapped(call: Call) -> bool:
    """Whether an argument of the call is wrapped by `torch.func`."""
    given = (value for value in call.given.values() if isinstance(value, Tensor))
    return any(is_functorch_wrapped_tensor(value) for value in given)


class _FunctionLog(TorchFunctionMode):
    """Append every torch function call to a list."""

    def __init__(self, events: list[FunctionCall]):
        super().__init__()
        self.events = events

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.events.append(FunctionCall(func, args, kwargs or {}, result))
        return result


def survey(model: nn.Module, samples: MemoryData) -> PassSurvey:
    """Run the model on the first few samples and list the calls of its forward pass.

    Raises:
        DataError: the model fails on these inputs; the message holds the model's own error.
    """
    samples = samples.rows(0, SURVEY_ROWS, device_of(model))
    rows = len(samples)
    calls: list[CallRecord] = []
    events: list[FunctionCall] = []

    def answer(call: Call) -> Tensor:
        result = call()
        weight, (read, made) = call.given[call.use.weight], (call.input.nbytes, result.nbytes)
        products = PRODUCTS.get(call.function, lambda *_: 0)(weight, call.input, result)
        work = read // rows, made // rows, products // rows, weight.numel()
        calls.append(CallRecord(call.weight, call.tensors, call.mixes, *work))
        return result

    try:
        with Calls(model, answer), _FunctionLog(events):
            result = run(model, samples.inputs)
    except Exception as error:
        raise DataError(
            f"the model must accept the data; on inputs of shape {shapes(samples.inputs)} its "
            f"forward fails with: {error}"
        ) from error
    return PassSurvey(tuple(calls), tuple(events), result, _elsewhere(model, calls, events))


def _elsewhere(
    model: nn.Module, calls: Iterable[CallRecord], events: Iterable[FunctionCall]
) -> frozenset[str]:
    """Return the weights that are given to more functions than there are calls that use them."""
    names = names_of(model)
    given = Counter(
        names[id(value)]
        for event in events
        if tensors(event.result)  # not the shape of a weight, or its device
        for value in tensors((event.args, event.kwargs))
        if id(value) in names
    )
    used = Counter(name for call in calls for name in call.tensors)
    return frozenset(name for name, count in given.items() if count > used[name])


def _output_with_weights(
    model: nn.Module, weights: Mapping[str, Tensor], samples: MemoryData
) -> Any:
    """Run the model with some weights replaced and return its output; the model does not change."""

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self) -> Any:
            return run(self.model, samples.inputs)

    return functional_call(Whole(), {f"model.{name}": weights[name] for name in weights}, ())


def completed(value: Any) -> Any:
    """Return an optional tensor of a pass that has run, typed as not None."""
    assert value is not None  # `Recording.passes` yields only passes that have run
    return value


def sum_losses(block: Pass) -> Tensor:
    """Return the sum of the block's per-sample losses, float64."""
    return completed(block.losses).sum(dtype=torch.float64)
