"""Generate the C functions for linear layers, convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence

from sentei.formats.c.dialect import Dialect
from sentei.formats.c.elementwise import applied
from sentei.formats.c.integers import Layer
from sentei.formats.c.weight_loops import weight_loop
from sentei.network.encoding.blocks import Block
from sentei.network.encoding.coding import Code
from sentei.network.encoding.sliding import Window
from sentei.network.encoding.stages import Pool, Weighted, size_of

LISTED = 16  # columns of alive weights that are listed before they are applied
# Weights that are applied in one pass over a channel. With two padded convolutions in int8, two
# take 16 % fewer cycles of a Cortex-M4 than one, and 530 bytes more of flash; four take 7 % fewer
# again, and 760 bytes more.
TAPS = 2


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
    flush = f"{name}_spread({at}, w, columns, n); w += n; n = 0;"
    listing = f"{loop.listing.format(kind=_column(head))} if (n == {LISTED}u) {{ {flush} }}"
    scale, numbers = ("factor", "int32_t") if dialect.integers else ("scale", "float")
    scaled = dialect.numbers.weight == 1
    lines = [
        f"static void {name}(const {act} *x, {act} *y)",
        "{",
        f"    const {dialect.weight} *w = {name}_weights;",
        *(f"    const {kind} *{table} = {name}_{table};" for kind, table in loop.tables),
        *([f"    const {numbers} *{scale} = {name}_{scale};"] if scaled else []),
        f"    const {numbers} *bias = {name}_bias;",
        f"    {_column(head)} columns[{LISTED}];",
        "    unsigned row, k, n = 0;",
        *(f"    {line}" for line in loop.begin),
        f"    for (row = 0; row < {len(head.weight)}u; row++) {{",
        f"        for (k = 0; k < {plane}u; k++) {dialect.name}_work[k] = 0;",
        *(f"        {line.replace('{each}', listing)}" for line in loop.listed),
        f"        {flush}",
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
    """Generate the C function that adds the next weights times their inputs to a whole channel.

    Several weights at once, because each pass over the channel loads and stores all its sums;
    fewer are left at the end of a row. A weight whose inputs are padding in a row of outputs counts
    as zero there; at the sides, outputs that not all weights reach are computed one by one.
    """
    (_, height, width), (_, down, across) = head.entering, head.leaving
    act, total, factor = dialect.activation, dialect.total, _factor(dialect)
    above, beside = (pad > 0 for pad in window.padding)
    places = [_tap(window, t, height, width, across) for t in range(TAPS)]
    row = "r" if window.stride[0] == 1 else f"r * {window.stride[0]}"
    step = window.stride[1]
    weights = [dialect.read(f"w + {t}" if t else "w", dialect.weight) for t in range(TAPS)]
    others = [f"n > {t}u ? {weight} : 0" for t, weight in enumerate(weights)][1:]
    rows, sides = [], []
    for t in range(TAPS):
        up, weight = f"{row} + i_{t}", f"w_{t}"
        if above:
            rows += [
                f"const int in_{t} = {up} >= 0 && {up} < {height};",
                f"const {factor} v_{t} = in_{t} ? w_{t} : 0;",
            ]
            up, weight = f"in_{t} ? {up} : 0", f"v_{t}"
        rows.append(f"const {act} *p_{t} = x + at_{t} + ({up}) * {width};")
        for begin, end in ((f"first_{t}", "first"), ("last", f"last_{t}")) if beside else ():
            sides.append(
                f"for (c = {begin}; c < {end}; c++) y[c] += {weight} * p_{t}[{_times('c', step)}];"
            )
    first, count = ("first", "last - first") if beside else ("0", str(across))
    given = [f"p_{t} + {_times('first', step)}" if beside else f"p_{t}" for t in range(TAPS)]
    given += [f"{'v' if above else 'w'}_{t}" for t in range(TAPS)]
    added = f"{dialect.name}_add_{step}(y + {first}, {count}, {', '.join(given)});"
    return "\n".join(
        [
            f"static void {name}_spread(const {act} *x, const {dialect.weight} *w,"
            f" const {_column(head)} *columns, unsigned n)",
            "{",
            f"    for (; n; w += {TAPS}, columns += {TAPS}, n = n > {TAPS}u ? n - {TAPS}u : 0) {{",
            f"        const {factor} w_0 = {weights[0]};",
            *(f"        const {factor} w_{t} = {weight};" for t, weight in enumerate(others, 1)),
            *(f"        {line}" for lines in places for line in lines),
            *([f"        {line}" for line in _shared_side()] if beside else []),
            "        int r" + (", c;" if beside else ";"),
            f"        for (r = 0; r < {down}; r++) {{",
            f"            {total} *y = {dialect.name}_work + r * {across};",
            *(f"            {line}" for line in rows),
            f"            {added}",
            *(f"            {line}" for line in sides),
            "        }",
            "    }",
            "}",
            "",
        ]
    )


def add(dialect: Dialect, step: int) -> str:
    """Generate the C function that adds products of some weights to the sums of a row of outputs.

    Args:
        dialect: of the file.
        step: from the input of one output to that of the next.
    """
    pointers = ", ".join(f"const {dialect.activation} *restrict p_{t}" for t in range(TAPS))
    weights = ", ".join(f"{_factor(dialect)} w_{t}" for t in range(TAPS))
    terms = [f"w_{t} * p_{t}[{_times('k', step)}]" for t in range(TAPS)]
    return (
        f"static void {dialect.name}_add_{step}({dialect.total} *restrict y, int n,"
        f" {pointers}, {weights})\n{{\n    int k;\n"
        f"    for (k = 0; k < n; k++) y[k] += {_summed(dialect, terms)};\n}}\n"
    )


def _times(value: str, factor: int) -> str:
    """Return the C expression for a product; a factor of 1 is left out."""
    return value if factor == 1 else f"{value} * {factor}"


def _factor(dialect: Dialect) -> str:
    """Return the C type of a weight that is multiplied."""
    return "int16_t" if dialect.integers else "float"


def _column(head: Weighted) -> str:
    """Return the C type of a column number."""
    return "uint16_t" if head.weight.shape[1] <= 65536 else "uint32_t"


def _summed(dialect: Dialect, terms: Sequence[str]) -> str:
    """Return the C expression for the sum of products; two of int8 numbers fit 16 bits."""
    if dialect.activation == "int16_t":
        return " + ".join(f"(int32_t){term}" for term in terms)
    if dialect.activation == "float":
        return " + ".join(terms)
    pairs = (" + ".join(terms[n : n + 2]) for n in range(0, len(terms), 2))
    return " + ".join(f"(int32_t)(int16_t)({pair})" for pair in pairs)


def _tap(window: Window, t: int, height: int, width: int, across: int) -> list[str]:
    """Return the C lines for where the inputs of the next weight but `t` are.

    That is the row and the column of the first output's, the place of the column in its channel,
    and, where there is padding at the sides, the first and the last output that it reaches.
    """
    down, beside = window.kernel
    column = "columns[0]" if t == 0 else f"columns[n > {t}u ? {t} : 0]"
    taps = (f"column_{t} / {beside}u % {down}u", f"column_{t} % {beside}u")
    i, j = (
        _times(f"(int)({tap})", dilation) + (f" - {pad}" if pad else "")
        for tap, dilation, pad in zip(taps, window.dilation, window.padding, strict=True)
    )
    lines = [
        f"const unsigned column_{t} = {column};",
        f"const int i_{t} = {i};",
        f"const int j_{t} = {j};",
        f"const int at_{t} = (int)(column_{t} / {down * beside}u * {height * width}u) + j_{t};",
    ]
    if not window.padding[1]:
        return lines
    step = window.stride[1]
    before = f"-j_{t}" if step == 1 else f"({step - 1} - j_{t}) / {step}"
    room = f"{width - 1} - j_{t}"
    after = f"{width} - j_{t}" if step == 1 else f"({room}) / {step} + 1"
    is_whole = f"{room} >= {step * (across - 1)}"
    return [
        *lines,
        f"const int first_{t} = j_{t} < 0 ? {before} : 0;",
        f"const int last_{t} = {room} < 0 ? 0 : {is_whole} ? {across} : {after};",
    ]


def _shared_side() -> list[str]:
    """Return the C lines for the first output that all weights reach, and for the end of these."""
    lines = ["int first = first_0, last = last_0;"]
    for t in range(1, TAPS):
        lines += [
            f"if (first_{t} > first) first = first_{t};",
            f"if (last_{t} < last) last = last_{t};",
        ]
    return [*lines, "if (last < first) last = first;"]


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
