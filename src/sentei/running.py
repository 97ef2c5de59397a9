"""Run a network on inputs of any form: call it, or call the user's function (`forward=`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import CellType
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn

from sentei.devices import device_of
from sentei.nests import resized

_DEPTH = 4  # of objects in objects that a function keeps
_EMPTY = CellType()  # a variable of an outer function that has no value yet
Example = Tensor | tuple | list | Mapping[str, Any]
Forward = Annotated[
    Callable[[nn.Module, Any], Any],
    "a function (model, example) -> outputs, such as lambda model, x: model.head(model.body(x))",
]


class ForwardCall(NamedTuple):
    """An example together with how networks are run on it. It is an example itself.

    Attributes:
        inputs: the example that `forward` is given.
        forward: returns the outputs that count.
    """

    inputs: Example
    forward: Forward


def run(model: nn.Module, example: Example) -> Any:
    """Run the model, where it is, on a copy of an example, which `forward` may change in place.

    Args:
        model: the network.
        example: a tuple of arguments, a dict of keywords or a single tensor; or one of these with
            the function that runs the network on it.
    """
    example = _copy(example, device_of(model))
    with _eagerly(model):
        return called(model, example)


def called(model: nn.Module, example: Example) -> Any:
    """Run the model on an example itself, compiled if it is compiled, as training does."""
    if isinstance(example, ForwardCall):
        return example.forward(model, example.inputs)
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, (tuple, list)) else model(example)


def own_inputs(example: Example) -> Example:
    """Return an example without the function that runs networks on it."""
    return example.inputs if isinstance(example, ForwardCall) else example


def forward_of(example: Example) -> Forward | None:
    """Return the function that runs networks on an example; None if it has none."""
    return example.forward if isinstance(example, ForwardCall) else None


def constants(example: Example) -> Iterator[Tensor]:
    """Yield the tensors that the function of an example keeps, which are the same in every pass.

    Those that it closes over, and those of the object whose method it is.
    """
    forward = forward_of(example)
    if forward is not None:
        yield from _kept(forward, 0)


def _kept(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _kept(item, depth)
    elif isinstance(value, Mapping):
        yield from _kept([*value.values()], depth)
    elif depth < _DEPTH and not isinstance(value, (nn.Module, type)):
        cells = getattr(value, "__closure__", None) or ()
        held = [cell.cell_contents for cell in cells if cell != _EMPTY]
        held += [getattr(value, name, None) for name in ("__self__", "func", "args", "keywords")]
        yield from _kept([*held, *getattr(value, "__dict__", {}).values()], depth + 1)


def _eagerly(model: nn.Module) -> AbstractContextManager[Any]:
    """Run compiled modules as they were written, so that the functions they call are seen."""
    compiled = (vars(module) for module in model.modules())
    if any(
        "_orig_mod" in own.get("_modules", ()) or own.get("_compiled_call_impl") for own in compiled
    ):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def _copy(example: Example, device: torch.device) -> Example:
    """Copy every tensor once: one that is passed several times stays one.

    Those on the CPU go to the device; those on an accelerator stay where the caller put them.
    """
    copies: dict[int, Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        moves = tensor.device.type == "cpu" != device.type
        return copies.setdefault(id(tensor), tensor.to(device) if moves else tensor.clone())

    return resized(example, copied)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads in a `with` block.

    One is often fastest: on a busy machine, threads that wait for each other at every small
    operation have taken twenty times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
