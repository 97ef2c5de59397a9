"""Generate the C functions for linear layers, convolutions and pooling."""

from __future__ import annotations

from sentei.formats.c.dialect import Dialect
from sentei.formats.c.elementwise import applied
from sentei.formats.c.integers import Layer
from sentei.formats.c.weight_loops import weight_loop
from sentei.network.encoding.blocks import Block
from sentei.network.encoding.coding import Code
from sentei.network.encoding.sliding import Window
from sentei.network.encoding.stages import Pool, Weighted, size_of


def linear(
    dialect: Dialect, name: str, code: Code, out: str, *, curved: bool = False, in_parts: bool
) -> str:
    """Generate the C function of a linear layer; layers with the same code can share it.

    Args:
        dialect: of the file.
        name: of the function.
        code: how the weights are listed.
        out: C type of an output.
        curved: whether a table of a function follows, for integers.
        in_parts: add floats in parts of 32 first, which has a third of the rounding error of one
            long sum.
    """
    loop = weight_loop(dialect, code, "columns")
    tables = "".join(f", const {kind} *{table}" for kind, table in loop.tables)
    scales = ", const float *scale" if dialect.numbers.weight == 1 else ""
    biases = ", const float *bias"
    if dialect.integers:
        scales = ", const int32_t *factor"
        biases = ", const int32_t *bias, unsigned shift, int32_t low, int32_t high"
        biases += f", const {dialect.activation} *curve" if curved else ""
    each, row_sum, begin = f"sum += {dialect.product('x[column]')};", "sum", "sum = 0"
    if dialect.total == "float":
        begin = "sum = 0.0f"
    if in_parts and dialect.total == "float":
        each = each.replace("sum", "part") + " if (!(++n & 31)) { sum += part; part = 0.0f; }"
        row_sum, begin = "(sum + part)", "sum = 0.0f, part = 0.0f; unsigned n = 0"
    lines = [
        f"static void {name}(const {dialect.activation} *x, {out} *y, unsigned rows,",
        f"    unsigned columns, const {dialect.weight} *w{tables}{scales}{biases})",
        "{",
        *(f"    {line}" for line in loop.begin),
        "    for (; rows; rows--) {",
        f"        {dialect.total} {begin};",
        *(f"        {line.replace('{each}', each)}" for line in loop.row),
        f"        *y++ = {_settled(dialect, row_sum, out, curved=curved)};",
        "    }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _settled(dialect: Dialect, total: str, out: str, *, curved: bool) -> str:
    """Return the C expression for a row's output: its sum, scaled, plus bias; or in steps."""
    if not dialect.integers:
        scaled = dialect.numbers.weight == 1
        scale = f" * {dialect.read('scale++', 'float')}" if scaled else ""
        return f"{total}{scale} + {dialect.read('bias++', 'float')}"
    bias, factor = (dialect.read(f"{name}++", "int32_t") for name in ("bias", "factor"))
    value = f"{dialect.name}_rescaled({total} + {bias}, {factor}, shift, low, high)"
    return f"({out})" + (f"{dialect.name}_curve(curve, {value})" if curved else value)


def convolution(dialect: Dialect, name: str, block: Block, code: Code, layer: Layer | None) -> str:
    """Generate the C functions of a convolution with its activations and pooling.

    Output channels are computed one after another, each with its activations and its pooling. Each
    weight is applied to all positions of the channel at once, so decoding it costs little in any
    code.
    """
    head = block.head
    assert isinstance(head, Weighted)
    assert head.window is not None
    act = dialect.activation
    columns, plane = head.weight.shape[1], block.plane
    per_group = len(head.weight) // head.groups
    source = size_of(head.entering) // head.groups
    at = f"x + row / {per_group}u * {source}u" if head.groups > 1 else "x"
    loop = weight_loop(dialect, code, f"{columns}u")
    each = f"{name}_spread({at}, {dialect.read('w++', dialect.weight)}, column);"
    scale, numbers = ("factor", "int32_t") if dialect.integers else ("scale", "float")
    scaled = dialect.numbers.weight == 1
    lines = [
        f"static void {name}(const {act} *x, {act} *y)",
        "{",
        f"    const {dialect.weight} *w = {name}_weights;",
        *(f"    const {kind} *{table} = {name}_{table};" for kind, table in loop.tables),
        *([f"    const {numbers} *{scale} = {name}_{scale};"] if scaled else []),
        f"    const {numbers} *bias = {name}_bias;",
        "    unsigned row, k;",
        *(f"    {line}" for line in loop.begin),
        f"    for (row = 0; row < {len(head.weight)}u; row++) {{",
        f"        for (k = 0; k < {plane}u; k++) {dialect.name}_work[k] = 0;",
        *(f"        {line.replace('{each}', each)}" for line in loop.row),
        *(f"        {line}" for line in _finished(dialect, name, block, layer)),
        *([f"        {f'{scale}++; ' if scaled else ''}bias++;"]),
        "    }",
        "}",
    ]
    parts = [_spread(dialect, name, head, head.window)]
    if block.pool is not None:
        own = dialect.total
        out = own if layer is not None and _pools_sums(block, layer) else act
        parts.append(pool(f"{name}_pool", block.pool, own, out))
    return "\n".join([*parts, "\n".join(lines) + "\n"])


def _finished(dialect: Dialect, name: str, block: Block, layer: Layer | None) -> list[str]:
    """Return the C statements that turn the sums of a channel into its outputs."""
    plane, count = f"{dialect.name}_work", block.plane
    if layer is not None and block.pool is not None and _pools_sums(block, layer):
        left = size_of(block.pool.leaving[1:])
        return [
            f"{name}_pool({plane}, {plane});",
            f"for (k = 0; k < {left}u; k++) *y++ = {_plane_steps(dialect, name, layer)};",
        ]
    if layer is not None:
        value = _plane_steps(dialect, name, layer)
    else:
        value = applied(dialect, block.before, _plane_value(dialect))
    target = f"{plane}[k]" if block.pool else "*y++"
    lines = [f"for (k = 0; k < {count}u; k++) {target} = {value};"]
    if block.pool is not None:
        left = size_of(block.pool.leaving[1:])
        after = applied(dialect, block.after, "*y")
        step = f"for (k = 0; k < {left}u; k++, y++) *y = {after};" if block.after else ""
        lines += [f"{name}_pool({plane}, y);", step or f"y += {left}u;"]
    return lines


def _pools_sums(block: Block, layer: Layer) -> bool:
    """Return whether the maximum is taken of sums, in place, before they are rescaled.

    The results are the same, and fewer values are rescaled. Padding would read sums that the pool
    has overwritten; a curve may fall.
    """
    pool = block.pool
    return (
        pool is not None
        and pool.how == "max"
        and not any(pool.window.padding)
        and (layer.curve is None)
    )


def _plane_value(dialect: Dialect) -> str:
    """Return the C expression for one value of the plane in real units: scaled, plus bias."""
    scale = f" * {dialect.read('scale', 'float')}" if dialect.numbers.weight == 1 else ""
    return f"{dialect.name}_work[k]{scale} + {dialect.read('bias', 'float')}"


def _plane_steps(dialect: Dialect, name: str, layer: Layer) -> str:
    """Return the C expression for one value of the plane in steps of the layer's output."""
    bias, factor = (dialect.read(what, "int32_t") for what in ("bias", "factor"))
    total, limits = f"{dialect.name}_work[k] + {bias}", f"{layer.low}, {layer.high}"
    value = f"{dialect.name}_rescaled({total}, {factor}, {layer.shift}u, {limits})"
    if layer.curve is not None:
        value = f"{dialect.name}_curve({name}_curve, {value})"
    return f"({dialect.activation}){value}"


def _spread(dialect: Dialect, name: str, head: Weighted, window: Window) -> str:
    """Generate the C function that adds one weight times its inputs to a whole channel."""
    (_, height, width), (_, down, across) = head.entering, head.leaving
    kernel = window.kernel
    weight = dialect.total
    axes = {"i": (height, down, 0), "j": (width, across, 1)}
    bounds = []
    for variable, (side, out, axis) in axes.items():
        pad, step, dilation = window.padding[axis], window.stride[axis], window.dilation[axis]
        first, last = f"{variable}_first", f"{variable}_last"
        if pad:
            shift = f"{variable} * {dilation}"
            room = f"{side + pad - 1} - {shift}"
            bounds += [
                f"const int {first} = {pad} > {shift}"
                f" ? ({pad} - {shift} + {step - 1}) / {step} : 0;",
                f"const int {last} = {room} < 0 ? 0 : {room} >= {step * (out - 1)} ? {out}"
                f" : ({room}) / {step} + 1;",
            ]
        else:
            bounds += [f"const int {first} = 0, {last} = {out};"]
    u = _input_position("r", "i", window, 0)
    v = _input_position("c", "j", window, 1)
    return "\n".join(
        [
            f"static void {name}_spread(const {dialect.activation} *x, {weight} weight,"
            " unsigned column)",
            "{",
            f"    const int i = (int)(column / {kernel[1]}u % {kernel[0]}u);",
            f"    const int j = (int)(column % {kernel[1]}u);",
            *(f"    {line}" for line in bounds),
            "    int r, c;",
            f"    x += column / {kernel[0] * kernel[1]}u * {height * width}u;",
            "    for (r = i_first; r < i_last; r++) {",
            f"        {dialect.total} *y = {dialect.name}_work + r * {across};",
            f"        const {dialect.activation} *from = x + ({u}) * {width};",
            f"        for (c = j_first; c < j_last; c++) y[c] += weight * from[{v}];",
            "    }",
            "}",
            "",
        ]
    )


def _input_position(position: str, tap: str, window: Window, axis: int) -> str:
    """Return the C expression for the input position of a kernel tap at an output position."""
    step, dilation, pad = window.stride[axis], window.dilation[axis], window.padding[axis]
    text = position if step == 1 else f"{position} * {step}"
    text += f" + {tap}" if dilation == 1 else f" + {tap} * {dilation}"
    return text if not pad else f"{text} - {pad}"


def pool(name: str, stage: Pool, own: str, out: str) -> str:
    """Generate the C function that pools one channel, from values of C type `own` to type `out`."""
    (_, height, width), (_, down, across) = stage.entering, stage.leaving
    window = stage.window
    kernel = window.kernel
    padded = any(window.padding)
    inside = f"if (u < 0 || u >= {height} || v < 0 || v >= {width}) continue;"
    if stage.how == "max":
        best = "-3.402823466e38f" if own == "float" else f"{own.removesuffix('_t').upper()}_MIN"
        begin, each = f"{own} best = {best};", "if (value > best) best = value;"
        result = "best" if own == out else f"({out})best"
    else:
        total = "float" if own == "float" else "int32_t"
        counted = padded and not stage.count_padding
        begin = f"{total} sum = 0;" + (" int seen = 0;" if counted else "")
        each = "sum += value;" + (" seen++;" if counted else "")
        count = "seen" if counted else str(kernel[0] * kernel[1])
        result = "sum / (float)seen" if counted else f"sum / {count}.0f"
        if own != "float":
            result = f"({out})((sum < 0 ? sum - {count} / 2 : sum + {count} / 2) / {count})"
    lines = [
        f"static void {name}(const {own} *x, {out} *y)",
        "{",
        "    int r, c, i, j;",
        f"    for (r = 0; r < {down}; r++) for (c = 0; c < {across}; c++) {{",
        f"        {begin}",
        f"        for (i = 0; i < {kernel[0]}; i++) for (j = 0; j < {kernel[1]}; j++) {{",
        f"            const int u = {_input_position('r', 'i', window, 0)};",
        f"            const int v = {_input_position('c', 'j', window, 1)};",
        f"            {own} value;",
        *([f"            {inside}"] if padded else []),
        f"            value = x[u * {width} + v];",
        f"            {each}",
        "        }",
        f"        *y++ = {result};",
        "    }",
        "}",
        "",
    ]
    return "\n".join(lines)
