"""Write the comment at the top of a C file: sizes, layers, inputs, outputs and usage."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any

from sentei.card import Card
from sentei.errors import visible
from sentei.formats.c.layout import WIDTH
from sentei.formats.c.quantised import Stored
from sentei.network.encoding.format import c_numbers
from sentei.network.encoding.packing import release
from sentei.network.encoding.stages import size_of


def comment(
    net: Stored,
    file: str,
    name: str,
    card: Card,
    *,
    raw: bool,
    scaling: Any = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the comment.

    Args:
        net: what the file holds.
        file: name of the C file without ".c".
        name: prefix of all names in it.
        card: names of outputs and inputs, and what the network predicts.
        raw: whether the network standardises its inputs itself.
        scaling: what inputs have to be standardised with before a call; None if nothing.
        notes: further lines, after the sizes.
    """
    plan = net.plan
    heads = [block.head for block in plan.blocks]
    act = f"int{8 * c_numbers(plan.format).activation}_t"
    given = "float" if net.input_scale is None else act
    inputs, out = size_of(heads[0].entering), plan.blocks[-1].out
    lines = [
        f"{name}: {inputs} inputs, {out} outputs. Written by sentei {release()}.",
        "",
        f"Constants {plan.flash} bytes, static RAM {plan.ram} bytes, format {plan.format}.",
        *notes,
        "",
    ]
    for head, coding, constants in zip(heads, plan.coding, plan.constants, strict=True):
        for matrix, code in zip(head.matrices, coding, strict=True):
            rows, columns = matrix.weight.shape
            lines.append(
                f"  {matrix.name}: {matrix.alive.count} of {rows} x {columns} weights, {code}"
            )
        if coding:
            lines[-1] += f", {constants} bytes"
    features = card.features if len(card.features) == inputs else ()
    scale = "" if net.input_scale is None else f", as steps of {name.upper()}_INPUT_STEP"
    shape = " x ".join(map(str, heads[0].entering))
    lines += [
        "",
        f"Inputs: {shape}, rows one after another{scale}.",
        *([f"They are {', '.join(features)}."] if features and scaling is None else []),
        *(["They are as in the data: the code standardises them."] if raw else []),
        *([] if scaling is None else _to_standardise(scaling, features)),
        f"Outputs: {', '.join(card.classes or map(str, range(out)))}.",
        "",
        f'  #include "{file}.h"',
        f"  {given} x[{name.upper()}_INPUTS];  ...",
        f"  int k = {name}_classify(x);"
        if has_classes(card, out)
        else f"  float y[{name.upper()}_OUTPUTS]; {name}_predict(x, y);",
        "",
        f"Self-test: cc -std=c99 -D{name.upper()}_SELF_TEST {file}.c -lm && ./a.out",
    ]
    short = [part for line in lines for part in _short(_harmless(line))]
    body = "\n".join(f" * {part}".rstrip() for part in short)
    return f"/*\n{body}\n */\n"


def _short(line: str) -> list[str]:
    """Return a line broken between words, so that none is over 100 columns with its margin."""
    indent = re.match(" *", line)
    inner = "    " + (indent[0] if indent else "")
    return textwrap.wrap(
        line,
        WIDTH - 3,
        subsequent_indent=inner,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def has_classes(card: Card, out: int) -> bool:
    """Return whether the position of the largest output is a class."""
    return out > 1 and card.predicts != "values"


def string(text: str) -> str:
    """Return a C string constant with these characters in UTF-8."""
    letters = (chr(byte) for byte in text.encode())
    # Two question marks may begin a trigraph.
    plain = (c if " " <= c <= "~" and c not in '"\\?' else f"\\{ord(c):03o}" for c in letters)
    return f'"{"".join(plain)}"'


def _to_standardise(scaling: Any, features: tuple[str, ...]) -> list[str]:
    """Return what callers have to do with each value before a call."""
    mean, std = (values.flatten().tolist() for values in (scaling.mean, scaling.std))
    lines = [
        "They must be standardised before a call: subtract the mean of each value and divide by",
        "its deviation.",
    ]
    for place, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        named = f"  ({features[place]})" if features else ""
        lines.append(f"  x[{place}] = (value - {centre:.9g}) / {spread:.9g}{named}")
    return lines


def _harmless(line: str) -> str:
    """Return a line of the comment in which names cannot end it or begin another."""
    line = visible(line).replace("\n", " ").replace("??", "? ?")
    return re.sub(r"\\$", "\\\\ .", re.sub(r"(\*)(?=/)|(/)(?=\*)", r"\1\2 ", line))
