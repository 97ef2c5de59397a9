"""The steps of a run as rows of numbers, for tables, loggers and plots of other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sentei.arguments import checked
from sentei.pruning.measuring import Outline
from sentei.pruning.run import Step, row
from sentei.pruning.run_reader import SavedRun, read_run

Row = dict[str, float]


@checked
def rows(run: Sequence[Step] | str | Path) -> list[Row]:
    """Return a dict of numbers for each step of a run, as `Step.row` does, step 0 first.

    Args:
        run: the steps that `prune` yielded, or a run folder. A folder whose network cannot be built
            from its description, or that stored no samples, gives no multiply-adds.

    Raises:
        JournalError: no run folder, or a damaged one.
    """
    if isinstance(run, str | Path):
        return _stored(read_run(run, runnable=False))
    return [step.row() for step in run]


def _stored(run: SavedRun) -> list[Row]:
    found = run.records
    if run.runs and run.samples is not None and "forward" not in run.card:
        outline = Outline(run.start, run.samples.inputs[:2])
        found = [replace(r, measured=r.measured.of(outline, r.mask)) for r in found]
    return [row(record.number, record.measured, record.removed) for record in found]
