"""`export`: a network in a format that others run, by the ending of the file's name."""

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
    """Write a network in the format that the file's ending names.

    Args:
        model: for C and ONNX, torch's own layers in `nn.Sequential`; any for safetensors.
        path: ends in ".c" (a header is written beside it), ".onnx" or ".safetensors".
        example: (N, ...) real inputs; C and ONNX need them.
        mask: of this network (`mask.shrunk()` of one that was shrunk); C does not store its dead
            synapses.
        format: "c", "c-int8" or "c-int8-int8" for C; what the ending says if None.
        settings: for C, `name` and `classes` as of `sentei.formats.c.write_c`.

    Raises:
        StructureError: the format does not have one of the layers, which is named.
        ValueError: an unknown ending or format, or a format that is not the ending's.
        FileError: the file cannot be written.
    """
    format = checked(path, format)
    if settings and format not in C_FORMATS:
        raise ValueError(f"{', '.join(settings)}: only a C file has these")
    if format == "safetensors":
        save(model, path, mask)
    elif format == "onnx":
        write_onnx(model, path, example, mask)
    else:
        write_c(model, path, example, mask, format, **settings)


def checked(path: str | Path, format: str | None) -> str:
    """The format of a file to be written, by its name or by the file's ending.

    Raises:
        ValueError: an unknown ending or format, or a format that is not the ending's.
    """
    ending = Path(path).suffix
    if ending not in SUFFIXES:
        raise ValueError(unknown("ending", ending, SUFFIXES))
    if format is None:
        return SUFFIXES[ending]
    known = [*C_FORMATS, "onnx", "safetensors"]
    if format not in known:
        raise ValueError(unknown("format", format, known))
    if format.partition("-")[0] != SUFFIXES[ending]:
        raise ValueError(f"a file of format {format!r} does not end in {ending!r}: {path}")
    return format
