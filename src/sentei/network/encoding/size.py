"""How large a network is: units, synapses, parameters, multiply-adds, seconds, and bytes exactly.

Sizes are those of the network as it would be shrunk, found without shrinking anything: the cut is
made on a copy that has shapes but no memory.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from itertools import groupby
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei.errors import StructureError, unknown
from sentei.network.calls import MIXING, Call, Calls
from sentei.network.encoding.onnx_graph import onnx_bytes
from sentei.network.encoding.packing import contents, safetensors_bytes
from sentei.network.encoding.plans import C_FORMATS, c_plan
from sentei.network.encoding.stages import Stage, stages
from sentei.network.example import Example, as_found, guessed, rows, run
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import remove_dead_
from sentei.network.units import Neurons, Synapses, find_synapses


@dataclass(frozen=True)
class Counts:
    """The size of a network.

    Attributes:
        units: alive units that could be removed; inputs and outputs do not count.
        synapses: alive weights, biases excluded.
        parameters: entries of all parameters, biases included, dead synapses too.
        bytes: of its safetensors file, the mask of dead synapses included.
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
    """The size of the network that `shrink(model, mask)` would return; nothing is changed.

    Raises:
        GroupError: the mask's groups are not the model's.
    """
    mask.check(model)
    small = remove_dead_(skeleton(model), mask)
    cut_synapses = any(isinstance(g, Synapses) and mask.count(g) < g.size for g in mask.groups)
    left = mask.shrunk() if cut_synapses else Mask.full([])
    alive: dict[object, int] = {group: left.count(group) for group in left.groups}
    units = (g for g in mask.groups if isinstance(g, Neurons) and g.kind != "input")
    return Counts(
        units=sum(mask.count(group) for group in units),
        synapses=sum(alive.get(group, group.size) for group in find_synapses(small)),
        parameters=sum(parameter.numel() for parameter in small.parameters()),
        bytes=safetensors_bytes(*contents(small, left)),
    )


def bytes_in(model: nn.Module, mask: Mask, format: str, example: Example | None = None) -> int:
    """Bytes of the network as it would be shrunk, in a format by name.

    Of safetensors and ONNX the whole file; of C all constants (weights, where they are, biases,
    scales), to which the compiled code comes.

    Args:
        model: its weights do not matter.
        mask: what is alive.
        format: "safetensors", "onnx", "c", "c-int8" or "c-int8-int8".
        example: inputs; all but safetensors need their shape.

    Raises:
        ValueError: an unknown format.
        StructureError: a layer that the format does not have, or one without an input left.
    """
    if format not in FORMATS:
        raise ValueError(unknown("format", format, FORMATS))
    if format == "safetensors":
        return counts(model, mask).bytes
    found, shape = _small_stages(model, mask, example)
    return len(onnx_bytes(found, shape)) if format == "onnx" else c_plan(found, format).flash


def ram_in(model: nn.Module, mask: Mask, format: str, example: Example | None = None) -> int:
    """Bytes of activations that the network in a C format holds at a time.

    Args and raises as `bytes_in`.
    """
    return c_plan(_small_stages(model, mask, example)[0], format).ram


FORMATS = ("safetensors", "onnx", *C_FORMATS)


def _small_stages(
    model: nn.Module, mask: Mask, example: Example | None
) -> tuple[list[Stage], tuple[int, ...]]:
    mask.check(model)
    example = guessed(model) if example is None else example
    if not isinstance(example, Tensor):
        raise StructureError(
            "networks in C and ONNX have one input; this one is called with several. Use the "
            "safetensors format."
        )
    shape = tuple(example.shape[1:])
    return stages(remove_dead_(skeleton(model), mask), shape, mask.shrunk()), shape


def skeleton(model: nn.Module) -> nn.Module:
    """A copy on the meta device: shapes without memory, shared weights still shared."""
    memo: dict[int, Tensor] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


# What it costs to run.


@torch.no_grad()
def multiply_adds(model: nn.Module, example: Example) -> int:
    """Multiplications with a weight in one pass in evaluation mode, per sample of `example`.

    Counted in a real pass: linear layers, convolutions (grouped, depthwise and transposed too),
    products with a weight matrix and the projections of attention. Not counted: biases, norms,
    activations, pooling, look-ups in an embedding, products of two activations (attention weights),
    and recurrent layers, whose products torch does not show. Dead synapses count: a zero is
    multiplied like any other number.
    """
    made: list[tuple[str, int]] = []

    def answer(call: Call) -> Tensor:
        out = call()
        made.append((call.weight, _products(call, out)))
        return out

    with as_found(model), Calls(model.eval(), answer):
        run(model, example)
    total = 0
    for weight, found in groupby(made, key=lambda pair: pair[0]):
        amounts = [amount for _, amount in found]
        # Attention to other tokens is followed by using all of the packed weight three times,
        # where torch uses a third of it each time.
        thirds = 3 if weight.endswith("in_proj_weight") and len(amounts) == 3 else 1
        total += sum(amounts) // thirds
    return total // (rows(example) or 1)


def latency(model: nn.Module, example: Example, repeats: int = 30) -> float:
    """Seconds for one pass on all of `example` in evaluation mode: the median of `repeats`.

    On as many threads as torch uses at present (`torch.get_num_threads()`), after three passes that
    are not counted.

    Raises:
        ValueError: `repeats` is less than 1.
    """
    if repeats < 1:
        raise ValueError(f"at least one pass has to be timed, not {repeats}")
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    seconds = []
    with torch.inference_mode(), as_found(model):
        model.eval()
        for _ in range(3 + repeats):
            begin = time.perf_counter()
            run(model, example)
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    return median(seconds[3:])


_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


def _products(call: Call, out: Tensor) -> int:
    """Multiply-adds of one call, for all samples."""
    if call.function not in MIXING or call.function is F.embedding:
        return 0
    weight = call.given[call.use.weight]
    if call.function in _TRANSPOSED:  # each input entry meets (out / groups, kernel)
        return call.input.numel() * weight[:1].numel()
    if call.function in _CONVOLUTIONS or call.function is F.linear:
        return out.numel() * weight[:1].numel()
    return out.numel() * weight.shape[0]
