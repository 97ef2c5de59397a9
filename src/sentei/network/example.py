"""What a network is shown when its structure is followed or its cuts are proven."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from sentei.errors import DataError, StructureError
from sentei.network.layers import Select

Example = Tensor | tuple | list | Mapping[str, Any]


def run(model: nn.Module, example: Example) -> Any:
    """The model's output; a tuple holds all arguments, a dict keywords, a tensor the only one."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, (tuple, list)) else model(example)


def tensors(value: Any) -> list[Tensor]:
    """Every tensor in an example or an output, however nested."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def rows(example: Example) -> int | None:
    """The number of samples, if all tensors agree on their first dimension; else None."""
    sizes = {t.shape[0] if t.ndim else None for t in tensors(example)}
    return sizes.pop() if len(sizes) == 1 else None


def resized(example: Example, change: Callable[[Tensor], Tensor]) -> Example:
    """The example with `change` made to each of its tensors."""
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, example)


def at_least(example: Example, count: int, seed: int = 0) -> Example:
    """The example with seeded random samples after its own, up to `count`.

    Floating-point samples are normal, with each tensor's own mean and spread; integers are drawn
    from those that the tensor shows. An example without a common first dimension stays as it is.
    """
    own = rows(example)
    if own is None or own >= count:
        return example
    random = torch.Generator().manual_seed(seed)

    def grown(real: Tensor) -> Tensor:
        shape = (count - own, *real.shape[1:])
        if real.is_floating_point():
            noise = torch.randn(shape, generator=random)
            seen = real.float().cpu() if real.numel() else torch.zeros(1)
            more = noise * seen.std(correction=0).clamp(min=0.1) + seen.mean()
        else:
            values = real.flatten().cpu()
            more = values[torch.randint(values.numel(), shape, generator=random)]
        return torch.cat([real, more.to(real)])

    return resized(example, grown)


def guessed(model: nn.Module) -> Tensor:
    """One sample of noise for a network that begins with a linear layer.

    Raises:
        StructureError: it begins otherwise; the caller has to pass an example.
    """
    first = next((m for m in model.modules() if any(True for _ in _own_tensors(m))), None)
    if isinstance(first, nn.Linear):
        width = first.in_features
    elif isinstance(first, Select) and first.dim == -1 and first.index.numel():
        width = int(first.index.max()) + 1  # those after the last one kept are not read
    else:
        raise StructureError(
            "a cut is proven on inputs, and this network does not begin with a linear layer whose "
            "width would say what they look like; pass example= (a tensor or a tuple of tensors)"
        )
    random = torch.Generator().manual_seed(0)
    return torch.rand(1, width, generator=random).to(next(model.parameters()))


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def check(model: nn.Module, example: Example) -> None:
    """Refuse an example that the model cannot run.

    Raises:
        DataError: with the model's own complaint.
    """
    try:
        with torch.no_grad():
            run(model, example)
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors(example)) or "no tensors"
        raise DataError(
            f"the example must run through the model; with {shapes} it stops: {error}. "
            "Pass inputs as the model takes them: a tensor, a tuple of arguments or keywords."
        ) from error


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Put every module's mode and every buffer back at the end."""
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, value in buffers.items():
            buffer.data.copy_(value)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes, buffers and random state are put back after."""
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    with as_found(model), torch.random.fork_rng(list(devices)), torch.no_grad():
        model.eval()
        yield
