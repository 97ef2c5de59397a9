"""Bundle the page's HTML, style, scripts and data into one file with a strict security policy."""

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


def joined(document: dict[str, Any], name: str = "page") -> str:
    """Build the HTML file: style, script and data inside, style and script allowed by hash.

    Its frame is `assets/NAME.html`; its script is that of `assets/NAME.js` and what this imports.
    """
    style, script = asset("page.css"), program(name)
    parts = {
        "policy": policy(style, script, live=document["live"]),
        "title": html.escape(document["title"]),
        "style": style,
        "script": script,
        "data": as_json(document),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], asset(f"{name}.html"))


def policy(style: str, script: str, *, live: bool = False) -> str:
    """Build a content-security policy that allows only this style, this script and data: images.

    The page of a run that goes on may ask the server that it came from for the newest step.
    """
    rules = (
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'",
        "img-src data:",
        *(["connect-src 'self'"] if live else []),
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def as_json(document: dict[str, Any]) -> str:
    """Encode as JSON, with <, > and & escaped so that no text ends the script element early."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


@cache
def program(name: str = "page") -> str:
    """Join the scripts that a page needs into one, each after the scripts that it imports."""
    order: list[str] = []

    def visit(script: str) -> None:
        for needed in _IMPORT.findall(asset(f"{script}.js")):
            if needed not in order:
                visit(needed)
        order.append(script)

    visit(name)
    bodies = [_EXPORT.sub("", _IMPORT.sub("", asset(f"{script}.js"))) for script in order]
    return "\n".join(bodies)


@cache
def asset(name: str) -> str:
    """Return the text of a file in `assets/`."""
    return (files("sentei.reporting.page") / "assets" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
