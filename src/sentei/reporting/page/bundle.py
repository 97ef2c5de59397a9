"""One file out of many: the page's parts and its data, under a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([a-z-]+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|const|class|let))", re.MULTILINE)


def joined(document: dict[str, Any]) -> str:
    """The page: HTML with its style, script and data inside, and hashes of the former two."""
    style, script = asset("page.css"), program()
    parts = {
        "policy": policy(style, script),
        "title": html.escape(document["title"]),
        "style": style,
        "script": script,
        "data": as_json(document),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], asset("page.html"))


def policy(style: str, script: str) -> str:
    """A content-security policy: this style, this script, and nothing from anywhere."""
    rules = (
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def as_json(document: dict[str, Any]) -> str:
    """JSON that stays inside its element whatever names it holds."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


@cache
def program() -> str:
    """All scripts as one, each after those it imports."""
    order: list[str] = []

    def visit(name: str) -> None:
        for needed in _IMPORT.findall(asset(f"{name}.js")):
            if needed not in order:
                visit(needed)
        order.append(name)

    visit("main")
    bodies = [_EXPORT.sub("", _IMPORT.sub("", asset(f"{name}.js"))) for name in order]
    return "\n".join(bodies)


@cache
def asset(name: str) -> str:
    """One of the page's own files."""
    return (files("sentei.reporting.page") / "assets" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
