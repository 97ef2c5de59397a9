"""The loss without a unit, fast: where one linear call hears it and a plain chain follows.

Leaving out unit k takes o_k w_k from the pre-activations z of the layer that hears it. All units
are one elementwise problem then, done in blocks that stay in cache, with tensors laid out
(features, units, samples) so that sums over classes run along memory. From z on only elementwise
functions and linear layers follow, each a single operation on such a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.network.calls import names_of
from sentei.network.example import tensors
from sentei.network.units import Listener
from sentei.probe.engines.candidate_losses import CandidateLosses
from sentei.probe.engines.chain_derivatives import (
    BLOCK_ELEMENTS,
    ChainDerivatives,
    chain_derivatives,
    loss_derivatives,
)
from sentei.probe.engines.softmax import SoftmaxRises
from sentei.probe.recording.recording import (
    CallInput,
    FunctionCall,
    Need,
    Pass,
    PerSample,
    Recording,
    Slope,
)

_REMEMBERED_BYTES = 256 * 2**20  # of exponentials, for all samples together

# Elementwise functions, and a form of the common ones that works in place on a scratch tensor.
_ELEMENTWISE: dict[Any, Callable[..., Tensor] | None] = {
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, F.sigmoid), torch.sigmoid_),
    **dict.fromkeys((torch.sigmoid_, Tensor.sigmoid_), torch.sigmoid_),
    **dict.fromkeys((torch.tanh, Tensor.tanh, F.tanh, torch.tanh_, Tensor.tanh_), torch.tanh_),
    **dict.fromkeys((torch.relu, Tensor.relu, torch.relu_, Tensor.relu_), torch.relu_),
    **dict.fromkeys((F.relu, F.relu_, F.relu6, F.hardtanh, F.leaky_relu, F.elu, F.selu, F.celu)),
    **dict.fromkeys((F.gelu, F.silu, F.mish, F.softplus, F.softsign, F.logsigmoid)),
    **dict.fromkeys((F.hardsigmoid, F.hardswish, torch.exp, Tensor.exp, torch.square)),
}
# Functions that only ask what a tensor looks like.
_ASKING = frozenset((Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point)) | frozenset(
    getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad")
)

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Linear:
    """A linear call as a step on (features, anything), with the model's own parameters."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """(features out, ...) from (features in, ...)."""
        flat = x.reshape(x.shape[0], -1)
        if self.bias is None:
            return (self.weight @ flat).reshape(-1, *x.shape[1:])
        return torch.addmm(self.bias[:, None], self.weight, flat).reshape(-1, *x.shape[1:])


@dataclass(eq=False)
class Chain:
    """Scores units from the pre-activations of the one layer that hears them.

    Attributes:
        listener: which columns are whose.
        position: the call that hears the units; the recording keeps its input.
        hearing: that call.
        steps: everything after it, in order.
        ending: the loss on outputs laid out (features, units, samples).
        softmax: the short way, where the layer that hears the units is a classifier.
    """

    listener: Listener
    position: int
    listening: Linear
    steps: tuple[Step, ...]
    losses: CandidateLosses
    softmax: SoftmaxRises
    width: int = field(init=False)
    _buffer: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        linears = [step for step in (self.listening, *self.steps) if isinstance(step, Linear)]
        self.width = max(step.weight.shape[0] for step in linears)

    @property
    def need(self) -> Need:
        """What has to be recorded of a pass: what the listening call heard."""
        return self.position

    def rises(self, block: Pass, units: Tensor) -> Tensor:
        """(k,) float64: rise of the summed loss over a block, for each unit left out alone."""
        heard, columns = block.call_inputs[self.position], self.listener.index[units]
        columns = columns.to(heard.o.device)
        if self._is_classifier(heard) and columns.shape[1] == 1:
            z, weight = self.listening(heard.o), self.listening.weight
            return self.softmax(z, weight, heard, columns[:, 0], self._scratch(z))
        parts = [self._rises(o, targets, columns) for o, targets in self.rows(block)]
        return torch.stack(parts).sum(0)

    def rises_after(self, block: Pass, units: Tensor, mixes: Mapping[str, Tensor]) -> Tensor:
        """(k,) float64: as `rises`, after each unit was handed over by its row of the mix.

        What is then missing is not the unit's output but what the mix leaves over of it.

        Args:
            block: what was recorded.
            units: (k,) positions.
            mixes: (size, size + 1) for the one listener.
        """
        heard, (mix,) = block.call_inputs[self.position], mixes.values()
        columns, rows = self.listener.index.to(heard.o.device), mix.to(heard.o)[units]
        left = CallInput(torch.zeros_like(heard.o), heard.targets)
        for own in columns.T:  # a unit's first column is mixed from first columns, and so on
            known = torch.addmm(rows[:, -1:], rows[:, :-1], heard.o[own])
            left.o[own[units]] = heard.o[own[units]] - known
        columns = columns[units]
        if self._is_classifier(heard) and columns.shape[1] == 1:
            z, weight = self.listening(heard.o), self.listening.weight
            scratch = self._scratch(z)
            return self.softmax(z, weight, left, columns[:, 0], scratch, passing=True)
        blocks = zip(self.rows(block), left.o.split(self._rows, 1), strict=True)
        return torch.stack([self._rises(o, y, columns, gone) for (o, y), gone in blocks]).sum(0)

    def rises_at_gains(self, block: Pass, units: Tensor, gains: Tensor) -> Tensor:
        """(k, g) float64: rise of the summed loss with each unit's gate at each gain."""
        rises = 0.0
        for o, targets in self.rows(block):
            z = self.listening(o)
            base = self.losses(self._run_steps(z[:, None].clone()), targets)
            columns = self.listener.index[units].to(o.device)
            sums = [self._at_gains(z, o, targets, own, gains.to(z)) for own in columns]
            rises = rises + torch.stack(sums) - base
        assert isinstance(rises, Tensor)
        return rises

    def slopes(self, block: Pass, units: Tensor, asked: Slope) -> Tensor:
        """(k,) float64: derivative of the summed loss along each unit's gate."""
        total = torch.zeros(len(units), dtype=torch.float64, device=block.samples.targets.device)
        for o, targets in self.rows(block):
            columns = self.listener.index[units].to(o.device)
            known = self.derivatives(o, targets, asked.loss)
            terms = o[columns.flatten()] * (self._columns(columns).T @ known.gradient)
            each = terms.view(*columns.shape, -1).sum(1)
            total += (each.abs() if asked.absolute else each).sum(1, dtype=torch.float64)
        return total

    def curvatures(self, block: Pass, units: Tensor, kind: str) -> Tensor:
        """(k,) float64: second derivative of the summed loss along each unit's gate."""
        total = torch.zeros(len(units), dtype=torch.float64, device=block.samples.targets.device)
        for o, targets in self.rows(block):
            columns = self.listener.index[units].to(o.device)
            known, heard = self.derivatives(o, targets), o[columns.flatten()]
            if kind == "diagonal":
                each = heard.square() * (self._columns(columns).square().T @ known.diagonal())
                each = each.view(*columns.shape, -1).sum(1)
            elif columns.shape[1] == 1 and not known.steps:
                each = heard.square() * known.end.at_columns(self._columns(columns))
            else:
                each = torch.cat(list(self._second_along_gates(known, o, columns)))
            total += each.sum(1, dtype=torch.float64)
        return total

    def derivatives(
        self, o: Tensor, targets: Tensor, loss: PerSample | None = None
    ) -> ChainDerivatives:
        """Derivatives from the layer that hears `o` (units, n) to the loss, or to another one."""
        ending = (
            loss_derivatives(self.losses.name, self.losses.per_sample)
            if loss is None
            else loss_derivatives(None, loss)
        )
        weights = [step.weight if isinstance(step, Linear) else None for step in self.steps]
        return chain_derivatives(self.steps, weights, self.listening(o), targets, ending)

    def _columns(self, columns: Tensor) -> Tensor:
        return self.listening.weight[:, columns.flatten()]

    def _second_along_gates(
        self, known: ChainDerivatives, o: Tensor, columns: Tensor
    ) -> Iterator[Tensor]:
        """(k, n) second derivatives along some units' gates at a time."""
        for own in columns.split(max(1, BLOCK_ELEMENTS // (self.width * o.shape[1]))):
            terms = torch.bmm(self.listening.weight[:, own].transpose(0, 1), o[own])
            yield known.along_tangents(terms.transpose(0, 1))

    def _at_gains(
        self, z: Tensor, o: Tensor, targets: Tensor, own: Tensor, gains: Tensor
    ) -> Tensor:
        """(g,) float64 summed losses with one unit, whose columns these are, at each gain."""
        term, room = self.listening.weight[:, own] @ o[own], self._scratch(z)
        sums = []
        for chunk in (gains - 1).split(room.numel() // z.numel()):
            out = room[: z.numel() * len(chunk)].view(len(z), len(chunk), -1)
            torch.addcmul(z[:, None], term[:, None], chunk[:, None], out=out)
            sums.append(self.losses(self._run_steps(out), targets))
        return torch.cat(sums)

    def rows(self, block: Pass) -> Iterator[tuple[Tensor, Tensor]]:
        """What the layer heard, (units, n) with its targets, some samples at a time."""
        heard = block.call_inputs[self.position]
        return zip(heard.o.split(self._rows, 1), heard.targets.split(self._rows), strict=True)

    @property
    def _rows(self) -> int:
        return max(128, BLOCK_ELEMENTS // self.width)

    def _is_classifier(self, heard: CallInput) -> bool:
        wide = heard.o.dtype in (torch.float32, torch.float64)  # exponentials need the range
        return wide and not self.steps and self.losses.is_cross_entropy(heard.targets)

    def _rises(
        self, o: Tensor, targets: Tensor, columns: Tensor, gone: Tensor | None = None
    ) -> Tensor:
        """(k,): `gone` is what goes with each column, all that it puts out if None."""
        z, gone = self.listening(o), o if gone is None else gone
        base = self.losses(self._run_steps(z[:, None].clone()), targets)
        without = self._without(z, gone, columns)
        return torch.cat([self.losses(self._run_steps(left), targets) for left in without]) - base

    def _run_steps(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x

    def _without(self, z: Tensor, o: Tensor, columns: Tensor) -> Iterator[Tensor]:
        """(features, k, samples) pre-activations without k units at a time; scratch to the taker.

        `columns`: (units, columns per unit).
        """
        weight, room = self.listening.weight, self._scratch(z)
        for own in columns.split(room.numel() // z.numel()):
            if own.shape[1] == 1:
                one, out = own[:, 0], room[: z.numel() * len(own)].view(len(z), len(own), -1)
                torch.addcmul(z[:, None], weight[:, one, None], o[one], value=-1, out=out)
                yield out
            else:  # (k, features, m) @ (k, m, samples)
                terms = torch.bmm(weight[:, own].transpose(0, 1), o[own])
                yield z[:, None] - terms.transpose(0, 1)

    def _scratch(self, z: Tensor) -> Tensor:
        """Room for as many candidates as make a block of work, one at least.

        The same memory each time: to touch new pages costs a tenth of the whole ranking.
        """
        size = max(1, BLOCK_ELEMENTS // (self.width * z.shape[1])) * z.numel()
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = z.new_empty(size)
        return self._buffer[:size]


def find_chain(
    recording: Recording, listeners: Mapping[str, Listener], ending: CandidateLosses
) -> Chain | None:
    """The chain behind a group's only listener, or None if what was seen is anything else."""
    names, survey = names_of(recording.model), recording.survey
    positions = [at for name in listeners for at in survey.users(name)]
    heard = [
        event
        for event in survey.events
        if event.function is F.linear and names.get(id(_given(event)["weight"])) in listeners
    ]
    if len(listeners) != 1 or len(positions) != 1 or len(heard) != 1:
        return None
    (listener,), (event,) = listeners.values(), heard
    hearing = _linear(event, names)
    after = survey.events[survey.events.index(event) + 1 :]
    steps = _followed(after, event.result, survey.output, names)
    if hearing is None or steps is None or listener.dim != 1 or event.result.ndim != 2:
        return None
    remembered = hearing.weight.nbytes * recording.starts.stop
    softmax = SoftmaxRises(remembers=remembered <= _REMEMBERED_BYTES)
    return Chain(listener, positions[0], hearing, steps, ending, softmax)


def _followed(
    events: Sequence[FunctionCall], z: Tensor, output: Tensor, names: dict[int, str]
) -> tuple[Step, ...] | None:
    """The steps from z to the output; None if anything else was done with a tensor on the way."""
    steps: list[Step] = []
    current, past = z, []
    for event in events:
        given = tensors((event.args, event.kwargs))
        if event.function in _ASKING or not any(t is x for t in given for x in (current, *past)):
            continue
        found = _steps(event, current, names)
        if found is None:
            return None
        steps += found
        if event.result is not current:
            past.append(current)
        current = event.result
    return tuple(steps) if current is output else None


def _steps(event: FunctionCall, current: Tensor, names: dict[int, str]) -> list[Step] | None:
    """The event as steps (none for an idle dropout), if it is elementwise or linear."""
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
    """The event's own parameters; None if one is computed on the way, and so not there to read."""
    given = _given(event)
    weight, bias = given["weight"], given.get("bias")
    if id(weight) not in names or not (bias is None or id(bias) in names):
        return None
    return Linear(weight, bias)


def _given(event: FunctionCall) -> dict[str, Any]:
    return {**dict(zip(("input", "weight", "bias"), event.args, strict=False)), **event.kwargs}
