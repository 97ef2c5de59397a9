"""Measure a network: units, synapses, parameters, exact bytes, multiply-adds and latency.

Sizes are those of the network as it would be shrunk. The network itself is not shrunk: the cut is
made on a copy on the meta device, which has shapes but no memory.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import prod
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import resolve_name

from sentei.card import card_of
from sentei.devices import device_of, synchronise
from sentei.errors import StructureError
from sentei.network.calls import MIXING, PRODUCTS, Call, Calls
from sentei.network.copying import copied, restored
from sentei.network.encoding.converting import stages
from sentei.network.encoding.format import C_FORMATS, SAFETENSORS, format_named
from sentei.network.encoding.onnx_graph import onnx_size
from sentei.network.encoding.packing import contents, safetensors_bytes
from sentei.network.encoding.plans import Plan, c_plan
from sentei.network.encoding.stages import Stage
from sentei.network.example import as_found, guessed, rows
from sentei.network.layers import Standardise
from sentei.network.mask import Mask
from sentei.network.parameters import shapes_left
from sentei.network.surgery.cutting import remove_dead_
from sentei.network.units import Synapses, find_synapses, tensor_of
from sentei.running import Example, forward_of, own_inputs, run


@dataclass(frozen=True)
class Counts:
    """The size of a network.

    Attributes:
        units: alive units that could be removed; inputs and outputs do not count.
        synapses: alive weights, biases excluded.
        parameters: entries of all parameters, biases included, dead synapses too.
        bytes: size of its safetensors file, the mask of dead synapses included.
    """

    units: int
    synapses: int
    parameters: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.units:,} units, {self.synapses:,} synapses, {self.parameters:,} parameters, "
            f"{self.bytes:,} bytes"
        )


def counts(model: nn.Module, mask: Mask) -> Counts:
    """Return the size of the network that `shrink(model, mask)` would return; changes nothing.

    Raises:
        GroupError: the mask's groups are not the model's.
    """
    mask.check(model)
    left = mask.outline()
    alive = {group: left.count(group) for group in left.groups}
    units = (g for g in mask.groups if not isinstance(g, Synapses) and g.kind != "input")
    with without_dead(model, mask) as small:
        return Counts(
            units=sum(mask.count(group) for group in units),
            synapses=sum(alive.get(group, group.size) for group in find_synapses(small)),
            parameters=sum(parameter.numel() for parameter in small.parameters()),
            bytes=safetensors_bytes(*contents(small, left)),
        )


def bytes_in(model: nn.Module, mask: Mask, format: str, example: Example | None = None) -> int:
    """Return the bytes of the network as it would be shrunk, in one file format.

    For safetensors and ONNX: the whole file. For C: all constants (weights, their positions,
    biases, scales), without the compiled code.

    Args:
        model: any network; the values of its weights do not matter.
        mask: what is alive.
        format: "safetensors", "onnx", "c", "c-int8", "c-int8-int8" or "c-int8-int16".
        example: inputs; all formats but safetensors need their shape.

    Raises:
        ValueError: an unknown format.
        StructureError: a layer that the format does not support, or one without an input left.
    """
    return SIZES[format_named(format).name](model, mask, example)


def ram_in(model: nn.Module, mask: Mask, format: str, example: Example | None = None) -> int:
    """Return the bytes of static RAM for activations of the network in a C format.

    Arguments and errors are those of `bytes_in`.
    """
    return _planned(model, mask, example, format).ram


def _planned(model: nn.Module, mask: Mask, example: Example | None, format: str) -> Plan:
    return c_plan(_small_stages(model, mask, example)[0], format)


def _onnx_size(model: nn.Module, mask: Mask, example: Example | None) -> int:
    return onnx_size(*_small_stages(model, mask, example), card_of(model))


def _small_stages(
    model: nn.Module, mask: Mask, example: Example | None
) -> tuple[list[Stage], tuple[int, ...]]:
    """Return the stages of the network as it would be shrunk, and the shape of one sample."""
    mask.check(model)
    example = guessed(model) if example is None else example
    forward, example = forward_of(example), own_inputs(example)
    if not isinstance(example, Tensor):
        raise StructureError(
            "networks in C and ONNX have one input; this one is called with several. Use the "
            "safetensors format."
        )
    shape = tuple(example.shape[1:])
    with without_dead(model, mask) as small:
        return stages(small, shape, mask.outline(), forward), shape


def _c_bytes(model: nn.Module, mask: Mask, example: Example | None, format: str) -> int:
    return _planned(model, mask, example, format).flash


# The size of a network in each format: functions (model, mask, example) -> bytes.
SIZES: Mapping[str, Callable[[nn.Module, Mask, Example | None], int]] = {
    SAFETENSORS.name: lambda model, mask, _: counts(model, mask).bytes,
    "onnx": _onnx_size,
    **{name: partial(_c_bytes, format=name) for name in C_FORMATS},
}


@contextmanager
def without_dead(model: nn.Module, mask: Mask) -> Iterator[nn.Module]:
    """Give the network as it would be shrunk, without memory, for a `with` block.

    A network that is on the meta device itself is cut for the block and restored after it: that
    takes half as long as a copy.
    """
    bones = model if all(tensor.is_meta for tensor in model.parameters()) else skeleton(model)
    with restored(bones):
        yield remove_dead_(bones, mask)


def skeleton(model: nn.Module) -> nn.Module:
    """Return a copy on the meta device (shapes without memory); shared weights stay shared.

    Means and deviations of inputs keep their values: some are folded into weights, some are not.
    """
    memo: dict[int, Tensor] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(_without_memory(parameter), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = _without_memory(buffer)
    for module in model.modules():
        if isinstance(module, Standardise):
            memo |= {id(buffer): buffer.clone() for buffer in module.buffers()}
    return copied(model, memo)


def _without_memory(tensor: Tensor) -> Tensor:
    # Of a tensor that is on the meta device itself, torch.empty_like takes ten times as long.
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


# The cost of a forward pass.


@dataclass(frozen=True)
class Cost:
    """The multiply-adds of one forward pass, by the weight that is multiplied with.

    Attributes:
        products: for each weight by its name, of all samples together.
        samples: how many samples the pass had.
    """

    products: Mapping[str, int]
    samples: int

    def after(self, model: nn.Module, mask: Mask) -> int:
        """Return the multiply-adds for one sample of the network as it would be shrunk.

        A cut changes how many entries a weight has, and not how often each is used.

        Args:
            model: the network of full size; the values of its weights do not matter.
            mask: what is alive.
        """
        left = shapes_left(model, mask)
        weights = {name: tensor_of(model, name) for name in self.products}
        parts = (
            n * prod(left[weights[name]]) // weights[name].numel()
            for name, n in self.products.items()
        )
        return sum(parts) // self.samples


class Counted(NamedTuple):
    """One call of a pass: its weight, its multiply-adds, and bytes of its input and output."""

    weight: str
    products: int
    bytes: int


@torch.no_grad()
def calls_counted(model: nn.Module, example: Example) -> list[Counted]:
    """Return the calls with a weight of one pass in evaluation mode, in the order they are made.

    Raises:
        StructureError: as `multiply_adds`.
    """
    products: list[Counted] = []

    def record(call: Call) -> Tensor:
        out = call()
        products.append(Counted(call.weight, _products(call, out), call.input.nbytes + out.nbytes))
        return out

    with as_found(model), Calls(model.eval(), record):
        run(model, example)
    return products


def cost(model: nn.Module, example: Example) -> Cost:
    """Count multiplications with a weight in one forward pass, as `multiply_adds` does."""
    products = calls_counted(model, example)
    total: Counter[str] = Counter()
    for weight, calls in groupby(products, key=lambda call: call.weight):
        amounts = [call.products for call in calls]
        # Cross-attention is recorded as three uses of the whole packed weight; torch itself uses a
        # third of it each time.
        thirds = 3 if weight.endswith("in_proj_weight") and len(amounts) == 3 else 1
        total[weight] += sum(amounts) // thirds
    return Cost({weight: count for weight, count in total.items() if count}, rows(example) or 1)


def multiply_adds(model: nn.Module, example: Example) -> int:
    """Count multiplications with a weight in one forward pass, per sample of `example`.

    The pass runs in evaluation mode. Counted: linear layers, convolutions (grouped, depthwise and
    transposed too), products with a weight matrix and the projections of attention. Not counted:
    biases, norms, activations, pooling, look-ups in an embedding, products of two activations
    (attention weights), `einsum`, bilinear and batched products, layers whose weight is computed
    (weight norm), and recurrent layers, whose products torch does not expose. Dead synapses count:
    a zero is multiplied like any other number.

    Raises:
        StructureError: a function whose multiply-adds are not known; it is named.
    """
    found = cost(model, example)
    return sum(found.products.values()) // found.samples


def latency(model: nn.Module, example: Example, repeats: int = 30) -> float:
    """Return the seconds for one pass on all of `example` in evaluation mode.

    The median of `repeats` passes, after three passes that are not counted, on as many threads as
    torch uses at present (`torch.get_num_threads()`).

    Raises:
        ValueError: `repeats` is less than 1.
    """
    return latencies([model], example, repeats)[0]


def latencies(models: Sequence[nn.Module], example: Example, repeats: int = 30) -> list[float]:
    """Return the `latency` of several networks, whose passes take turns.

    What slows the machine down for a while then slows all of them down.
    """
    if repeats < 1:
        raise ValueError(f"at least one pass has to be timed; got repeats={repeats}")
    devices = [device_of(model) for model in models]
    seconds: list[list[float]] = [[] for _ in models]
    with torch.inference_mode(), ExitStack() as stack:
        for model in models:
            stack.enter_context(as_found(model))
            model.eval()
        for _ in range(3 + repeats):
            for model, times in zip(models, seconds, strict=True):
                begin = time.perf_counter()
                run(model, example)
                synchronise(devices)
                times.append(time.perf_counter() - begin)
    return [median(times[3:]) for times in seconds]


def _products(call: Call, out: Tensor) -> int:
    """Return the multiply-adds of one call, for all samples."""
    if call.function not in MIXING:
        return 0
    if call.function not in PRODUCTS:
        raise StructureError(
            f"the multiply-adds of {resolve_name(call.function)}, which uses {call.weight!r}, are "
            "not known; add the function to PRODUCTS in sentei.network.calls"
        )
    return PRODUCTS[call.function](call.given[call.use.weight], call.input, out)
