"""Export a network: one writer a format, chosen by name or by the suffix of the file name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sentei import arguments, storage
from sentei.formats.c import write_c
from sentei.formats.onnx import write_onnx
from sentei.formats.safetensors import save
from sentei.network.encoding.carrying import carried
from sentei.network.encoding.format import (
    C_FORMATS,
    SAFETENSORS,
    format_ending_in,
    format_named,
)
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.running import Forward

# The writer of each format: functions (model, path, example, mask), for C with further settings.
WRITERS: Mapping[str, Callable[..., object]] = {
    SAFETENSORS.name: lambda model, path, _, mask: save(model, path, mask),
    "onnx": write_onnx,
    **{name: partial(write_c, format=name) for name in C_FORMATS},
}


@arguments.checked
def export(
    model: nn.Module,
    path: str | Path,
    example: Any = None,
    mask: Mask | None = None,
    format: str | None = None,
    *,
    forward: Forward | None = None,
    **settings: Any,
) -> None:
    """Write a network in the format that the suffix of `path` names.

    Args:
        model: for C, torch's own layers in `nn.Sequential`, or called by a `forward` that adds what
            they return, joins it and reshapes it; for ONNX and safetensors, any network. Those that
            C takes become ONNX files of a planned size; others are written by torch, and
            onnxruntime compares the file with the network (`pip install 'sentei[onnx]'`).
        path: ends in ".c" (a header is written beside it), ".onnx" or ".safetensors".
        example: (N, ...) real inputs, which C and ONNX need; for ONNX also a tuple of arguments or
            a dict of keywords, whose names the inputs then have. The number of samples is free in
            the file where the network allows it; otherwise that is logged.
        mask: of this network (`mask.shrunk()` if the network was shrunk); C does not store its
            dead synapses.
        format: "c", "c-int8", "c-int8-int8" or "c-int8-int16" for C; that of the suffix if None.
        forward: as for `find_units`. C and ONNX hold what it computes; safetensors holds the whole
            network.
        settings: for C, `name`, `classes`, `notes` and `stream` as in `sentei.formats.c.write_c`.

    Raises:
        StructureError: the format does not support one of the layers, which is named, or torch
            cannot write the network as ONNX.
        CertificateError: the ONNX file that torch writes computes other outputs.
        DataError: the example is missing, or does not run.
        ValueError: an unknown suffix or format, or a format that does not match the suffix.
        FileError: the file cannot be written, or the network has what a file cannot carry.
    """
    format = checked(path, format)
    if settings and format not in C_FORMATS:
        raise ValueError(f"only C files accept {', '.join(settings)}; omit them for {format}")
    storage.writable(path)
    carried(model)
    example = with_forward(model, example, forward)
    WRITERS[format](model, path, example, mask, **settings)


def checked(path: str | Path, format: str | None) -> str:
    """Return the format of a file to write: `format` itself, or that of the suffix if None.

    Raises:
        ValueError: an unknown suffix or format, or a format that does not match the suffix.
    """
    meant = format_ending_in(Path(path).suffix)
    if format is None:
        return meant.name
    suffix = format_named(format).suffix
    if suffix != meant.suffix:
        raise ValueError(
            f"a file of format {format!r} does not end in {meant.suffix!r}: {path}. Name it "
            f"{Path(path).stem}{suffix}, or choose the format {meant.name!r}."
        )
    return format
