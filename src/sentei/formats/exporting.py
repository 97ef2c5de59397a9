"""Export a network to C, ONNX or safetensors, chosen by the suffix of the file name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from sentei.errors import unknown
from sentei.formats.c import write_c
from sentei.formats.onnx import write_onnx
from sentei.formats.safetensors import save
from sentei.network.encoding.plans import C_FORMATS
from sentei.network.mask import Mask

SUFFIXES = {".c": "c", ".onnx": "onnx", ".safetensors": "safetensors"}


def export(
    model: nn.Module,
    path: str | Path,
    example: Any = None,
    mask: Mask | None = None,
    format: str | None = None,
    **settings: Any,
) -> None:
    """Write a network in the format that the suffix of `path` names.

    Args:
        model: for C and ONNX, `nn.Sequential` of torch's own layers; for safetensors, any network.
        path: ends in ".c" (a header is written beside it), ".onnx" or ".safetensors".
        example: (N, ...) real inputs; C and ONNX need them.
        mask: of this network (`mask.shrunk()` if the network was shrunk); C does not store its
            dead synapses.
        format: "c", "c-int8" or "c-int8-int8" for C; that of the suffix if None.
        settings: for C, `name` and `classes` as in `sentei.formats.c.write_c`.

    Raises:
        StructureError: the format does not support one of the layers, which is named.
        ValueError: an unknown suffix or format, or a format that does not match the suffix.
        FileError: the file cannot be written.
    """
    format = checked(path, format)
    if settings and format not in C_FORMATS:
        raise ValueError(f"only C files accept {', '.join(settings)}; omit them for {format}")
    if format == "safetensors":
        save(model, path, mask)
    elif format == "onnx":
        write_onnx(model, path, example, mask)
    else:
        write_c(model, path, example, mask, format, **settings)


def checked(path: str | Path, format: str | None) -> str:
    """Return the format of a file to write: `format` itself, or that of the suffix if None.

    Raises:
        ValueError: an unknown suffix or format, or a format that does not match the suffix.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise ValueError(unknown("ending", suffix, SUFFIXES))
    if format is None:
        return SUFFIXES[suffix]
    known = [*C_FORMATS, "onnx", "safetensors"]
    if format not in known:
        raise ValueError(unknown("format", format, known))
    if format.partition("-")[0] != SUFFIXES[suffix]:
        raise ValueError(f"a file of format {format!r} does not end in {suffix!r}: {path}")
    return format
