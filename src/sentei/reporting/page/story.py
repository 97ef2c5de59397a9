"""Collect what a page shows: a run read from its journal, or one network."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sentei.card import Card, card_of
from sentei.datasets import Split
from sentei.errors import DataError
from sentei.losses import PerSample
from sentei.network.copying import copied
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, find_synapses
from sentei.probe.probe import Probe
from sentei.pruning.measuring import measure
from sentei.pruning.run_files import ABOUT, reading
from sentei.pruning.run_reader import read_run
from sentei.pruning.step_files import Record
from sentei.reporting.page.network_facts import Facts
from sentei.samples import Samples
from sentei.target_forms import is_whole


@dataclass(frozen=True)
class Names:
    """Names of data, classes and features, and the mean and deviation of standardised features.

    Attributes:
        data: name of the data set.
        classes: a name for each output; empty if not known.
        features: a name for each value of an input; empty if not known.
        mean: mean of each feature before standardisation; empty if inputs are not z-scores.
        std: standard deviation of each feature, likewise.
    """

    data: str = ""
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, split: Split) -> Names:
        """Return the names of a Split."""
        scaling = split.scaling
        mean, std = ((), ()) if scaling is None or split.raw else (scaling.mean, scaling.std)
        numbers = [tuple(float(v) for v in torch.as_tensor(part).flatten()) for part in (mean, std)]
        return cls(split.name, split.classes, split.features, numbers[0], numbers[1])

    def completed(self, card: Card) -> Names:
        """Return these names, with those that a network's Card has where there are none."""
        classes, features = self.classes or card.classes, self.features or card.features
        return replace(self, classes=classes, features=features)

    @classmethod
    def from_words(cls, words: Mapping[str, Any]) -> Names:
        """Build Names from a mapping as it is read from JSON; missing names are empty.

        Raises:
            TypeError | ValueError: names that are not texts, or means that are not numbers.
        """
        classes, features = (tuple(words.get(name, ())) for name in ("classes", "features"))
        mean, std = (tuple(map(float, words.get(name, ()))) for name in ("mean", "std"))
        if not all(isinstance(text, str) for text in (*classes, *features)):
            raise TypeError("names of classes and features are texts")
        return cls(str(words.get("data", "")), classes, features, mean, std)


def words_for(split: Split, command: str, seed: int) -> dict[str, Any]:
    """Build the metadata that a page needs from a run's folder; `journal.note` stores it.

    The run's steps have to be measured on the validation samples of the Split.
    """
    return {
        "names": asdict(Names.of(split)),
        "evaluated": {"part": "validation", "samples": split.validation.rows},
        "command": command,
        "seed": seed,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of sentei, torch and Python."""
    return {
        "sentei": version("sentei"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Tested:
    """What a command measured after the run: both networks, on test samples.

    Attributes:
        samples: number of test samples.
        before: the untouched network.
        after: the pruned network.
        certificate: what it said of the two.
    """

    samples: int
    before: Facts
    after: Facts
    certificate: str


@dataclass(frozen=True)
class Story:
    """The networks, steps, samples and metadata that a page is made from.

    Attributes:
        start: the unpruned network.
        groups: the groups that the run could remove members of.
        records: the steps; a single one if there was no run.
        network: returns a step's network by number, a masked copy of the original size.
        samples: held-out inputs and targets; None if there are none.
        loss: the loss that the network was trained with; None if it is not known.
        names: names of classes and features.
        card: the settings that identify the run; empty without a run.
        words: metadata of the run: command, seed, versions.
        missing: sentences on what the journal does not have.
        tested: what was measured on test samples after the run; None if nothing was.
        running: whether the run goes on: nothing is timed, and criteria are not compared.
    """

    start: nn.Module
    groups: list[Group]
    records: list[Record]
    network: Callable[[int], nn.Module]
    samples: Samples | None
    loss: str | PerSample | None
    names: Names
    card: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    tested: Tested | None = None
    running: bool = False

    @property
    def is_run(self) -> bool:
        """Whether this is a run, and not one network by itself."""
        return bool(self.card)

    @property
    def has_classes(self) -> bool:
        """Whether there are samples, each with one class number that the network predicts."""
        whole = self.samples is not None and is_whole(self.samples.targets)
        one_each = self.samples is not None and self.samples.targets.ndim == 1
        return whole and one_each and self.records[0].measured.by_class is not None

    def probe(self, rows: int | None = None) -> Probe | None:
        """Return a Probe of a copy of the unpruned network on all samples, or on `rows` of them."""
        if self.samples is None or self.loss is None:
            return None
        samples = self.samples if rows is None else evenly(self.samples, rows)
        return Probe(copied(self.start).eval(), tuple(samples), self.loss)


def of_journal(
    folder: str | Path, model: nn.Module | None = None, data: Split | Sequence[Tensor] | None = None
) -> Story:
    """Read the story of a run from its journal.

    Args:
        folder: the run's journal.
        model: see `read_run`.
        data: a Split, for its names (and for its validation samples, if the journal has none); or
            (inputs, targets) to use in place of the journal's samples.

    Raises:
        JournalError: see `read_run`.
        DataError: `data` is neither a Split nor a pair.
    """
    given, names = _given(data)
    run = read_run(folder, model)
    keep = isinstance(data, Split) and run.samples is not None
    samples = run.samples if keep or given is None else given
    missing = list(run.missing)
    if run.card.get("forward"):  # what the network computes without it may be something else
        samples = None
        missing.append(
            "The network was run by a function (forward=), which a journal cannot store: nothing "
            "is measured here."
        )
    elif samples is None:
        missing.append("The journal has no samples: nothing is measured here.")
    if run.loss is None:
        missing.append("The loss was a function, which a journal cannot store: nothing is scored.")
    with reading("the names", run.folder / ABOUT):
        names = names or Names.from_words(run.about.get("names", {}))
    return Story(
        start=run.start,
        groups=run.groups,
        records=run.records,
        network=run.network,
        samples=samples,
        loss=run.loss,
        names=names.completed(card_of(run.start)),
        card=run.card,
        words=run.about,
        missing=tuple(missing),
    )


def of_network(
    network: nn.Module,
    data: Split | Sequence[Tensor],
    mask: Mask | None = None,
    loss: str | PerSample | None = None,
    words: Mapping[str, Any] | None = None,
) -> Story:
    """Build the story of one network: a single step, in which nothing was removed.

    Args:
        network: any network.
        data: a Split, whose test samples are used, or (inputs, targets).
        mask: the network's mask, if synapses are dead.
        loss: the loss that it was trained with; as for `Probe` if None.
        words: metadata that the page shows, such as the command.
    """
    samples, names = _given(data, part="test")
    if samples is None:
        raise DataError("explain needs data; pass a Split or (inputs, targets)")
    samples = evenly(samples)
    network = copied(network).cpu().eval()
    groups: list[Group] = [*find_units(network, samples.inputs[:64]), *find_synapses(network)]
    full = Mask.full(groups)
    if mask is not None:
        full = full.without({g: mask.dead(g) for g in mask.groups if g.kind == "synapse"})
    probe = Probe(network, tuple(samples), loss)
    record = Record(0, full, {}, measure(network, full, probe))
    neurons = [group for group in groups if group.kind != "synapse"]
    record = replace(record, mask=Mask.full(neurons))
    return Story(
        start=network,
        groups=neurons,
        records=[record],
        network=lambda _: copied(network),
        samples=samples,
        loss=probe.chosen.name or probe.per_sample,
        names=(names or Names()).completed(card_of(network)),
        words=words or {},
    )


def evenly(samples: Samples, most: int = 1000) -> Samples:
    """Return at most `most` samples, spread evenly over all."""
    rows = torch.linspace(0, samples.rows - 1, min(most, samples.rows)).round().long()
    return samples.at(rows)


def _given(data: Any, part: str = "validation") -> tuple[Samples | None, Names | None]:
    if data is None:
        return None, None
    if isinstance(data, Split):
        samples = getattr(data, part)
        return (samples if samples.rows else data.test), Names.of(data)
    if isinstance(data, Sequence) and len(data) == 2:
        return Samples(*(torch.as_tensor(each) for each in data)), None
    raise DataError(f"data= is a Split or (inputs, targets), not {type(data).__name__}")
