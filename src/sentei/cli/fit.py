"""The command `sentei fit`: find the most accurate network within a budget of bytes or a board."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from sentei.cli.bounds import Duration, Size
from sentei.cli.failures import UNREACHED
from sentei.cli.options import (
    REMOVED,
    UNTIL,
    Data,
    Loss,
    Model,
    Parallel,
    RunOnDevice,
    Weights,
    seeded,
    shared,
)
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
from sentei.errors import BudgetError, IncompleteError
from sentei.pruning.boards import BOARDS

if TYPE_CHECKING:
    from torch import nn

    from sentei.cli.screen import Advance
    from sentei.datasets import Split
    from sentei.pruning.rules.conditions import Limit
    from sentei.pruning.rules.limits import MemoryBudget
    from sentei.pruning.run import Step
    from sentei.pruning.searching import Found

MAGNITUDE = "magnitude"


@Parameter(name="*")
@dataclass(frozen=True)
class Budget:
    """What the network has to fit into, and the ways there.

    Attributes:
        budget: Largest size ("32KiB"), as --format stores the network. For C, only the constants
            count, not the code.
        paths: What to remove: units, synapses, both (whichever costs the least loss per byte), or
            units:50 (half of the units, then synapses). Several paths are tried, and compared on
            validation samples. If left out, all four for C, and units for other formats.
        synapse_criterion: How synapses are scored. With obs the remaining ones make up for the
            removed ones: more accurate if nothing is retrained, and many times slower.
    """

    budget: Annotated[Size | None, Parameter(group=UNTIL)] = None
    board: Annotated[
        str | None,
        Parameter(
            group=UNTIL,
            help="In place of --budget: the board whose flash and RAM the network has to fit into, "
            f"beside code and stack: {', '.join(BOARDS)}.",
        ),
    ] = None
    board_latency: Annotated[
        Duration | None,
        Parameter(
            group=UNTIL,
            help='Beside --board: the longest time of one sample on it ("5 ms"), estimated from '
            "the cycles of the instructions that QEMU runs.",
        ),
    ] = None
    paths: Annotated[list[str] | None, Parameter(group=REMOVED)] = None
    synapse_criterion: Annotated[str, Parameter(group=REMOVED)] = MAGNITUDE


def fit(
    model: Model,
    *,
    weights: Weights = None,
    loss: Loss = None,
    data: Data = Data(),
    scoring: Scoring = Scoring(),
    budget: Budget = Budget(),
    until: Until = Until(),
    retrain_epochs: RetrainEpochs = 0,
    output: Output = Output(),
    parallel: Parallel = Parallel(),
    run: RunOnDevice = RunOnDevice(),
) -> Result:
    """Find the most accurate network that fits a number of bytes or a board, and save it.

    A copy of the network is pruned along each path until it fits; the most accurate one on
    validation samples is shrunk, checked and written, and measured on test samples. Units are
    scored by the criterion, synapses by theirs. Nothing is written if no network fits.

    For a board, the format is c-int8, or c-int8-int8 if a float sample leaves no RAM, unless
    --format names another.
    """
    from sentei.nests import tensors
    from sentei.network.layers import standardises
    from sentei.reporting.tables import tried

    format = output.checked_format()
    check_budget(budget, output, format)
    units, synapses = (
        seeded(each, data.seed)
        for each in (scoring.criterion or "ablation", budget.synapse_criterion)
    )
    goal, floors = until.goal(), together(until.floors())
    workers = parallel.workers()
    run.start()
    output.begin()
    one = output.for_one_input(format)
    start = started(model, data, loss, retrain_epochs, weights, run.place(), one_input_for=one)
    inputs = sum(tensor[0].numel() for tensor in tensors(start.split.train.inputs))
    floats = standardises(start.network)
    room = room_of(budget, output.format, format, inputs, floats=floats, network=start.network)
    in_time = _in_time(budget, room, start)
    goal = together([*([goal] if goal else []), *in_time])
    try:
        found = _searched(
            start,
            room,
            samples=scoring.samples,
            # In other processes the network of a step stays there.
            in_time=in_time if parallel == Parallel() else [],
            units=units,
            synapses=synapses,
            inputs=scoring.inputs,
            paths=budget.paths,
            until=goal,
            keeping=floors,
            journal=output.journal,
            resume=output.resume,
            workers=workers,
        )
    except IncompleteError as error:
        return shared(error)
    best, paths = found[0], _rows(found)
    if not best.fits:
        nothing = {"before": None, "after": None, "out": None, "reached": False, "paths": paths}
        time = "" if budget.board_latency is None else f" and {budget.board_latency} a sample"
        why = (
            f"Nothing was written: no path reached {room.bytes:,} bytes as {room.format}{time} "
            f"within the floors. The smallest network takes {best.bytes:,} bytes, with "
            f"{best.step.measured}."
        )
        return Result(nothing, (tried(found), why), UNREACHED)
    told = _told(budget, room)
    done = finish(start, best.step, output, room.format, reached=True, budget=told)
    return Result({**done.data, "paths": paths}, (tried(found), *done.shown))


def _told(budget: Budget, room: MemoryBudget) -> str:
    """Return what the network had to fit into, as one line."""
    ram = "" if room.ram is None else f" and {room.ram:,} of RAM"
    board = "" if budget.board is None else f" (board {budget.board}, beside code, stack, a sample)"
    time = "" if budget.board_latency is None else f", {budget.board_latency} a sample by estimate"
    return f"Made to fit {room.bytes:,} bytes{ram}{board}{time}."


def _in_time(budget: Budget, room: MemoryBudget, start: Start) -> list[Limit]:
    """Return the limit of `--board-latency`, if it is given."""
    from sentei.cli.board_time import board_latency_at_most
    from sentei.cli.deployment import CALIBRATION

    if budget.board is None or budget.board_latency is None:
        return []
    calibration = start.split.train.first(CALIBRATION).inputs
    return [board_latency_at_most(budget.board, budget.board_latency, room.format, calibration)]


def check_budget(budget: Budget, output: Output, format: str) -> None:
    """Check what can be checked about a budget before the network is loaded or trained.

    Raises:
        BudgetError: neither a budget nor a board is given, or the file to write for a board is not
            C.
        ValueError: an unknown board, a path that is unknown or saves nothing in the format, or a
            criterion for synapses, which no path removes.
    """
    from sentei.pruning import boards
    from sentei.pruning.searching import paths_for

    if budget.budget is None and budget.board is None:
        raise BudgetError(
            "nothing says what the network has to fit into: give --budget 32KiB or --board NAME"
        )
    if budget.board is not None:
        boards.board(budget.board)
        if output.out.suffix != ".c":
            raise BudgetError(f"--board needs a C file: --out net.c, not {output.out}")
        if budget.board_latency is not None:
            from sentei.cli.board_time import check_board_time

            check_board_time(budget.board, budget.board_latency)
    if paths_for(format, budget.paths) == ["units"] and budget.synapse_criterion != MAGNITUDE:
        raise ValueError(
            "--synapse-criterion has no effect: the only path, units, removes no synapses. Leave "
            "it out, or name other --paths"
        )


def room_of(
    budget: Budget,
    asked: str | None,
    format: str,
    inputs: int,
    *,
    floats: bool = False,
    network: nn.Module | None = None,
) -> MemoryBudget:
    """Return the memory budget that `--budget` or `--board` sets.

    Args:
        budget: a checked one.
        asked: the format that was asked for; if None, a board takes c-int8, or c-int8-int8 if a
            float sample leaves no RAM.
        format: the format of a budget of bytes.
        inputs: numbers in one sample.
        floats: whether they are floats in every format: the network standardises its inputs.
        network: whose convolutions have code of their own; None if it has none.

    Raises:
        UnreachableError: the board's RAM does not hold one sample.
    """
    from sentei.cli.screen import note
    from sentei.errors import UnreachableError
    from sentei.pruning.boards import board
    from sentei.pruning.rules.limits import MemoryBudget

    if budget.board is None:
        return MemoryBudget(format, budget.budget or "")
    found = board(budget.board)
    parts = [] if network is None else [type(part).__name__ for part in network.modules()]
    takes = {
        "floats": floats,
        "convolutions": sum(part.startswith("Conv") for part in parts),
        "recurrent": not {"GRU", "LSTM", "RNN"}.isdisjoint(parts),
    }
    try:
        room = found.memory_budget(asked or "c-int8", inputs, **takes)
    except UnreachableError:
        if asked is not None:
            raise
        room = found.memory_budget("c-int8-int8", inputs, **takes)
    note(
        f"{budget.board}: {found.processor}, {found.flash:,} bytes of flash and {found.ram:,} of "
        f"RAM. Less code, stack and one sample, {room.bytes:,} and {room.ram:,} are left for "
        f"{room.format}."
    )
    return room


def _searched(
    start: Start, room: MemoryBudget, samples: int, in_time: Sequence[Limit], **settings: Any
) -> list[Found]:
    """Search for the most accurate network that fits, with a progress bar; best path first.

    Args:
        start: its network is not changed; validation samples choose among the paths.
        room: the memory budget.
        samples: number of training samples that a criterion uses.
        in_time: limits whose readings are shown beside the sizes that fit.
        settings: other arguments of `search`.
    """
    from sentei.cli.screen import progress
    from sentei.pruning.searching import paths_for, search

    paths = paths_for(room.format, settings["paths"])
    with progress("fitting", 100 * len(paths)) as advance:
        return search(
            start.network,
            start.split.train.first(samples),
            room,
            evaluate=start.split.validation,
            loss=start.loss,
            mask=start.mask,
            retrain=start.retrain,
            judge=lambda step: _accuracy_as_written(start.split, room.format, step),
            on_step=_progress(start, room, advance, in_time),
            **settings,
        )


def _rows(found: list[Found]) -> list[dict[str, Any]]:
    """Return the result of each path as plain data."""
    return [{name: value for name, value in vars(each).items() if name != "step"} for each in found]


def _accuracy_as_written(split: Split, format: str, step: Step) -> float | None:
    """Return the validation accuracy of a step's network: for C, that of the emitted code.

    None where values are predicted. Labels 0 and 1 are measured as the network computes them.
    """
    from sentei.cli.deployment import CALIBRATION
    from sentei.formats.c.compiled import shipped
    from sentei.network.encoding.format import C_FORMATS
    from sentei.network.surgery.surgery import shrink

    if format not in C_FORMATS or step.measured.by_class is None:
        return step.measured.accuracy
    calibration = split.train.first(CALIBRATION).inputs
    small = shrink(step.network(), step.mask, calibration[:64])
    return shipped(small, calibration, step.mask.shrunk(), format, split.validation)


def _progress(
    start: Start, room: MemoryBudget, advance: Advance, in_time: Sequence[Limit]
) -> Callable[[str, Step], None]:
    """Return a function that shows how far each path is, and notes the metadata of its run."""
    from sentei.pruning.journal import note

    start_bytes: dict[str, int] = {}

    def on_step(path: str, step: Step) -> None:
        size = step.measured.bytes_in(room.format)
        if path not in start_bytes:
            start_bytes[path] = size
            note(step.folder, start.about)
        first = start_bytes[path]
        part = min((first - size) / max(first - int(room.bytes), 1), 1)
        done = round(100 * (len(start_bytes) - 1 + part))
        fits = size <= int(room.bytes)
        times = [f"{told(step.measured)}, " for limit in in_time for told in limit.told if fits]
        advance(done, f"{path}: {size:,} bytes, {''.join(times)}{step.measured}")

    return on_step
