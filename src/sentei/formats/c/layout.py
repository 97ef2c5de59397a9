"""Lay generated C out: braces around every body, one statement a line, no line over 100 columns.

The generators write statements without regard to lines: functions, declarations, `for`, `while`,
`if` and `else`. There is no `do`, no `switch`, and no initialiser in braces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

WIDTH = 100
_BRANCH = re.compile(r"(for|while|if|else if|else)\b")
_BREAKS = (" ? ", " : ", ", ", " && ", " || ", " + ", " - ", " * ")


def laid_out(code: str) -> str:
    """Return C functions with a blank line after each, one statement a line."""
    lines: list[str] = []
    code = code.strip()
    while code:
        at = _end(code, "{")
        lines += [*_wrapped(code[:at], 0), "{"]
        body, code = _statements(code[at + 1 :], 1)
        lines += [*body, "}", ""]
        code = code.lstrip()
    return "\n".join(lines) + "\n"


def listing(what: str, words: Sequence[str], where: str) -> str:
    """Return the definition of a constant array; `what` is its type and name."""
    return f"static const {what}[{len(words)}] {where} = {{\n{wrapped(words)}}};\n"


def wrapped(words: Sequence[str], width: int = WIDTH) -> str:
    """Return comma-separated words in indented lines."""
    lines: list[str] = []
    line = ""
    for word in words:
        if len(line) + len(word) + 2 > width:
            lines.append(line)
            line = ""
        line += f" {word}," if line else f"    {word},"
    return "".join(f"{text}\n" for text in [*lines, line])


def _statements(code: str, depth: int) -> tuple[list[str], str]:
    """Return the lines of the statements up to a closing brace, and what follows the brace."""
    lines: list[str] = []
    code = code.lstrip()
    while not code.startswith("}"):
        more, code = _statement(code, depth)
        lines += more
        code = code.lstrip()
    return lines, code[1:]


def _statement(code: str, depth: int) -> tuple[list[str], str]:
    """Return the lines of the first statement, and what follows it."""
    branch = _BRANCH.match(code)
    if branch is None:
        at = _end(code, ";") + 1
        return _wrapped(code[:at], depth), code[at:]
    at = branch.end()
    if branch[0] != "else":
        at += _end(code[at:], ")") + 1
    lines = [*_wrapped(code[:at] + " {", depth)]
    body = code[at:].lstrip()
    if body.startswith("{"):
        inner, rest = _statements(body[1:], depth + 1)
    else:
        inner, rest = _statement(body, depth + 1)
    lines += [*inner, "    " * depth + "}"]
    if rest.lstrip().startswith("else"):
        more, rest = _statement(rest.lstrip(), depth)
        lines[-1:] = [f"{lines[-1]} {more[0].lstrip()}", *more[1:]]
    return lines, rest


def _end(code: str, marks: str) -> int:
    """Return the place of the first of `marks` outside of texts and parentheses."""
    depth = 0
    for found in re.finditer(r'"(?:\\.|[^"\\])*"|.', code, re.DOTALL):
        mark = found[0]
        depth += (mark == "(") - (mark == ")")
        if mark in marks and depth == 0:
            return found.start()
    raise AssertionError(f"generated C code without {marks!r}: {code[:80]!r}")


def _wrapped(statement: str, depth: int) -> list[str]:
    """Return the lines of one statement; what does not fit is broken after an operator."""
    pad = "    " * depth
    line = pad + re.sub(r'("(?:\\.|[^"\\])*")|\s+', lambda at: at[1] or " ", statement).strip()
    lines: list[str] = []
    while len(line) > WIDTH:
        places = (_last(line, mark) for mark in _BREAKS)
        at = next((place for place in places if place > len(pad) + 40), 0)
        if not at:
            break
        lines.append(line[:at].rstrip())
        line = f"{pad}        {line[at:].lstrip()}"
    return [*lines, line]


def _last(line: str, mark: str) -> int:
    """Return where a line may be broken at `mark`, outside of texts; 0 if nowhere."""
    at = line.rfind(mark, 0, WIDTH - 1)
    while at > 0 and line.count('"', 0, at) % 2:
        at = line.rfind(mark, 0, at)
    return at + 1 if at > 0 else 0
