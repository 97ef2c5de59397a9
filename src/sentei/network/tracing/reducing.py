"""Reduce the resolution or the length of an example where a network computes the same on less.

Which units there are does not depend on how many pixels or steps an example has. A smaller one will
do where the network calls the same functions on it, in the same order, with tensors of as many
dimensions, and with the same channels at each use of a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from sentei.nests import resized, tensors
from sentei.network.calls import Call, Calls
from sentei.network.copying import restored_attributes
from sentei.network.example import Example, own_training, run, smallest
from sentei.network.origins import Origins

LEAST = 64  # pixels or steps that remain
WORTH = 96  # pixels or steps of an example that is reduced
SHARES = 8, 4, 2  # parts of a size that are tried


def reduced(model: nn.Module, example: Example) -> Example:
    """Return an example with fewer pixels or steps that shows as much; the given one if none does.

    Args:
        model: in evaluation mode.
        example: its inputs.
    """
    whole: dict[tuple[int, bool], Any] = {}

    def outline_of_whole(count: int, *, training: bool) -> Any:
        if (count, training) not in whole:
            some = resized(example, lambda tensor: tensor[:count] if tensor.ndim else tensor)
            whole[count, training] = _outline(model, some, training=training)
        return whole[count, training]

    for sizes in _tried(_sizes(example)):
        less = resized(example, lambda tensor, sizes=sizes: _cropped(tensor, sizes))
        with restored_attributes(model):
            some = smallest(model, less)
        found = _outline(model, some, training=False)
        count = max((len(tensor) for tensor in tensors(some) if tensor.ndim), default=0)
        if found is None or found != outline_of_whole(count, training=False):
            continue
        training = _outline(model, some, training=True)
        if training == found or training == outline_of_whole(count, training=True):
            return less
    return example


def _sizes(example: Example) -> set[int]:
    return {size for tensor in tensors(example) for size in tensor.shape[1:]}


def _tried(sizes: set[int]) -> Iterator[dict[int, int]]:
    """Yield what to try, the smallest first: for each size that is reduced the smaller one."""
    large = sorted(size for size in sizes if size >= WORTH)
    for share in (None, *SHARES):
        smaller = {size: LEAST if share is None else size // share for size in large}
        fitting = {size: less for size, less in smaller.items() if less >= LEAST}
        if not fitting or (share is not None and set(fitting.values()) == {LEAST}):
            continue
        yield fitting
        if len(fitting) > 1:
            yield from ({size: less} for size, less in fitting.items())


def _cropped(tensor: Tensor, sizes: Mapping[int, int]) -> Tensor:
    for dim, size in enumerate(tensor.shape):
        if dim and size in sizes:
            tensor = tensor.narrow(dim, 0, sizes[size])
    return tensor


def _outline(model: nn.Module, example: Example, *, training: bool) -> list[Any] | None:
    """Return what a pass does, without sizes that may differ; None if it does not run.

    Args:
        model: the network.
        example: its inputs.
        training: whether the user's own modules are in training mode.
    """
    made: list[Any] = []

    def compute(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        result = function(*args, **kwargs)
        made.append((function, [_form(tensor) for tensor in _returned(result)]))
        return result

    def answer(call: Call) -> Tensor:
        result = call()
        reads = () if call.use.columns is None else call.input.shape[call.axis]
        channels = reads, result.shape[call.axis]
        made.append((call.weight, call.function, call.axis, channels, _form(result)))
        return result

    calls = Calls(model, answer, plain=True, origins=Origins(model), compute=compute)
    mode = own_training(model) if training else nullcontext()
    try:
        # A pass may leave a table of positions behind, for the first size that is seen.
        with restored_attributes(model), mode, calls:
            outputs = tensors(run(model, example))
    except Exception:  # a network for one size only may raise anything
        return None
    return [*made, [_form(output) for output in outputs]]


def _form(tensor: Tensor) -> tuple[Any, ...]:
    """Return type and dimensions of a tensor; a dimension of size 1 is not one of a larger size."""
    return tensor.dtype, *(min(size, 2) for size in tensor.shape)


def _returned(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for item in result:
            yield from _returned(item)
