"""Go through the blocks of a large network, with one of them in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.block_by_block.arguments import (
    Arguments,
    Call,
    arguments_of,
    joined,
    places_of_samples,
    stream_in,
    with_stream,
)
from sentei.block_by_block.files import Shards, WeightFiles
from sentei.errors import DataError, StructureError
from sentei.nests import count, resized, taken, tensors
from sentei.network.example import undisturbed
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Neurons
from sentei.probe.probe import Probe
from sentei.running import Example, run
from sentei.shards import refuse_sharded

EXAMPLE = 2  # samples of `Block.example`


@dataclass(eq=False)
class Block:
    """One block of a network with what it reads on all samples; a network of its own to prune.

    Attributes:
        name: qualified, such as "model.layers.3".
        module: the block. Change it, or put a smaller one in its place: the next block then reads
            what this one returns.
        arguments: what it is called with on all samples.
        outputs: (samples, ...) the stream behind it, as computed before it was changed.
    """

    name: str
    module: nn.Module
    arguments: Arguments = field(repr=False)
    outputs: Tensor = field(repr=False)

    @property
    def inputs(self) -> Example:
        """What belongs to samples: the stream before the block, or a dict with it."""
        return self.arguments.example

    @property
    def example(self) -> Example:
        """The inputs of the first samples."""
        return resized(self.inputs, lambda tensor: tensor[:EXAMPLE])

    def forward(self, module: nn.Module, example: Example) -> Tensor:
        """Run the block, or another in its place, on inputs; return the stream behind it.

        Args:
            module: a block.
            example: inputs of some samples, as `inputs`.
        """
        return self.arguments.run(module, example)

    def units(self) -> list[Neurons]:
        """Return the groups of units inside the block, as `find_units`."""
        return find_units(self.module, self.example, forward=self.forward)

    def probe(self, samples: int | None = None, memory: int | str | None = None) -> Probe:
        """Return a Probe of the block, whose loss is how far it is from what it returned at first.

        The loss is half the squared difference of the stream behind it, summed over a sample. It is
        0 before anything is removed, and so is its gradient: use criteria that read activations or
        curvatures (`wanda`, `obs`), weights, or exact ablation, and not first-order Taylor.

        Args:
            samples: as for `Probe`.
            memory: as for `Probe`.
        """
        data = self.inputs, self.outputs
        loss = "half_squared_error"
        return Probe(self.module, data, loss, samples=samples, memory=memory, forward=self.forward)

    def shrink(self, mask: Mask) -> None:
        """Remove dead units: a smaller block takes the place of `module`, certified as `shrink`.

        Args:
            mask: of the block's groups.
        """
        self.module = shrink(self.module, mask, self.example, forward=self.forward)


@checked
def each_block(
    model: nn.Module,
    inputs: Example,
    blocks: str,
    *,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    batch: int = 8,
) -> Iterator[Block]:
    """Yield the blocks of a network in order, each with what it reads on calibration samples.

    A block reads what the blocks before it return as they are now: smaller, if they were pruned
    (sequentially, as SparseGPT does; Frantar and Alistarh 2023, arXiv 2301.00774). In memory are
    the stream before and behind one block for all samples, and with `weights` the weights of one
    block and of what is outside of blocks.

    Args:
        model: a network that calls blocks one after the other, each with the stream that the one
            before returned. With `weights`, the blocks' own tensors may be on the meta device.
        inputs: calibration samples of equal shapes: what the network takes, (samples, ...) tensors.
        blocks: their names, as in a shell: "model.layers.*".
        weights: a safetensors file, or a folder of them, with the network's weights. They are read
            when a block's turn comes, and given up afterwards.
        out: a new folder for the weights that result, a file for each block. It is complete when
            its index is there; `load` reads it.
        batch: about how many samples are run at once, 2 or more.

    Raises:
        StructureError: the network is in shards, no module has such a name, a block is given an
            object that may keep a state (a cache), or blocks are called in another way.
        DataError: samples of different shapes.
        FileError: `weights` cannot be read, or `out` holds something.
    """
    refuse_sharded(model)
    names = [name for name, _ in model.named_modules() if name and fnmatchcase(name, blocks)]
    names = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    if not names:
        raise StructureError(
            f"blocks= names modules of the network; none has a name like {blocks!r}. Print "
            "[name for name, _ in model.named_modules()] to see them"
        )
    if batch < 1:
        raise DataError(f"batch= is a number of samples of 1 or more; got {batch}")
    batches = _batches(inputs, batch)
    files = None if weights is None else WeightFiles(weights)
    shards = None if out is None else Shards(out)
    if files is not None:
        files.load_(model, without=tuple(names))
    return _Walk(model, batches, names, files, shards).blocks()


def _batches(inputs: Example, size: int) -> list[Example]:
    """Return samples in batches of about a size, none of one sample only where there are more."""
    if not tensors(inputs) or not count(inputs):
        raise DataError(
            "inputs= holds calibration samples, (samples, ...) tensors; it holds none. Pass some "
            "of the data that the network is used on"
        )
    rows = count(inputs)
    parts = max(1, min(math.ceil(rows / size), rows // 2))
    return [taken(inputs, some) for some in torch.arange(rows).tensor_split(parts)]


class _Walk:
    """One way through the blocks of a network.

    Args:
        model: the network.
        batches: the samples.
        names: of the blocks, in order.
        files: where the weights of blocks come from; None if the network has them.
        shards: where they are written; None if nowhere.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Example],
        names: Sequence[str],
        files: WeightFiles | None,
        shards: Shards | None,
    ):
        self._model, self._batches, self._names = model, batches, names
        self._files, self._shards = files, shards
        self._returned: dict[str, Any] = {}  # what a block returned on the first batch

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks in order; see `each_block`."""
        stream: Tensor | None = None
        for at, name in enumerate(self._names):
            if self._files is not None:
                self._files.load_(self._model, name)
            arguments = self._arguments(at, stream)
            block = Block(name, self._model.get_submodule(name), arguments, torch.empty(0))
            block.outputs = self._outputs(block)
            yield block
            self._model.set_submodule(name, block.module)
            stream = self._outputs(block)
            self._give_up(name)
        self._finish()

    def _arguments(self, at: int, stream: Tensor | None) -> Arguments:
        """Return what a block is called with, on all samples.

        The network runs up to it, with blocks before it that compute nothing: the last returns the
        stream.
        """
        name = self._names[at]
        sizes = [count(inputs) for inputs in self._batches]
        streams: Any = [None] * len(sizes) if stream is None else stream.split(sizes)
        calls = [self._call(at, *each) for each in zip(self._batches, streams, strict=True)]
        fewer = None
        if sizes[0] > 1:
            some = resized(self._batches[0], lambda tensor: tensor[:-1])
            fewer = self._call(at, some, None if stream is None else streams[0][:-1])
        of_samples = places_of_samples(name, calls[0], fewer)
        return joined(name, [arguments_of(call, of_samples) for call in calls])

    @torch.no_grad()
    def _call(self, at: int, inputs: Example, stream: Tensor | None) -> Call:
        """Return the arguments with which the network calls a block.

        Raises:
            StructureError: blocks are not called one after the other.
        """
        name, before = self._names[at], self._names[:at]
        called: list[str] = []

        def arrive(*args: Any, **kwargs: Any) -> Any:
            raise _ArrivedError((args, kwargs))

        def passing(each: str) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                called.append(each)
                own = stream_in((args, kwargs))
                given = own if stream is None or each != before[-1] else stream
                return with_stream(self._returned[each], given)

            return forward

        instead = {each: passing(each) for each in before} | {name: arrive}
        later = dict.fromkeys(self._names[at + 1 :], _refuse_order)
        with undisturbed(self._model), _replaced(self._model, {**instead, **later}):
            try:
                run(self._model, inputs)
            except _ArrivedError as arrived:
                if called == [*before]:
                    return arrived.call
        return _refuse_order()

    @torch.no_grad()
    def _outputs(self, block: Block) -> Tensor:
        """Run a block on all samples, and return the stream behind it."""
        found = []
        rows = torch.arange(count(block.inputs))
        with undisturbed(block.module):
            for some in rows.split(count(self._batches[0])):
                example = taken(block.inputs, some)
                output = block.arguments.called(block.module, example)
                self._returned.setdefault(block.name, output)
                found.append(stream_in(output))
        return torch.cat(found)

    def _give_up(self, name: str) -> None:
        """Write the weights of a block, and free their memory if they came from files."""
        module = self._model.get_submodule(name)
        if self._shards is not None:
            own = module.state_dict(keep_vars=True)
            self._shards.write({f"{name}.{n}": tensor for n, tensor in own.items()})
        if self._files is not None:
            module.to("meta")

    def _finish(self) -> None:
        if self._shards is None:
            return
        inside = tuple(f"{name}." for name in self._names)
        every = self._model.state_dict(keep_vars=True)
        self._shards.write({n: tensor for n, tensor in every.items() if not n.startswith(inside)})
        self._shards.finish(self._model)


class _ArrivedError(Exception):
    """The network has come to the block that it is run up to."""

    def __init__(self, call: Call):
        super().__init__()
        self.call = call


def _refuse_order(*_: Any, **__: Any) -> NoReturn:
    raise StructureError(
        "blocks= names modules that the network calls one after the other, each once, in the order "
        "in which it holds them; these are called in another way"
    )


@contextmanager
def _replaced(model: nn.Module, instead: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Give some modules another `forward` in a `with` block."""
    modules = [model.get_submodule(name) for name in instead]
    own = [vars(module).get("forward") for module in modules]
    try:
        for module, forward in zip(modules, instead.values(), strict=True):
            vars(module)["forward"] = forward
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward
