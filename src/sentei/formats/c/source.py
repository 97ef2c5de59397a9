"""Generate the text of a C file from a plan and its stored numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sentei.card import Card
from sentei.formats.c.comment import has_classes
from sentei.formats.c.dialect import Dialect, literal
from sentei.formats.c.elementwise import MATH, applied, point_functions, point_name
from sentei.formats.c.integers import Layer, Rescaling, quantise
from sentei.formats.c.kernels import add, convolution, linear, pool
from sentei.formats.c.layout import laid_out, listing
from sentei.formats.c.quantised import Stored, Values, output_steps, outputs, streaming
from sentei.formats.c.recurrent import functions_of, recurrent
from sentei.formats.c.templates import (
    CLASSIFY,
    CURVE,
    KEEP,
    MACROS,
    QUANTISED,
    RESCALED,
    RESET,
    SELF_TEST,
    SELF_TEST_MAIN,
    SHIFTED,
    softmax,
)
from sentei.network.encoding.blocks import Block, last_linear
from sentei.network.encoding.coding import Code
from sentei.network.encoding.evaluating import standardising
from sentei.network.encoding.format import c_numbers
from sentei.network.encoding.plans import index_bytes
from sentei.network.encoding.stages import (
    Chosen,
    Joined,
    Kept,
    Pointwise,
    Pool,
    Recurrent,
    Scaled,
    Softmax,
    Stage,
    Standardised,
    Sum,
    Transposed,
    Weighted,
    size_of,
)


@dataclass(frozen=True)
class Table:
    """A constant array in C.

    Attributes:
        name: C identifier.
        kind: C type of an entry.
        entries: the values, in the numpy dtype of the same width.
    """

    name: str
    kind: str
    entries: np.ndarray

    def text(self, where: str) -> str:
        """Return the C definition; `where` is the attribute that places it in memory."""
        flat = self.entries.reshape(-1)
        words = [literal(float(v)) if self.kind == "float" else str(int(v)) for v in flat]
        return listing(f"{self.kind} {self.name}", words, where)


class Source:
    """Builder of a network's C file: collects tables, functions and calls in order."""

    def __init__(self, net: Stored, name: str, card: Card, hop: int | None = None):
        self.whole, self.hop = net, hop
        self.net = net if hop is None else streaming(net, hop)
        net, self.plan, self.card = self.net, self.net.plan, card
        self.dialect = Dialect(name, c_numbers(net.plan.format))
        self.tables: list[Table] = []
        self.functions: dict[str, str] = {}
        self.calls: list[str] = []
        self.steps: list[str] = []  # calls up to the last linear layer, where values are integers
        self.last = last_linear(net.plan.blocks) if net.scales else -1
        self.given = "float" if net.input_scale is None else self.dialect.activation
        self.classifies = has_classes(card, net.plan.blocks[-1].out)
        for index, block in enumerate(net.plan.blocks):
            self._add(index, block)

    @property
    def flash(self) -> int:
        """Bytes of all tables."""
        return sum(table.entries.nbytes for table in self.tables)

    def _add(self, index: int, block: Block) -> None:
        """Add the tables, functions and calls of one block."""
        name = f"{self.dialect.name}_{index + 1}"
        head, points = block.head, [*block.before, *block.after]
        if isinstance(head, Pointwise):
            points.append(head)
        if isinstance(head, Recurrent):
            points += functions_of(head)
        floats = not self.dialect.integers or index >= self.last
        self.functions.update(point_functions(self.dialect, points if floats else []))
        sources, target = [self._place(source) for source in block.sources], self._place(index)
        layer = self.net.layers[index] if self.net.layers else None
        if isinstance(head, Recurrent):
            self._add_recurrent(index, name, head, sources[0], target)
        elif isinstance(head, Weighted):
            self._add_weighted(index, name, block, sources[0], target)
        elif isinstance(head, Standardised):
            self._add_standardised(index, name, head, sources[0], target)
        elif isinstance(head, (Sum, Joined)):
            assert not isinstance(layer, Layer)
            self._add_sum_or_joined(name, block, layer, sources, target)
        else:
            self._add_plain(name, block, sources[0], target)

    def _place(self, index: int) -> str:
        """Return the C expression for where the output of a block is; -1 is the network's input."""
        if index < 0:
            return "x"
        if index >= len(self.plan.places):
            return "y"
        if isinstance(self.plan.blocks[index].head, Kept):
            return f"{self.dialect.name}_kept + {self._kept(index)}"
        begin = self.plan.places[index]
        return f"{self.dialect.name}_values" + (f" + {begin}" if begin else "")

    def _kept(self, end: int) -> int:
        """Return how many values the blocks before `end` keep between calls."""
        heads = [block.head for block in self.plan.blocks[:end]]
        return sum(size_of(head.leaving) for head in heads if isinstance(head, Kept))

    def _add_weighted(self, index: int, name: str, block: Block, source: str, target: str) -> None:
        """Add the tables, functions and calls of a linear layer or a convolution."""
        layer = self.net.layers[index] if self.net.layers else None
        assert not isinstance(layer, Rescaling)
        assert isinstance(block.head, Weighted)
        (code,) = self.plan.codes[index]
        self._add_weights(name, block.head, code, layer or self.net.values[index][0])
        if block.head.window is not None:
            step = block.head.window.stride[1]
            self.functions.setdefault(f"add_{step}", add(self.dialect, step))
            self.functions[name] = convolution(self.dialect, name, block, code, layer)
            self.calls.append(f"{name}({source}, {target});")
        elif layer is None:
            self._add_linear(name, block, code, source, target)
        else:
            self._add_integer_linear(index, name, code, layer, source, target)

    def _add_recurrent(
        self, index: int, name: str, head: Recurrent, source: str, target: str
    ) -> None:
        """Add the tables, the function and the call of a recurrent layer."""
        functions, tables = [], []
        for which, matrix, code, values in zip(
            ("input", "state"),
            head.matrices,
            self.plan.codes[index],
            self.net.values[index],
            strict=True,
        ):
            self._add_weights(f"{name}_{which}", matrix, code, values)
            functions.append(self._linear(code, "float"))
            tables.append(self._tables(f"{name}_{which}", code))
        self.functions[name] = recurrent(self.dialect, name, head, functions, tables)
        self.calls.append(f"{name}({source}, {target});")

    def _add_sum_or_joined(
        self, name: str, block: Block, layer: Rescaling | None, sources: list[str], target: str
    ) -> None:
        """Add the calls that add values, or join them; where they are integers, rescaled."""
        head = block.head
        shapes = head.parts if isinstance(head, Joined) else (head.entering,) * len(sources)
        terms = [_indexed(source) for source in sources]
        if layer is not None:
            if layer.curve is not None:
                self._add_curve(name, layer.curve)
            terms = [f"(int32_t){term} * {f}" for term, f in zip(terms, layer.factors, strict=True)]
            self.functions.setdefault("shifted", SHIFTED.substitute(prefix=self.dialect.name))
        values = terms if isinstance(head, Joined) else [" + ".join(terms)]
        begin = 0
        for value, shape in zip(values, shapes, strict=False):
            settled = (
                applied(self.dialect, block.before, value)
                if layer is None
                else self._rescaled(name, layer, value)
            )
            place = _indexed(f"{target} + {begin}" if begin else target)
            self.calls.append(f"for (k = 0; k < {size_of(shape)}u; k++) {place} = {settled};")
            begin += size_of(shape)

    def _rescaled(self, name: str, layer: Rescaling, total: str) -> str:
        """Return the C expression for a sum of products in steps of the output."""
        prefix, limits = self.dialect.name, f"{layer.low}, {layer.high}"
        value = f"{prefix}_shifted({total}, {layer.shift}u, {limits})"
        if layer.curve is not None:
            value = f"{prefix}_curve({name}_curve, {value})"
        return f"({self.dialect.activation}){value}"

    def _add_weights(self, name: str, matrix: Weighted, code: Code, values: Values | Layer) -> None:
        """Add the tables of a matrix: weights, their positions, scales and biases."""
        flat = values.weights.numpy()
        if code.name != "dense":
            flat = flat[matrix.alive.matrix()]
        self._add_table(f"{name}_weights", self.dialect.weight, flat)
        for what, table in code.tables.items():
            self.tables.append(Table(f"{name}_{what}", f"{table.dtype}_t", table))
        if isinstance(values, Layer):
            self._add_table(f"{name}_factor", "int32_t", values.factors.numpy())
            self._add_table(f"{name}_bias", "int32_t", values.bias.numpy())
            self.functions.setdefault("rescaled", RESCALED.substitute(prefix=self.dialect.name))
            if values.curve is not None:
                self._add_curve(name, values.curve)
            return
        if values.scale is not None:
            self._add_table(f"{name}_scale", "float", values.scale.numpy())
        self._add_table(f"{name}_bias", "float", values.bias.numpy())

    def _add_table(self, name: str, kind: str, entries: np.ndarray) -> None:
        """Add a table whose entries have the C type `kind`."""
        dtype = np.float32 if kind == "float" else np.dtype(kind.removesuffix("_t"))
        self.tables.append(Table(name, kind, entries.astype(dtype)))

    def _add_curve(self, name: str, curve: Tensor) -> None:
        """Add the table of a function of integers, and the C function that reads such tables."""
        act = self.dialect.activation
        self._add_table(f"{name}_curve", act, curve.numpy())
        low, high = (self.dialect.read(f"curve + (at >> 8){more}", act) for more in ("", " + 1"))
        text = CURVE.substitute(prefix=self.dialect.name, act=act, low=low, high=high)
        self.functions.setdefault("curve", text)

    def _add_linear(self, name: str, block: Block, code: Code, source: str, target: str) -> None:
        """Add the function and the call of a linear layer whose outputs are floats."""
        head = block.head
        assert isinstance(head, Weighted)
        rows, columns = head.weight.shape
        # After convolutions values are large, and linear layers take little of the time.
        parts = any(block.plane for block in self.plan.blocks)
        function = self._linear(code, "float", in_parts=parts)
        given = self._tables(name, code)
        self.calls.append(f"{function}({source}, {target}, {rows}u, {columns}u, {given});")
        if block.before:
            place = _indexed(target)
            value = applied(self.dialect, block.before, place)
            self.calls.append(f"for (k = 0; k < {rows}u; k++) {place} = {value};")

    def _tables(self, name: str, code: Code) -> str:
        """Return the tables of a matrix, as the function of a linear layer takes them."""
        scale = ["scale"] if self.dialect.numbers.weight == 1 else []
        return ", ".join(f"{name}_{what}" for what in ("weights", *code.tables, *scale, "bias"))

    def _add_integer_linear(
        self, index: int, name: str, code: Code, layer: Layer, source: str, target: str
    ) -> None:
        """Add the function and the call of a linear layer whose outputs are integers."""
        rows, columns = layer.weights.shape
        out = "int16_t" if index == self.last else self.dialect.activation
        curve = [] if layer.curve is None else [f"{name}_curve"]
        function = self._linear(code, out, curved=bool(curve))
        tables = [f"{name}_{what}" for what in ("weights", *code.tables, "factor", "bias")]
        numbers = [f"{layer.shift}u", str(layer.low), str(layer.high)]
        given = ", ".join([*tables, *numbers, *curve])
        self.calls.append(f"{function}({source}, {target}, {rows}u, {columns}u, {given});")
        if index == self.last:
            self.steps, self.calls = self.calls, []
            points = self.plan.blocks[index].before
            value = applied(self.dialect, points, f"{self.dialect.name}_dequantise(steps[k])")
            self.calls.append(f"for (k = 0; k < {rows}u; k++) y[k] = {value};")

    def _linear(self, code: Code, out: str, *, curved: bool = False, in_parts: bool = False) -> str:
        """Add the function of linear layers with this code and output; return its name."""
        parts = [self.dialect.name, "linear", code.name]
        if code.name.startswith("csr"):
            parts += [str(table.dtype)[4:] for table in code.tables.values()]
        parts += [out.removesuffix("_t")] * self.dialect.integers + ["curve"] * curved
        name = "_".join(parts)
        text = linear(self.dialect, name, code, out, curved=curved, in_parts=in_parts)
        self.functions[name] = text
        return name

    def _add_plain(self, name: str, block: Block, source: str, target: str) -> None:
        """Add the tables, functions and calls of a block without weights."""
        head, out, act = block.head, block.out, self.dialect.activation
        given = _indexed(source)
        if isinstance(head, Pool):
            self.functions[name] = pool(name, head, act, act)
            entering, leaving = size_of(head.entering[1:]), size_of(head.leaving[1:])
            self.calls.append(
                f"for (k = 0; k < {head.entering[0]}u; k++) {name}({source} + k * {entering}u,"
                f" {target} + k * {leaving}u);"
            )
            return
        if isinstance(head, Kept):
            names = {"prefix": self.dialect.name, "act": act}
            self.functions.setdefault("keep", KEEP.substitute(names))
            sizes = f"{head.leaving[0]}u, {head.leaving[2]}u, {head.entering[2]}u"
            self.calls.append(f"{self.dialect.name}_keep({target}, {source}, {sizes});")
            return
        if isinstance(head, Softmax):
            self.functions[name] = softmax(name, head.log)
            self.calls.append(f"{name}({source}, {target}, {out}u);")
            return
        if isinstance(head, Pointwise):
            value = f"{point_name(self.dialect, head)}({given})"
        elif isinstance(head, Chosen):
            value = _indexed(source, self._add_index(name, head, head.index))
        elif isinstance(head, Transposed):
            rows, columns = head.leaving[0], head.leaving[2]
            value = _indexed(source, f"k % {columns}u * {rows}u + k / {columns}u")
        else:
            assert isinstance(head, Scaled)
            each = size_of(head.entering[1:])
            scale = self._add_entries(f"{name}_scale", head.scale, each)
            shift = self._add_entries(f"{name}_shift", head.shift, each)
            value = f"{given} * {scale} + {shift}"
        self.calls.append(f"for (k = 0; k < {out}u; k++) {_indexed(target)} = {value};")

    def _add_standardised(
        self, index: int, name: str, head: Standardised, source: str, target: str
    ) -> None:
        """Add the tables and the call of a block that standardises raw inputs."""
        mean, factor = standardising(head)
        where = "k" if head.index is None else self._add_index(name, head, head.index)
        centre = self._add_entries(f"{name}_mean", mean, head.each)
        scale = self._add_entries(f"{name}_scale", factor, head.each)
        value = f"({_indexed(source, where)} - {centre}) * {scale}"
        if self.net.scales:
            scale, prefix = self.net.scales[index + 1], self.dialect.name
            value = f"{prefix}_quantised({value} * {literal(1.0 / scale.step)})"
            text = QUANTISED.substitute(
                prefix=prefix, act=self.dialect.activation, top=f"{scale.top}.0f"
            )
            self.functions.setdefault("quantised", text)
        place, out = _indexed(target), size_of(head.leaving)
        self.calls.append(f"for (k = 0; k < {out}u; k++) {place} = {value};")

    def _add_index(self, name: str, head: Stage, index: Tensor) -> str:
        """Add the table of selected positions; return where the value at `k` comes from, in C."""
        kind = f"uint{8 * index_bytes(head.entering[0])}"
        self.tables.append(Table(f"{name}_index", f"{kind}_t", index.cpu().numpy().astype(kind)))
        each = size_of(head.entering[1:])
        position = self.dialect.read(f"{name}_index + {_over(each)}", f"{kind}_t")
        return position if each == 1 else f"{position} * {each}u + k % {each}u"

    def _add_entries(self, name: str, values: Tensor, each: int) -> str:
        """Add a table in which `each` values after one another share an entry; return its read."""
        self.tables.append(Table(name, "float", values.detach().cpu().float().numpy()))
        return self.dialect.read(f"{name} + {_over(each)}", "float")

    @property
    def needs_math(self) -> bool:
        """Whether the file calls a function of <math.h>."""
        return any(
            isinstance(stage, (Softmax, Recurrent))
            or (isinstance(stage, Pointwise) and stage.function in MATH)
            for block in self.plan.blocks
            for stage in (block.head, *block.before, *block.after)
        )

    def code(self, about: str, golden: Tensor) -> str:
        """Return the text of the .c file; `golden` are the input samples of the self-test."""
        prefix, up = self.dialect.name, self.dialect.upper
        act, total = self.dialect.activation, self.dialect.total
        kept = self._kept(len(self.plan.blocks))
        buffers = [(act, "values", self.plan.activations), (act, "kept", kept)]
        buffers.append((total, "work", self.plan.work))
        return "\n".join(
            [
                about,
                f'#include "{prefix}.h"\n',
                *(["#include <math.h>\n"] if self.needs_math else []),
                MACROS.substitute(up=up),
                *(table.text(f"{up}_FLASH") for table in self.tables),
                *(f"static {kind} {prefix}_{which}[{n}];" for kind, which, n in buffers if n),
                "",
                laid_out("".join([*self.functions.values(), *self._entry_points()])),
                self._self_test(golden),
            ]
        )

    def _entry_points(self) -> list[str]:
        """Return the functions that the header declares."""
        prefix, up = self.dialect.name, self.dialect.upper
        given = f"const {self.given} x[{up}_INPUTS]"
        compute, out = f"{prefix}_predict", "float"
        found = []
        kept = self._kept(len(self.plan.blocks))
        if kept:
            found.append(RESET.substitute(prefix=prefix, count=kept))
        if self.steps:
            found.append(
                f"void {prefix}_predict_steps({given}, int16_t y[{up}_OUTPUTS])"
                f"{{ {_counter(self.steps)} {' '.join(self.steps)} }}"
            )
            self.calls.insert(0, f"{prefix}_predict_steps(x, steps);")
            # A softmax does not change which output is largest; other functions may.
            if not any(block.before for block in self.plan.blocks[self.last :]) and all(
                isinstance(block.head, Softmax) for block in self.plan.blocks[self.last + 1 :]
            ):
                compute, out = f"{prefix}_predict_steps", "int16_t"
        steps = f"int16_t steps[{up}_OUTPUTS];" if self.steps else ""
        found.append(
            f"void {prefix}_predict({given}, float y[{up}_OUTPUTS])"
            f"{{ {steps} {_counter(self.calls)} {' '.join(self.calls)} }}"
        )
        if self.classifies:
            names = {"up": up, "prefix": prefix, "act": self.given, "out": out}
            found.append(CLASSIFY.substitute(names, compute=compute))
        return found

    def _self_test(self, golden: Tensor) -> str:
        """Return the C self-test, with the outputs that torch computes for `golden`.

        Outputs in steps have to be the same; floats may be rounded otherwise.
        """
        prefix, up, act = self.dialect.name, self.dialect.upper, self.given
        exact = self.net.input_scale is not None
        if self.net.input_scale is not None:
            x, y = quantise(golden, self.net.input_scale), output_steps(self.whole, golden)
            out, compute, same = "int16_t", f"{prefix}_predict_steps", "y[k] == wanted"
        else:
            x, y = golden, outputs(self.whole, golden)
            off = literal(max(1e-5, 1e-5 * float(y.abs().max())) * 10)
            out, compute = "float", f"{prefix}_predict"
            same = f"y[k] - wanted <= {off} && wanted - y[k] <= {off}"
        words = [
            [str(int(v)) if exact else literal(float(v)) for v in values.reshape(-1).tolist()]
            for values in (x, y)
        ]
        names, flash = (f"{prefix}_golden_x", f"{prefix}_golden_y"), f"{up}_FLASH"
        place, size = "k", f"{up}_INPUTS"
        if self.hop is not None:
            place = f"k / {up}_NEW * {up}_WINDOW + at + k % {up}_NEW"
            size = f"{up}_INPUTS / {up}_NEW * {up}_WINDOW"
        read = self.dialect.read(f"{names[0]} + n * ({size}) + {place}", act)
        wanted = self.dialect.read(f"{names[1]} + n * {up}_OUTPUTS + k", out)
        feed = f"for (k = 0; k < {up}_INPUTS; k++) x[k] = {read}; {compute}(x, y);"
        if self.hop is not None:
            steps = f"at = 0; at < {up}_WINDOW; at += {up}_NEW"
            feed = f"unsigned at; {prefix}_reset(); for ({steps}) {{ {feed} }}"
        places = {"up": up, "prefix": prefix, "act": act, "out": out, "count": len(golden)}
        main = SELF_TEST_MAIN.substitute(places, feed=feed, same=same, wanted=wanted)
        return SELF_TEST.substitute(
            up=up,
            golden_x=listing(f"{act} {names[0]}", words[0], flash),
            golden_y=listing(f"{out} {names[1]}", words[1], flash),
            main=laid_out(main).rstrip(),
        )


def _counter(calls: Sequence[str]) -> str:
    return "unsigned k;" if any("k = 0" in call for call in calls) else ""


def _indexed(place: str, index: str = "k") -> str:
    """Return the C expression for one value of an array, whose place may be a sum."""
    return f"({place})[{index}]" if " " in place else f"{place}[{index}]"


def _over(each: int) -> str:
    return "k" if each == 1 else f"k / {each}u"
