"""The command `sentei prune`: prune a network, shrink it and save it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from sentei.cli import ranks
from sentei.cli.bounds import Amount, Count, CountOrNone, Degrees
from sentei.cli.fit import Budget, fit
from sentei.cli.options import (
    OUTPUT,
    PACE,
    REMOVED,
    REPAIR,
    REPAIRS,
    Data,
    Depth,
    Loss,
    Model,
    RunOnDevice,
    Weights,
    listed,
    seeded,
)
from sentei.cli.own_metric import Metric, titled
from sentei.cli.pruned import (
    Output,
    RetrainEpochs,
    Scoring,
    Start,
    Until,
    finish,
    started,
    together,
)
from sentei.cli.screen import Result
from sentei.cli.watching import watched
from sentei.errors import unknown
from sentei.pruning.rules import schedules

if TYPE_CHECKING:
    from torch import nn

    from sentei.criteria.repairs.table import Repair
    from sentei.network.units import Group

SCHEDULES: dict[str, Callable[[Any, int | None], schedules.Schedule]] = {
    "one_at_a_time": lambda keep, steps: schedules.one_at_a_time(),  # noqa: ARG005
    "one_shot": lambda keep, steps: schedules.one_shot(keep),  # noqa: ARG005
    "linear": schedules.linear,
    "cubic": schedules.cubic,
    "geometric": schedules.geometric,
    "fsa": lambda keep, steps: schedules.fsa(keep, steps=steps),
}

# The usual repairs. Where a criterion chooses the units, least squares is best (docs/study.md).
REPLACED, MERGED, NONE = "least_squares", "affine", "none"


@Parameter(name="*", group=REMOVED)
@dataclass(frozen=True)
class Removed:
    """What may be removed, besides units by their score.

    Attributes:
        synapses: Remove single weights instead of whole units.
        within: Where scores are compared: network (all groups together) or group (each layer by
            itself).
        twins: In place of a criterion and a schedule: an angle of 0 to 90 degrees. Of units whose
            output vectors are within it of the same or the opposite direction, all but one are
            removed, and so are constant units.
    """

    synapses: bool = False
    depth: Depth = False
    within: str = "network"
    twins: Degrees | None = None


@Parameter(name="*", group=REMOVED)
@dataclass(frozen=True)
class Widths:
    """What each group keeps; groups are named as `sentei units` lists them, or by a pattern.

    Attributes:
        alike: Groups whose names match keep as many members each: "*.mlp.*". May be given again.
        keep_of: At least so much of each matching group stays: "layer4.*=80 %", or a count. May be
            given again.
        at_least: At least so many members of every group stay.
        multiples_of: Every group that is cut keeps a multiple of so many members.
    """

    alike: list[str] | None = None
    keep_of: list[str] | None = None
    at_least: CountOrNone = 0
    multiples_of: Count = 1

    def settings(self) -> dict[str, Any]:
        """Return what `sentei.ranked` takes.

        Raises:
            ValueError: a `--keep-of` that is no pattern with an amount.
        """
        pairs = [given.rpartition("=") for given in self.keep_of or ()]
        for pattern, sign, share in pairs:
            if not (pattern and sign):
                raise ValueError(
                    f"--keep-of takes a pattern of group names and what stays of each: "
                    f"'layer4.*=80 %', or a count; got {pattern + sign + share!r}"
                )
            schedules.amount(share.strip(), 100)
        keep = {pattern: _amount(share.strip()) for pattern, _, share in pairs}
        widths = {"at_least": self.at_least, "multiples_of": self.multiples_of}
        return {"alike": tuple(self.alike or ()), "keep": keep or None, **widths}


def _amount(share: str) -> int | str:
    return int(share) if share.isdigit() else share


@Parameter(name="*", group=PACE)
@dataclass(frozen=True)
class Pace:
    """How many members each step removes.

    Attributes:
        keep: How many units or synapses the schedule keeps at its end: a count, or a percentage
            such as "40 %".
        steps: Number of steps that the schedule takes.
    """

    schedule: Annotated[
        str,
        Parameter(help=f"How many members remain after each step: {listed(tuple(SCHEDULES))}."),
    ] = "one_at_a_time"
    keep: Amount | None = None
    steps: Count | None = None

    def named(self) -> schedules.Schedule:
        """Return the schedule.

        Raises:
            ValueError: an unknown schedule, one that needs `--keep`, or one that ignores it.
        """
        if self.schedule not in SCHEDULES:
            raise ValueError(unknown("schedule", self.schedule, SCHEDULES))
        if self.schedule == "one_at_a_time" and self != Pace():
            raise ValueError(
                "--keep and --steps need a --schedule that ends, such as linear; one_at_a_time "
                "goes on until a limit such as --units-at-most stops it"
            )
        if self.schedule == "one_shot" and self.steps is not None:
            raise ValueError("--schedule one_shot takes one step; leave --steps out")
        if self.schedule != "one_at_a_time" and self.keep is None:
            raise ValueError(
                f"schedule {self.schedule} needs --keep: how many members are left at its end"
            )
        return SCHEDULES[self.schedule](self.keep, self.steps)


@Parameter(name="*", group=REPAIR)
@dataclass(frozen=True)
class Repairs:
    """What makes up for what was removed."""

    repair: Annotated[
        str | None,
        Parameter(
            help=f"What replaces a removed unit's output: {listed(REPAIRS)}, or {NONE}. If left "
            f"out, {REPLACED} for units where it is possible, {MERGED} with --twins, {NONE} for "
            "single weights."
        ),
    ] = None
    retrain_epochs: RetrainEpochs = 0

    def chosen(self, removed: Removed) -> str | Repair | None:
        """Return the repair for what is removed; None for no repair.

        Raises:
            ValueError: an unknown repair.
        """
        from sentei.criteria.repairs.where_possible import WherePossible

        if self.repair is not None and self.repair.replace("-", "_") not in (*REPAIRS, NONE):
            raise ValueError(unknown("repair", self.repair, (*REPAIRS, NONE)))
        if self.repair is not None:
            return None if self.repair == NONE else self.repair
        if removed.synapses:
            return None
        return WherePossible(REPLACED) if removed.twins is None else MERGED


def prune(
    model: Model,
    *,
    weights: Weights = None,
    loss: Loss = None,
    data: Data = Data(),
    scoring: Scoring = Scoring(),
    removed: Removed = Removed(),
    widths: Widths = Widths(),
    pace: Pace = Pace(),
    until: Until = Until(),
    metric: Metric = Metric(),
    repairs: Repairs = Repairs(),
    budget: Annotated[Budget, Parameter(show=False)] = Budget(),
    output: Output = Output(),
    watch: Annotated[bool, Parameter(group=OUTPUT)] = False,
    run: RunOnDevice = RunOnDevice(),
) -> Result:
    """Prune a network, delete what was pruned from its tensors, check the outputs, and save it.

    Criteria use training samples, limits validation samples, and the final table test samples.
    To find the most accurate network that fits a size or a board, see `sentei fit`.

    Parameters
    ----------
    watch
        Serve the page of the run on this machine while the run goes on; its folder is --journal.
    """
    if budget != Budget():
        return fit(
            model,
            weights=weights,
            loss=loss,
            scoring=scoring,
            budget=budget,
            until=until,
            retrain_epochs=repairs.retrain_epochs,
            data=data,
            output=output,
            run=run,
        )
    format = output.checked_format()
    goal, schedule, own = until.goal(), pace.named(), metric.function()
    floors = together([*until.floors(), *metric.floors()])
    ends = goal is not None or floors is not None or pace != Pace()
    repair = repairs.chosen(removed)
    criterion = seeded(scoring.criterion or _usual(removed, repair), data.seed)
    propose = _proposal(criterion, schedule, removed, widths, repair, ends=ends)
    run.start()
    output.begin()
    one = output.for_one_input(format)
    start = started(
        *(model, data, loss, repairs.retrain_epochs, weights, run.place()), one_input_for=one
    )
    with watched(output.journal if watch and ranks.is_first() else None, model):
        steps = _run_steps(
            start,
            _groups(start, removed, inputs=scoring.inputs),
            scoring.samples,
            propose,
            None if own is None else metric.measured_on(own, start.split.validation),
            verbose=repair is not None,
            until=goal,
            keeping=floors,
            journal=output.journal,
            resume=output.resume,
        )
    reached = goal is None or goal(steps[-1].measured, steps[0].measured)
    ranks.leave()
    if not ranks.is_first():
        return Result({})
    at_end = None if own is None else metric.measured_on(own, start.split.test)
    return finish(start, steps[-1], output, format, reached=reached, metric=at_end)


def _usual(removed: Removed, repair: str | Repair | None) -> str:
    """Return the criterion for what is removed, if none is named.

    Where units are repaired, scores that foresee it are better (docs/study.md).
    """
    if removed.synapses:
        return "magnitude"
    return "ablation" if repair is None else "ablation-affine"


def _proposal(
    criterion: Any,
    schedule: schedules.Schedule,
    removed: Removed,
    widths: Widths,
    repair: str | Repair | None,
    *,
    ends: bool,
) -> Any:
    """Build the proposal that names what each step removes.

    Args:
        criterion: a criterion, or its name.
        schedule: how many members remain after each step.
        removed: the angle of twins, or where scores are compared.
        widths: what each group keeps.
        repair: the repair, or its name; None for no repair.
        ends: whether a limit or the schedule ends the run.

    Raises:
        ValueError: nothing ends the run.
    """
    import sentei

    if removed.twins is not None:
        return sentei.twins(removed.twins, repair=repair)
    settings = {"within": removed.within, "repair": repair, **widths.settings()}
    propose = sentei.ranked(criterion, schedule, **settings)
    if not ends:
        raise ValueError(
            "no option says where to stop, so everything would be removed: name a budget such as "
            "--bytes-at-most, a floor such as --accuracy-within, or a --schedule with --keep"
        )
    return propose


def _groups(start: Start, removed: Removed, *, inputs: bool) -> list[Group]:
    """Return the groups that may be cut: synapses, or units and perhaps inputs and branches."""
    import sentei

    if removed.synapses:
        return [*sentei.find_synapses(start.network)]
    example = start.split.train.first(64).inputs
    return [*sentei.find_units(start.network, example, inputs=inputs, depth=removed.depth)]


def _run_steps(
    start: Start,
    groups: list[Group],
    samples: int,
    propose: Any,
    metric: Callable[[nn.Module], Any] | None,
    *,
    verbose: bool,
    **settings: Any,
) -> list[Any]:
    """Prune with a progress bar, and return all steps; note the run's metadata at the first.

    With `verbose`, log messages of repairs and twins are shown as well, each distinct one once.
    """
    import sentei
    from sentei.cli.screen import logged_once, progress
    from sentei.pruning.journal import note

    probe = sentei.Probe(start.network, start.split.train.first(samples), start.loss)
    run = sentei.prune(
        start.network,
        groups,
        probe,
        propose,
        retrain=None if start.retrain is None else start.retrain(),
        evaluate=start.split.validation,
        metric=metric,
        mask=start.mask,
        **settings,
    )
    level = logging.INFO if verbose else logging.WARNING
    total, steps = sum(group.size for group in groups), []
    logs = logged_once("sentei", level), logged_once("sentei.pruning", logging.INFO)
    with logs[0], logs[1], progress("removed", total) as advance:
        for step in run:
            if not steps and ranks.is_first():
                note(step.folder, start.about)
            steps.append(step)
            removed = total - sum(step.mask.count(group) for group in groups)
            advance(removed, str(titled(step.measured, metric)))
    return steps
