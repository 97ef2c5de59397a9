"""Generate the C loops that decode the weights of a row, one for each code."""

from __future__ import annotations

from dataclasses import dataclass

from sentei.formats.c.dialect import Dialect
from sentei.network.encoding.coding import Code


@dataclass(frozen=True)
class WeightLoop:
    """The C lines that decode one code.

    Attributes:
        tables: C type and name of each table that the loop reads, in order.
        begin: lines before the loop over rows.
        row: lines for one row; `{each}` stands for the statement per weight, which uses `column`.
        listing: the statement that lists the column of a weight in `columns`, `n` long; `{kind}`
            stands for the C type of its entries.
        listed: lines for one row in which `{each}` stands for that statement.
    """

    tables: tuple[tuple[str, str], ...]
    begin: tuple[str, ...]
    row: tuple[str, ...]
    listing: str
    listed: tuple[str, ...]


def _loop(
    tables: tuple[tuple[str, str], ...],
    begin: tuple[str, ...],
    row: tuple[str, ...],
    listing: str = "columns[n++] = ({kind})column;",
    listed: tuple[str, ...] = (),
) -> WeightLoop:
    return WeightLoop(tables, begin, row, listing, listed or row)


def weight_loop(dialect: Dialect, code: Code, columns: str) -> WeightLoop:
    """Return the loop that decodes the weights of `code`; `columns` is a C expression."""
    tables = tuple((f"{table.dtype}_t", name) for name, table in code.tables.items())
    if code.name == "dense":
        return _loop(
            tables,
            ("unsigned column;",),
            (f"for (column = 0; column < {columns}; column++) {{", "    {each}", "}"),
        )
    if code.name == "bitmap":
        bits = dialect.read("bits++", "uint8_t")
        return _loop(
            tables,
            ("unsigned column, byte = 1;",),
            (
                f"for (column = 0; column < {columns}; column++, byte >>= 1) {{",
                f"    if (byte == 1) byte = {bits} | 256u;",
                "    if (byte & 1) {",
                "        {each}",
                "    }",
                "}",
            ),
            # Which weights are alive follows no rule that a processor could guess.
            "columns[n] = ({kind})column; n += byte & 1;",
            (
                f"for (column = 0; column < {columns}; column++, byte >>= 1) {{",
                f"    if (byte == 1) byte = {bits} | 256u;",
                "    {each}",
                "}",
            ),
        )
    if code.name.startswith("csr"):
        kinds = {name: kind for kind, name in tables}
        count = dialect.read("counts++", kinds["counts"])
        column = dialect.read("columns++", kinds["columns"])
        return _loop(
            tables,
            ("unsigned left, column;",),
            (
                f"for (left = {count}; left; left--) {{",
                f"    column = {column};",
                "    {each}",
                "}",
            ),
        )
    return _gap_loop(dialect, code, columns, tables)


def _gap_loop(
    dialect: Dialect, code: Code, columns: str, tables: tuple[tuple[str, str], ...]
) -> WeightLoop:
    """Return the loop for gaps4 and gaps8, whose gaps may cross the end of a row."""
    byte = dialect.read("gaps++", "uint8_t")
    if code.name == "gaps8":
        jump, begin, following = 255, f"unsigned gap = {byte}, column = gap;", f"gap = {byte};"
    else:
        jump = 15
        here = dialect.read("gaps", "uint8_t")
        begin = f"unsigned half = 1, gap = {here} & 15, column = gap;"
        following = f"gap = half ? {byte} >> 4 : {here} & 15; half = !half;"
    return _loop(
        tables,
        (begin,),
        (
            f"while (column < {columns}) {{",
            f"    if (gap != {jump}) {{",
            "        {each}",
            "        column++;",
            "    }",
            f"    {following}",
            "    column += gap;",
            "}",
            f"column -= {columns};",
        ),
    )
