"""Update a paper's Markdown page with the tables and figures of a reproduction."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sentei import storage

if TYPE_CHECKING:
    from sentei.papers.claims import Report

SHOWN = "figures/*.png"


def publish(report: Report, folder: Path, page: Path) -> list[Path]:
    """Replace the marked tables of a page, and copy its figures, from a reproduction's folder.

    The text between `<!-- NAME -->` and `<!-- /NAME -->` is replaced by that of `NAME.md` in the
    folder; the rest of the page stays. The figures that the page shows, tables of numbers that it
    links to (`.csv`), and `claims.json` are copied into a folder with the page's name, in the same
    directory as the page.

    Args:
        report: the claims with the measured values.
        folder: the folder that the reproduction wrote its files to.
        page: a Markdown file that contains at least the marks of `claims`.

    Returns:
        The figures and tables of numbers that the page does not show.

    Raises:
        ValueError: the report comes from a quick run, the page has no marks for the claims, or the
            page shows a figure or links to a file that the run did not write.
    """
    if report.quick:
        raise ValueError(f"{page} would show results of --quick; publish a run without --quick")
    page_text = page.read_text()
    if "<!-- claims -->" not in page_text or "<!-- /claims -->" not in page_text:
        raise ValueError(
            f"{page} has no <!-- claims --> and <!-- /claims --> marks to put the table between"
        )
    for table in sorted(folder.glob("*.md")):
        page_text = _between(page_text, table.stem, table.read_text().strip())
    files = {file.name: file for file in sorted([*folder.glob(SHOWN), *folder.glob("*.csv")])}
    shown = set(re.findall(rf"\({re.escape(page.stem)}/([^)]+\.(?:png|csv))\)", page_text))
    missing = sorted(shown - files.keys())
    if missing:
        raise ValueError(f"{page} shows {', '.join(missing)}, which this run did not write")
    beside = page.parent / page.stem
    beside.mkdir(exist_ok=True)
    for name in sorted(shown):
        storage.write(beside / name, files[name].read_bytes())
    storage.write(beside / "claims.json", report.json().encode())
    storage.write(page, page_text.encode())
    return [file for name, file in files.items() if name not in shown]


def _between(page_text: str, name: str, text: str) -> str:
    """Replace the text between the marks of `name`; the marks stay."""
    marks = re.compile(rf"(<!-- {re.escape(name)} -->).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}\n\n{text}\n\n{found[2]}", page_text)
