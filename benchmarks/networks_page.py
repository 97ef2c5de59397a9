"""Write docs/networks.md from the results of `networks.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
VERSIONS = (
    *("torch", "torchvision", "timm", "transformers", "segmentation-models-pytorch"),
    *("ultralytics", "peft", "torch-pruning", "onnx", "onnxruntime"),
)
START = """\
# Networks that other people wrote

`make networks` builds networks of public libraries, and some written by hand, with random weights;
finds their units, and removes a third of every group. It writes this page. Each network is a small
member of its family, or a small configuration, and runs in a process of its own. Scales, shifts and
running statistics are made uneven first, so that none hides a wrong cut.

- **offered**: the share of parameters that belong to units which `find_units` offers. Widths that a
  norm or an output ties together are not offered; they are most of what is missing.
- **at once**: whether `shrink` removed a third of all groups in one step, certified. *Without n*
  means that it did so after n groups had been left out.
- **removed**: the share of parameters that this removed.
- **alone**: how many groups could be cut alone, of those tried (two where all could be cut at once,
  else at most twelve).
- **error**: the largest difference between masked and shrunk network in float64, as a share of the
  largest output. This is computed from their outputs, not by `certify`.
- **kept**: whether the smaller network could be saved and loaded (S), trained for a step (T), and
  written as ONNX by torch and run by onnxruntime with the same outputs (O).
- **Torch-Pruning**: the share of parameters that it removed when asked for a third of each layer's
  channels, with group magnitude, the last layers ignored and the numbers of heads given. Only
  whether the network still runs and returns outputs of the same shape is checked. "-" is an error.

Times are processor seconds of one thread on a shared machine.
"""


def write_page(path: Path, results: Mapping[str, Result], count: int) -> None:
    """Write the page.

    Args:
        path: of the page.
        results: the last result of each network, in the order of the table.
        count: how many networks there are, also without a result.
    """
    each = [*results.values()]
    parts = [START, _origin(each, count), _summary(each), "## Every network", _tables(results)]
    parts += ["## Refusals and failures", _refusals(results)]
    path.write_text("\n".join(part.rstrip("\n") + "\n" for part in parts), encoding="utf-8")


def _origin(results: Sequence[Result], count: int) -> str:
    libraries = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in VERSIONS)
    dates = sorted({result["date"] for result in results})
    sources = Counter(result["source"] for result in results)
    return (
        f"{len(results)} of {count} networks, measured from {dates[0]} to {dates[-1]} with "
        f"{libraries}; sources of sentei (a hash, and the number of networks): "
        + ", ".join(f"`{name}` {number}" for name, number in sources.most_common())
        + "."
    )


# What a result says.


def followed(result: Result) -> bool:
    """Return whether `find_units` returned."""
    return result.get("followed") == ""


def offers(result: Result) -> bool:
    """Return whether anything is offered."""
    return followed(result) and bool(result["groups"])


def whole(result: Result) -> bool:
    """Return whether a third of everything was cut in one step, with no group left out."""
    return offers(result) and result.get("refused") == ""


def without(result: Result) -> bool:
    """Return whether it was cut after some groups had been left out."""
    return offers(result) and not whole(result) and bool(result.get("left out"))


def wrong(result: Result) -> bool:
    """Return whether a certified cut differs in float64."""
    return bool(result.get("wrong") or result.get("alone", {}).get("wrong"))


def leader(result: Result) -> bool:
    """Return whether Torch-Pruning cut the network and it still runs."""
    return result.get("torch-pruning", {}).get("error") == ""


def cut(result: Result) -> bool:
    """Return whether a smaller network came out, with or without all groups."""
    return whole(result) or without(result)


def anything(_: Result) -> bool:
    """Return True, for every network."""
    return True


Test = Callable[[Result], bool]
COUNTED: tuple[tuple[str, Test, Test], ...] = (  # what, of which networks
    ("networks followed", followed, anything),
    ("something is offered, of those followed", offers, followed),
    ("cut whole at once, no group left out, of those followed", whole, followed),
    ("cut at once after groups were left out, of those followed", without, followed),
    ("a certified cut that is wrong in float64", wrong, anything),
    ("Torch-Pruning: runs after a cut of a third", leader, anything),
    ("cut whole by sentei and not by Torch-Pruning", lambda r: whole(r) > leader(r), anything),
    ("cut by Torch-Pruning and not whole by sentei", lambda r: leader(r) > whole(r), anything),
    ("saved and loaded, of those cut", lambda r: r.get("saved") == "", cut),
    ("trained for a step, of those cut", lambda r: r.get("trained") == "", cut),
    ("ONNX by torch, same outputs, of those cut", lambda r: r.get("onnx") == "", cut),
)


def _summary(results: Sequence[Result]) -> str:
    vision = [r for r in results if r["name"].startswith("torchvision/")]
    lines = ["| what | all | torchvision |", "| --- | ---: | ---: |"]
    for text, test, base in COUNTED:
        found = [_share([r for r in some if base(r)], test) for some in (results, vision)]
        lines.append(f"| {text} | {found[0]} | {found[1]} |")
    tried = sum(r.get("alone", {}).get("tried", 0) for r in results)
    refused = sum(len(r.get("alone", {}).get("refused", ())) for r in results)
    lines.append(f"| groups offered and refused, each cut alone | {refused} of {tried} | |")
    return "\n".join(lines)


def _share(results: Sequence[Result], test: Test) -> str:
    count = sum(map(test, results))
    return f"{count} of {len(results)} ({count / max(1, len(results)):.0%})"


# Tables.


def _tables(results: Mapping[str, Result]) -> str:
    parts = []
    for library, names in groupby(results, lambda name: name.partition("/")[0]):
        parts.append(f"### {library}\n")
        parts.append(
            "| network | parameters | groups | offered | at once | removed | alone | error | kept "
            "| seconds | Torch-Pruning |"
        )
        parts.append("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- | ---: | ---: |")
        parts += [_row(name.partition("/")[2], results[name]) for name in names]
        parts.append("")
    return "\n".join(parts)


def _row(name: str, result: Result) -> str:
    alone = result.get("alone", {})
    cells = [
        name,
        f"{result.get('parameters', 0):,}",
        str(len(result["groups"])) if followed(result) else "not followed",
        _percent(result.get("offered")),
        _at_once(result),
        _percent(result.get("removed")),
        f"{alone['certified']} of {alone['tried']}" if alone else "",
        f"{result['error']:.0e}" if "error" in result else "",
        _kept(result),
        f"{sum(result.get('seconds', {}).get(part, 0) for part in ('follow', 'at once')):.1f}",
        _percent(result["torch-pruning"].get("removed")) if leader(result) else "-",
    ]
    return "| " + " | ".join(cells) + " |"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _at_once(result: Result) -> str:
    if whole(result):
        return "yes"
    if without(result):
        return f"without {len(result['left out'])}"
    return "no" if offers(result) else ""


def _kept(result: Result) -> str:
    stages = {"S": "saved", "T": "trained", "O": "onnx"}
    return " ".join(letter for letter, key in stages.items() if result.get(key) == "")


def _refusals(results: Mapping[str, Result]) -> str:
    lines = []
    for name, result in results.items():
        found = _failures(result)
        if found:
            lines += [f"**{name}**", "", *(f"- {what}: {_plain(why)}" for what, why in found), ""]
    return "\n".join(lines)


def _failures(result: Result) -> list[tuple[str, str]]:
    """Return what did not succeed, each with the reason."""
    found = [("ended early", result["ended"])] if result.get("ended") else []
    stages = {
        "not followed": "followed",
        "not cut at once": "refused",
        "not saved and loaded": "saved",
        "not trained": "trained",
        "no ONNX": "onnx",
    }
    found += [(text, result[key]) for text, key in stages.items() if result.get(key)]
    alone = result.get("alone", {})
    found += [(f"{group} alone refused", why) for group, why in alone.get("refused", {}).items()]
    found += [
        (f"{group} alone", f"wrong by {error:.0e}")
        for group, error in alone.get("wrong", {}).items()
    ]
    if wrong(result) and not alone.get("wrong"):
        found.append(("at once", f"wrong by {result['error']:.0e}"))
    if result.get("offered", 1) < 1:
        found += [
            (f"not offered, {number} parameters", why)
            for why, number in result.get("not offered", {}).items()
            if "part of an output" not in why
        ]
    theirs = result.get("torch-pruning", {}).get("error")
    return [*found, ("Torch-Pruning", theirs)] if theirs else found


def _plain(text: str) -> str:
    """Return a message without what Markdown would read as markup."""
    for mark in "\\*_[":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("<", "&lt;")
