"""What `sentei prune` and `sentei fit` share: options, the start of a run, and its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from sentei.cli.bounds import CountOrNone, accepted_by
from sentei.cli.failures import UNREACHED
from sentei.cli.options import (
    ALL_CRITERIA,
    DATA,
    OUTPUT,
    REMOVED,
    REPAIR,
    SCORING,
    UNTIL,
    Data,
    OutFile,
    OutFolder,
    Samples,
    listed,
)
from sentei.cli.own_metric import titled
from sentei.cli.screen import Result
from sentei.cli.stopping import resumed_by
from sentei.cli.weights import of_file
from sentei.network.encoding.format import FORMATS
from sentei.pruning.rules import limits

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sentei.datasets import Split
    from sentei.losses import PerSample
    from sentei.network.mask import Mask
    from sentei.pruning.rules.conditions import Limit
    from sentei.pruning.run import Step
    from sentei.training import FineTune

RetrainEpochs = Annotated[
    CountOrNone, Parameter(group=REPAIR, help="Number of training epochs after every step.")
]


@Parameter(name="*", group=REMOVED)
@dataclass(frozen=True)
class Scoring:
    """How members are scored, and on how many samples.

    Attributes:
        inputs: Remove input features as well as units.
    """

    criterion: Annotated[
        str | None,
        Parameter(
            help=f"{SCORING} If left out: ablation-affine for units that are repaired, ablation "
            f"for other units, magnitude for synapses.\n\n{ALL_CRITERIA}"
        ),
    ] = None
    inputs: bool = False
    samples: Annotated[Samples, Parameter(group=DATA)] = 10_000


@Parameter(name="*", group=UNTIL)
@dataclass(frozen=True)
class Until:
    """Goals at which a run stops, and floors that it never goes below.

    Attributes:
        units_at_most: Stop when at most this many units are left: a count, or a percentage.
        synapses_at_most: Stop when at most this many synapses (weights) are left: a count, or a
            percentage.
        parameters_at_most: Stop when at most this many parameters are left: a count, or a
            percentage.
        bytes_at_most: Stop when the saved file is at most this large ("32 KiB").
        multiply_adds_at_most: Stop when one sample needs at most this many multiply-adds: a count,
            or a percentage.
        latency_at_most: Stop when one sample takes at most this long on this machine: "2 ms", or a
            percentage of the network at the start. Times vary from run to run.
        accuracy_within: Undo a step that lowers validation accuracy by more than this since the
            start (0.01 is one point).
        accuracy_at_least: Undo a step that lowers validation accuracy below this (0.97 is 97 %).
        loss_within: Undo a step that raises the validation loss by more than this since the start.
    """

    units_at_most: Annotated[str, accepted_by(limits.units_at_most)] | None = None
    synapses_at_most: Annotated[str, accepted_by(limits.synapses_at_most)] | None = None
    parameters_at_most: Annotated[str, accepted_by(limits.parameters_at_most)] | None = None
    bytes_at_most: Annotated[str, accepted_by(limits.bytes_at_most)] | None = None
    multiply_adds_at_most: Annotated[str, accepted_by(limits.multiply_adds_at_most)] | None = None
    latency_at_most: Annotated[str, accepted_by(limits.latency_at_most)] | None = None
    accuracy_within: Annotated[float, accepted_by(limits.accuracy_within)] | None = None
    accuracy_at_least: Annotated[float, accepted_by(limits.accuracy_at_least)] | None = None
    loss_within: Annotated[float, accepted_by(limits.loss_within)] | None = None

    def goal(self) -> Limit | None:
        """Return the limit that ends the run when it is reached; None if there is none."""
        names = "units_at_most", "synapses_at_most", "parameters_at_most", "bytes_at_most"
        return together(self._limits(*names, "multiply_adds_at_most", "latency_at_most"))

    def floors(self) -> list[Limit]:
        """Return the limits that every step has to keep to."""
        return self._limits("accuracy_within", "accuracy_at_least", "loss_within")

    def _limits(self, *names: str) -> list[Limit]:
        given = {name: getattr(self, name) for name in names}
        return [getattr(limits, name)(at) for name, at in given.items() if at is not None]


def together(found: Sequence[Limit]) -> Limit | None:
    """Return one limit that holds where all of these hold; None if there are none."""
    return limits.all_of(*found) if len(found) > 1 else found[0] if found else None


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True)
class Output:
    """What is written.

    Attributes:
        out: File to write the pruned network to; its suffix sets the format.
        emulate: Run the written C file on an emulated Cortex-M4 (QEMU) for ten test samples.
        report: HTML file to write: a page that shows what was removed, what is left and why.
        journal: Folder to write every step to; a run without a journal cannot be resumed.
        resume: Continue the run in the --journal folder.
    """

    out: OutFile = Path("small.safetensors")
    format: Annotated[
        str | None,
        Parameter(
            help=f"Format of --out: {listed(tuple(FORMATS))}. c-int8 stores weights as int8 "
            "numbers, c-int8-int8 activations as well, c-int8-int16 activations in 16 bits. "
            "If left out, the suffix of --out decides."
        ),
    ] = None
    emulate: bool = False
    report: OutFile | None = None
    journal: OutFolder | None = None
    resume: bool = False

    def checked_format(self) -> str:
        """Return the format of the file, before any work is done.

        Raises:
            ValueError: a format or file name that cannot be written, or that QEMU cannot run.
            FileError: the cross compiler or QEMU is missing.
        """
        from sentei.cli.deployment import check_tools, format_of

        format = format_of(self.out, self.format)
        check_tools(format, self.emulate)
        return format

    def for_one_input(self, format: str) -> str | None:
        """Return what is written for networks of one input only; None if nothing."""
        from sentei.network.encoding.format import C_FORMATS

        if self.report is not None:
            return "the page of --report"
        return f"format {format}" if format in C_FORMATS else None

    def begin(self) -> None:
        """Note that the run in the --journal folder can be continued, if there is one."""
        if self.journal is not None:
            resumed_by(self.journal, "--resume")


@dataclass(frozen=True, eq=False)
class Start:
    """What a run starts from.

    Attributes:
        network: the network to prune.
        before: a copy of it.
        mask: what is dead in it.
        split: the samples.
        file: the file that it was loaded from; its size in bytes if it was trained just now.
        about: metadata for the page of the run: its command and the names of classes.
        retrain: makes a FineTune; None for no retraining.
        loss: the user's own loss; None for one with a name.
    """

    network: nn.Module
    before: nn.Module
    mask: Mask
    split: Split
    file: Path | int
    about: dict[str, Any]
    retrain: Callable[[], FineTune] | None
    loss: PerSample | None = None


def started(
    model: str,
    data: Data,
    loss: str | None,
    retrain_epochs: int,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    one_input_for: str | None = None,
) -> Start:
    """Load a network, or train it, and return it with what a run needs besides.

    Args:
        model: as for `loading.loaded`.
        data: the samples, and the seed of training and retraining.
        loss: name of the loss; None for the one that the network's file names.
        retrain_epochs: number of training epochs after every step.
        weights: a file with the weights of one's own network.
        device: where the network is.
        one_input_for: what is asked for that takes networks of one input only; None if nothing.
    """
    import sentei
    from sentei.cli.command_line import command
    from sentei.cli.loading import loaded, one_input, own_loss
    from sentei.network.copying import copied
    from sentei.network.encoding.size import counts
    from sentei.reporting.page.story import words_for

    network, mask, split = loaded(model, data, loss, weights, device)
    if one_input_for is not None:
        one_input(split, one_input_for)
    own = own_loss(loss)
    recipe = sentei.Recipe(epochs=max(retrain_epochs, 1), seed=data.seed, loss=own)
    return Start(
        network=network,
        before=copied(network),
        mask=mask,
        split=split,
        file=_file(model, weights) or counts(network, mask).bytes,
        about=words_for(split, command(), data.seed),
        retrain=(lambda: sentei.FineTune(split.train, recipe)) if retrain_epochs else None,
        loss=own,
    )


def _file(model: str, weights: Path | None) -> Path | None:
    """Return the file that a network was loaded from; None if it was trained or built."""
    if Path(model).exists():
        return Path(model)
    return None if weights is None else of_file(weights)[0]


def finish(
    start: Start,
    step: Step,
    output: Output,
    format: str,
    *,
    reached: bool,
    metric: Callable[[nn.Module], Any] | None = None,
    budget: str | None = None,
) -> Result:
    """Shrink the network of the last step, compare it with the start, and write it and its page.

    Args:
        start: what the run started from.
        step: its last step.
        output: what is to be written.
        format: the format of the network's file.
        reached: whether the last step meets the goals of the run.
        metric: a function of the user's that measures a network on test samples.
        budget: what the network was made to fit into, for the comment of a C file.
    """
    import sentei
    from sentei.cli.deployment import CALIBRATION, ship
    from sentei.cli.loading import needed
    from sentei.cli.screen import head
    from sentei.reporting.page import of_journal, write
    from sentei.reporting.page.network_facts import facts
    from sentei.reporting.page.story import Tested
    from sentei.reporting.tables import before_and_after

    test, left = start.split.test, step.mask.shrunk()
    example, calibration = (start.split.train.first(n).inputs for n in (64, CALIBRATION))
    masked = step.network()
    small = sentei.shrink(masked, step.mask, example)
    before = facts(start.before, start.file, test, start.mask, start.loss, metric)
    after = facts(small, step.measured.bytes_in(format), test, left, start.loss, metric)
    certificate = str(sentei.certify(masked, small, example, mask=step.mask))
    settings = {"emulate": output.emulate, "scaling": needed(start.split), "loss": start.loss}
    shipped = ship(small, output.out, left, format, calibration, test, budget=budget, **settings)
    page = None
    if output.report is not None:
        story = of_journal(step.folder, start.before)
        tested = Tested(test.rows, before, after, certificate)
        page = write(replace(story, tested=tested), output.report)
    return Result(
        {
            "before": before,
            "after": after,
            "out": output.out,
            "reached": reached,
            "certificate": certificate,
            "written": shipped.data,
            "page": page,
            "journal": output.journal,
        },
        (
            head("On test samples, which no earlier stage used"),
            before_and_after(titled(before, metric), titled(after, metric)),
            certificate,
            *shipped.shown,
            *([] if page is None else [f"Page: {page}"]),
        ),
        0 if reached else UNREACHED,
    )
