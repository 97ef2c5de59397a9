"""The command `sentei prune`: prune a network, shrink it and save it."""

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
    """Prune a network, delete what was pruned from its tensors, check the outputs, and save it.

    Parameters
    ----------
    model
        File of a network that sentei saved; synapses that are dead in it stay dead. Or the layer
        widths of a network to train first (784-64-32-10:relu).
    data
        Data set: mnist, letter, a named split such as mnist:shrinking, or a path to a .csv, an .npz
        or a folder of IDX files. Criteria use training samples,
        limits validation samples, and the final table test samples.
    target
        For a .csv: the column to predict, by name or position (-1 is the last).
    criterion
        How units or synapses are scored; the lowest scores are removed first: ablation (exact rise
        in loss, units only), taylor1, taylor2, obd, skeletonization, magnitude or random. With
        --budget or --board it scores units, and synapses are scored by magnitude.
    repair
        What replaces a removed unit's output: mean, twin, affine, least_squares
        or least_loss; no repair if left out.
    twins
        Used in place of --criterion and --schedule: an angle of 0 to 90 degrees. Of units whose
        output vectors are within it of the same or the opposite direction, all but one are
        removed, and so are constant units.
    schedule
        How many members remain after each step: one_at_a_time, one_shot, linear, cubic, geometric
        or fsa.
    keep
        How many units or synapses the schedule keeps at its end: a count, or a percentage such as
        "40 %".
    steps
        Number of steps that the schedule takes.
    within
        Where scores are compared: network (all groups together) or group (each layer by itself).
    synapses
        Remove single weights instead of whole units.
    inputs
        Remove input features as well as units.
    units_at_most
        Stop when at most this many units are left: a count, or a percentage.
    synapses_at_most
        Stop when at most this many synapses (weights) are left: a count, or a percentage.
    parameters_at_most
        Stop when at most this many parameters are left: a count, or a percentage.
    bytes_at_most
        Stop when the saved file is at most this large ("32 KiB").
    budget
        Find the most accurate network of at most this size ("32KiB"), as --format stores it.
        Several --paths are tried, compared on validation samples; nothing is written if none
        fits. For C, only the constants count, not the code.
    board
        Like --budget, for the flash and RAM of a board: arduino-uno, nucleo-f401re, … (an unknown
        name lists them all).
    format
        Format of --out: safetensors, onnx, c (float32), c-int8 (int8 weights) or c-int8-int8 (int8
        activations as well). If left out, the suffix of --out decides; for a board, it is c-int8,
        or c-int8-int8 if a float sample leaves no RAM.
    paths
        What to remove with --budget or --board: units, synapses, both (whichever costs the least
        loss per byte), or units:50 (half of the units, then synapses). If left out, all four for
        C, and units for other formats.
    accuracy_within
        Undo a step that lowers validation accuracy by more than this since the start (0.01 is
        one point).
    accuracy_at_least
        Undo a step that lowers validation accuracy below this (0.97 is 97 %).
    loss_within
        Undo a step that raises the validation loss by more than this since the start.
    retrain_epochs
        Number of training epochs after every step.
    samples
        Number of training samples that the criterion uses.
    journal
        Folder to write every step to; a run without a journal cannot be resumed.
    report
        HTML file to write: a page that shows what was removed, what is left and why.
    resume
        Continue the run in the --journal folder.
    seed
        Seed of the split of the data, of training and retraining.
    threads
        Number of CPU threads that torch may use.
    emulate
        Run the written C file on an emulated Cortex-M4 (QEMU) for ten test samples.
    out
        File to write the pruned network to; its suffix sets the format.
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
        history = _run_steps(
            run, groups, lambda first: note(first.folder, about), {repair, twins} != {None}
        )
        last = history[-1]
        reached = until is None or until(last.measured, history[0].measured)
    small = sentei.shrink(last.network(), last.mask, example)
    head("On test samples, which no earlier stage used")
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
    """Build the proposal that names what each step removes.

    Args:
        criterion: name of the criterion.
        pace: the schedule.
        within: "network" or "group".
        repair: name of the repair; None for none.
        twins: angle in degrees of a proposal by twins; None for one by criterion and schedule.
        ends: whether a limit or the schedule ends the run.

    Raises:
        ValueError: nothing ends the run.
    """
    import sentei

    if twins is not None:
        return sentei.twins(twins, repair=repair or "affine")
    propose = sentei.ranked(criterion, pace, within=within, repair=repair)
    if not ends:
        raise ValueError(
            "no option says where to stop, so everything would be removed: name a budget such as "
            "--bytes-at-most, a floor such as --accuracy-within, or a --schedule with --keep"
        )
    return propose


def _run_steps(
    run: Any, groups: list[Any], on_first: Callable[[Any], object], verbose: bool
) -> list[Any]:
    """Run all steps with a progress bar and return them; call `on_first` with the first.

    With `verbose`, log messages of repairs and twins are shown as well, each distinct one once.
    """
    from sentei.cli.screen import logged_once, progress

    level = logging.INFO if verbose else logging.WARNING
    total, steps = sum(group.size for group in groups), []
    with logged_once("sentei", level), progress("pruning", total) as advance:
        for step in run:
            if not steps:
                on_first(step)
            steps.append(step)
            removed = total - sum(step.mask.count(group) for group in groups)
            advance(removed, str(step.measured))
    return steps


def check_repair(repair: str | None, twins: float | None, room: str | None, synapses: bool) -> None:
    """Check that `--repair` or `--twins` is not combined with options that exclude repairs.

    Raises:
        ValueError: with the options that exclude each other.
    """
    option = "--repair" if repair is not None else "--twins" if twins is not None else None
    if option is None:
        return
    if synapses:
        raise ValueError(f"{option} applies to units, and --synapses removes single weights")
    if room is not None:
        raise ValueError(f"{option} excludes --budget and --board, which search their own paths")


def schedule_named(name: str, keep: str | None, steps: int | None) -> Callable[..., int]:
    """Build the schedule that the command line names.

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
        raise ValueError(f"schedule {name} needs --keep: how many members are left at its end")
    return made[name](keep)


def _limit(**asked: Any) -> Limit | None:
    """Combine all limits that are not None into one; None if all are."""
    from sentei.pruning.rules import limits

    found = [getattr(limits, name)(value) for name, value in asked.items() if value is not None]
    return limits.all_of(*found) if len(found) > 1 else found[0] if found else None
