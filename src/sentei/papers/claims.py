"""What a paper says beside what came out: rows of a table that is data, not prose."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["holds", "holds in part", "does not hold", "cannot be judged"]
SMALLER = "Measured with `--quick`: smaller experiments, not for publication."


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
            lines += [f"**{SMALLER}**", ""]
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


@dataclass(frozen=True)
class Paired:
    """Two ways compared seed by seed.

    Attributes:
        mean: of the differences, one minus other.
        deviation: their standard deviation.
        p: how likely a mean this far from 0 is by chance (two-sided paired t-test); NaN for fewer
            than two pairs, or without any spread.
        pairs: how many there are.
    """

    mean: float
    deviation: float
    p: float
    pairs: int

    def words(self, digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
        """Such as "+0.13 ± 0.05 points (5 pairs, p = 0.003)"."""
        tail = f" {unit}" if unit else ""
        chance = "< 0.001" if self.p < 0.001 else f"= {self.p:.3f}"
        told = "" if math.isnan(self.p) else f", p {chance}"
        around = "" if math.isnan(self.deviation) else f" ± {self.deviation * scale:.{digits}f}"
        counted = f"{self.pairs} pair{'s' * (self.pairs > 1)}"
        return f"{self.mean * scale:+,.{digits}f}{around}{tail} ({counted}{told})"


def paired(one: Sequence[float], other: Sequence[float]) -> Paired:
    """Compare two ways on the same seeds.

    Raises:
        ValueError: other lengths, or none.
    """
    if len(one) != len(other) or not one:
        raise ValueError(f"pairs need as many values on both sides; {len(one)} and {len(other)}")
    apart = [a - b for a, b in zip(one, other, strict=True)]
    count, mean = len(apart), statistics.fmean(apart)
    deviation = statistics.stdev(apart) if count > 1 else math.nan
    if not deviation > 0:
        return Paired(mean, deviation, math.nan, count)
    t = abs(mean) / (deviation / math.sqrt(count))
    return Paired(mean, deviation, 2 * _beyond(t, count - 1), count)


def _beyond(t: float, freedom: int) -> float:
    """The upper tail of Student's distribution, by Simpson's rule in the angle atan(t / sqrt(n)).

    There the density is a power of the cosine, smooth up to the end.
    """
    low, high, parts = math.atan(t / math.sqrt(freedom)), math.pi / 2, 1_000

    def area(start: float) -> float:
        width = (high - start) / parts
        heights = [max(math.cos(start + i * width), 0.0) ** (freedom - 1) for i in range(parts + 1)]
        return width / 3 * (heights[0] + 4 * sum(heights[1::2]) + 2 * sum(heights[2:-1:2]))

    return area(low) / (2 * area(0.0))
