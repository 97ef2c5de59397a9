"""Write networks as ONNX files, for onnxruntime and other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sentei import storage
from sentei.card import card_of
from sentei.errors import DataError, FileError, StructureError
from sentei.formats.onnx_by_torch import onnx_by_torch
from sentei.nests import tensors
from sentei.network.encoding.carrying import carried
from sentei.network.encoding.converting import stages
from sentei.network.encoding.evaluating import check_stages
from sentei.network.encoding.onnx_graph import metadata, onnx_bytes, onnx_size, output_shape
from sentei.network.encoding.size import skeleton
from sentei.network.encoding.stages import Stage
from sentei.network.mask import Mask
from sentei.running import forward_of, own_inputs


def write_onnx(model: nn.Module, path: str | Path, example: Any, mask: Mask | None = None) -> None:
    """Write a network as ONNX, with a free batch dimension where the network allows one.

    Torch's own layers in a row, or with sums, concatenations and other shapes between them, are
    written here, to the byte that their plan states: with input "input" and output "output", batch
    norm folded into the layer before it, and standardisation of inputs into the one behind it where
    that is exact enough. Every other network is written by torch, and the file is compared with the
    network in onnxruntime; inputs then have the names of keywords or of the arguments of `forward`,
    outputs those of keys or fields. Dead synapses are zeros. Names of classes and features become
    metadata of the file, as JSON lists.

    Args:
        model: any network; already shrunk.
        path: ends in ".onnx".
        example: inputs, (N, ...) each.
        mask: of this network.

    Raises:
        DataError: no example, or one that does not run.
        StructureError: weights that are not finite, or what torch cannot write.
        CertificateError: what torch writes computes other outputs.
        FileError: the file cannot be written, the network has what a file cannot carry, or
            onnxruntime is missing.
    """
    if not tensors(own_inputs(example)):
        raise DataError(
            "an ONNX file needs example=, inputs that the network runs on, such as a tensor "
            f"(N, ...); got {type(example).__name__}"
        )
    model = carried(model)
    _check_finite(model)
    found = _followed(model, example, mask)
    if found is None:
        data = onnx_by_torch(model, example, mask) + metadata(card_of(model))
    else:
        data = _planned(model, example, mask, found, path)
    storage.write(path, data)


def _check_finite(model: nn.Module) -> None:
    for name, value in model.named_parameters():
        if not bool(value.isfinite().all()):
            layer = name.rpartition(".")[0]
            raise StructureError(
                f"weights must be finite; layer {layer!r} has one that is not (NaN or infinity). "
                "Train it again."
            )


def _followed(model: nn.Module, example: Any, mask: Mask | None) -> list[Stage] | None:
    """Return the stages of a network; None if some of what it computes is none.

    Raises:
        StructureError: a weight that is not finite.
    """
    inputs = own_inputs(example)
    if not isinstance(inputs, Tensor) or inputs.ndim < 2:
        return None
    shape = tuple(inputs.shape[1:])
    try:
        found = stages(model, shape, mask, forward_of(example))
    except StructureError:
        return None
    for matrix in (matrix for stage in found for matrix in stage.matrices):
        if not bool(matrix.weight.isfinite().all()):
            raise StructureError(
                f"weights must be finite; layer {matrix.name!r} has one that is not, with the "
                "batch norm behind it folded in (NaN or infinity). Train it again."
            )
    try:
        is_same = check_stages(model, example, found) == output_shape(found, shape)
    except StructureError:
        return None
    return found if is_same else None


def _planned(
    model: nn.Module, example: Any, mask: Mask | None, found: list[Stage], path: str | Path
) -> bytes:
    """Return the content of the file of a network's stages, of the size that was planned."""
    inputs: Any = own_inputs(example)
    shape, card = tuple(inputs.shape[1:]), card_of(model)
    forward = forward_of(example)
    data = onnx_bytes(found, shape, card)
    planned = onnx_size(stages(skeleton(model), shape, mask, forward), shape, card)
    if len(data) != planned:
        raise FileError(f"{path} would have {len(data)} bytes; {planned} were planned")
    return data
