"""What came out, put where a paper's page shows it: tables between marks, figures beside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sentei import storage

if TYPE_CHECKING:
    from sentei.papers.claims import Report

SHOWN = "figures/*.png"


def publish(report: Report, folder: Path, page: Path) -> list[Path]:
    """Bring a page up to date with a reproduction.

    What stands between `<!-- NAME -->` and `<!-- /NAME -->` becomes the text of `NAME.md` in the
    folder; the page's other words stay. Its figures that the page shows, and `claims.json`, are
    copied beside it, into a folder of the page's name.

    Args:
        report: what came out.
        folder: of the reproduction.
        page: Markdown with at least the marks of `claims`.

    Returns:
        The figures that the page does not show.

    Raises:
        ValueError: the report is of a quick run, the page has no marks for the claims, or shows a
            figure that there is not.
    """
    if report.quick:
        raise ValueError(
            f"{page} would hold what --quick measured: published tables come from whole runs"
        )
    words = page.read_text()
    if "<!-- claims -->" not in words or "<!-- /claims -->" not in words:
        raise ValueError(f"{page} has no <!-- claims --> and <!-- /claims --> to stand between")
    for part in sorted(folder.glob("*.md")):
        words = _between(words, part.stem, part.read_text().strip())
    figures = {file.name: file for file in sorted(folder.glob(SHOWN))}
    shown = set(re.findall(rf"\({re.escape(page.stem)}/([^)]+\.png)\)", words))
    missing = sorted(shown - figures.keys())
    if missing:
        raise ValueError(f"{page} shows {', '.join(missing)}, which this run did not draw")
    beside = page.parent / page.stem
    beside.mkdir(exist_ok=True)
    for name in sorted(shown):
        storage.write(beside / name, figures[name].read_bytes())
    storage.write(beside / "claims.json", report.json().encode())
    storage.write(page, words.encode())
    return [file for name, file in figures.items() if name not in shown]


def _between(words: str, name: str, text: str) -> str:
    marks = re.compile(rf"(<!-- {re.escape(name)} -->).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}\n\n{text}\n\n{found[2]}", words)
