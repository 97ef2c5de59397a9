"""Write networks as ONNX files, for onnxruntime and other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sentei import storage
from sentei.card import card_of
from sentei.errors import DataError, FileError, StructureError
from sentei.network.encoding.carrying import carried
from sentei.network.encoding.onnx_graph import onnx_bytes
from sentei.network.encoding.size import skeleton
from sentei.network.encoding.stages import Weighted, stages
from sentei.network.forward import forward_of, own_inputs
from sentei.network.mask import Mask


def write_onnx(model: nn.Module, path: str | Path, example: Any, mask: Mask | None = None) -> None:
    """Write a network as ONNX with input "input", output "output" and a free batch dimension.

    Batch norm is folded into the layer before it, standardisation of inputs into the one behind it
    where that is exact enough; dead synapses are written as zeros. Names of classes and features
    become metadata of the file, as JSON lists.

    Args:
        model: `nn.Sequential` of torch's own layers; already shrunk.
        path: ends in ".onnx".
        example: (N, ...) inputs; only the shape matters.
        mask: of this network.

    Raises:
        StructureError: a layer that is not supported, or weights that are not finite.
        FileError: the file cannot be written, or the network has what a file cannot carry.
    """
    forward, example = forward_of(example), own_inputs(example)
    if not isinstance(example, Tensor) or example.ndim < 2:
        raise DataError(
            "an ONNX file needs example=, a tensor (N, ...) of inputs, for their shape; got "
            f"{type(example).__name__}"
        )
    model, shape = carried(model), tuple(example.shape[1:])
    found = stages(model, shape, mask, forward)
    for stage in found:
        if isinstance(stage, Weighted) and not bool(stage.weight.isfinite().all()):
            raise StructureError(
                f"weights must be finite; layer {stage.name!r} has one that is not (NaN or "
                "infinity). Train it again."
            )
    card = card_of(model)
    data = onnx_bytes(found, shape, card)
    planned = len(onnx_bytes(stages(skeleton(model), shape, mask, forward), shape, card))
    if len(data) != planned:
        raise FileError(f"{path} would have {len(data)} bytes; {planned} were planned")
    storage.write(path, data)
