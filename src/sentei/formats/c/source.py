"""Generate the text of a C file from a plan and its stored numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sentei.card import Card
from sentei.formats.c.comment import has_classes
from sentei.formats.c.dialect import Dialect, literal
from sentei.formats.c.elementwise import MATH, applied, point_functions, point_name
from sentei.formats.c.kernels import convolution, linear, pool
from sentei.formats.c.layout import laid_out, listing
from sentei.formats.c.quantised import (
    Stored,
    Values,
    last_whole,
    outputs,
    quantise,
    standardising,
)
from sentei.formats.c.templates import CLASSIFY, MACROS, SELF_TEST, SELF_TEST_MAIN, softmax
from sentei.network.encoding.coding import Code
from sentei.network.encoding.format import c_numbers
from sentei.network.encoding.plans import Block, final, index_bytes, size
from sentei.network.encoding.stages import (
    Chosen,
    Pointwise,
    Pool,
    Scaled,
    Softmax,
    Stage,
    Standardised,
    Weighted,
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

    def __init__(self, net: Stored, name: str, card: Card):
        self.net, self.plan, self.card = net, net.plan, card
        self.dialect = Dialect(name, c_numbers(net.plan.format))
        self.tables: list[Table] = []
        self.functions: dict[str, str] = {}
        self.calls: list[str] = []
        self.whole = last_whole(net.plan) if net.steps else -1
        self.given = "float" if net.input_step is None else "int8_t"
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
        points = [*block.before, *block.after]
        if isinstance(block.head, Pointwise):
            points.append(block.head)
        self.functions.update(point_functions(self.dialect, points))
        last = final(self.plan.blocks)
        source = "x" if index == 0 else f"{self.dialect.name}_{'ba'[index % 2]}"
        target = "y" if index >= last else f"{self.dialect.name}_{'ab'[index % 2]}"
        source = "y" if index > last else source
        code, values = self.plan.codes[index], self.net.values[index]
        if code is not None and values is not None:
            self._add_weights(index, name, block, code, values)
            if block.plane:
                quantise = self._quantise(index)
                text = convolution(self.dialect, name, block, code, quantise)
                self.functions[name] = text
                self.calls.append(f"{name}({source}, {target});")
            else:
                self._add_linear(index, name, block, code, source, target)
            return
        if isinstance(block.head, Standardised):
            self._add_standardised(index, name, block.head, source, target)
            return
        self._add_plain(name, block, source, target)

    def _add_weights(self, index: int, name: str, block: Block, code: Code, values: Values) -> None:
        """Add the tables of weights, their positions, scales and biases."""
        head = block.head
        assert isinstance(head, Weighted)
        flat = values.weights.numpy()
        if code.name != "dense":
            flat = flat[head.alive.matrix()]
        is_int8 = values.scale is not None
        kind, dtype = ("int8_t", np.int8) if is_int8 else ("float", np.float32)
        self.tables.append(Table(f"{name}_weights", kind, flat.astype(dtype)))
        for what, table in code.tables.items():
            self.tables.append(Table(f"{name}_{what}", f"{table.dtype}_t", table))
        if values.scale is not None:
            step = self.net.steps[index] if self.net.steps else 1.0
            scale = (values.scale.double() * step).float()
            self.tables.append(Table(f"{name}_scale", "float", scale.numpy()))
        self.tables.append(Table(f"{name}_bias", "float", values.bias.numpy()))

    def _quantise(self, index: int) -> str:
        """Return a C template that makes an int8 from `{0}`; "" if the block outputs floats."""
        if not self.net.steps or index >= self.whole:
            return ""
        prefix = self.dialect.name
        self.functions.setdefault(
            f"{prefix}_int8",
            f"static int8_t {prefix}_int8(float v)\n{{\n"
            "    return (int8_t)(v <= -127.0f ? -127.0f : v >= 127.0f ? 127.0f\n"
            "        : v < 0.0f ? v - 0.5f : v + 0.5f);\n}\n",
        )
        return f"{prefix}_int8(({{0}}) * {literal(1.0 / self.net.steps[index + 1])})"

    def _add_linear(
        self, index: int, name: str, block: Block, code: Code, source: str, target: str
    ) -> None:
        """Add the function and the call of a linear layer."""
        head = block.head
        assert isinstance(head, Weighted)
        prefix, rows = self.dialect.name, len(head.weight)
        quantise = self._quantise(index)
        if quantise:
            # The function also rounds to this layer's step, so other layers cannot share it.
            function, value = (
                f"{name}_linear",
                quantise.format(applied(self.dialect, block.before, "{sum}")),
            )
            out = "int8_t"
        else:
            function, value, out = f"{prefix}_linear_{code.name}", "{sum}", "float"
            kinds = "_".join(str(table.dtype)[4:] for table in code.tables.values())
            function += f"_{kinds}" if code.name.startswith("csr") else ""
        # After convolutions values are large, and linear layers take little of the time.
        parts = any(block.plane for block in self.plan.blocks)
        self.functions[function] = linear(self.dialect, function, code, value, out, in_parts=parts)
        scale = [f"{name}_scale"] if self.dialect.numbers.weight == 1 else []
        tables = [f"{name}_{what}" for what in code.tables]
        given = [f"{name}_weights", *tables, *scale, f"{name}_bias"]
        columns = head.weight.shape[1]
        self.calls.append(
            f"{function}({source}, {target}, {rows}u, {columns}u, {', '.join(given)});"
        )
        if not quantise and block.before:
            value = applied(self.dialect, block.before, f"{target}[k]")
            self.calls.append(f"for (k = 0; k < {rows}u; k++) {target}[k] = {value};")

    def _add_plain(self, name: str, block: Block, source: str, target: str) -> None:
        """Add the tables, functions and calls of a block without weights."""
        head, out, act = block.head, block.out, self.dialect.activation
        if isinstance(head, Pool):
            self.functions[name] = pool(name, head, act, act)
            entering, leaving = size(head.entering[1:]), size(head.leaving[1:])
            self.calls.append(
                f"for (k = 0; k < {head.entering[0]}u; k++) {name}({source} + k * {entering}u,"
                f" {target} + k * {leaving}u);"
            )
        elif isinstance(head, Pointwise):
            value = f"{point_name(self.dialect, head)}({source}[k])"
            self.calls.append(f"for (k = 0; k < {out}u; k++) {target}[k] = {value};")
        elif isinstance(head, Chosen):
            where = self._add_index(name, head, head.index)
            self.calls.append(f"for (k = 0; k < {out}u; k++) {target}[k] = {source}[{where}];")
        elif isinstance(head, Scaled):
            each = size(head.entering[1:])
            scale = self._add_entries(f"{name}_scale", head.scale, each)
            shift = self._add_entries(f"{name}_shift", head.shift, each)
            value = f"{source}[k] * {scale} + {shift}"
            self.calls.append(f"for (k = 0; k < {out}u; k++) {target}[k] = {value};")
        elif isinstance(head, Softmax):
            self.functions[name] = softmax(name, head.log)
            self.calls.append(f"{name}({source}, {target}, {out}u);")

    def _add_standardised(
        self, index: int, name: str, head: Standardised, source: str, target: str
    ) -> None:
        """Add the tables and the call of a block that standardises raw inputs."""
        mean, factor = standardising(head)
        where = "k" if head.index is None else self._add_index(name, head, head.index)
        centre = self._add_entries(f"{name}_mean", mean, head.each)
        scale = self._add_entries(f"{name}_scale", factor, head.each)
        value = f"({source}[{where}] - {centre}) * {scale}"
        value = (self._quantise(index) or "{0}").format(value)
        self.calls.append(f"for (k = 0; k < {size(head.leaving)}u; k++) {target}[k] = {value};")

    def _add_index(self, name: str, head: Stage, index: Tensor) -> str:
        """Add the table of selected positions; return where the value at `k` comes from, in C."""
        kind = f"uint{8 * index_bytes(head.entering[0])}"
        self.tables.append(Table(f"{name}_index", f"{kind}_t", index.cpu().numpy().astype(kind)))
        each = size(head.entering[1:])
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
            isinstance(stage, Softmax) or (isinstance(stage, Pointwise) and stage.function in MATH)
            for block in self.plan.blocks
            for stage in (block.head, *block.before, *block.after)
        )

    def code(self, about: str, golden: Tensor) -> str:
        """Return the text of the .c file; `golden` are the input samples of the self-test."""
        prefix, up = self.dialect.name, self.dialect.upper
        a, b = self.plan.buffers
        plane = max(block.plane for block in self.plan.blocks)
        act, total = self.dialect.activation, self.dialect.total
        buffers = [(act, "a", a), (act, "b", b), (total, "plane", plane)]
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
        counter = "unsigned k;" if any("k = 0" in call for call in self.calls) else ""
        predict = (
            f"void {prefix}_predict(const {self.given} x[{up}_INPUTS], float y[{up}_OUTPUTS])"
            f"{{ {counter} {' '.join(self.calls)} }}"
        )
        classify = CLASSIFY.substitute(up=up, prefix=prefix, act=self.given)
        return [predict, classify] if self.classifies else [predict]

    def _self_test(self, golden: Tensor) -> str:
        """Return the C self-test, with the outputs that torch computes for `golden`."""
        prefix, up, act = self.dialect.name, self.dialect.upper, self.given
        step = self.net.input_step
        x = golden if step is None else quantise(golden, step)
        y = outputs(self.net, golden)
        tolerance = max(1e-5, 1e-5 * float(y.abs().max())) * 10
        words = [literal(float(v)) if step is None else str(int(v)) for v in x.reshape(-1).tolist()]
        expected = [literal(float(v)) for v in y.reshape(-1).tolist()]
        flash = f"{up}_FLASH"
        return SELF_TEST.substitute(
            up=up,
            golden_x=listing(f"{act} {prefix}_golden_x", words, flash),
            golden_y=listing(f"float {prefix}_golden_y", expected, flash),
            main=laid_out(
                SELF_TEST_MAIN.substitute(
                    up=up,
                    prefix=prefix,
                    act=act,
                    count=len(golden),
                    read=self.dialect.read(f"{prefix}_golden_x + n * {up}_INPUTS + k", act),
                    tolerance=literal(tolerance),
                )
            ).rstrip(),
        )


def _over(each: int) -> str:
    return "k" if each == 1 else f"k / {each}u"
