"""What a paper says beside what came out: rows of a table that is data, not prose."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["holds", "holds in part", "does not hold", "cannot be judged"]


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper that a run can check.

    Attributes:
        claim: what the paper says, in a few words.
        published: the paper's figure, as it prints it.
        measured: ours, with its spread and the number of seeds: see `spread`.
        verdict: what follows.
        remark: what a reader has to know to agree; how the setting differs, if it does.
    """

    claim: str
    published: str
    measured: str
    verdict: Verdict
    remark: str = ""


@dataclass(frozen=True)
class Report:
    """A paper's claims and the command that measured them.

    Attributes:
        paper: its key.
        title: its title and authors.
        command: what to run to get the same rows.
        quick: whether smaller experiments stood in; such a report is never published.
        claims: the rows.
    """

    paper: str
    title: str
    command: str
    quick: bool
    claims: Sequence[Claim]

    def markdown(self) -> str:
        """The table, for a page."""
        lines = [f"<!-- {self.command} -->", ""]
        if self.quick:
            lines += ["**Measured with `--quick`: smaller experiments, not for publication.**", ""]
        lines += ["| claim | published | measured | verdict | remark |", "| --- " * 5 + "|"]
        for row in self.claims:
            cells = (row.claim, row.published, row.measured, row.verdict, row.remark)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """The same rows for programs."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def spread(values: Sequence[float], digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
    """Mean and standard deviation of one value per seed: "96.41 ± 0.12 % (5 seeds)".

    Args:
        values: one for each seed; NaN is shown as such, never dropped.
        digits: after the point.
        scale: what to multiply with, 100 for percent.
        unit: what follows the number.
    """
    if not values:
        raise ValueError("a spread needs at least one value")
    scaled = [value * scale for value in values]
    tail = f" {unit}" if unit else ""
    if len(scaled) == 1:
        return f"{scaled[0]:,.{digits}f}{tail} (1 seed)"
    deviation = statistics.stdev(scaled) if all(map(math.isfinite, scaled)) else math.nan
    mean = statistics.fmean(scaled)
    return f"{mean:,.{digits}f} ± {deviation:.{digits}f}{tail} ({len(scaled)} seeds)"
