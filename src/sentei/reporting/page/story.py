"""What a page tells of: a run from its journal, or one network by itself."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sentei.datasets import Split
from sentei.errors import DataError
from sentei.losses import PerSample
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, find_synapses
from sentei.probe.probe import Probe
from sentei.pruning.journal import Record
from sentei.pruning.measuring import by_class, measure
from sentei.pruning.run_reader import read_run
from sentei.samples import Samples


@dataclass(frozen=True)
class Names:
    """What things are called, and what inputs were before they were standardised.

    Attributes:
        data: what was loaded.
        classes: one for each output; empty if not known.
        features: one for each value of an input; empty if not known.
        mean: of each feature, where inputs are z-scores; else empty.
        std: likewise.
    """

    data: str = ""
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, split: Split) -> Names:
        """The names of data in three parts."""
        scaling = split.scaling
        mean, std = ((), ()) if scaling is None else (scaling.mean, scaling.std)
        numbers = [tuple(float(v) for v in torch.as_tensor(part).flatten()) for part in (mean, std)]
        return cls(split.name, split.classes, split.features, numbers[0], numbers[1])

    @classmethod
    def from_words(cls, words: Mapping[str, Any]) -> Names:
        """What `vars(names)` was before it went through JSON."""
        held = {name: words.get(name, ()) for name in ("classes", "features", "mean", "std")}
        return cls(str(words.get("data", "")), **{name: tuple(v) for name, v in held.items()})


def words_for(split: Split, command: str, seed: int) -> dict[str, Any]:
    """What a run's folder should note so that a page can name things: see `note`."""
    names = asdict(Names.of(split))
    return {"names": names, "command": command, "seed": seed, "versions": versions()}


def versions() -> dict[str, str]:
    """Of what numbers depend on."""
    return {
        "sentei": version("sentei"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Story:
    """Everything a page is made from.

    Attributes:
        start: the first network.
        groups: what could be cut.
        records: the steps; one only where there was no run.
        network: a full-size masked copy of a step's network.
        samples: held-out inputs and targets; None if there are none.
        loss: what the network was trained on; None if that is not known.
        names: what classes and features are called.
        card: what tells the run from others; empty without a run.
        words: what was noted about the run.
        missing: what is not there, in words.
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

    @property
    def is_run(self) -> bool:
        """Whether anything was pruned, rather than only looked at."""
        return bool(self.card)

    def probe(self, rows: int | None = None) -> Probe | None:
        """A Probe of a copy of the first network on (some `rows` of) the samples."""
        if self.samples is None or self.loss is None:
            return None
        samples = self.samples if rows is None else evenly(self.samples, rows)
        return Probe(copy.deepcopy(self.start).eval(), tuple(samples), self.loss)


def of_journal(
    folder: str | Path, model: nn.Module | None = None, data: Split | Sequence[Tensor] | None = None
) -> Story:
    """The story of a run.

    Args:
        folder: the run's journal.
        model: see `past`.
        data: a Split, for its names (and its validation samples, where the journal kept none), or
            (inputs, targets) to look at in place of those that the journal kept.

    Raises:
        JournalError: see `past`.
        DataError: `data` is neither.
    """
    given, names = _given(data)
    run = read_run(folder, model)
    keep = isinstance(data, Split) and run.samples is not None
    samples = run.samples if keep or given is None else given
    missing = list(run.missing)
    if samples is None:
        missing.append("The journal kept no samples: nothing is measured here.")
    if run.loss is None:
        missing.append("The loss was a function, which a journal does not keep: nothing is scored.")
    return Story(
        start=run.start,
        groups=run.groups,
        records=run.records,
        network=run.network,
        samples=samples,
        loss=run.loss,
        names=names or Names.from_words(run.about.get("names", {})),
        card=run.card,
        words=run.about,
        missing=tuple(missing),
    )


def of_network(
    network: nn.Module,
    data: Split | Sequence[Tensor],
    mask: Mask | None = None,
    loss: str | PerSample = "cross_entropy",
    words: Mapping[str, Any] | None = None,
) -> Story:
    """The story of one network: a single step, in which nothing was removed.

    Args:
        network: any.
        data: a Split, whose test samples are looked at, or (inputs, targets).
        mask: of the network, where synapses are dead.
        loss: what it was trained on.
        words: to be shown, such as the command.
    """
    samples, names = _given(data, part="test")
    if samples is None:
        raise DataError("a network is explained on data; pass a Split or (inputs, targets)")
    samples = evenly(samples)
    network = copy.deepcopy(network).cpu().eval()
    groups: list[Group] = [*find_units(network, samples.inputs[:64]), *find_synapses(network)]
    full = Mask.full(groups)
    if mask is not None:
        full = full.without({g: mask.dead(g) for g in mask.groups if g.kind == "synapse"})
    probe = Probe(network, tuple(samples), loss)
    record = Record(0, full, {}, measure(network, full, probe), {}, by_class(probe))
    neurons = [group for group in groups if group.kind != "synapse"]
    record = replace(record, mask=Mask.full(neurons))
    return Story(
        start=network,
        groups=neurons,
        records=[record],
        network=lambda _: copy.deepcopy(network),
        samples=samples,
        loss=loss,
        names=names or Names(),
        words=words or {},
    )


def has_classes(samples: Samples) -> bool:
    """Whether targets are class numbers, one for each sample."""
    return samples.targets.ndim == 1 and not samples.targets.is_floating_point()


def evenly(samples: Samples, most: int = 1000) -> Samples:
    """At most so many samples, spread over all."""
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
