"""Example inputs of a network: few, more or guessed ones, and a network undisturbed by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from sentei.devices import random_kept
from sentei.errors import DataError, StructureError
from sentei.nests import resized, tensors
from sentei.network.layers import Select, Standardise
from sentei.running import Example, run


def rows(example: Example) -> int | None:
    """Return the number of samples if all tensors have the same first dimension, else None."""
    sizes = {t.shape[0] if t.ndim else None for t in tensors(example)}
    return sizes.pop() if len(sizes) == 1 else None


@torch.no_grad()
def smallest(model: nn.Module, example: Example) -> Example:
    """Return the first sample of an example if the model treats each sample alone, else all.

    Whether it does is tried: with one sample more, what it returns for the others must stay the
    same. Two samples are taken where one alone is treated in another way (`squeeze()`). The first
    dimension may also hold the steps of a sequence, or the nodes of a graph.
    """
    count = rows(example) or 1
    for few in range(1, min(count, 3)):
        some, more = (resized(example, lambda t, n=n: t[:n]) for n in (few, few + 1))
        try:
            pairs = [tensors(run(model, each)) for each in (some, more)]
        except Exception:
            continue
        if all(_begins_with(b, a, few) for a, b in zip(*pairs, strict=False)):
            return some
    return example


def _begins_with(more: Tensor, some: Tensor, count: int) -> bool:
    """Return whether the results for some samples are the first of the results for one more."""
    if not some.ndim or not more.ndim or (len(some), len(more)) != (count, count + 1):
        return False
    if some.shape != more[:count].shape or not some.is_floating_point():
        return some.shape == more[:count].shape
    return torch.allclose(some, more[:count], rtol=1e-3, atol=1e-5, equal_nan=True)


def at_least(example: Example, count: int, seed: int = 0) -> Example:
    """Append seeded random samples to an example until it has `count` samples.

    Floating-point samples are normal, with the mean and the standard deviation (at least 0.1) of
    their tensor; integers and bools are drawn from the values in their tensor. An example whose
    tensors do not share their first dimension is returned unchanged.
    """
    own = rows(example)
    if own is None or own >= count:
        return example
    random = torch.Generator().manual_seed(seed)

    def extended(real: Tensor) -> Tensor:
        shape = (count - own, *real.shape[1:])
        if real.is_floating_point():
            noise = torch.randn(shape, generator=random)
            values = real.float().cpu() if real.numel() else torch.zeros(1)
            more = noise * values.std(correction=0).clamp(min=0.1) + values.mean()
        else:
            values = real.flatten().cpu()
            more = values[torch.randint(values.numel(), shape, generator=random)]
        return torch.cat([real, more.to(real)])

    return resized(example, extended)


def guessed(model: nn.Module) -> Tensor:
    """Return one random sample, (1, width), for a network that begins with a linear layer.

    Raises:
        StructureError: the network begins with another layer; the caller has to pass an example.
    """
    first = next((m for m in model.modules() if any(True for _ in _own_tensors(m))), None)
    if isinstance(first, nn.Linear):
        width = first.in_features
    elif isinstance(first, Select) and first.dim == -1 and first.index.numel():
        width = int(first.index.max()) + 1  # inputs after the last kept one are not read
    elif isinstance(first, Standardise) and first.mean.ndim == 1:
        width = first.mean.numel()
    else:
        raise StructureError(
            "a cut is checked on inputs, and their shape is known only for a network that begins "
            "with a linear layer; pass example= (a tensor or a tuple of tensors)"
        )
    random = torch.Generator().manual_seed(0)
    sample = torch.rand(1, width, generator=random).to(next(model.parameters()))
    return first.mean + first.std * sample if isinstance(first, Standardise) else sample


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def check(model: nn.Module, example: Example) -> None:
    """Raise DataError if the model cannot run on an example.

    Raises:
        DataError: the message holds the model's own error and the shapes of the example.
    """
    try:
        with torch.no_grad():
            run(model, example)
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors(example)) or "no tensors"
        raise DataError(
            f"the example must run through the model; with shapes {shapes} it fails: {error}. "
            "Pass inputs as the model takes them: a tensor, a tuple of arguments or keywords."
        ) from error


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module and the value of every buffer on exit."""
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
def own_training(model: nn.Module) -> Iterator[None]:
    """Put the user's own modules in training mode; torch's norms and dropouts stay as they are.

    So `forward` takes the branches of training, such as an auxiliary head, and still computes the
    same for each sample alone.
    """
    with as_found(model):
        for module in model.modules():
            is_torch_s = type(module).__module__.startswith("torch.nn.")
            if not is_torch_s and not isinstance(module, (_NormBase, _DropoutNd)):
                module.training = True
        yield


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Use evaluation mode without gradients; restore modes, buffers and random state on exit."""
    with as_found(model), random_kept(p.device for p in model.parameters()), torch.no_grad():
        model.eval()
        yield
