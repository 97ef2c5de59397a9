"""Make the README's and the guide's pictures of pages, and its figures.

Run `make demo` and `make examples` first, and let chromium be on the path; then
`PYTHONPATH=tests python docs/screenshots.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from browser import Page, chromium

PICTURES = Path(__file__).parent / "pictures"
RUNS = Path("runs")
WIDE = 1280
THREE = [(0.3, 0.25), (0.45, 0.15), (0.62, 0.2), (0.66, 0.34), (0.55, 0.46), (0.45, 0.49),
         (0.58, 0.52), (0.68, 0.64), (0.62, 0.8), (0.46, 0.86), (0.3, 0.78)]  # fmt: skip


def draw(page: Page) -> None:
    """Draw a 3 on the board of the page."""
    box = page.box("#board")
    page.drag([(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in THREE])


def shoot(page: Page, name: str, first: str, last: str | None = None) -> None:
    """Write a picture of the part of a page from the element `first` to the end of `last`."""
    page.ask("window.scrollTo(0, 0); document.querySelector('#stepper').style.position = 'static'")
    top, bottom = (
        page.ask(f"document.querySelector('{each}').getBoundingClientRect().{edge}")
        for each, edge in ((first, "top"), (last or first, "bottom"))
    )
    width = page.ask("document.documentElement.clientWidth")
    clip = {"x": 0, "y": max(top - 8, 0), "width": width, "height": bottom - top + 16, "scale": 1}
    page.screenshot(PICTURES / f"{name}.png", clip=clip)


def main() -> None:
    """Take all pictures."""
    for name in ("tradeoff", "order", "stayed", "removed"):
        shutil.copy(RUNS / "demo" / "figures" / f"{name}.png", PICTURES)
    with chromium() as page:
        page.open(RUNS / "demo" / "report.html", WIDE)
        draw(page)
        page.set("#class", "3")
        shoot(page, "report-digits", "header", "#graph")
        shoot(page, "report-cost", "#cost")
        page.open(RUNS / "pages" / "letters.html", WIDE)
        shoot(page, "report-letters", "#network")
        page.open(RUNS / "pages" / "convolution.html", WIDE, dark=True)
        draw(page)
        shoot(page, "report-convolution", "#network")


if __name__ == "__main__":
    main()
