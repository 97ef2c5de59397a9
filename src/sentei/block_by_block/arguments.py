"""Split what a block is called with into what belongs to samples and what is the same for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import DataError, StructureError
from sentei.network.torch_functions import argument_tensors, leaves, rebuilt
from sentei.running import Example

STREAM = "stream"  # the name of the tensor that goes from block to block
_PLAIN = (Tensor, bool, int, float, complex, str, type(None), torch.dtype, torch.device, type)


class _Name(str):
    """Stands for a tensor of samples among arguments."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Arguments:
    """What a block is called with on some samples.

    Attributes:
        of_samples: (samples, ...) tensors by name; the stream is one of them.
        template: positional and keyword arguments, with names in the place of those tensors.
    """

    of_samples: dict[str, Tensor]
    template: tuple[tuple[Any, ...], dict[str, Any]]

    @property
    def example(self) -> Example:
        """The tensors of samples as an example: the stream alone, or a dict."""
        found = self.of_samples
        return found[STREAM] if len(found) == 1 else found

    def run(self, block: nn.Module, example: Example) -> Tensor:
        """Call a block on other samples, and return the stream behind it."""
        return stream_in(self.called(block, example))

    def called(self, block: nn.Module, example: Example) -> Any:
        """Call a block on other samples, and return what it returns."""
        given = example if isinstance(example, Mapping) else {STREAM: example}
        args, kwargs = rebuilt(
            self.template, lambda leaf: given[leaf] if type(leaf) is _Name else leaf
        )
        return block(*args, **kwargs)


Call = tuple[tuple[Any, ...], dict[str, Any]]  # arguments by position and by keyword


def places_of_samples(block: str, call: Call, fewer: Call | None) -> tuple[int, ...]:
    """Return which of the leaves of a call belong to samples, the stream first.

    The stream is the first floating-point tensor.

    Args:
        block: its name, for messages.
        call: what the block is called with.
        fewer: the same with one sample fewer; None where there is one sample only.

    Raises:
        StructureError: no argument is a floating-point tensor, an object may keep a state, or
            samples are not the first dimension of a tensor.
    """
    every = [*leaves(call)]
    for leaf in every:
        if not isinstance(leaf, _PLAIN):
            raise StructureError(
                f"a block is run many times on the same arguments; {block!r} is given an object "
                f"of type {type(leaf).__name__}, which may change between two runs. Switch it off, "
                "as model.config.use_cache = False does for a cache of keys and values"
            )
    floating = [n for n, leaf in enumerate(every) if _is_floating(leaf)]
    if not floating:
        raise StructureError(
            f"a block maps a floating-point tensor to one of the same shape; {block!r} is given "
            "none. Name the blocks that are called one after the other, such as 'model.layers.*'"
        )
    stream = floating[0]
    if fewer is None:
        return (stream,)
    rows = len(every[stream])
    differing = [
        n
        for n, (leaf, other) in enumerate(zip(every, leaves(fewer), strict=True))
        if isinstance(leaf, Tensor) and leaf.shape != other.shape
    ]
    if stream not in differing or any(len(every[n]) != rows for n in differing):
        raise StructureError(
            f"samples have to be the first dimension of what a block reads; with one sample fewer, "
            f"{block!r} is given tensors that differ in another one"
        )
    return (stream, *(n for n in differing if n != stream))


def arguments_of(call: Call, of_samples: Sequence[int]) -> Arguments:
    """Return what a block is called with, divided.

    Args:
        call: what the block is called with.
        of_samples: which leaves belong to samples, the stream first.
    """
    every = [*leaves(call)]
    names = {n: _Name(STREAM if n == of_samples[0] else f"argument {n}") for n in of_samples}
    turn = count()

    def named(leaf: Any) -> Any:
        return names.get(next(turn), leaf)

    tensors = {str(names[n]): every[n] for n in of_samples}
    return Arguments(tensors, rebuilt(call, named))


def joined(block: str, parts: Iterable[Arguments]) -> Arguments:
    """Join the arguments of several batches.

    Raises:
        DataError: what does not belong to samples differs between two batches.
    """
    first, *others = parts
    for other in others:
        pairs = zip(leaves(first.template), leaves(other.template), strict=True)
        if not all(_equal(a, b) for a, b in pairs):
            raise DataError(
                f"what a block reads has to belong to one sample, or to be the same for all; what "
                f"{block!r} is given differs between two batches. Pad or cut the samples to one "
                "length"
            )
    every = (first, *others)
    tensors = {name: torch.cat([e.of_samples[name] for e in every]) for name in first.of_samples}
    return Arguments(tensors, first.template)


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and a == b


def stream_in(output: Any) -> Tensor:
    """Return the stream in what a block returns: its first tensor."""
    return argument_tensors(output)[0]


def with_stream(output: Any, stream: Tensor) -> Any:
    """Return what a block returned with another stream, and None in the place of other tensors."""
    own = stream_in(output)

    def replaced(leaf: Any) -> Any:
        if leaf is own:
            return stream
        return None if isinstance(leaf, Tensor) else leaf

    return rebuilt(output, replaced)
