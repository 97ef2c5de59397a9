"""Write a network as a C99 file and a header: no malloc, constants in flash, with a self-test.

May import `network` with its packages, and the base modules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sentei import storage
from sentei.card import Card, card_of
from sentei.errors import DataError, FileError
from sentei.formats.c.comment import comment
from sentei.formats.c.header import header
from sentei.formats.c.quantised import Stored, stored
from sentei.formats.c.source import Source
from sentei.network.encoding.carrying import carried
from sentei.network.encoding.converting import stages
from sentei.network.encoding.evaluating import check_stages
from sentei.network.encoding.format import C_FORMATS
from sentei.network.encoding.plans import Plan, c_plan
from sentei.network.layers import Standardise, standardises
from sentei.network.mask import Mask
from sentei.running import forward_of, own_inputs

GOLDEN = 4  # samples in the self-test


def write_c(
    model: nn.Module,
    path: str | Path,
    example: Any,
    mask: Mask | None = None,
    format: str = "c",
    name: str | None = None,
    classes: Sequence[str] | None = None,
    scaling: Any = None,
    notes: Sequence[str] = (),
    stream: int | None = None,
) -> Plan:
    """Write a network as C: the file `path` and a header beside it.

    Args:
        model: linear, convolutional, recurrent and pooling layers, batch norm and activations, in
            `nn.Sequential` or called by a `forward` of its own, which may add what they return,
            join it along the first dimension and reshape it; already shrunk.
        path: ends in ".c".
        example: (N, ...) real inputs; the self-test uses the first four, and int8 activations are
            calibrated on all of them.
        mask: of this network (`mask.shrunk()`); dead synapses are not stored. If None, all weights
            are stored, zeros too.
        format: "c" (float32), "c-int8" (int8 weights), "c-int8-int8" (int8 activations too) or
            "c-int8-int16" (activations of 16 bits).
        name: prefix of all names in the file; the file's name without ".c" if None.
        classes: names of the outputs; those in the network's `Card` if None. The header lists them,
            and the names of the inputs in the `Card`, as arrays of texts where NAME_NAMES is
            defined.
        scaling: the `datasets.Scaling` that the network's inputs were standardised with outside the
            network. The comment says that callers have to do the same. None if the network takes
            inputs as they are in the data, as one that begins with `Standardise` does.
        notes: further lines of the comment, such as how accurate the file was measured to be.
        stream: of a network over windows of a signal, (channels, steps): how many new steps each
            call is given. Convolutions without padding then compute new outputs alone, and keep
            what they need of earlier steps; `NAME_reset` forgets it. None if each call is given a
            whole sample.

    The file has the functions `NAME_predict`, all outputs, and `NAME_classify`, the position of the
    largest one; the second not if the network has one output, or its `Card` says that it predicts
    values. Where activations are integers, `NAME_predict_steps` gives the outputs of the last
    linear layer in steps, without floating point, and `NAME_dequantise` turns one into a float.

    Returns:
        The plan; the file has exactly its sizes.

    Raises:
        StructureError: a layer that C does not support, one with no input left, or a weight that is
            not finite; the layer is named.
        ValueError: an unknown format, a name that is no C identifier, or a wrong number of classes.
        FileError: the files cannot be written, or the network has what a file cannot carry.
    """
    if scaling is not None:
        Standardise.of(scaling)  # refuses what is none
    path = Path(path)
    name = identifier(path.stem if name is None else name)
    for each in (path.with_suffix(".h"), path):
        storage.writable(each)
    net = as_c(model, example, mask, format)
    card = _card(model, classes, net.plan.blocks[-1].out)
    source = Source(net, name, card, stream)
    window = None if stream is None else net.plan.blocks[0].head.entering[-1]
    net = source.net
    if source.flash != net.plan.flash:
        raise FileError(
            f"{path} would have {source.flash} bytes of constants; {net.plan.flash} were planned"
        )
    about = comment(
        net, path.stem, name, card, raw=standardises(model), scaling=scaling, notes=notes
    )
    code = source.code(about, _samples(example)[:GOLDEN])
    code = code.replace(f'#include "{name}.h"', f'#include "{path.stem}.h"')
    storage.write(path.with_suffix(".h"), header(net, name, card, about, window).encode())
    storage.write(path, code.encode())
    return net.plan


def as_c(model: nn.Module, example: Any, mask: Mask | None, format: str) -> Stored:
    """Return the plan and the stored numbers of a network's C file; arguments as in `write_c`."""
    samples = _samples(example)
    shape = tuple(samples.shape[1:])
    found = stages(carried(model), shape, mask, forward_of(example))
    plan = c_plan(found, format)
    check_stages(model, example, found)
    return stored(plan, samples.reshape(len(samples), *plan.blocks[0].head.entering))


def _samples(example: Any) -> Tensor:
    example = own_inputs(example)
    if not isinstance(example, Tensor) or example.ndim < 2 or not len(example):
        raise DataError(
            "a C file needs example=, a tensor (N, ...) of real inputs: its shape is the input "
            f"shape and its values are used in the self-test; got {type(example).__name__}"
        )
    return example.detach().cpu().float()


def identifier(name: str) -> str:
    """Return the name unchanged if it is a C identifier.

    Raises:
        ValueError: the name is no C identifier, or is a reserved word.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in _RESERVED:
        raise ValueError(
            f"names in C consist of letters, digits and underscores, begin with a letter and are "
            f"not reserved words; got {name!r}. Choose another file name, or pass name=."
        )
    return name


_RESERVED = frozenset(
    word
    for words in (
        "auto break case char const continue default do double else enum extern float for goto if",
        "inline int long register restrict return short signed sizeof static struct switch typedef",
        "union unsigned void volatile while asm main class namespace template new delete this",
    )
    for word in words.split()
)


def _card(model: nn.Module, classes: Sequence[str] | None, out: int) -> Card:
    """Return what the network predicts, with the names of its outputs, if all have one."""
    card = card_of(model)
    if classes is not None and len(classes) != out:
        raise ValueError(
            f"the network has {out} outputs and {len(classes)} classes were named; name all outputs"
        )
    named = card.classes if len(card.classes) == out else ()
    return replace(card, classes=named if classes is None else tuple(map(str, classes)))


__all__ = ["C_FORMATS", "GOLDEN", "as_c", "identifier", "write_c"]
