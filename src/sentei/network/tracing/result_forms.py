"""Find which modules a branch alone needs, and the form of what they return."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sentei.nests import resized, tensors
from sentei.network.example import rows
from sentei.network.reducing import smaller
from sentei.network.tracing.dataflow import Flow, Operation, Shape, Visit, run_noting
from sentei.network.zeros import Form, length_in
from sentei.running import Example

_WINDOWS = ("kernel_size", "stride", "padding", "dilation")
# Functions that draw random numbers. Dropout is no part of a comparison of networks.
_RANDOM = frozenset(
    name
    for kind in ("rand", "randn", "randint", "bernoulli", "normal", "uniform", "randperm")
    for name in (kind, f"{kind}_", f"{kind}_like")
)


class _UnknownFormError(Exception):
    """The lengths of a result do not follow from the arguments."""


class ResultForms:
    """The forms of the results of a network's modules.

    Lengths that are equal on one example may differ on another: the network also runs on more
    samples, and on shorter or smaller inputs where it takes them.

    Args:
        model: in evaluation mode, undisturbed.
        example: its inputs.
        flow: what it computes on them.
    """

    def __init__(self, model: nn.Module, example: Example, flow: Flow):
        self._model, self._flow = model, flow
        self._parameters = dict(model.named_parameters())
        self._alive = {each.number: each for each in flow.alive()}
        self._visits: dict[str, list[Visit]] = defaultdict(list)
        for visit in flow.visits:
            self._visits[visit.path].append(visit)
        self._others: dict[str, list[Visit]] = defaultdict(list)
        for each in _others(example):
            seen: list[Visit] = []
            try:
                run_noting(
                    *(model, each, lambda _, __, result: result()),
                    lambda _, visits, seen=seen: seen.extend(visits),
                    training=False,
                )
            except Exception:  # the size is written in the network
                continue
            for visit in seen:
                self._others[visit.path].append(visit)
        self._paths: dict[int, list[str]] = defaultdict(list)
        for path, module in model.named_modules(remove_duplicate=False):
            self._paths[id(module)].append(path)

    def of(self, own: Collection[Operation]) -> dict[str, Form]:
        """Return the outermost modules that compute nothing but some operations, with their forms.

        Args:
            own: the operations.
        """
        numbers = {each.number for each in own}
        found: dict[str, Form] = {}

        def search(path: str, module: nn.Module) -> None:
            for name, child in module.named_children():
                inner = f"{path}.{name}" if path else name
                form = self._form(inner, child, numbers)
                if form is None:
                    search(inner, child)
                else:
                    found.update(dict.fromkeys(self._paths[id(child)], form))

        search("", self._model)
        return found

    def _form(self, path: str, module: nn.Module, numbers: set[int]) -> Form:
        """Return the form of a module that computes nothing else; None if there is none."""
        path = self._paths[id(module)][0]
        visits = self._visits.get(path, [])
        inside = {n for visit in visits for n in range(visit.begin, visit.end) if n in self._alive}
        if not inside or not inside <= numbers or self._is_read_outside(path, module, visits):
            return None
        if any(not _RANDOM.isdisjoint(self._flow.names[v.begin : v.end]) for v in visits):
            return None  # without it, other layers would draw other numbers
        try:
            calls = [*visits, *self._others.get(path, [])]
            of = _Calls(module, [each.shapes for each in calls], self._units(module, visits))
            return of.form([each.result for each in calls])
        except _UnknownFormError:
            return None

    def _is_read_outside(self, path: str, module: nn.Module, visits: Sequence[Visit]) -> bool:
        names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
        users = {
            operation.number
            for name in names
            for operation in self._flow.users.get(f"{path}.{name}", ())
        }
        return any(not any(v.begin <= n < v.end for v in visits) for n in users)

    def _units(self, module: nn.Module, visits: Sequence[Visit]) -> tuple[str, int, int] | None:
        """Return the weight of the last layer in calls of a module, its rows and their dimension.

        The dimension is that of the result. None without such a layer, or if its weight is not the
        module's own.
        """
        inside = [
            operation.layer
            for number, operation in sorted(self._alive.items())
            if operation.layer and any(v.begin <= number < v.end for v in visits)
        ]
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        weight = self._parameters.get(inside[-1][0]) if inside else None
        if weight is None or id(weight) not in names:
            return None
        return names[id(weight)], *inside[-1][1:]


def _others(example: Example) -> Iterator[Example]:
    """Yield examples of more samples, and shorter or smaller ones."""
    if rows(example) is not None:
        yield resized(example, lambda tensor: torch.cat([tensor, tensor]))
    yield from smaller(example)
    longest = max((t.shape[1] for t in tensors(example) if t.ndim in (2, 3)), default=0)

    def less(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4:
            return tensor[..., : tensor.shape[-2] // 2, : tensor.shape[-1] // 2]
        is_long = tensor.ndim in (2, 3) and tensor.shape[1] == longest > 2
        return tensor[:, : longest - 1] if is_long else tensor

    yield resized(example, less)


@dataclass(frozen=True)
class _Calls:
    """The calls of one module.

    Attributes:
        module: the module.
        shapes: for each call, the shapes of its arguments by position or keyword.
        units: the weight of its last layer, its dimension of rows, and where the result holds them.
    """

    module: nn.Module
    shapes: Sequence[Mapping[int | str, tuple[int, ...]]]
    units: tuple[str, int, int] | None

    def form(self, results: Sequence[Any]) -> Form:
        """Return the form that results have in common, one of each call.

        Raises:
            _UnknownFormError: there is none.
        """
        kinds = {type(result) for result in results}
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind is type(None):
            return None
        if kind in (tuple, list) and len({len(result) for result in results}) == 1:
            items = [self.form(some) for some in zip(*results, strict=True)]
            return {"tuple" if kind is tuple else "list": items}
        if kind is not Shape or not all(shape.is_float for shape in results):
            raise _UnknownFormError
        lengths = self._lengths([shape.sizes for shape in results])
        if sum(isinstance(length, dict) for length in lengths) > 1:
            raise _UnknownFormError
        return {"tensor": lengths}

    def _lengths(self, sizes: Sequence[tuple[int, ...]]) -> list[Any]:
        if len({len(each) for each in sizes}) > 1 or not sizes[0]:
            raise _UnknownFormError
        columns = [[*column] for column in zip(*sizes, strict=True)]
        found: list[Any] = [
            self._followed(dim, own, len(columns)) for dim, own in enumerate(columns)
        ]
        rows = self._rows(columns)
        if rows is not None:
            assert self.units is not None
            found[rows] = {"rows": [*self.units[:2]]}
        for dim, (length, own) in enumerate(zip(found, columns, strict=True)):
            if length is None and len(set(own)) > 1:
                raise _UnknownFormError
            found[dim] = {"size": own[0]} if length is None else length
        return found

    def _rows(self, columns: Sequence[Sequence[int]]) -> int | None:
        """Return the dimension of a result that holds the units of the last layer."""
        if self.units is None:
            return None
        name, rows, axis = self.units
        count = self.module.get_parameter(name).shape[rows]
        fitting = [dim for dim, own in enumerate(columns) if {*own} == {count}]
        return axis % len(columns) if axis % len(columns) in fitting else next(iter(fitting), None)

    def _followed(self, dim: int, sizes: list[int], dims: int) -> list[Any] | None:
        """Return the length of an argument that one of a result follows in all calls, if any."""
        for length in self._candidates(dim, dims):
            try:
                if [length_in(length, shapes) for shapes in self.shapes] == sizes:
                    return length
            except LookupError:  # not an argument of each call
                continue
        return None

    def _candidates(self, dim: int, dims: int) -> Iterator[list[Any]]:
        """Yield the lengths of arguments that one of a result may follow, the likeliest first."""
        arguments = [(key, len(shape)) for key, shape in self.shapes[0].items()]
        yield from ([key, dim] for key, own in arguments if own == dims)
        window = [getattr(self.module, name, None) for name in _WINDOWS]
        if window[:2] != [None, None]:
            for key, own in arguments:
                if own == dims and (at := dim - dims) >= -self._spatial(window):
                    yield [key, dim, *(_entry(each, at) for each in window)]
        yield from ([key, at] for key, own in arguments for at in range(own))

    @staticmethod
    def _spatial(window: Sequence[Any]) -> int:
        return max((len(each) for each in window if isinstance(each, tuple)), default=2)


def _entry(window: Any, at: int) -> Any:
    """Return the entry of a window's setting for a dimension, counted from the end."""
    if window is None:
        return 1
    return window[at] if isinstance(window, tuple) else window
