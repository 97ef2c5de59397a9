"""`sentei prune`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentei.errors import unknown

if TYPE_CHECKING:
    from sentei.pruning.rules.limits import Limit

UNREACHED = 3


def prune(
    model: str,
    *,
    data: str = "mnist",
    target: str = "-1",
    criterion: str = "ablation",
    repair: str | None = None,
    twins: float | None = None,
    schedule: str = "one_at_a_time",
    keep: str | None = None,
    steps: int | None = None,
    within: str = "network",
    synapses: bool = False,
    inputs: bool = False,
    units_at_most: str | None = None,
    synapses_at_most: str | None = None,
    parameters_at_most: str | None = None,
    bytes_at_most: str | None = None,
    budget: str | None = None,
    board: str | None = None,
    format: str | None = None,
    paths: list[str] | None = None,
    accuracy_within: float | None = None,
    accuracy_at_least: float | None = None,
    loss_within: float | None = None,
    retrain_epochs: int = 0,
    samples: int = 10_000,
    journal: Path | None = None,
    report: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    threads: int = 1,
    emulate: bool = False,
    out: Path = Path("small.safetensors"),
) -> int:
    """Prune a saved network, shrink it, prove that it is the same function, and save it.

    Parameters
    ----------
    model
        A network that sentei saved; what is dead in it stays dead. Or the widths of one to be
        trained first, as for train (784-64-32-10:relu).
    data
        As for train. Criteria look at training samples, limits at validation, the table at test.
    target
        The column of a .csv to predict, by name or position.
    criterion
        What matters least: ablation, taylor1, taylor2, obd, skeletonization, magnitude or random.
        For a budget or a board it orders units; synapses go by magnitude.
    repair
        Who takes over a unit's work: mean, twin, affine, least_squares or least_loss; nobody if
        left out.
    twins
        In place of criterion and schedule: of units whose outputs point the same or the opposite
        way to so many degrees all but one go, and constant ones.
    schedule
        How fast: one_at_a_time, one_shot, linear, cubic, geometric or fsa.
    keep
        How many the schedule leaves: a count, or a percentage such as "40 %".
    steps
        Number of steps the schedule takes.
    within
        Rank across the whole network, or within each group.
    synapses
        Remove single weights instead of whole units.
    inputs
        Offer input features for removal as well.
    units_at_most
        Stop when no more units than this are left (a count or a percentage).
    synapses_at_most
        Stop when no more synapses than this are left.
    parameters_at_most
        Stop when no more parameters than this are left.
    bytes_at_most
        Stop when the file is no larger than this ("32 KiB").
    budget
        Fit the written file into this ("32KiB"), and nothing larger is written. Several paths down
        are tried, and the network that is most accurate on validation data is kept. As C, what
        counts are the constants; the code comes on top.
    board
        As --budget, for a board's flash and RAM: arduino-uno, nucleo-f401re, … (an unknown name
        lists them).
    format
        What --out is written as: safetensors, onnx, c, c-int8 or c-int8-int8; by its ending if
        left out, and for a board c-int8, or c-int8-int8 where floats leave no RAM.
    paths
        Ways down to a budget: units, synapses, both (whichever costs the least loss per byte), or
        units:50 (half of the units, then synapses); these four if left out.
    accuracy_within
        Undo the step that costs more accuracy than this (0.01 is one point).
    accuracy_at_least
        Undo the step that brings accuracy below this.
    loss_within
        Undo the step that raises the loss by more than this.
    retrain_epochs
        Epochs of training after every step.
    samples
        How many training samples the criterion looks at.
    journal
        Folder that keeps every step; without it nothing can be resumed.
    report
        Write a page (.html) that shows what went, what is left and why.
    resume
        Go on with the run in the journal.
    seed
        Of retraining and of random criteria.
    threads
        How many torch may use.
    emulate
        Run the C file on an emulated Cortex-M4 (QEMU), on ten test samples.
    out
        The file to write.
    """
    import torch

    import sentei
    from sentei import datasets
    from sentei.cli.budget_search import board_format, fitted, room_of
    from sentei.cli.command_line import command
    from sentei.cli.deployment import CALIBRATION, check_tools, format_of, ship
    from sentei.cli.loading import loaded
    from sentei.cli.screen import column, console, head, say
    from sentei.network.encoding.size import counts
    from sentei.pruning.journal import note
    from sentei.reporting.page.story import words_for
    from sentei.reporting.tables import before_and_after, facts

    written = format_of(out, format)
    check_tools(written, emulate)
    until = _limit(
        units_at_most=units_at_most,
        synapses_at_most=synapses_at_most,
        parameters_at_most=parameters_at_most,
        bytes_at_most=bytes_at_most,
    )
    keeping = _limit(
        accuracy_within=accuracy_within,
        accuracy_at_least=accuracy_at_least,
        loss_within=loss_within,
    )
    check_repair(repair, twins, budget or board, synapses)
    pace = schedule_named(schedule, keep, steps)
    propose = _proposal(
        criterion,
        pace,
        within,
        repair,
        twins,
        ends=any((until, keeping, budget, board, schedule != "one_at_a_time")),
    )
    recipe = sentei.Recipe(epochs=max(retrain_epochs, 1), seed=seed)
    torch.set_num_threads(threads)
    network, dead, split = loaded(
        model,
        lambda flat: datasets.load(data, flat=flat, seed=seed, target=column(target)),
        seed,
    )
    before, example = copy.deepcopy(network), split.train.inputs[:64]
    if board is not None and format is None:
        written = board_format(board, out, example[0].numel())
    room = room_of(budget, board, written, example[0].numel())
    about = words_for(split, command(), seed)
    shared: dict[str, Any] = {
        "until": until,
        "keeping": keeping,
        "journal": journal,
        "resume": resume,
        "mask": dead,
        "evaluate": split.validation,
    }
    if room is not None:
        found = fitted(
            network,
            split,
            room,
            paths=paths,
            samples=samples,
            inputs=inputs,
            units=criterion,
            retrain=(lambda: sentei.FineTune(split.train, recipe)) if retrain_epochs else None,
            about=about,
            **shared,
        )
        if found is None:
            return UNREACHED
        last, reached = found.step, True
    else:
        units = [] if synapses else sentei.find_units(network, example, inputs=inputs)
        groups = [*units, *(sentei.find_synapses(network) if synapses else [])]
        run = sentei.prune(
            network,
            groups,
            sentei.Probe(network, split.train.first(samples)),
            propose,
            retrain=sentei.FineTune(split.train, recipe) if retrain_epochs else None,
            **shared,
        )
        taken = _taken(
            run, groups, lambda first: note(first.folder, about), {repair, twins} != {None}
        )
        last = taken[-1]
        reached = until is None or until(last.measured, taken[0].measured)
    small = sentei.shrink(last.network(), last.mask, example)
    head("On test data, which nothing has looked at until now")
    left, size = last.mask.shrunk(), last.measured.bytes_in(written)
    file = Path(model) if Path(model).exists() else counts(before, dead).bytes
    rows = [facts(before, file, split.test, dead), facts(small, size, split.test, left)]
    console.print(before_and_after(*rows))
    say(f"{sentei.certify(last.network(), small, example)}")
    ship(small, out, left, written, split.train.inputs[:CALIBRATION], split.test, emulate=emulate)
    if report is not None:
        say(f"Page: {sentei.report(last.folder, report)}")
    return 0 if reached else UNREACHED


def _proposal(
    criterion: str,
    pace: Callable[..., int],
    within: str,
    repair: str | None,
    twins: float | None,
    *,
    ends: bool,
) -> Any:
    """What is removed at each step; `ends`: a limit or the schedule says where to stop."""
    import sentei

    if twins is not None:
        return sentei.twins(twins, repair=repair or "affine")
    propose = sentei.ranked(criterion, pace, within=within, repair=repair)
    if not ends:
        raise ValueError(
            "nothing says where to stop, so everything would go: name a budget such as "
            "--bytes-at-most, a floor such as --accuracy-within, or a --schedule with --keep"
        )
    return propose


def _taken(run: Any, groups: list[Any], noted: Callable[[Any], object], told: bool) -> list[Any]:
    """All steps of a run, shown as they come; `noted` is called with the first.

    With `told`, what repairs and twins have to say is shown as well, each sentence once.
    """
    from sentei.cli.screen import progress, said_once

    level = logging.INFO if told else logging.WARNING
    total, taken = sum(group.size for group in groups), []
    with said_once("sentei", level), progress("pruning", total) as advance:
        for step in run:
            if not taken:
                noted(step)
            taken.append(step)
            gone = total - sum(step.mask.count(group) for group in groups)
            advance(gone, str(step.measured))
    return taken


def check_repair(repair: str | None, twins: float | None, room: str | None, synapses: bool) -> None:
    """Refuse a repair where nobody could take over.

    Raises:
        ValueError: with what does not go together.
    """
    asked = "--repair" if repair is not None else "--twins" if twins is not None else None
    if asked is None:
        return
    if synapses:
        raise ValueError(f"{asked} is for units, and --synapses removes single weights")
    if room is not None:
        raise ValueError(f"{asked} does not go with --budget or --board, which try paths of theirs")


def schedule_named(name: str, keep: str | None, steps: int | None) -> Callable[..., int]:
    """A schedule from the words of the command line.

    Raises:
        ValueError: an unknown schedule, or one that needs `--keep`.
    """
    from sentei.pruning.rules import schedules

    made: dict[str, Callable[[Any], Callable[..., int]]] = {
        "one_at_a_time": lambda _: schedules.one_at_a_time(),
        "one_shot": schedules.one_shot,
        "linear": lambda amount: schedules.linear(amount, steps),
        "cubic": lambda amount: schedules.cubic(amount, steps),
        "geometric": lambda amount: schedules.geometric(amount, steps),
        "fsa": lambda amount: schedules.fsa(amount, steps=steps),
    }
    if name not in made:
        raise ValueError(unknown("schedule", name, made))
    if name != "one_at_a_time" and keep is None:
        raise ValueError(f"schedule {name} needs --keep: how many are left at its end")
    return made[name](keep)


def _limit(**asked: Any) -> Limit | None:
    """All limits that were asked for, as one."""
    from sentei.pruning.rules import limits

    found = [getattr(limits, name)(value) for name, value in asked.items() if value is not None]
    return limits.all_of(*found) if len(found) > 1 else found[0] if found else None
