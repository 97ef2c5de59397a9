"""Record which function calls of a pass depend on some listeners, and execute these alone again.

A tape holds the calls behind the listeners in order, each with the tensors that it reads: those
that do not depend on a listener as they were, the others by number. Executing it runs neither the
model's own code nor a function mode. Dependence is followed through every torch function, and
through what is written in place.

A pass that cannot be followed has no tape: one whose code reads values that depend on a listener,
uses tensors that no torch function has returned, or changes a tensor of which views exist. A tape
gives values, not derivatives: a custom autograd function is recorded by what its forward does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sentei.nests import mapped, tensors
from sentei.network.calls import Call, Calls, names_of
from sentei.network.torch_functions import FORM, argument_tensors, leaves, name_of, rebuilt
from sentei.probe.recording.recording import Override, Pass, Recording

# The number of a call -> positions of the tensors that it writes into, among all that it is given.
Writes = dict[int, list[int]]


class UntapedError(Exception):
    """Raised while recording: the calls of this pass cannot be executed without the model."""


class Slot(int):
    """The number of a tensor that depends on a listener."""


class Fresh:
    """A tensor that a call writes into: every execution gets a copy, and numbers it."""

    def __init__(self, slot: Slot, before: Tensor):
        self.slot, self.before = slot, before


class Held:
    """A tensor that does not depend on a listener, with the values it had when it was read."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


@dataclass
class Step:
    """One call of a tape.

    Attributes:
        function: the function, or what an override is asked about.
        arguments: what it is given, positional ones first; None where there is a hole.
        keywords: the names of the last arguments.
        holes: positions of arguments with tensors that depend on a listener, and what is filled in.
        results: the numbers of the tensors that it returns, in order, and their shapes.
        listener: the call, if its weight is a listener's.
        kept: the recorded output of a listener whose input does not depend on another.
        writes: whether it changes a tensor in place.
        ends: numbers of the tensors that no later step reads.
    """

    function: Callable[..., Any]
    arguments: list[Any]
    keywords: tuple[str, ...]
    holes: list[tuple[int, Any]]
    results: list[tuple[Slot, torch.Size]] = field(default_factory=list)
    listener: Call | None = None
    kept: Tensor | None = None
    writes: bool = False
    ends: list[Slot] = field(default_factory=list)

    def __call__(self, values: dict[int, Tensor], overrides: Mapping[str, Override]) -> Any:
        """Execute the call on the tensors that have been computed so far."""
        given = list(self.arguments)
        for at, hole in self.holes:
            given[at] = _filled(hole, values)
        split = len(given) - len(self.keywords)
        by_name = dict(zip(self.keywords, given[split:], strict=True))
        if self.listener is None:
            return self.function(*given[:split], **by_name)
        call = replace(self.listener, given=by_name, input=by_name[self.listener.use.reads])
        override = overrides.get(call.weight)
        output = None if override is None else override(call, self.kept)
        return call() if output is None else output


@dataclass(frozen=True)
class Tape:
    """The calls of one pass that depend on some listeners.

    Attributes:
        steps: the calls, in order.
        out: what the loss takes of the outputs, with numbers for what depends on a listener.
    """

    steps: Sequence[Step]
    out: Any

    def output(self, overrides: Mapping[str, Override]) -> Any:
        """Execute the calls, some of them overridden; return what the loss takes of the outputs.

        Args:
            overrides: as for `Recording.replay`.

        Raises:
            UntapedError: a result has another shape than in the recorded pass.
        """
        values: dict[int, Tensor] = {}
        for step in self.steps:
            found = argument_tensors(step(values, overrides))
            if [tensor.shape for tensor in found] != [shape for _, shape in step.results]:
                raise UntapedError("the shape of a result depends on values behind a listener")
            values |= zip((slot for slot, _ in step.results), found, strict=True)
            for slot in step.ends:
                values.pop(slot, None)
        return mapped(self.out, lambda leaf: values[leaf] if isinstance(leaf, Slot) else leaf)


def taped(
    recording: Recording,
    block: Pass,
    listeners: Collection[str],
    writes: Writes,
) -> Tape:
    """Record the calls of a pass that depend on listeners.

    Layers whose outputs are recorded are not computed again.

    Args:
        recording: the recording of the network.
        block: the recorded pass.
        listeners: the names of the listeners' weights.
        writes: which calls of such a pass write in place; what is found is added.

    Raises:
        UntapedError: the pass cannot be followed.
        StructureError: the network uses its weights in another order than on the first samples.
    """
    while True:
        recorder = _Recorder(recording, block, listeners, writes)
        with Calls(recording.model, recorder.answer, compute=recorder.compute):
            out = recording.output(block.samples)
        if not recorder.new_writes:
            return recorder.finished(out)
        writes |= recorder.new_writes  # what they overwrite is copied before, in another pass


class _Recorder:
    """Follow one pass of the model and list the calls that depend on listeners.

    Args:
        recording: the recording of the network.
        block: the recorded pass.
        listeners: the names of the listeners' weights.
        writes: which calls of such a pass write in place.
    """

    def __init__(
        self,
        recording: Recording,
        block: Pass,
        listeners: Collection[str],
        writes: Writes,
    ):
        self.recording, self.block, self.listeners = recording, block, listeners
        self.writes, self.new_writes = writes, Writes()
        self.steps: list[Step] = []
        self.made = self.slots = 0
        self.known: dict[int, tuple[weakref.ref, Slot | None]] = {}
        self.held: dict[int, Held] = {}
        self.overwritten: list[Tensor] = []
        self.views: dict[int, Tensor] = {}  # storages of constants, with results that share them
        self.names = names_of(recording.model)

    def answer(self, call: Call) -> Any:
        """Return the result of a call that uses a weight."""
        self.recording.check(call)
        depends = any(self._slot(tensor) is not None for tensor in argument_tensors(call.given))
        value = self.block.call_outputs.get(call.position) if call.mixes else None
        listener = call if call.weight in self.listeners else None
        if not depends and listener is None and value is not None:
            return self._constant(value.clone())
        function = partial(_again, call)
        kept = None if depends else value
        return self._executed(function, (), call.given, value, listener, kept)

    def compute(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the result of a call that uses no weight."""
        return self._executed(function, args, kwargs)

    def finished(self, out: Any) -> Tape:
        """Return the tape of the calls on which the outputs depend."""
        if not tensors(out):
            raise UntapedError("the model's outputs are no tensors")
        for step in self.steps:
            step.arguments = rebuilt(step.arguments, _released)
            step.holes = [(at, rebuilt(hole, _released)) for at, hole in step.holes]
        numbered = mapped(out, self._number)
        last = {slot for slot in map(self._number, tensors(out)) if isinstance(slot, Slot)}
        return Tape(_needed(self.steps, last), numbered)

    def _executed(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        value: Tensor | None = None,
        listener: Call | None = None,
        kept: Tensor | None = None,
    ) -> Any:
        """Execute a call, or take its recorded value; record it if it depends on a listener."""
        given = argument_tensors((*args, *kwargs.values()))
        depends = listener is not None or any(self._slot(tensor) is not None for tensor in given)
        self.made += 1
        written = [given[at] for at in self.writes.get(self.made, ()) if at < len(given)]
        step = self._step(function, args, kwargs, written) if depends else None
        self._copy_held({_storage(tensor) for tensor in written})
        versions = _versions(given)
        result = function(*args, **kwargs) if value is None else value.clone()
        pairs = zip(versions, _versions(given), strict=True)
        changed = [at for at, (old, new) in enumerate(pairs) if old != new]
        if changed and self.made not in self.writes:
            self.new_writes[self.made] = changed
        found = argument_tensors(result)
        if step is None:
            for tensor in found:
                self._constant(tensor)
        elif found or changed:
            step.listener, step.kept, step.writes = listener, kept, bool(changed)
            self._note_views(given, found)
            step.results = [(self._new_slot(tensor), tensor.shape) for tensor in found]
            self.steps.append(step)
        elif name_of(function) not in FORM:
            raise UntapedError(f"{name_of(function)} reads values that depend on a listener")
        return result

    def _step(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        written: Sequence[Tensor],
    ) -> Step:
        """Return the step of a call, before it is executed."""
        if torch.is_autocast_enabled(self.recording.device.type):
            raise UntapedError("autocast is on in a part of the model")
        fresh = {id(t): self._fresh(t) for t in written if self._slot(t) is None}
        step = Step(function, [], tuple(kwargs), [])
        for at, argument in enumerate((*args, *kwargs.values())):
            own = rebuilt(argument, lambda leaf: fresh.get(id(leaf)) or self._place(leaf))
            step.arguments.append(None if _slots(own) else own)
            if _slots(own):
                step.holes.append((at, own))
        return step

    def _place(self, leaf: Any) -> Any:
        """Return the number of a tensor, or what holds it if it does not depend on a listener."""
        if not isinstance(leaf, Tensor):
            if argument_tensors(leaf):
                raise UntapedError(f"tensors are given in a {type(leaf).__name__}")
            return leaf
        slot = self._slot(leaf)
        return self.held.setdefault(id(leaf), Held(leaf)) if slot is None else slot

    def _number(self, leaf: Any) -> Any:
        slot = self._slot(leaf) if isinstance(leaf, Tensor) else None
        return leaf if slot is None else slot

    def _fresh(self, tensor: Tensor) -> Fresh:
        """Return what replaces a tensor that does not depend on a listener, and now will."""
        before = tensor.clone()
        self.overwritten.append(tensor)
        return Fresh(self._new_slot(tensor), before)

    def _copy_held(self, written: set[int]) -> None:
        """Copy the tensors that are held and whose storages are about to be changed."""
        if not self.views.keys().isdisjoint(written):
            raise UntapedError("a tensor is changed that shares memory with another")
        for key, held in list(self.held.items()) if written else []:
            if _storage(held.tensor) in written:
                held.tensor = held.tensor.clone()
                del self.held[key]

    def _note_views(self, given: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        """Note which results of a step share their memory with a constant that it was given."""
        constants = {_storage(tensor) for tensor in given if self._slot(tensor) is None}
        self.views |= {_storage(t): t for t in found if _storage(t) in constants}

    def _slot(self, tensor: Tensor) -> Slot | None:
        """Return a tensor's number; None if it does not depend on a listener."""
        reference, slot = self.known.get(id(tensor), (None, None))
        if reference is None or reference() is not tensor:
            self._check_origin(tensor)
            self._constant(tensor)
            slot = None
        if slot is None and self.overwritten and self._is_overwritten(tensor):
            raise UntapedError("a tensor is read of which a view was changed")
        return slot

    def _check_origin(self, tensor: Tensor) -> None:
        """Refuse tensors that something other than a torch function made behind a listener."""
        if not self.steps or id(tensor) in self.names:
            return
        events = self.recording.survey.events
        if not any(tensor is held for e in events for held in argument_tensors((e.args, e.kwargs))):
            raise UntapedError("a tensor is used that no torch function returned")

    def _is_overwritten(self, tensor: Tensor) -> bool:
        return any(_storage(tensor) == _storage(other) for other in self.overwritten)

    def _constant(self, tensor: Tensor) -> Tensor:
        self.known[id(tensor)] = weakref.ref(tensor), None
        return tensor

    def _new_slot(self, tensor: Tensor) -> Slot:
        """Return the number of a result; where a call returns its argument, that is its own."""
        reference, slot = self.known.get(id(tensor), (None, None))
        if slot is None or reference is None or reference() is not tensor:
            slot = Slot(self.slots)
            self.slots += 1
            self.known[id(tensor)] = weakref.ref(tensor), slot
        return slot


def _needed(steps: Sequence[Step], needed: set[Slot]) -> list[Step]:
    """Return the steps on which some tensors depend; each frees what no later one reads."""
    kept: list[Step] = []
    for step in reversed(steps):
        own = {slot for slot, _ in step.results}
        reads = _slots([hole for _, hole in step.holes])
        if own.isdisjoint(needed) and not step.writes:
            continue
        step.ends = [slot for slot in own | reads if slot not in needed]
        needed = needed | reads
        kept.append(step)
    return kept[::-1]


def _again(call: Call, **given: Any) -> Tensor:
    """Execute a call on other arguments."""
    return replace(call, given=given)()


def _versions(given: Sequence[Tensor]) -> list[int]:
    """Return numbers that grow when the tensors are changed in place."""
    if any(tensor.is_inference() for tensor in given):
        raise UntapedError(
            "a part of the model runs in inference mode, which hides changes in place"
        )
    return [tensor._version for tensor in given]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _slots(value: Any) -> set[Slot]:
    found = [leaf for leaf in leaves(value) if isinstance(leaf, Slot | Fresh)]
    return {leaf.slot if isinstance(leaf, Fresh) else leaf for leaf in found}


def _released(leaf: Any) -> Any:
    return leaf.tensor if isinstance(leaf, Held) else leaf


def _filled(hole: Any, values: dict[int, Tensor]) -> Any:
    """Return an argument with the tensors that have been computed in place of their numbers."""

    def fill(leaf: Any) -> Any:
        if type(leaf) is Slot:
            return values[leaf]
        if type(leaf) is Fresh:
            return values.setdefault(leaf.slot, leaf.before.clone())
        return leaf

    return rebuilt(hole, fill)
