"""The code of documents, run as it stands: blocks of Markdown pages and cells of notebooks."""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import re
import textwrap
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def code_blocks(path: Path) -> list[str]:
    """Return the Python blocks of a Markdown page, without their common indentation."""
    found = re.findall(r"^ *```python\n(.*?)^ *```", path.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in found]


def run(blocks: Iterable[str], name: str) -> None:
    """Run blocks in order; what a `print(...)  # words` prints has to be these words.

    The words are a comment behind the call or on the next line, and may hold `...` for anything.
    """
    names: dict[str, Any] = {"__name__": name}
    for block in blocks:
        words = comments(block)
        for statement in ast.parse(block).body:
            found = printed(ast.Module([statement], []), name, names)
            line = statement.end_lineno or 0
            said = words.get(line, words.get(line + 1) if alone(block, line + 1) else None)
            if said is not None and is_print(statement):
                check(said, found, f"{name}: {ast.unparse(statement)}")


def printed(code: str | ast.Module, name: str, names: dict[str, Any]) -> str:
    """Run code with these names, and return what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(code, name, "exec"), names)
    return output.getvalue()


def alone(block: str, line: int) -> bool:
    """Return whether a line of a block, counted from 1, is a comment and nothing else."""
    lines = block.splitlines()
    return line <= len(lines) and lines[line - 1].startswith("#")


def is_print(statement: ast.stmt) -> bool:
    """Return whether a statement is a call of `print`."""
    call = getattr(statement, "value", None)
    return isinstance(call, ast.Call) and ast.unparse(call.func) == "print"


def comments(block: str) -> dict[int, str]:
    """Return the comments of a block by their lines."""
    tokens = tokenize.generate_tokens(io.StringIO(block).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def check(said: str, found: str, where: str) -> None:
    """Raise AssertionError if a line printed other words than its comment says."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if not doctest.OutputChecker().check_output(said + "\n", found, flags):
        raise AssertionError(f"{where}\nprints: {found.strip()}\nthe page says: {said}")
