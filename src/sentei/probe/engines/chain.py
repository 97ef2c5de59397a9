"""Compute the loss without each unit quickly, where one linear layer reads the units.

Only elementwise functions and linear layers may follow that layer (a plain chain). Removing unit k
subtracts o_k w_k from the layer's pre-activations z, so all units are removed by one elementwise
operation and every later step is a single operation on many units. The work is done in blocks that
fit the cache, with tensors laid out (features, units, samples), so that sums over classes run along
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.devices import room
from sentei.losses import PerSample
from sentei.nests import split, tensors
from sentei.network.calls import names_of
from sentei.network.folding import unexplained
from sentei.network.units import Listener
from sentei.probe.engines.candidate_losses import CandidateLosses
from sentei.probe.engines.chain_derivatives import (
    BLOCK_ELEMENTS,
    ChainDerivatives,
    chain_derivatives,
    loss_derivatives,
)
from sentei.probe.engines.softmax import SoftmaxRises
from sentei.probe.recording.recording import CallInput, FunctionCall, Need, Pass, Recording, Slope

_CACHED_BYTES = 256 * 2**20  # of exponentials, for all samples together

# Elementwise functions, each with an in-place form for scratch tensors where one is listed.
_ELEMENTWISE: dict[Any, Callable[..., Tensor] | None] = {
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, F.sigmoid), torch.sigmoid_),
    **dict.fromkeys((torch.sigmoid_, Tensor.sigmoid_), torch.sigmoid_),
    **dict.fromkeys((torch.tanh, Tensor.tanh, F.tanh, torch.tanh_, Tensor.tanh_), torch.tanh_),
    **dict.fromkeys((torch.relu, Tensor.relu, torch.relu_, Tensor.relu_), torch.relu_),
    **dict.fromkeys((F.relu, F.relu_, F.relu6, F.hardtanh, F.leaky_relu, F.elu, F.selu, F.celu)),
    **dict.fromkeys((F.gelu, F.silu, F.mish, F.softplus, F.softsign, F.logsigmoid)),
    **dict.fromkeys((F.hardsigmoid, F.hardswish, torch.exp, Tensor.exp, torch.square)),
}
# Functions that read a tensor's metadata, not its values.
_METADATA = frozenset(
    (Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point)
) | frozenset(
    getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad")
)

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Linear:
    """A linear layer applied to (features, ...) tensors, with the model's own parameters."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Map (features in, ...) to (features out, ...)."""
        flat = x.reshape(x.shape[0], -1)
        if self.bias is None:
            return (self.weight @ flat).reshape(-1, *x.shape[1:])
        return torch.addmm(self.bias[:, None], self.weight, flat).reshape(-1, *x.shape[1:])


@dataclass(eq=False)
class Chain:
    """Engine for units that one linear layer reads, if only elementwise and linear steps follow.

    Attributes:
        listener: the columns of that layer's weight that read each unit.
        position: the position of that layer's call; the recording keeps its input.
        reader: that layer.
        steps: the functions after it, in order.
        losses: the loss on outputs laid out (features, units, samples).
        softmax: a faster computation of the rises, for a listening layer that outputs the logits.
        width: the largest number of features of a linear layer in the chain.
    """

    listener: Listener
    position: int
    reader: Linear
    steps: tuple[Step, ...]
    losses: CandidateLosses
    softmax: SoftmaxRises
    width: int = field(init=False)
    _buffer: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        linears = [step for step in (self.reader, *self.steps) if isinstance(step, Linear)]
        self.width = max(step.weight.shape[0] for step in linears)

    @property
    def need(self) -> Need:
        """What a pass must record: the input of the listening layer."""
        return self.position

    def rises(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of a block's summed loss with each unit removed alone, (k,) float64."""
        inputs, columns = block.call_inputs[self.position], self.listener.index[units]
        columns = columns.to(inputs.o.device)
        if self._is_classifier(inputs) and columns.shape[1] == 1:
            z, weight = self.reader(inputs.o), self.reader.weight
            return self.softmax(z, weight, inputs, columns[:, 0], self._scratch(z))
        parts = [self._rises(o, targets, columns) for o, targets in self.rows(block)]
        return torch.stack(parts).sum(0)

    def rises_after(self, block: Pass, units: Tensor, mixes: Mapping[str, Tensor]) -> Tensor:
        """As `rises`, but after each unit is repaired by its row of the mix, (k,) float64.

        The pre-activations lose the residual of the unit's fit instead of its whole output.

        Args:
            block: the recorded pass.
            units: (k,) positions.
            mixes: (size, size + 1) for the one listener.
        """
        inputs, (mix,) = block.call_inputs[self.position], mixes.values()
        columns, rows = self.listener.index.to(inputs.o.device), mix.to(inputs.o)[units]
        lost = unexplained(inputs.o, columns, units, rows)
        columns = columns[units]
        if self._is_classifier(inputs) and columns.shape[1] == 1:
            z, weight = self.reader(inputs.o), self.reader.weight
            residuals, scratch = CallInput(lost, inputs.targets), self._scratch(z)
            return self.softmax(z, weight, residuals, columns[:, 0], scratch, passing=True)
        blocks = zip(self.rows(block), lost.split(self._rows, 1), strict=True)
        return torch.stack([self._rises(o, y, columns, part) for (o, y), part in blocks]).sum(0)

    def rises_at_gains(self, block: Pass, units: Tensor, gains: Tensor) -> Tensor:
        """Return the rise of the summed loss with each unit's gate at each gain, (k, g) float64."""
        rises = 0.0
        for o, targets in self.rows(block):
            z = self.reader(o)
            base = self.losses(self._run_steps(z[:, None].clone()), targets)
            columns = self.listener.index[units].to(o.device)
            sums = [self._losses_at_gains(z, o, targets, own, gains.to(z)) for own in columns]
            rises = rises + torch.stack(sums) - base
        assert isinstance(rises, Tensor)
        return rises

    def rises_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of each sample's loss with each unit removed alone, (k, n)."""
        columns = self.listener.index[units]
        parts = []
        for o, targets in self.rows(block):
            z = self.reader(o)
            base = self.losses.by_sample(self._run_steps(z[:, None].clone()), targets)
            without = self._without(z, o, columns.to(o.device))
            each = [self.losses.by_sample(self._run_steps(x), targets) for x in without]
            parts.append(torch.cat(each).sub_(base))
        return torch.cat(parts, 1)

    def slopes(self, block: Pass, units: Tensor, asked: Slope) -> Tensor:
        """Return the derivative of the summed loss along each unit's gate, (k,) float64."""
        total = torch.zeros(len(units), dtype=torch.float64, device=self.reader.weight.device)
        for o, targets in self.rows(block):
            each = self._slopes(o, targets, units, asked.loss)
            total += (each.abs() if asked.absolute else each).sum(1, dtype=torch.float64)
        return total

    def slopes_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the derivative of each sample's loss along each unit's gate, (k, n)."""
        return torch.cat([self._slopes(o, targets, units) for o, targets in self.rows(block)], 1)

    def _slopes(
        self, o: Tensor, targets: Tensor, units: Tensor, loss: PerSample | None = None
    ) -> Tensor:
        """(k, n) derivatives of each sample's loss along each unit's gate."""
        columns = self.listener.index[units].to(o.device)
        derivatives = self.derivatives(o, targets, loss)
        terms = o[columns.flatten()] * (self._columns(columns).T @ derivatives.gradient)
        return terms.view(*columns.shape, -1).sum(1)

    def curvatures(self, block: Pass, units: Tensor, kind: str) -> Tensor:
        """Return the second derivative of the summed loss along each unit's gate, (k,) float64."""
        total = torch.zeros(len(units), dtype=torch.float64, device=self.reader.weight.device)
        for o, targets in self.rows(block):
            columns = self.listener.index[units].to(o.device)
            derivs, inputs = self.derivatives(o, targets), o[columns.flatten()]
            if kind == "diagonal":
                each = inputs.square() * (self._columns(columns).square().T @ derivs.diagonal())
                each = each.view(*columns.shape, -1).sum(1)
            elif columns.shape[1] == 1 and not derivs.steps:
                each = inputs.square() * derivs.end.at_columns(self._columns(columns))
            else:
                each = torch.cat(list(self._second_along_gates(derivs, o, columns)))
            total += each.sum(1, dtype=torch.float64)
        return total

    def derivatives(
        self, o: Tensor, targets: Tensor, loss: PerSample | None = None
    ) -> ChainDerivatives:
        """Compute derivatives of the loss, or of `loss`, by the outputs of the listening layer.

        Args:
            o: (units, n) inputs of that layer.
            targets: (n, ...).
            loss: the loss to differentiate; the engine's own if None.
        """
        at_outputs = (
            loss_derivatives(self.losses.name, self.losses.per_sample)
            if loss is None
            else loss_derivatives(None, loss)
        )
        weights = [step.weight if isinstance(step, Linear) else None for step in self.steps]
        return chain_derivatives(self.steps, weights, self.reader(o), targets, at_outputs)

    def _columns(self, columns: Tensor) -> Tensor:
        """(features, units x columns per unit) of the listening layer's weight."""
        return self.reader.weight[:, columns.flatten()]

    def _second_along_gates(
        self, derivatives: ChainDerivatives, o: Tensor, columns: Tensor
    ) -> Iterator[Tensor]:
        """Yield (k, n) second derivatives along the gates of k units at a time."""
        for own in columns.split(max(1, BLOCK_ELEMENTS // (self.width * o.shape[1]))):
            terms = torch.bmm(self.reader.weight[:, own].transpose(0, 1), o[own])
            yield derivatives.along_tangents(terms.transpose(0, 1))

    def _losses_at_gains(
        self, z: Tensor, o: Tensor, targets: Tensor, own: Tensor, gains: Tensor
    ) -> Tensor:
        """(g,) float64 summed losses with the unit of columns `own` at each gain."""
        term, scratch = self.reader.weight[:, own] @ o[own], self._scratch(z)
        sums = []
        for chunk in (gains - 1).split(scratch.numel() // z.numel()):
            out = scratch[: z.numel() * len(chunk)].view(len(z), len(chunk), -1)
            torch.addcmul(z[:, None], term[:, None], chunk[:, None], out=out)
            sums.append(self.losses(self._run_steps(out), targets))
        return torch.cat(sums)

    def rows(self, block: Pass) -> Iterator[tuple[Tensor, Any]]:
        """Iterate over (inputs (units, n) of the listening layer, targets), n samples at a time."""
        inputs = block.call_inputs[self.position]
        parts = split(inputs.targets, self._rows)
        return zip(inputs.o.split(self._rows, 1), parts, strict=True)

    @property
    def _rows(self) -> int:
        """Samples per block of work."""
        return max(128, BLOCK_ELEMENTS // self.width)

    def _is_classifier(self, inputs: CallInput) -> bool:
        """Whether the listening layer outputs the logits of a cross-entropy of class numbers."""
        wide = inputs.o.dtype in (torch.float32, torch.float64)  # exponentials need the range
        return wide and not self.steps and self.losses.is_cross_entropy(inputs.targets)

    def _rises(
        self, o: Tensor, targets: Tensor, columns: Tensor, lost: Tensor | None = None
    ) -> Tensor:
        """(k,) rises; `lost` (units, n) is the part of each input to remove, all of it if None."""
        z, lost = self.reader(o), o if lost is None else lost
        base = self.losses(self._run_steps(z[:, None].clone()), targets)
        without = self._without(z, lost, columns)
        return torch.cat([self.losses(self._run_steps(each), targets) for each in without]) - base

    def _run_steps(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x

    def _without(self, z: Tensor, o: Tensor, columns: Tensor) -> Iterator[Tensor]:
        """Yield (features, k, samples) pre-activations without k units at a time.

        The caller may overwrite each. `columns` is (units, columns per unit).
        """
        weight, scratch = self.reader.weight, self._scratch(z)
        for own in columns.split(scratch.numel() // z.numel()):
            if own.shape[1] == 1:
                one, out = own[:, 0], scratch[: z.numel() * len(own)].view(len(z), len(own), -1)
                torch.addcmul(z[:, None], weight[:, one, None], o[one], value=-1, out=out)
                yield out
            else:  # (k, features, m) @ (k, m, samples)
                terms = torch.bmm(weight[:, own].transpose(0, 1), o[own])
                yield z[:, None] - terms.transpose(0, 1)

    def _scratch(self, z: Tensor) -> Tensor:
        """Return a flat buffer for one block of candidates, at least one candidate.

        The memory is reused: touching new pages costs a tenth of the time of a whole ranking.
        """
        size = max(1, BLOCK_ELEMENTS // (self.width * z.shape[1])) * z.numel()
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = z.new_empty(size)
        return self._buffer[:size]


def find_chain(
    recording: Recording, listeners: Mapping[str, Listener], losses: CandidateLosses
) -> Chain | None:
    """Find the plain chain from a group's only listener to the output; None if there is none."""
    names, survey = names_of(recording.model), recording.survey
    positions = [at for name in listeners for at in survey.users(name)]
    reading = [
        event
        for event in survey.events
        if event.function is F.linear and names.get(id(_given(event)["weight"])) in listeners
    ]
    if len(listeners) != 1 or len(positions) != 1 or len(reading) != 1:
        return None
    (listener,), (event,) = listeners.values(), reading
    listening = _linear(event, names)
    after = survey.events[survey.events.index(event) + 1 :]
    steps = _chain_steps(after, event.result, recording.loss.takes(survey.output), names)
    if listening is None or steps is None or listener.dim != 1 or event.result.ndim != 2:
        return None
    cached = listening.weight.nbytes * recording.count
    most = room(recording.device, _CACHED_BYTES, 1 / 8)
    softmax = SoftmaxRises(remembers=cached <= most)
    return Chain(listener, positions[0], listening, steps, losses, softmax)


def _chain_steps(
    events: Sequence[FunctionCall], z: Tensor, output: Any, names: dict[int, str]
) -> tuple[Step, ...] | None:
    """The steps from z to the output; None if another function reads a tensor of the chain."""
    steps: list[Step] = []
    current, past = z, []
    for event in events:
        given = tensors((event.args, event.kwargs))
        if event.function in _METADATA or not any(t is x for t in given for x in (current, *past)):
            continue
        added = _steps(event, current, names)
        if added is None:
            return None
        steps += added
        if event.result is not current:
            past.append(current)
        current = event.result
    return tuple(steps) if current is output else None


def _steps(event: FunctionCall, current: Tensor, names: dict[int, str]) -> list[Step] | None:
    """A function call as steps (none for inactive dropout); None unless elementwise or linear."""
    given = dict(event.kwargs)
    first, *rest = event.args or (given.pop("input", None),)
    given.pop("inplace", None)
    if first is not current:
        return None
    if event.function is F.linear:
        linear = _linear(event, names)
        return None if linear is None else [linear]
    if event.function is F.dropout and event.result is current:
        return []
    if event.function not in _ELEMENTWISE or tensors((rest, given)):
        return None
    function = _ELEMENTWISE[event.function] or event.function
    return [lambda x: function(x, *rest, **given)]


def _linear(event: FunctionCall, names: dict[int, str]) -> Linear | None:
    """A linear call as a `Linear`; None if its weight or bias is computed, not stored."""
    given = _given(event)
    weight, bias = given["weight"], given.get("bias")
    if id(weight) not in names or not (bias is None or id(bias) in names):
        return None
    return Linear(weight, bias)


def _given(event: FunctionCall) -> dict[str, Any]:
    """The arguments of a linear call by name."""
    return {**dict(zip(("input", "weight", "bias"), event.args, strict=False)), **event.kwargs}
