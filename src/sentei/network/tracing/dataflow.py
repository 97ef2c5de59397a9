"""Record which results of a pass each torch function reads: the graph in which branches are found.

The tape (`tape.py`) lists functions so that they can be executed again. This graph also covers
networks without a tape: whose code reads values, or which draw random numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sentei.devices import seed_
from sentei.errors import StructureError
from sentei.nests import tensors
from sentei.network.calls import Call, Calls
from sentei.network.example import own_training
from sentei.network.origins import argument_tensors, names_of
from sentei.network.surgery.comparing import leaves
from sentei.running import Example, run

ADDITIONS = frozenset(
    getattr(owner, name)
    for owner, name in (
        *((torch, "add"), (Tensor, "add"), (Tensor, "add_")),
        *((Tensor, "__add__"), (Tensor, "__radd__"), (Tensor, "__iadd__")),
    )
)
# Functions of which only the shape of what they are given matters.
_FORM_ALONE = frozenset(
    name
    for kind in ("zeros", "ones", "empty", "full", "rand", "randn")
    for name in (f"new_{kind}", f"{kind}_like")
)


@dataclass(eq=False)
class Operation:
    """One function of a pass whose result depends on the inputs.

    Attributes:
        number: number of functions called before it.
        reads: the results that it reads, by their numbers.
        gives: the results that it returns, or writes to.
        weights: names of the parameters and buffers that it reads, or that what it reads is
            computed from.
        mixes: whether one of them is a matrix or a kernel.
        layer: of a layer that computes units, the weight, its dimension of rows, and the dimension
            of the result that holds the units, from the end.
        terms: of a sum of two tensors of one shape, the two results.
    """

    number: int
    reads: tuple[int, ...]
    gives: tuple[int, ...]
    weights: frozenset[str]
    mixes: bool
    layer: tuple[str, int, int] | None = None
    terms: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Visit:
    """One call of a module.

    Attributes:
        path: of the module.
        begin: the number of the first function called in it.
        end: the number of the first function after it.
        shapes: of the floating-point tensors among its arguments, by position or keyword.
        result: what it returned, with shapes in the place of tensors.
    """

    path: str
    begin: int
    end: int
    shapes: Mapping[int | str, tuple[int, ...]]
    result: Any


class Flow:
    """The functions of a pass, in evaluation mode and then in training mode.

    Args:
        model: in evaluation mode, undisturbed.
        example: its inputs.
        training: run it in training mode too.

    Attributes:
        operations: in order.
        outputs: the results that are part of an output.
        maker: for each result, the operation that gives it.
        readers: for each result, the operations that read it.
        depth: for each result, the longest row of mixing operations before it.
        origins: for each result, the mixing operations and inputs it depends on, as bits.
        users: for each parameter or buffer, the operations that use it.
        visits: the calls of modules.
        names: the function called at each number.
    """

    def __init__(self, model: nn.Module, example: Example, *, training: bool):
        self.operations: list[Operation] = []
        self.outputs: set[int] = set()
        self.maker: dict[int, Operation] = {}
        self.readers: dict[int, list[Operation]] = defaultdict(list)
        self.depth: dict[int, int] = {}
        self.origins: dict[int, int] = {}
        self.users: dict[str, list[Operation]] = defaultdict(list)
        self.visits: list[Visit] = []
        self.names: list[str] = []
        self._own = names_of(model)
        self._shapes = {n: t.shape for n, t in _named(model).items()}
        self._nodes: dict[int, int] = {}
        self._held: list[Any] = []  # tensors, whose ids are free again when they are
        self._weights: dict[int, frozenset[str]] = {}  # of results that depend on no input
        self._memory: dict[int, list[Tensor]] = defaultdict(list)
        self._bits = 0
        for tensor in tensors(example):
            node = self._new(tensor)
            self.depth[node] = 0
            self.origins[node] = self._bit() if tensor.is_floating_point() else 0
        run_noting(model, example, self._note, self._finish, training=training)

    def alive(self, cut: Set[tuple[int, int]] = frozenset()) -> set[Operation]:
        """Return the operations on which outputs depend.

        Args:
            cut: terms of sums that count as constants: the number of the operation, and the result.
        """
        found: set[Operation] = set()
        left = [self.maker[node] for node in self.outputs if node in self.maker]
        while left:
            operation = left.pop()
            if operation not in found:
                found.add(operation)
                reads = (n for n in operation.reads if (operation.number, n) not in cut)
                left += [self.maker[node] for node in reads if node in self.maker]
        return found

    # Recording.

    def _finish(self, outputs: Any, visits: Sequence[Visit]) -> None:
        for _, leaf in leaves(outputs, ""):
            if isinstance(leaf, Tensor) and id(leaf) in self._nodes:
                self.outputs.add(self._nodes[id(leaf)])
        self.visits += visits

    def _note(self, function: Any, given: Any, result: Callable[[], Any]) -> Any:
        """Compute a function and record it."""
        layer = None
        if isinstance(result, Call) and result.use.rows is not None:
            layer = result.weight, result.use.rows, result.axis
        args = [*argument_tensors(given)]
        before = [_version(tensor) for tensor in args]
        reads = [self._node(tensor) for tensor in args]
        found = result()
        number, name = len(self.names), getattr(function, "__name__", "")
        self.names.append(name)
        written = [t for t, at in zip(args, before, strict=True) if _version(t) != at]
        new = [t for t in argument_tensors(found) if id(t) not in self._nodes]
        if not new and not written:
            return found
        aliases = [each for t in written for each in self._memory[_memory_of(t)]]
        reads += [self._node(each) for each in aliases]
        gives = tuple(self._new(t) for t in (*new, *dict.fromkeys(aliases)))
        active = () if name in _FORM_ALONE else tuple(n for n in reads if n in self.depth)
        weights = frozenset[str]().union(*(self._weights.get(n, frozenset()) for n in reads))
        if not active:
            self._weights |= dict.fromkeys(gives, weights)
            return found
        terms = None
        if function in ADDITIONS and len(args) == 2 and args[0].shape == args[1].shape:
            terms = (reads[0], reads[1]) if {*reads[:2]} <= self.depth.keys() else None
        mixes = self._is_matrix(weights)
        self._add(Operation(number, active, gives, weights, mixes, layer, terms))
        return found

    def _add(self, operation: Operation) -> None:
        self.operations.append(operation)
        depth = max(self.depth[node] for node in operation.reads) + operation.mixes
        origins = self._bit() if operation.mixes else 0
        for node in operation.reads:
            origins |= self.origins[node]
            self.readers[node].append(operation)
        for node in operation.gives:
            self.maker[node], self.depth[node], self.origins[node] = operation, depth, origins
        for name in operation.weights:
            self.users[name].append(operation)

    def _is_matrix(self, weights: Set[str]) -> bool:
        return any(sum(size > 1 for size in self._shapes[name]) > 1 for name in weights)

    def _bit(self) -> int:
        self._bits += 1
        return 1 << self._bits

    def _node(self, tensor: Tensor) -> int:
        if id(tensor) not in self._nodes:
            name = self._own.get(id(tensor))
            self._weights[self._new(tensor)] = frozenset(() if name is None else (name,))
        return self._nodes[id(tensor)]

    def _new(self, tensor: Tensor) -> int:
        """Return the number of a new result, which a tensor holds from now on."""
        self._held.append(tensor)
        if id(tensor) not in self._nodes:
            self._memory[_memory_of(tensor)].append(tensor)
        self._nodes[id(tensor)] = len(self._held)
        return len(self._held)


def run_noting(
    model: nn.Module,
    example: Example,
    note: Callable[[Any, Any, Callable[[], Any]], Any],
    finish: Callable[[Any, Sequence[Visit]], None] = lambda *_: None,
    *,
    training: bool,
) -> None:
    """Run a network, with every torch function handed to `note`; with the same random numbers.

    Args:
        model: in evaluation mode, undisturbed.
        example: its inputs.
        note: takes the function, its arguments, and what computes its result; returns the result.
        finish: takes the outputs and the calls of modules.
        training: run it in training mode too.
    """
    numbers = [0]

    def noted(function: Any, given: Any, result: Callable[[], Any]) -> Any:
        found = note(function, given, result)
        numbers[0] += 1
        return found

    def answer(call: Call) -> Tensor:
        return noted(call.function, call.given, call)

    def compute(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if function is Tensor.__iter__:
            return iter(compute(torch.unbind, args, {}))
        return noted(function, (args, kwargs), lambda: function(*args, **kwargs))

    def once() -> None:
        seed_(0)
        visits: list[Visit] = []
        with _visiting(model, visits, lambda: numbers[0]), Calls(model, answer, compute=compute):
            outputs = run(model, example)
        finish(outputs, visits)

    once()
    if training:
        with own_training(model):
            once()


@contextmanager
def _visiting(model: nn.Module, visits: list[Visit], number: Callable[[], int]) -> Iterator[None]:
    """Note in `visits` the calls of modules in a `with` block."""
    begun: list[tuple[int, Mapping[int | str, tuple[int, ...]]]] = []

    def enter(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
        shapes = {
            key: tuple(value.shape)
            for key, value in given.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        begun.append((number(), shapes))

    def leave(path: str) -> Callable[..., None]:
        def note(_: nn.Module, __: Any, ___: Any, result: Any) -> None:
            begin, shapes = begun.pop()
            visits.append(Visit(path, begin, number(), shapes, _with_shapes(result)))

        return note

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave(path), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor in a result.

    Attributes:
        sizes: its dimensions.
        is_float: whether it holds floating-point numbers.
    """

    sizes: tuple[int, ...]
    is_float: bool = field(default=True)


def _with_shapes(result: Any) -> Any:
    """Return a result with shapes in the place of tensors."""
    if isinstance(result, Tensor):
        return Shape(tuple(result.shape), result.is_floating_point())
    if type(result) in (tuple, list):
        return type(result)(_with_shapes(item) for item in result)
    return result


def _version(tensor: Tensor) -> int:
    """Return a number that grows when a tensor is changed in place."""
    if not tensor.is_inference():
        return tensor._version
    if torch.is_inference_mode_enabled():
        raise StructureError(
            "depth=True follows changes in place, which torch.inference_mode() hides; call it "
            "outside of that mode, on a network that does not enter it (torch.no_grad() serves too)"
        )
    return 0  # outside of that mode, torch lets nothing change it


def _memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or -id(tensor)


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
