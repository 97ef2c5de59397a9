"""C functions for element-wise activations."""

from __future__ import annotations

from collections.abc import Sequence

from sentei.formats.c.dialect import Dialect, literal
from sentei.network.encoding.stages import Pointwise


def point_functions(dialect: Dialect, points: Sequence[Pointwise]) -> dict[str, str]:
    """Return the C functions for these activations, by name."""
    return {
        point_name(dialect, point): (
            f"static float {point_name(dialect, point)}(float v)\n{{\n"
            f"    return {_expression(point)};\n}}\n"
        )
        for point in points
    }


def _expression(point: Pointwise) -> str:
    return _EXPRESSIONS[point.function].format(*map(literal, point.settings))


def point_name(dialect: Dialect, point: Pointwise) -> str:
    """Return the C name of an activation; its settings are part of the name."""
    marks = str.maketrans({".": "p", "-": "m", "+": "_"})
    settings = "".join(f"_{value:g}".translate(marks) for value in point.settings)
    return f"{dialect.name}_{point.function}{settings}"


_EXPRESSIONS = {
    "relu": "v > 0.0f ? v : 0.0f",
    "sigmoid": "1.0f / (1.0f + expf(-v))",
    "tanh": "tanhf(v)",
    "silu": "v / (1.0f + expf(-v))",
    "softsign": "v / (1.0f + (v < 0.0f ? -v : v))",
    "hard_sigmoid": "v <= -3.0f ? 0.0f : v >= 3.0f ? 1.0f : v / 6.0f + 0.5f",
    "hard_swish": "v <= -3.0f ? 0.0f : v >= 3.0f ? v : v * (v + 3.0f) / 6.0f",
    "leaky_relu": "v > 0.0f ? v : v * {0}",
    "elu": "v > 0.0f ? v : {0} * expm1f(v)",
    "clip": "v < {0} ? {0} : v > {1} ? {1} : v",
    "gelu": "0.5f * v * (1.0f + erff(v * 0.707106781f))",
}
MATH = {"sigmoid", "tanh", "silu", "elu", "gelu"}


def applied(dialect: Dialect, points: Sequence[Pointwise], value: str) -> str:
    """Return the C expression that applies these activations to `value`, the first innermost."""
    for point in points:
        value = f"{point_name(dialect, point)}({value})"
    return value
