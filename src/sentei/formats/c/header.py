"""Write the header of a C file: sizes, scaling, functions, and the names of inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from string import Template

from sentei.card import Card
from sentei.formats.c.comment import has_classes, string
from sentei.formats.c.dialect import literal
from sentei.formats.c.layout import laid_out, wrapped
from sentei.formats.c.quantised import Stored
from sentei.network.encoding.format import c_numbers
from sentei.network.encoding.stages import size_of


def header(net: Stored, prefix: str, card: Card, about: str, window: int | None = None) -> str:
    """Return the text of the .h file, which compiles as C99 and as C++.

    Args:
        net: what the C file holds.
        prefix: of all names in it.
        card: names of outputs and inputs, and what the network predicts.
        about: the comment at the top.
        window: steps of a window, of which each call is given the new ones; None if each is given
            all.
    """
    plan, up = net.plan, prefix.upper()
    inputs, out = size_of(plan.blocks[0].head.entering), plan.blocks[-1].out
    act = f"int{8 * c_numbers(plan.format).activation}_t"
    given = "float" if net.input_scale is None else act
    lines = [
        about,
        f"#ifndef {up}_H",
        f"#define {up}_H\n",
        "#include <stdint.h>\n",
        f"#define {up}_INPUTS {inputs}",
        f"#define {up}_OUTPUTS {out}",
        f"#define {up}_FLASH_BYTES {plan.flash}L /* constants; code comes on top */",
        f"#define {up}_RAM_BYTES {plan.ram}L /* static; the stack comes on top */",
        *_scaling(up, net),
        *_window(up, plan.blocks[0].head.entering[-1], window),
        '\n#ifdef __cplusplus\nextern "C" {\n#endif\n',
        *_reset(prefix, window),
        "/* All outputs for one sample. Not reentrant: activations are in static buffers. */",
        f"void {prefix}_predict(const {given} x[{up}_INPUTS], float y[{up}_OUTPUTS]);\n",
    ]
    if has_classes(card, out):
        lines += [
            "/* The class of one sample: the position of its largest output. */",
            f"int {prefix}_classify(const {given} x[{up}_INPUTS]);\n",
        ]
    names = {"prefix": prefix, "up": up, "act": act}
    if net.scales:
        lines[-1:] = [
            f"/* Outputs of the last linear layer in steps of {up}_OUTPUT_STEP. */",
            f"void {prefix}_predict_steps(const {given} x[{up}_INPUTS],"
            f" int16_t y[{up}_OUTPUTS]);\n",
            "/* The real value of an output in steps. */",
            laid_out(_DEQUANTISE.substitute(names)),
            lines[-1],
        ]
    if net.input_scale is not None:
        factor, top = literal(1.0 / net.input_scale.step), net.input_scale.top
        lines += [
            f"/* Turn values in real units into steps: rounded, and limited to -{top} to {top}. */",
            laid_out(_QUANTISE_INPUT.substitute(names, factor=factor, top=f"{top}.0f")),
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


def _scaling(up: str, net: Stored) -> list[str]:
    """Return the macros that say how integers are scaled; none if there are only floats."""
    lines = []
    if net.input_scale is not None:
        step, top = literal(net.input_scale.step), net.input_scale.top
        lines += [
            f"\n/* An input v is passed as v / {up}_INPUT_STEP, rounded, from -{top} to {top}. */",
            f"#define {up}_INPUT_STEP {step}",
        ]
    if net.scales:
        lines.append(f"#define {up}_OUTPUT_STEP {literal(net.output_step)}")
    return lines


def _window(up: str, new: int, window: int | None) -> list[str]:
    """Return the macros that say how many steps a window has, and how many of them are new."""
    if window is None:
        return []
    return [
        f"\n/* A sample is the last {up}_WINDOW steps; a call is given the {up}_NEW newest. */",
        f"#define {up}_WINDOW {window}",
        f"#define {up}_NEW {new}",
    ]


def _reset(prefix: str, window: int | None) -> list[str]:
    """Return the declaration of the function that forgets earlier steps."""
    if window is None:
        return []
    return [
        "/* Forget earlier steps, as at the start: they are zeros until a window is full. */",
        f"void {prefix}_reset(void);\n",
    ]


def _names(name: str, count: str, texts: Sequence[str]) -> list[str]:
    """Return an array of texts; nothing if there are none."""
    words = wrapped([string(text) for text in texts])
    return [f"static const char *const {name}[{count}] = {{\n{words}}};"] if texts else []


_QUANTISE_INPUT = Template("""\
static inline void ${prefix}_quantise_input(const float v[${up}_INPUTS], $act x[${up}_INPUTS])
{
    int k;
    for (k = 0; k < ${up}_INPUTS; k++) {
        const float steps = v[k] * $factor;
        x[k] = ($act)(steps <= -$top ? -$top : steps >= $top ? $top
            : steps < 0.0f ? steps - 0.5f : steps + 0.5f);
    }
}
""")

_DEQUANTISE = Template("""\
static inline float ${prefix}_dequantise(int16_t steps)
{
    return (float)steps * ${up}_OUTPUT_STEP;
}
""")
