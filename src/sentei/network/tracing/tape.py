"""Record every torch function of a pass; execute again only what a change reaches.

A replay of a whole network mostly recomputes what has not changed, and spends much of its time in
the network's own Python code. A *tape* lists the functions of one pass in order, with what each
reads and returns. Replayed, it executes the functions that read something changed, and neither the
network's code nor a function mode.

A pass has no tape where functions alone do not determine it: where the network's code reads values
(`if x.max() > 0`), draws random numbers, writes into its weights, or uses tensors that no torch
function has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sentei.devices import random_states
from sentei.nests import tensors
from sentei.network.calls import Call
from sentei.network.copying import kept_tensors
from sentei.network.example import Example
from sentei.network.torch_functions import FORM, argument_tensors, name_of, rebuilt
from sentei.running import constants

_NESTED = frozenset((tuple, list, dict, slice))  # what arguments are made of, once recorded
MOST = 2**31  # bytes of the results that a tape holds


class Slot(int):
    """The number of a tensor of a pass."""


@dataclass(eq=False)
class Step:
    """One function of a pass.

    Attributes:
        function: takes `args` and `kwargs`, in which slots stand for tensors.
        args: by position.
        kwargs: by keyword.
        reads: the slots in the arguments.
        gives: the slots of the tensors that it returns.
        writes: the slots of arguments that it changes in place.
        call: the call, where the function uses a weight; `kwargs` has its arguments then.
        spreads: the slots that differ after it if one that it reads does.
        builds: memory that is written to, and that it returns a tensor in or writes to itself.
        early: memory that it reads before the last step that writes to it.
    """

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    reads: frozenset[Slot]
    gives: tuple[Slot, ...]
    writes: tuple[Slot, ...] = ()
    call: Call | None = None
    spreads: frozenset[Slot] = frozenset()
    builds: frozenset[int] = frozenset()
    early: frozenset[int] = frozenset()


class Recorder:
    """Records the functions of one pass.

    Args:
        model: the network.
        example: what it is run on; its tensors are not copies.
        names: qualified names of its parameters and buffers, by id.

    Attributes:
        why: why the pass has no tape; None if it has one.
    """

    def __init__(self, model: nn.Module, example: Example, names: Mapping[int, str]):
        self.why: str | None = None
        self._names = names
        self._slots: dict[int, Slot] = {}
        self._values: list[Tensor] = []  # also keeps the tensors, and so their ids
        self._memory: list[int] = []  # the address of each slot's memory
        self._fixed: set[Slot] = set()  # what no replay changes
        self._steps: list[Step] = []
        self._written: dict[int, int] = {}  # memory: the last step that writes to it
        self._used: dict[int, int] = {}  # memory: the first step behind a change that reads it
        self._bytes = 0
        self._roots: dict[str, Slot] = {}
        kept = (*kept_tensors(model), *constants(example))
        self._constants = {id(tensor) for tensor in kept} - names.keys()
        self._inputs = [self._new(t, fixed=not t.is_floating_point()) for t in tensors(example)]
        self._seed = random_states()

    def compute(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Compute and record a function that uses no weight."""
        if function is Tensor.__iter__:
            return iter(self.compute(torch.unbind, args, {}))
        given = argument_tensors((args, kwargs)) if self.why is None else []
        before = self._versions(given)
        result = function(*args, **kwargs)
        if self.why is None:
            self._try(lambda: self._add(function, args, kwargs, given, before, result))
        return result

    def call(self, call: Call, compute: Callable[[Call], Tensor]) -> Tensor:
        """Compute and record a call that uses a weight."""
        given = argument_tensors(call.given) if self.why is None else []
        before = self._versions(given)
        result = compute(call)
        if self.why is None:
            self._try(lambda: self._add(call.function, (), call.given, given, before, result, call))
        return result

    def tape(self, outputs: Sequence[Tensor]) -> Tape | None:
        """Return the tape of the pass; None if it has none.

        Args:
            outputs: the tensors that the network returned.
        """
        found: list[Slot] = []
        if self.why is None:
            self._try(self._check)
            self._try(lambda: found.extend(self._slot(output) for output in outputs))
        if self.why is not None:
            return None
        memory = self._changing_memory()
        for at, step in enumerate(self._steps):
            self._place(step, at, memory)
        kept = [s for s in self._steps if s.call or s.builds or not s.reads <= self._fixed]
        changing = {Slot(s): own for s, own in enumerate(self._memory) if own in memory}
        return Tape(kept, self._values, self._inputs, self._roots, found, changing)

    def _place(self, step: Step, at: int, memory: Set[int]) -> None:
        """Note what memory a step builds, and what it reads before that is complete."""
        written = {self._memory[slot] for slot in step.writes}
        aliases = (Slot(s) for s, own in enumerate(self._memory) if own in written)
        step.spreads = frozenset((*step.gives, *(aliases if written else ())))
        step.builds = frozenset({self._memory[slot] for slot in step.gives} | written) & memory
        read = {self._memory[slot] for slot in step.reads} & memory
        step.early = frozenset(own for own in read if self._written[own] >= at)

    def _changing_memory(self) -> Set[int]:
        """Return the memory that the pass writes to; without what is final before it matters."""
        free = {self._memory[slot] for slot in range(len(self._values)) if slot not in self._fixed}
        last = len(self._steps)
        return {
            memory
            for memory, written in self._written.items()
            if memory in free or written >= self._used.get(memory, last)
        }

    # One function.

    def _add(
        self,
        function: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        given: Sequence[Tensor],
        before: Sequence[int],
        result: Any,
        call: Call | None = None,
    ) -> None:
        reads = frozenset(self._slot(tensor) for tensor in given)
        fixed = call is None and reads <= self._fixed
        name = name_of(function)
        if any(torch.is_autocast_enabled(device) for device in {t.device.type for t in given}):
            raise _UntapedError("it chooses types by autocast")
        if name == "__set__" or not all(map(_is_plain, (*args, *kwargs.values()))):
            raise _UntapedError("it gives a tensor other memory, or a function to a function")
        if not fixed and not _is_of_tensors(result) and name not in FORM:
            raise _UntapedError(f"its code reads values ({name})")
        changed = (t for t, version in zip(given, before, strict=True) if t._version != version)
        writes = tuple(dict.fromkeys(self._slot(tensor) for tensor in changed))
        found = argument_tensors(result)
        if not found and not writes:
            return
        gives = tuple(self._new(tensor, fixed=fixed) for tensor in found)
        own = rebuilt(tuple(args), self._place_of), rebuilt(dict(kwargs), self._place_of)
        self._append(Step(function, *own, reads, gives, writes, call), fixed=fixed)

    def _append(self, step: Step, *, fixed: bool) -> None:
        at = len(self._steps)
        self._steps.append(step)
        written = {self._memory[slot] for slot in step.writes}
        self._written |= dict.fromkeys(written, at)
        if not fixed:
            for slot in step.reads:
                self._used.setdefault(self._memory[slot], at)
            if written:
                self._fixed -= {s for s, memory in enumerate(self._memory) if memory in written}

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # kinds of tensors without a memory or a version raise anything
            self.why = str(error)
            self._steps, self._values = [], []

    def _check(self) -> None:
        if not all(torch.equal(a, b) for a, b in zip(self._seed, random_states(), strict=True)):
            raise _UntapedError("it draws random numbers")
        roots = (*self._roots.values(), *self._inputs)
        if not self._written.keys().isdisjoint(self._memory[slot] for slot in roots):
            raise _UntapedError("it writes into its weights or its example")

    # Tensors.

    def _versions(self, given: Sequence[Tensor]) -> list[int]:
        found: list[int] = []
        if self.why is None:
            self._try(lambda: found.extend(tensor._version for tensor in given))
        return found

    def _slot(self, tensor: Tensor) -> Slot:
        """Return the slot of a tensor that the pass has met, or of a weight or a constant."""
        slot = self._slots.get(id(tensor))
        if slot is not None:
            return slot
        name = self._names.get(id(tensor))
        if name is None and id(tensor) not in self._constants:
            raise _UntapedError("it uses a tensor that no torch function has returned")
        slot = self._new(tensor, fixed=name is None)
        self._roots[f"constant {slot}" if name is None else name] = slot
        return slot

    def _place_of(self, leaf: Any) -> Any:
        return self._slot(leaf) if isinstance(leaf, Tensor) else leaf

    def _new(self, tensor: Tensor, *, fixed: bool) -> Slot:
        slot = self._slots.get(id(tensor))
        if slot is None:
            slot = self._slots[id(tensor)] = Slot(len(self._values))
            self._values.append(tensor)
            self._memory.append(tensor.untyped_storage().data_ptr() or -len(self._values))
            self._bytes += tensor.nbytes
            if self._bytes > MOST:
                raise _UntapedError("its results take too much memory")
            if fixed:
                self._fixed.add(slot)
        return slot


class _UntapedError(Exception):
    """The pass cannot be replayed by its functions alone."""


@dataclass(eq=False)
class Tape:
    """The functions of one pass, which can be executed again.

    Attributes:
        steps: the functions, in order.
        values: the tensor of each slot, as it was in the recorded pass.
        inputs: the slots of the example's tensors.
        weights: the slots of weights and constants, by name.
        outputs: the slots of the network's outputs.
        memory: the memory of the slots whose memory is written to.
    """

    steps: Sequence[Step]
    values: Sequence[Tensor]
    inputs: Sequence[Slot]
    weights: Mapping[str, Slot]
    outputs: Sequence[Slot]
    memory: Mapping[Slot, int]

    def run(
        self,
        answer: Callable[[Call], Tensor],
        hot: Collection[int],
        changed: Mapping[Slot, Tensor],
    ) -> list[Tensor]:
        """Execute what reads a change, and return the network's outputs.

        Args:
            answer: takes a call that reads a change, or is hot; returns its result.
            hot: positions of calls whose results `answer` changes.
            changed: other values for inputs and weights.

        Raises:
            StructureError: as `answer`.
        """
        values = [*self.values]
        for slot, tensor in changed.items():
            values[slot] = tensor
        for step in self._executed(hot, changed):
            kwargs = {name: _filled(value, values) for name, value in step.kwargs.items()}
            if step.call is None:
                result = step.function(*[_filled(value, values) for value in step.args], **kwargs)
            else:
                result = answer(step.call.on(kwargs))
            for slot, tensor in zip(step.gives, argument_tensors(result), strict=True):
                values[slot] = tensor
        return [values[slot] for slot in self.outputs]

    def _executed(self, hot: Collection[int], changed: Collection[Slot]) -> Sequence[Step]:
        """Return the steps that read a change or are hot, and those that build memory for them.

        Memory that is written to holds what it held at the end of the recorded pass. That is what
        a step reads, unless it reads before the end: then all steps that build it are executed.
        """
        dirty: set[Slot] = {*changed}
        reached: set[Step] = set()
        for step in self.steps:
            is_hot = step.call is not None and step.call.position in hot
            reads = not dirty.isdisjoint(step.reads)
            if is_hot or reads:
                reached.add(step)
            if is_hot or (reads and not (step.call and step.call.mixes)):
                dirty |= step.spreads
        if not self.memory:
            return [step for step in self.steps if step in reached]
        fresh = {self.memory[slot] for slot in dirty if slot in self.memory}
        before = -1
        while before != len(fresh):
            before = len(fresh)
            for step in self.steps:
                if step in reached or not fresh.isdisjoint(step.builds):
                    fresh |= step.builds | step.early
        return [s for s in self.steps if s in reached or not fresh.isdisjoint(s.builds)]


def _filled(value: Any, values: Sequence[Tensor]) -> Any:
    """Return an argument with tensors in the place of slots."""
    if type(value) is Slot:
        return values[value]
    if type(value) in _NESTED:
        return rebuilt(value, lambda leaf: values[leaf] if type(leaf) is Slot else leaf)
    return value


def _is_plain(argument: Any) -> bool:
    """Return whether an argument is made of tensors and constants alone."""
    if isinstance(argument, (tuple, list)):
        return all(map(_is_plain, argument))
    if isinstance(argument, dict):
        return all(map(_is_plain, argument.values()))
    known = (Tensor, type, torch._ops.OpOverload, torch._ops.OpOverloadPacket)
    return isinstance(argument, known) or not (
        callable(argument) or isinstance(argument, torch.Generator)
    )


def _is_of_tensors(value: Any) -> bool:
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return all(map(_is_of_tensors, value))
    return value is None or isinstance(value, Tensor)
