"""Write the header of a C file: sizes, scaling, functions, and the names of inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from string import Template

from sentei.card import Card
from sentei.formats.c.comment import has_classes, string
from sentei.formats.c.dialect import literal
from sentei.formats.c.layout import laid_out, wrapped
from sentei.formats.c.quantised import Stored
from sentei.network.encoding.plans import size


def header(net: Stored, prefix: str, card: Card, about: str) -> str:
    """Return the text of the .h file, which compiles as C99 and as C++.

    Args:
        net: what the C file holds.
        prefix: of all names in it.
        card: names of outputs and inputs, and what the network predicts.
        about: the comment at the top.
    """
    plan, up = net.plan, prefix.upper()
    inputs, out = size(plan.blocks[0].head.entering), plan.blocks[-1].out
    given = "float" if net.input_step is None else "int8_t"
    lines = [
        about,
        f"#ifndef {up}_H",
        f"#define {up}_H\n",
        "#include <stdint.h>\n",
        f"#define {up}_INPUTS {inputs}",
        f"#define {up}_OUTPUTS {out}",
        f"#define {up}_FLASH_BYTES {plan.flash}L /* constants; code comes on top */",
        f"#define {up}_RAM_BYTES {plan.ram}L /* static; the stack comes on top */",
        *([] if net.input_step is None else _scaling(up, net.input_step)),
        '\n#ifdef __cplusplus\nextern "C" {\n#endif\n',
        "/* All outputs for one sample. Not reentrant: activations are in static buffers. */",
        f"void {prefix}_predict(const {given} x[{up}_INPUTS], float y[{up}_OUTPUTS]);\n",
    ]
    if has_classes(card, out):
        lines += [
            "/* The class of one sample: the position of its largest output. */",
            f"int {prefix}_classify(const {given} x[{up}_INPUTS]);\n",
        ]
    if net.input_step is not None:
        factor = literal(1.0 / net.input_step)
        lines += [
            "/* Turn values in real units into steps: rounded, and limited to -127 to 127. */",
            laid_out(_QUANTISE_INPUT.substitute(prefix=prefix, up=up, factor=factor)),
        ]
    features = card.features if len(card.features) == inputs else ()
    if card.classes or features:
        lines += [
            f"/* Define {up}_NAMES before #include to have the names. */",
            f"#ifdef {up}_NAMES",
            *_names(f"{prefix}_names", f"{up}_OUTPUTS", card.classes),
            *_names(f"{prefix}_features", f"{up}_INPUTS", features),
            "#endif\n",
        ]
    lines += ["#ifdef __cplusplus\n}\n#endif\n", f"#endif /* {up}_H */\n"]
    return "\n".join(lines)


def _scaling(up: str, step: float) -> list[str]:
    return [
        f"\n/* An input v is passed as v / {up}_INPUT_STEP, rounded, from -127 to 127. */",
        f"#define {up}_INPUT_STEP {literal(step)}",
    ]


def _names(name: str, count: str, texts: Sequence[str]) -> list[str]:
    """Return an array of texts; nothing if there are none."""
    words = wrapped([string(text) for text in texts])
    return [f"static const char *const {name}[{count}] = {{\n{words}}};"] if texts else []


_QUANTISE_INPUT = Template("""\
static inline void ${prefix}_quantise_input(const float v[${up}_INPUTS], int8_t x[${up}_INPUTS])
{
    int k;
    for (k = 0; k < ${up}_INPUTS; k++) {
        const float steps = v[k] * $factor;
        x[k] = (int8_t)(steps <= -127.0f ? -127.0f : steps >= 127.0f ? 127.0f
            : steps < 0.0f ? steps - 0.5f : steps + 0.5f);
    }
}
""")
