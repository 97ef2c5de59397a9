"""Record one forward pass of a network, then replay it with NaN or noise in chosen rows' outputs.

A *row* is one output index of a weight that computes units (a neuron, a channel), or one element of
an input. A *reader* is one column of a weight, or one element of the network's output, that reads
values; the entries of a norm count as columns.

A row is *hot* in a replay when NaN is written into what it outputs in this replay. A reader whose
values become NaN reads at least one hot row; a reader without NaN reads none of them.

In a replay every layer that computes new units (linear, convolution, embedding) returns its
recorded output instead of computing it. So NaN spreads no further than the next such layers, and a
reader depends only on the rows of the layers directly before it. A replay costs only the
activations, norms and reshapes between these layers.

Statistics over units (the mean and variance of a layer norm) are answered as they were recorded,
too: so a norm passes units on one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sentei.devices import seed_
from sentei.errors import StructureError
from sentei.nests import tensors
from sentei.network.calls import COMPUTED, Call, Calls, Compute
from sentei.network.example import own_training
from sentei.network.origins import Origin, Origins
from sentei.network.poison import poisoned
from sentei.network.tracing.inputs import Inputs, Place, Source
from sentei.network.tracing.recorded_statistics import is_statistic, recognising
from sentei.network.tracing.tape import Recorder
from sentei.running import Example, run

OUTPUT: Place = ("", -2)  # stands for the network's outputs; its columns are all their elements


class Replay:
    """A recorded forward pass; `nan_columns` and `changed_columns` replay it.

    Attributes:
        sources: the weights whose rows compute units, by place, in the order of their first use.
        inputs: the network's floating-point inputs, with one row for each element; they are among
            `sources` only if `inputs=True`.
        readers: every place that reads units, with the slice of its columns in the vectors that a
            replay returns.
        listeners: those places in `readers` where a layer mixes units into new ones (the keys; the
            values are None). The others, apart from `OUTPUT`, are followers: they pass units on.
        of_one_size: places whose positions have to stay equally many, because a module has one size
            for all of them, by the module's name and a kind of weight.
        selections: the places in `readers` that are positions to select from their input.
        aligned: pairs of places whose positions belong to the same units one by one (weight and
            bias), with how often the second place repeats the positions of the first.
        in_step: places of grouped convolutions that have to keep equally many positions in each
            group, with the number of groups.
        statistics: places in `readers` of statistics that are answered as they were recorded.
        cold: rows of sources that are no units and never hold NaN, (rows,) bool by place.
        computed_from: for each weight that the network computes, the weights it computes it from.
        width: number of columns of all readers: the length of the vectors that a replay returns.
        passes: number of passes run so far, the recorded one included.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        *,
        inputs: bool,
        training: bool = False,
        statistics: Collection[Place] | None = None,
    ):
        """Run the model once and record every call that uses one of its weights.

        Args:
            model: in evaluation mode.
            example: as few samples as the model runs on: a tensor, a tuple or a dict.
            inputs: whether the elements of inputs count as units.
            training: run the model in training mode too, as a second part of the same pass.
            statistics: those that are answered as they were recorded; None for all.

        Raises:
            StructureError: no call uses a weight of the model to compute units.
        """
        self.model = model
        self.training = training
        self.statistics: dict[Place, None] = {}
        self._kept = statistics
        self._tensors = {
            name: tensor
            for group in (model.named_parameters, model.named_buffers)
            for name, tensor in group(remove_duplicate=False)
        }
        self._shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.computed_from: dict[str, Origin] = {}
        self._origins = Origins(model)
        self.example = example
        self.sources: dict[Place, Source] = {}
        self._inputs = Inputs(model, example)
        self.inputs = self._inputs.sources
        self.readers: dict[Place, slice] = {}
        self.listeners: dict[Place, None] = {}
        self.selections: set[Place] = set()
        self.of_one_size: dict[tuple[str, str], list[Place]] = {}
        self.aligned: dict[tuple[Place, Place], int] = {}
        self.in_step: dict[Place, int] = {}
        self.cold: dict[Place, np.ndarray] = {}
        self.width = 0
        self.passes = 0
        self._script: list[tuple] = []
        self._rows: list[Place] = []
        self._computed: list[Tensor | None] = []
        self._read: list[Tensor | None] = []
        if inputs:
            self.sources.update(self.inputs)
        seed_(0)  # the state that the recorded pass begins with
        recorder = Recorder(model, example, self._origins.names)
        outputs = tensors(
            self._run(lambda c: recorder.call(c, self._record), self.example, recorder.compute)
        )
        if not any(out is not None for out in self._computed):
            raise StructureError(
                "units are followed from layer to layer, but no use of a weight was seen; pass the "
                "plain nn.Module, not a scripted, traced or compiled one, with weights used by "
                "torch's own functions (linear, convolution, attention), or make groups yourself "
                "with sentei.declare"
            )
        self.tape = recorder.tape(outputs)
        self._outputs = [output.clone() for output in outputs]
        self._add_reader(OUTPUT, sum(output.numel() for output in outputs))
        self.slices = self._slices()

    # Recording.

    def _record(self, call: Call) -> Tensor:
        """Compute a call, store its input and output, register the weight's rows and columns."""
        out = call()
        self._script.append(_signature(call))
        self._rows.append(_rows_of(call))
        self._computed.append(out.clone() if call.mixes else None)
        self._read.append(call.input.clone() if call.mixes else None)
        for name, tensor in _computed_weights(call):
            self.computed_from[name] = self._origins.of(tensor) or frozenset()
            self._shapes[name] = tuple(tensor.shape)
        if is_statistic(call.weight):
            place = call.weight, 0
            self._shapes[call.weight] = (call.input.shape[call.axis],)
            self._add_reader(place, call.input.shape[call.axis])
            self.statistics[place] = None
            return out
        shape, use, names = self._shapes[call.weight], call.use, call.tensors
        if use.rows is not None:
            place = call.weight, use.rows
            self.sources.setdefault(place, Source(place, np.arange(shape[use.rows]), call.function))
            self._align(place, shape[use.rows], names[1:])
            if call.groups > 1 and shape[use.rows] == out.shape[call.axis]:
                self.in_step[place] = call.groups
            self._note_recurrent(place)
        if use.columns is not None:
            place = call.weight, use.columns
            self._add_reader(place, shape[use.columns])
            if call.mixes:
                self.listeners[place] = None
                if call.groups > 1 and shape[use.columns] == call.input.shape[call.axis]:
                    self.in_step[place] = call.groups
            else:
                self._align(place, shape[use.columns], names[1:])
            if call.function is torch.index_select:
                self.selections.add(place)
        return out

    def _note_recurrent(self, place: Place) -> None:
        """Note the recurrent weights of one module: its layers have one size together."""
        layer, _, name = place[0].rpartition(".")
        kind = name.partition("_l")[0]  # weight_hh, of weight_hh_l1_reverse
        if is_computed(place) or kind not in ("weight_hh", "weight_hr"):
            return
        if isinstance(self.model.get_submodule(layer), nn.RNNBase):
            places = self.of_one_size.setdefault((layer, kind), [])
            places += [] if place in places else [place]

    def _slices(self) -> dict[Place, int]:
        """Return the dimensions of used tensors that no call names, with their sizes."""
        named = {name for name, _ in (*self.sources, *self.readers)}
        named |= {name for pair in self.aligned for name, _ in pair}
        parents = {name for names in self.computed_from.values() for name in names}
        return {
            (name, dim): size
            for name in sorted(self._origins.used - named | parents)
            if self._tensors[name].is_floating_point()
            for dim, size in enumerate(self._shapes[name])
            if size > 1
        }

    def _align(self, place: Place, size: int, names: Sequence[str]) -> None:
        """Register that the tensors `names` have one entry for each position of a place."""
        for name in names:
            # The bias of a grouped transposed convolution has an entry for every row of every
            # group, its weight has the rows once. An emptied layer has size 0.
            self.aligned[place, (name, 0)] = self._shapes[name][0] // max(size, 1)

    def _add_reader(self, place: Place, size: int) -> None:
        if place not in self.readers:
            self.readers[place] = slice(self.width, self.width + size)
            self.width += size

    def differs_in_training(self) -> bool:
        """Return whether the model makes other calls, or returns other outputs, in training mode.

        False if it does not run in training mode on the example.
        """
        made: list[tuple] = []

        def note(call: Call) -> Tensor:
            made.append(_signature(call))
            return call()

        try:
            with own_training(self.model), self._calls(note):
                outputs = tensors(run(self.model, self.example))
        except Exception:  # such as a forward that needs targets in training
            return False
        shapes = [output.shape for output in outputs]
        return made != self._script or shapes != [output.shape for output in self._outputs]

    def without(self, rows: Mapping[Place, np.ndarray]) -> Replay:
        """Return the same pass in which some rows of sources are no units, and never hold NaN.

        Args:
            rows: for each source with such rows, which they are, (rows,) bool.
        """
        other = copy.copy(self)
        other.cold = dict(rows)
        whole = {place for place, some in rows.items() if some.all()}
        other.of_one_size = {
            key: [place for place in places if place not in whole]
            for key, places in self.of_one_size.items()
        }
        return other

    # Replaying.

    def nan_columns(self, hot: Mapping[Place, np.ndarray]) -> np.ndarray:
        """Replay with NaN in the outputs of hot rows; return which columns read NaN, (width,) bool.

        Args:
            hot: for each source with hot rows, which of its rows are hot, (rows,) bool. Of other
                tensors, the slices themselves hold NaN.

        Raises:
            StructureError: the calls or the sizes of the outputs differ from the recorded ones.
        """
        found = np.zeros(self.width, bool)

        def answer(call: Call) -> Tensor:
            out = self._answer(call, hot, _nan_filled)
            if call.use.columns is not None:
                reads = call.input if call.mixes else out
                self._note(found, call, _reduced(reads, call.axis, Tensor.amax).isnan())
            return out

        slices = self.slices.keys() - self.sources.keys()
        weights = {place: hot[place] for place in hot.keys() & slices}
        outputs = self._replayed(answer, hot, weights)
        self._note_outputs(found, [value.isnan() for value in outputs])
        return found

    def nan_weights(self, hot: Mapping[Place, np.ndarray]) -> dict[Place, np.ndarray]:
        """Replay with NaN in slices of tensors; return which rows and columns of weights hold NaN.

        Args:
            hot: for each dimension of a tensor which of its slices are hot, (size,) bool.

        Returns:
            For each dimension of each weight that the network computes, (size,) bool.
        """
        found: dict[Place, np.ndarray] = {
            (name, dim): np.zeros(size, bool)
            for name in self.computed_from
            for dim, size in enumerate(self._shapes[name])
        }

        def answer(call: Call) -> Tensor:
            for name, tensor in _computed_weights(call):
                for dim in range(tensor.ndim):
                    flags = _reduced(tensor, dim, Tensor.amax).isnan()
                    found[name, dim] = flags.cpu().numpy()
            return self._answer(call, {}, _nan_filled)

        self._replayed(answer, {}, hot)
        return found

    def _poisoned(self, hot: Mapping[Place, np.ndarray]) -> AbstractContextManager[None]:
        """Put NaN into the hot slices of tensors."""
        where = {place: torch.from_numpy(np.flatnonzero(rows)) for place, rows in hot.items()}
        return poisoned(self._tensors, where)

    def changed_columns(self, hot: Mapping[Place, np.ndarray], seed: int) -> np.ndarray:
        """Replay with noise added to hot rows' outputs; return which columns read other numbers.

        A changed column reads a hot row, even if an operation in between does not propagate NaN. An
        unchanged column proves nothing: an activation may cancel the noise.

        Args:
            hot: for each source with hot rows, which of its rows are hot, (rows,) bool.
            seed: of the noise.

        Returns:
            (width,) bool: the listeners' columns and the output elements whose values differ from
            the recorded ones; False for all followers.

        Raises:
            StructureError: the calls or the sizes of the outputs differ from the recorded ones.
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
            mixes = call.mixes and not is_statistic(call.weight)
            if mixes and call.use.columns is not None and self._expects(call):
                differs = call.input != self._read[at]
                self._note(changed, call, _reduced(differs, call.axis, Tensor.any))
            return self._answer(call, hot, disturb)

        output = self._replayed(answer, hot, {}, poisons=False)
        self._note_outputs(changed, [a != b for a, b in zip(output, self._outputs, strict=True)])
        return changed

    def without_statistics(self) -> Replay:
        """Record the pass again, with statistics computed: norms tie units together."""
        return Replay(
            *(self.model, self.example),
            inputs=any(place in self.sources for place in self.inputs),
            training=self.training,
            statistics=(),
        )

    def untaped(self) -> Replay:
        """Return the same pass, replayed by running the model."""
        other = copy.copy(self)
        other.tape = None
        return other

    def _replayed(
        self,
        answer: Callable[[Call], Tensor],
        hot: Mapping[Place, np.ndarray],
        weights: Mapping[Place, np.ndarray],
        *,
        poisons: bool = True,
    ) -> list[Tensor]:
        """Replay with `answer`, NaN in hot slices of weights and hot elements of inputs.

        Returns:
            The tensors that the network returns.
        """
        example = self._inputs.poisoned(hot) if poisons else self.example
        if self.tape is None:
            with self._poisoned(weights):
                return self._same_form(self._run(answer, example))
        changed = {
            slot: tensor
            for slot, own, tensor in zip(
                self.tape.inputs, tensors(self.example), tensors(example), strict=True
            )
            if own is not tensor
        }
        with self._poisoned(weights):
            for name, _ in weights:
                if name in self.tape.weights:
                    changed[self.tape.weights[name]] = self._tensors[name].data
        at = {n for n, place in enumerate(self._rows) if place in hot and hot[place].any()}
        return self._same_form(self.tape.run(answer, at, changed))

    def _answer(self, call: Call, hot: Mapping[Place, np.ndarray], overwrite: Any) -> Tensor:
        """Return the recorded output, overwritten in the hot rows; compute a call that has none."""
        if not self._expects(call):
            raise StructureError(_CHANGING.format(call.weight))
        recorded = self._computed[call.position]
        if recorded is None:
            return call()
        out = recorded.clone()
        place = _rows_of(call)
        rows = hot.get(place)
        if rows is not None and place in self.cold:
            rows = rows & ~self.cold[place]
        if rows is not None and rows.any():
            # A grouped transposed convolution uses each of its rows once per group: repeat them.
            where = np.flatnonzero(np.resize(rows, out.shape[call.axis]))
            out = overwrite(out, torch.from_numpy(where), call.axis)
        return out

    def _expects(self, call: Call) -> bool:
        """Return whether the recorded pass made the same call at this position."""
        return call.position < len(self._script) and self._script[call.position] == _signature(call)

    def _note(self, found: np.ndarray, call: Call, flags: Tensor) -> None:
        """Set in `found` (width,) the columns of a call's weight that are flagged, in place."""
        part = found[self.readers[call.weight, call.use.columns or 0]]
        # A column of a grouped convolution reads one channel of every group.
        if len(part):
            own = flags.cpu().numpy()
            part |= own if len(own) == len(part) else own.reshape(-1, len(part)).any(0)

    def _note_outputs(self, found: np.ndarray, flags: list[Tensor]) -> None:
        """Set in `found` (width,) the output elements that are flagged, in place."""
        if flags:
            part = found[self.readers[OUTPUT]]
            part |= torch.cat([flag.flatten() for flag in flags]).cpu().numpy()

    def _same_form(self, output: Any) -> list[Tensor]:
        """Return the tensors of an output, which are as many and as large as the recorded ones.

        Raises:
            StructureError: they are not.
        """
        found = tensors(output)
        if [each.shape for each in found] != [each.shape for each in self._outputs]:
            raise StructureError(_CHANGING.format("the output"))
        return found

    def _run(self, answer: Any, example: Example, compute: Compute | None = None) -> Any:
        """Run the model with every weight call handed to `answer`; return the model's output."""
        self.passes += 1
        seed_(0)  # random numbers inside the network are the same in every pass
        calls = self._calls(answer, compute)
        with calls:
            output = run(self.model, example)
        if self.training:
            with own_training(self.model), calls:
                output = output, run(self.model, example)
        if calls.made != len(self._script):
            raise StructureError(_CHANGING.format(f"call {calls.made}"))
        return output

    def _calls(self, answer: Callable[[Call], Tensor], compute: Compute | None = None) -> Calls:
        own = {} if compute is None else {"compute": compute}
        also = recognising(self._origins, self._kept)
        return Calls(self.model, answer, plain=True, origins=self._origins, also=also, **own)


_CHANGING = (
    "units can be followed only if every pass makes the same calls; this network differs at {!r} "
    "when its values change, as one that returns what it detects; pass forward= with the part "
    "whose computation is fixed, such as forward=lambda model, x: model.backbone(x)"
)


def is_computed(place: Place) -> bool:
    """Return whether a place is one of a weight that the network computes from others."""
    return place[0].startswith(COMPUTED)


def _computed_weights(call: Call) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of the arguments of a call that the network computes from weights."""
    for name in call.tensors:
        if name.startswith(COMPUTED):
            yield name, call.given[name.partition(".")[2]]


def _nan_filled(out: Tensor, where: Tensor, axis: int) -> Tensor:
    return out.index_fill_(axis, where.to(out.device), torch.nan)


def _reduced(values: Tensor, axis: int, reduce: Any) -> Tensor:
    """Reduce over all dimensions but `axis`, to (size of axis,). `Tensor.amax` propagates NaN."""
    others = [dim for dim in range(values.ndim) if dim != axis % values.ndim]
    return reduce(values, dim=others) if others else values


def _rows_of(call: Call) -> Place:
    return call.weight, -1 if call.use.rows is None else call.use.rows


def _signature(call: Call) -> tuple:
    """Return what has to be the same in every pass for two calls to count as the same call."""
    return call.weight, call.function, call.axis, tuple(call.input.shape)
