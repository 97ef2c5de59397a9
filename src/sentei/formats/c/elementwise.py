"""C functions for element-wise activations."""

from __future__ import annotations

from collections.abc import Sequence

from sentei.formats.c.dialect import Dialect, literal
from sentei.network.encoding.stages import Pointwise


def point_functions(dialect: Dialect, points: Sequence[Pointwise]) -> dict[str, str]:
    """Return the C functions for these activations, by name."""
    found: dict[str, str] = {}
    for point in points:
        name = point_name(dialect, point)
        if point.function == "gelu":
            found[f"{dialect.name}_tail"] = _TAIL.format(name=dialect.name)
        expression = _EXPRESSIONS[point.function].format(
            *map(literal, point.settings), tail=f"{dialect.name}_tail(v)"
        )
        found[name] = f"static float {name}(float v)\n{{\n    return {expression};\n}}\n"
    return found


def point_name(dialect: Dialect, point: Pointwise) -> str:
    """Return the C name of an activation; its settings are part of the name."""
    marks = str.maketrans({".": "p", "-": "m", "+": "_"})
    settings = "".join(f"_{value:g}".translate(marks) for value in point.settings)
    return f"{dialect.name}_{point.function}{settings}"


# avr-libc has neither expm1f nor erff. The part of a normal distribution beyond |v|: Abramowitz and
# Stegun 7.1.26 for erfc(|v| / sqrt(2)) / 2, within 8e-8.
_TAIL = """\
static float {name}_tail(float v)
{{
    const float t = 1.0f / (1.0f + 0.231641888f * (v < 0.0f ? -v : v));
    const float p = 0.530702715f * t - 0.726576013f;
    return (((p * t + 0.710706871f) * t - 0.142248368f) * t + 0.127414796f) * t
        * expf(-0.5f * v * v);
}}
"""
_EXPRESSIONS = {
    "relu": "v > 0.0f ? v : 0.0f",
    "sigmoid": "1.0f / (1.0f + expf(-v))",
    "tanh": "tanhf(v)",
    "silu": "v / (1.0f + expf(-v))",
    "softsign": "v / (1.0f + (v < 0.0f ? -v : v))",
    "hard_sigmoid": "v <= -3.0f ? 0.0f : v >= 3.0f ? 1.0f : v / 6.0f + 0.5f",
    "hard_swish": "v <= -3.0f ? 0.0f : v >= 3.0f ? v : v * (v + 3.0f) / 6.0f",
    "leaky_relu": "v > 0.0f ? v : v * {0}",
    "elu": "v > 0.0f ? v : {0} * (expf(v) - 1.0f)",
    "clip": "v < {0} ? {0} : v > {1} ? {1} : v",
    "gelu": "v * (v < 0.0f ? {tail} : 1.0f - {tail})",
}
MATH = {"sigmoid", "tanh", "silu", "elu", "gelu"}


def applied(dialect: Dialect, points: Sequence[Pointwise], value: str) -> str:
    """Return the C expression that applies these activations to `value`, the first innermost."""
    for point in points:
        value = f"{point_name(dialect, point)}({value})"
    return value
