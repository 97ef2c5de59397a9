"""One real pass through a network, recorded, and replayed with poison in what its layers put out.

In a replay every layer that computes new units returns what was recorded, so nothing is multiplied
again and each layer hears only the layers right before it. Rows of a weight that are *hot* put out
NaN instead, and whoever reads NaN has heard them. A pass costs no more than the activations,
norms and reshapes between the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sentei.errors import StructureError
from sentei.network.calls import Call, Calls
from sentei.network.example import Example, run
from sentei.network.tracing.inputs import Inputs, Place, Source

OUTPUT: Place = ("", -2)  # the ear whose columns are the elements of all outputs


class Replay:
    """The recorded pass; `heard` and `disturbed` replay it.

    Attributes:
        sources: whatever computes units, in the order of the first use.
        inputs: the floating-point inputs, element by element; among the sources if asked for.
        ears: whatever hears units, with its slice of the vectors that a replay returns.
        listeners: the ears that mix what they hear; the other ears (followers) pass it on.
        aligned: pairs of places whose positions belong together one by one (weight and bias), and
            how often the second repeats the first.
        in_step: places of grouped convolutions that have to keep as many positions in each group.
    """

    def __init__(self, model: nn.Module, example: Example, *, inputs: bool):
        """Run the model once.

        Args:
            model: in evaluation mode.
            example: as few samples as the model runs on: a tensor, a tuple or a dict.
            inputs: whether the elements of inputs count as units.
        """
        self.model = model
        self._tensors = {
            name: tensor
            for group in (model.named_parameters, model.named_buffers)
            for name, tensor in group(remove_duplicate=False)
        }
        self.example = example
        self.sources: dict[Place, Source] = {}
        self._inputs = Inputs(model, example)
        self.inputs = self._inputs.sources
        self.readers: dict[Place, slice] = {}
        self.listeners: dict[Place, None] = {}
        self.aligned: dict[tuple[Place, Place], int] = {}
        self.in_step: dict[Place, int] = {}
        self.width = 0
        self.passes = 0
        self._script: list[tuple] = []
        self._computed: list[Tensor | None] = []
        self._read: list[Tensor | None] = []
        if inputs:
            self.sources.update(self.inputs)
        outputs = _leaves(self._run(self._record, self.example))
        if not any(out is not None for out in self._computed):
            raise StructureError(
                "units are followed from layer to layer, and no use of a weight was seen; pass the "
                "plain nn.Module, not a scripted, traced or compiled one, with weights used by "
                "torch's own functions (linear, convolution, attention)"
            )
        self._outputs = [output.clone() for output in outputs]
        self._add_reader(OUTPUT, sum(output.numel() for output in outputs))

    # Recording.

    def _record(self, call: Call) -> Tensor:
        out = call()
        self._script.append(_signature(call))
        self._computed.append(out.clone() if call.mixes else None)
        self._read.append(call.input.clone() if call.mixes else None)
        weight, use, names = self._tensors[call.weight], call.use, call.tensors
        if use.rows is not None:
            place = call.weight, use.rows
            self.sources.setdefault(
                place, Source(place, np.arange(weight.shape[use.rows]), call.function)
            )
            self._align(place, weight.shape[use.rows], names[1:])
            if call.groups > 1 and weight.shape[use.rows] == out.shape[call.axis]:
                self.in_step[place] = call.groups
        if use.columns is not None:
            place = call.weight, use.columns
            self._add_reader(place, weight.shape[use.columns])
            if call.mixes:
                self.listeners[place] = None
                if call.groups > 1 and weight.shape[use.columns] == call.input.shape[call.axis]:
                    self.in_step[place] = call.groups
            else:
                self._align(place, weight.shape[use.columns], names[1:])
        return out

    def _align(self, place: Place, size: int, names: Sequence[str]) -> None:
        for name in names:
            # A grouped transposed convolution has its rows once, and a bias for each group of them.
            # An emptied layer has neither.
            self.aligned[place, (name, 0)] = self._tensors[name].shape[0] // max(size, 1)

    def _add_reader(self, place: Place, size: int) -> None:
        if place not in self.readers:
            self.readers[place] = slice(self.width, self.width + size)
            self.width += size

    # Replaying.

    def nan_columns(self, hot: Mapping[Place, np.ndarray]) -> np.ndarray:
        """(width,) bool: which columns read something that hot rows put out.

        Args:
            hot: for each source in the pass, (rows,) bool.
        """
        heard = np.zeros(self.width, bool)

        def answer(call: Call) -> Tensor:
            out = self._answer(call, hot, _poisoned)
            if call.use.columns is not None:
                reads = call.input if call.mixes else out
                self._note(heard, call, _reduced(reads, call.axis, Tensor.amax).isnan())
            return out

        output = self._run(answer, self._inputs.poisoned(hot))
        self._note_outputs(heard, [value.isnan() for value in _leaves(output)])
        return heard

    def changed_columns(self, hot: Mapping[Place, np.ndarray], seed: int) -> np.ndarray:
        """(width,) bool: which listening columns read other numbers when hot rows put out noise.

        An activation may hide a disturbance, so a column that reads the same has proven nothing;
        one that reads something else has heard a hot row, even where NaN was swept away.
        """
        changed = np.zeros(self.width, bool)
        noise = torch.Generator().manual_seed(seed)

        def disturb(out: Tensor, where: Tensor, axis: int) -> Tensor:
            shape = list(out.shape)
            shape[axis] = len(where)
            spread = 1 + 2 * out.abs().max() if out.numel() else 1
            added = torch.randn(shape, generator=noise).to(out) * spread
            return out.index_add_(axis, where.to(out.device), added)

        def answer(call: Call) -> Tensor:
            at = call.position
            if call.mixes and call.use.columns is not None and self._expects(call):
                differs = call.input != self._read[at]
                self._note(changed, call, _reduced(differs, call.axis, Tensor.any))
            return self._answer(call, hot, disturb)

        output = _leaves(self._run(answer, self.example))
        self._note_outputs(changed, [a != b for a, b in zip(output, self._outputs, strict=True)])
        return changed

    def _answer(self, call: Call, hot: Mapping[Place, np.ndarray], spoil: Any) -> Tensor:
        if not self._expects(call):
            raise StructureError(_CHANGING.format(call.weight))
        recorded = self._computed[call.position]
        if recorded is None:
            return call()
        out = recorded.clone()
        rows = hot.get((call.weight, call.use.rows)) if call.use.rows is not None else None
        if rows is not None and rows.any():
            # A grouped transposed convolution uses each of its rows once a group: repeat them.
            where = np.flatnonzero(np.resize(rows, out.shape[call.axis]))
            out = spoil(out, torch.from_numpy(where), call.axis)
        return out

    def _expects(self, call: Call) -> bool:
        return call.position < len(self._script) and self._script[call.position] == _signature(call)

    def _note(self, heard: np.ndarray, call: Call, flags: Tensor) -> None:
        part = heard[self.readers[call.weight, call.use.columns or 0]]
        # A column of a grouped convolution reads one channel of every group.
        if len(part):
            part |= flags.cpu().numpy().reshape(-1, len(part)).any(0)

    def _note_outputs(self, heard: np.ndarray, flags: list[Tensor]) -> None:
        part = heard[self.readers[OUTPUT]]
        if sum(flag.numel() for flag in flags) != len(part):
            raise StructureError(_CHANGING.format("the output"))
        if flags:
            part |= torch.cat([flag.flatten() for flag in flags]).cpu().numpy()

    def _run(self, answer: Any, example: Example) -> Any:
        self.passes += 1
        torch.manual_seed(0)  # a network that draws random numbers draws the same ones each time
        calls = Calls(self.model, answer, plain=True)
        with calls:
            output = run(self.model, example)
        if calls.made != len(self._script):
            raise StructureError(_CHANGING.format(f"call {calls.made}"))
        return output


_CHANGING = (
    "units can be followed only if every pass makes the same calls; this network does something "
    "else at {!r} when its values change (data-dependent control flow); trace the parts it chooses "
    "between one by one"
)


def _poisoned(out: Tensor, where: Tensor, axis: int) -> Tensor:
    return out.index_fill_(axis, where.to(out.device), torch.nan)


def _reduced(values: Tensor, axis: int, reduce: Any) -> Tensor:
    """One value for each position along an axis. The largest of anything and NaN is NaN."""
    others = [dim for dim in range(values.ndim) if dim != axis % values.ndim]
    return reduce(values, dim=others) if others else values


def _signature(call: Call) -> tuple:
    return call.weight, call.function, call.axis, tuple(call.input.shape)


def _leaves(output: Any) -> list[Tensor]:
    """Every tensor in an output: tuples, dicts and dataclasses are opened."""
    found: list[Tensor] = []
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += _leaves([getattr(leaf, field.name) for field in fields(leaf)])
    return found
