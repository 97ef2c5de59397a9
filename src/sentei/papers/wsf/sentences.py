"""Rules in sentences: inputs that recognise one digit, and a decision list for all digits."""

from __future__ import annotations

from collections.abc import Mapping

from sentei.jobs.results import Result
from sentei.papers.wsf.figures import smallest

Results = Mapping[str, Result]


def tables(results: Results) -> dict[str, str]:
    """Return Markdown by the name of the mark that it stands between on the page."""
    found = {"rules": in_words(results)} if "rules-0" in results else {}
    tried = [result for name, result in sorted(results.items()) if name.startswith("few-")]
    return found | ({"lists": listed(smallest(tried)["rules"])} if tried else {})


def in_words(results: Results, most: int = 4) -> str:
    """Describe the rules as Markdown: for each digit, pixels whose ink counts for or against it."""
    lines = []
    for label, found in enumerate(results["rules-0"]["classes"]):
        pairs = list(zip(found["inputs"], found["strengths"], strict=True))
        sides = [[p for p, s in pairs if s > 0], [p for p, s in pairs if s < 0]]
        pixels = [", ".join(f"({p // 28}, {p % 28})" for p in side[:most]) for side in sides]
        words = [f"ink at {pixels[0]}"] * bool(pixels[0]) + [f"none at {pixels[1]}"] * bool(
            pixels[1]
        )
        omitted = len(pairs) - sum(len(side[:most]) for side in sides)
        rest = f", and {omitted} more" if omitted else ""
        lines.append(
            f"- **{label}**: {' and '.join(words)}{rest}: {len(pairs)} of {found['all']} inputs, "
            f"balanced accuracy {found['alone']:.1%} (all inputs {found['whole']:.1%})."
        )
    return "\n".join(lines) + "\n"


def listed(rules: Result) -> str:
    """Describe a decision list as a numbered Markdown list; positions are (row, column)."""
    lines = []
    for number, (conditions, label) in enumerate(
        zip(rules["list"], rules["labels"], strict=True), 1
    ):
        sides = [f"({at // 28}, {at % 28}) is {'lit' if lit else 'dark'}" for at, lit in conditions]
        words = f"if {' and '.join(sides)}:" if sides else "otherwise:"
        lines.append(f"{number}. {words} **{label}**")
    return "\n".join(lines) + "\n"
