"""Claims of a paper as table rows: published value, measured value and verdict.

Also the statistics of the measured values: mean and deviation over seeds, paired t-tests.
"""

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
    """One claim of a paper that an experiment can check: a row of the table.

    Attributes:
        claim: what the paper claims, in a few words.
        published: the number in the paper, as printed there.
        measured: our number, with its deviation and the number of seeds: see `spread`.
        verdict: whether our number confirms the claim.
        remark: what the verdict rests on, and how our setting differs from the paper's, if it does.
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
        paper: the name of the paper's package.
        title: title and authors of the paper.
        command: the command that produces the same rows.
        quick: whether the experiments were smaller (`--quick`); such a report is never published.
        claims: the rows.
    """

    paper: str
    title: str
    command: str
    quick: bool
    claims: Sequence[Claim]

    def markdown(self) -> str:
        """Return the claims as a Markdown table."""
        lines = [f"<!-- {self.command} -->", ""]
        if self.quick:
            lines += [f"**{SMALLER}**", ""]
        lines += ["| claim | published | measured | verdict | remark |", "| --- " * 5 + "|"]
        for row in self.claims:
            cells = (row.claim, row.published, row.measured, row.verdict, row.remark)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """Return the same claims as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def spread(values: Sequence[float], digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
    """Format mean and standard deviation of one value per seed: "96.41 ± 0.12 % (5 seeds)".

    Args:
        values: one for each seed; NaN is shown, never dropped.
        digits: number of decimals.
        scale: factor that the values are multiplied by, 100 for percent.
        unit: text after the number.
    """
    if not values:
        raise ValueError("a spread needs at least one value; got none")
    scaled = [value * scale for value in values]
    tail = f" {unit}" if unit else ""
    if len(scaled) == 1:
        return f"{scaled[0]:,.{digits}f}{tail} (1 seed)"
    deviation = statistics.stdev(scaled) if all(map(math.isfinite, scaled)) else math.nan
    mean = statistics.fmean(scaled)
    return f"{mean:,.{digits}f} ± {deviation:.{digits}f}{tail} ({len(scaled)} seeds)"


@dataclass(frozen=True)
class Paired:
    """The differences between two methods that were run with the same seeds.

    Attributes:
        mean: mean of the differences, one minus other.
        deviation: standard deviation of the differences.
        p: p-value of the two-sided paired t-test against a mean of 0; NaN for fewer than two pairs,
            or if all differences are equal.
        pairs: number of pairs.
    """

    mean: float
    deviation: float
    p: float
    pairs: int

    def words(self, digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
        """Format as text, such as "+0.13 ± 0.05 points (5 pairs, p = 0.003)"."""
        tail = f" {unit}" if unit else ""
        p_value = "< 0.001" if self.p < 0.001 else f"= {self.p:.3f}"
        p_text = "" if math.isnan(self.p) else f", p {p_value}"
        deviation = "" if math.isnan(self.deviation) else f" ± {self.deviation * scale:.{digits}f}"
        count = f"{self.pairs} pair{'s' * (self.pairs > 1)}"
        return f"{self.mean * scale:+,.{digits}f}{deviation}{tail} ({count}{p_text})"


def paired(one: Sequence[float], other: Sequence[float]) -> Paired:
    """Compare two methods on the same seeds by a two-sided paired t-test.

    Raises:
        ValueError: the two sequences differ in length, or are empty.
    """
    if len(one) != len(other) or not one:
        raise ValueError(
            f"pairs need as many values on both sides, at least one; {len(one)} and {len(other)}"
        )
    differences = [a - b for a, b in zip(one, other, strict=True)]
    count, mean = len(differences), statistics.fmean(differences)
    deviation = statistics.stdev(differences) if count > 1 else math.nan
    if not deviation > 0:
        return Paired(mean, deviation, math.nan, count)
    t = abs(mean) / (deviation / math.sqrt(count))
    return Paired(mean, deviation, 2 * _upper_tail(t, count - 1), count)


def _upper_tail(t: float, freedom: int) -> float:
    """Return the upper tail probability of Student's t distribution beyond `t`.

    It is integrated by Simpson's rule over the angle atan(t / sqrt(n)), n degrees of freedom. As a
    function of that angle the density is a power of the cosine, which is smooth up to the end.
    """
    low, high, parts = math.atan(t / math.sqrt(freedom)), math.pi / 2, 1_000

    def area(start: float) -> float:
        width = (high - start) / parts
        heights = [max(math.cos(start + i * width), 0.0) ** (freedom - 1) for i in range(parts + 1)]
        return width / 3 * (heights[0] + 4 * sum(heights[1::2]) + 2 * sum(heights[2:-1:2]))

    return area(low) / (2 * area(0.0))
