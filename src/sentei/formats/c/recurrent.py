"""Generate the C functions of recurrent layers, with float activations."""

from __future__ import annotations

from collections.abc import Sequence

from sentei.formats.c.dialect import Dialect
from sentei.network.encoding.stages import Pointwise, Recurrent

# What a step computes for unit `k`: `a` are the products with the input, `b` with the state `h`;
# gates follow one another, each `units` long. Braces hold a gate's number or a function.
_STEPS = {
    "gru": (
        "const float reset = {sigmoid}(a[k] + b[k]);",
        "const float update = {sigmoid}(a[k + {1}] + b[k + {1}]);",
        "const float candidate = {tanh}(a[k + {2}] + reset * b[k + {2}]);",
        "h[k] = candidate + update * (h[k] - candidate);",
    ),
    "lstm": (
        "const float enter = {sigmoid}(a[k] + b[k]);",
        "const float forget = {sigmoid}(a[k + {1}] + b[k + {1}]);",
        "const float cell = {tanh}(a[k + {2}] + b[k + {2}]);",
        "const float out = {sigmoid}(a[k + {3}] + b[k + {3}]);",
        "c[k] = forget * c[k] + enter * cell;",
        "h[k] = out * {tanh}(c[k]);",
    ),
    "rnn_tanh": ("h[k] = {tanh}(a[k] + b[k]);",),
    "rnn_relu": ("h[k] = {relu}(a[k] + b[k]);",),
}
FUNCTIONS = {
    "gru": ("sigmoid", "tanh"),
    "lstm": ("sigmoid", "tanh"),
    "rnn_tanh": ("tanh",),
    "rnn_relu": ("relu",),
}


def functions_of(head: Recurrent) -> list[Pointwise]:
    """Return the element-wise functions of a recurrent layer."""
    return [Pointwise(head.name, (), (), name) for name in FUNCTIONS[head.kind]]


def recurrent(
    dialect: Dialect, name: str, head: Recurrent, functions: Sequence[str], tables: Sequence[str]
) -> str:
    """Generate the C function of a recurrent layer.

    Args:
        dialect: of the file.
        name: of the function.
        head: the layer.
        functions: of a linear layer, for the matrix that reads the input and the one that reads the
            state.
        tables: their tables, as C arguments.
    """
    units, steps, columns = head.units, head.entering[0], head.entering[2]
    states = 2 if head.kind == "lstm" else 1
    work = f"{dialect.name}_work"
    places = {each: f"{dialect.name}_{each}" for each in FUNCTIONS[head.kind]}
    gates = ("", *(f"{gate * units}u" for gate in range(1, 4)))
    step = [line.format(*gates, **places) for line in _STEPS[head.kind]]
    every_step = head.leaving[0] == steps
    lines = [
        f"static void {name}(const float *x, float *y)",
        "{",
        f"    float *const h = {work};",
        *([f"    float *const c = {work} + {units}u;"] if states == 2 else []),
        f"    float *const a = {work} + {states * units}u;",
        f"    float *const b = {work} + {states * units + head.gates}u;",
        "    unsigned step, k;",
        f"    for (k = 0; k < {states * units}u; k++) h[k] = 0.0f;",
        f"    for (step = 0; step < {steps}u; step++) {{",
        f"        {functions[0]}(x, a, {head.gates}u, {columns}u, {tables[0]});",
        f"        {functions[1]}(h, b, {head.gates}u, {units}u, {tables[1]});",
        f"        x += {columns}u;",
        f"        for (k = 0; k < {units}u; k++) {{",
        *(f"            {line}" for line in step),
        *(["            *y++ = h[k];"] if every_step else []),
        "        }",
        "    }",
        *([] if every_step else [f"    for (k = 0; k < {units}u; k++) y[k] = h[k];"]),
        "}",
    ]
    return "\n".join(lines) + "\n"
