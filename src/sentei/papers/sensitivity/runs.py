"""Training on Letter Recognition, pruned on the way or not: what every experiment is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from sentei.criteria import scores
from sentei.criteria.change import WeightChange
from sentei.criteria.probe import Probe
from sentei.criteria.trajectory import Trajectory
from sentei.datasets import Split, load
from sentei.errors import ScheduleError
from sentei.network.mask import Mask
from sentei.network.tracing import find_units
from sentei.network.units import Group
from sentei.pruning.during import PruneWhileTraining
from sentei.pruning.proposals import Cut, Proposal, below, lowest, ranked
from sentei.pruning.schedules import Progress, linear
from sentei.samples import Samples
from sentei.training import Distillation, Recipe, build, evaluate
from sentei.training.train import Course

FINISH = 0.7  # checks are made in the first 70 % of training
NOISE = (0.25, 0.5)  # deviations of noise added to the standardised inputs
POINTS = 50  # of a validation curve


@dataclass(frozen=True)
class Check:
    """What is removed while training.

    Attributes:
        every: epochs from one check to the next.
        kind, since: of `WeightChange`.
        threshold, relative, cap: of `below`.
        way: "delete" removes units from the tensors at once, "mask" keeps them silent, "hack" is
            the paper's: outgoing weights are set to zero once and trained on.
        keep: how many units are left in all, by exact ablation instead of the paper's rule.
        finish: checks are made in this first part of training.
    """

    every: int
    kind: str = "mean_signed"
    since: str = "update"
    threshold: float = 0.001
    relative: bool = False
    cap: float = 0.1
    way: str = "delete"
    keep: int | None = None
    finish: float = FINISH

    def propose(self) -> Proposal:
        """The paper's rule; exact ablation down to so many units, in equal parts, if `keep`."""
        if self.keep is not None:
            return ranked("ablation", linear(self.keep))
        changed = WeightChange(self.kind, self.since)
        return below(changed, self.threshold, self.cap, self.relative)


def trained(
    widths: str,
    seed: int,
    epochs: int,
    optimizer: str = "rmsprop",
    lr: float = 0.01,
    batch: int = 256,
    split: str = "default",
    check: Mapping[str, Any] | None = None,
    controls: Sequence[str] = (),
    teacher: str | None = None,
) -> dict[str, Any]:
    """Train a network, prune it on the way, and tell how it went.

    Args:
        widths: of `training.build`.
        seed: of weights, order and the split.
        epochs: of the recipe.
        optimizer: likewise.
        lr: likewise.
        batch: likewise; 0 is the whole of the data.
        split: "default", 70/15/15, or "authors", all of the first 16,000 rows to train on.
        check: settings of `Check`; nothing is pruned if None.
        controls: criteria that remove as many units at the same moments, for comparison.
        teacher: widths of a larger network that is trained first and learnt from.

    Returns:
        Accuracies, the validation curve, units left by layer, seconds; the same for every control.
    """
    data = _data(split, seed)
    recipe = Recipe(
        epochs,
        optimizer,
        lr=lr,
        batch_size=batch or data.train.rows,
        seed=seed,
        distillation=_taught(teacher, data, seed),
    )
    rule = None if check is None else Check(**check)
    if rule is None:
        return _course(widths, data, recipe, None, None)
    counting = Counting(rule.propose())
    told = _course(widths, data, recipe, rule, counting)
    told["removed"] = counting.removed
    for criterion in controls:
        same = Same(criterion, counting.removed)
        told[criterion] = _course(widths, data, recipe, rule, same)
    return told


def rebuilt(
    seed: int, start: int, epochs: int, tolerance: float, every: int, step: str = "one"
) -> dict[str, Any]:
    """Version 2: count insensitive units, start anew with fewer, until accuracy would fall.

    Args:
        seed: of the first network; each restart has another.
        start: hidden units of the first network.
        epochs: of each training.
        tolerance: how much validation accuracy may be lost against the best so far.
        every: epochs between checks.
        step: "one" unit fewer each time, as the paper has it, or as many as were "counted".

    Returns:
        Sizes tried with their accuracies, and the smallest within the tolerance.
    """
    data = _data("default", seed)
    tried, size, best = [], start, 0.0
    while size >= 1:
        recipe = Recipe(epochs, "rmsprop", lr=0.01, batch_size=256, seed=seed + len(tried))
        watch = Counting(Check(every).propose(), only_count=True)
        told = _course(f"16-{size}-26:sigmoid", data, recipe, Check(every, way="mask"), watch)
        counted = len(watch.seen)
        tried.append({"units": size, "counted": counted, **told["accuracy"]})
        best = max(best, told["accuracy"]["validation"])
        if told["accuracy"]["validation"] < best - tolerance or not counted:
            break
        size -= 1 if step == "one" else counted
    good = [row for row in tried if row["validation"] >= best - tolerance]
    return {"tried": tried, "smallest": min(good, key=lambda row: row["units"])}


@dataclass
class Counting:
    """A proposal that remembers how many units it took at each of its calls."""

    propose: Proposal
    only_count: bool = False
    removed: list[dict[str, int]] = field(default_factory=list)
    seen: set[tuple[str, int]] = field(default_factory=set)

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """The other proposal's cut; none if units are only counted."""
        cut = self.propose(probe, groups, mask, progress)
        doomed = {} if cut is None else cut.doomed
        self.removed.append({group.name: int(units.numel()) for group, units in doomed.items()})
        self.seen |= {(g.name, int(unit)) for g, units in doomed.items() for unit in units}
        return None if self.only_count else cut


@dataclass
class Same:
    """A proposal that takes as many units at each of its calls as another one took."""

    criterion: str
    counts: Sequence[Mapping[str, int]]
    calls: int = 0

    def __call__(
        self, probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress
    ) -> Cut | None:
        """The units that matter least by `criterion`; none when there are no counts left."""
        del progress
        wanted = self.counts[self.calls] if self.calls < len(self.counts) else {}
        self.calls += 1
        doomed: dict[Group, Tensor] = {}
        for group in groups:
            if wanted.get(group.name):
                judged = {group: scores(self.criterion, probe, group)}
                doomed.update(lowest(judged, mask, [group], wanted[group.name]))
        return Cut(doomed) if doomed else None


def _data(split: str, seed: int) -> Split:
    data = load(f"letter:{split}" if split != "default" else "letter", seed=seed)
    if split == "default":
        return data
    both = (torch.cat(parts) for parts in zip(data.train, data.validation, strict=True))
    return Split(data.name, Samples(*both), data.validation, data.test, data.features, data.classes)


def _taught(teacher: str | None, data: Split, seed: int) -> Distillation | None:
    if teacher is None:
        return None
    large = build(teacher, seed=seed)
    recipe = Recipe(60, "adam", lr=0.002, batch_size=128, seed=seed)
    course = Course(large, data.train, recipe)
    for epoch in range(recipe.epochs):
        for group in course.optimizer.param_groups:
            group["lr"] = 0.002 * (1 - epoch / recipe.epochs)
        course.epoch(epoch, ())
    return Distillation(large, temperature=3.0, weight=0.9)


def _course(
    widths: str, data: Split, recipe: Recipe, rule: Check | None, propose: Proposal | None
) -> dict[str, Any]:
    network = build(widths, seed=recipe.seed)
    course = Course(network, data.train, recipe)
    updates = -(-data.train.rows // recipe.batch_size)
    pruner, hack = _at_work(network, course, rule, propose, updates, data)
    told: dict[str, Any] = {"curve": [], "loss": [], "seconds": 0.0}
    for epoch in range(recipe.epochs):
        _decay_(course, epoch, decaying=recipe.distillation is not None)
        start = perf_counter()
        told["loss"].append(course.epoch(epoch, ()))
        told["seconds"] += perf_counter() - start
        if epoch % max(recipe.epochs // POINTS, 1) == 0:
            told["curve"].append([epoch + 1, evaluate(network, data.validation).accuracy])
    if pruner is not None:
        if rule is not None and rule.way == "hack":
            told["zeroed"] = {group.name: len(units) for group, units in hack.items()}
        pruner.detach()
    told["accuracy"] = _accuracies(network, data)
    told["units"] = _left(network, pruner)
    told["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    told["confusion"] = _confusion(network, data)
    return told


def _decay_(course: Course, epoch: int, *, decaying: bool) -> None:
    if decaying:  # to zero, linearly, where a network learns from a teacher for long
        for group in course.optimizer.param_groups:
            group["lr"] = float(course.recipe.lr or 0.001) * (1 - epoch / course.recipe.epochs)


def _at_work(
    network: nn.Module,
    course: Course,
    rule: Check | None,
    propose: Proposal | None,
    updates: int,
    data: Split,
) -> tuple[PruneWhileTraining | None, dict[Group, set[int]]]:
    """The pruner, attached; and which units the hack has zeroed, if that is the way."""
    zeroed: dict[Group, set[int]] = {}
    if rule is None or propose is None:
        return None, zeroed
    example = data.train.inputs[:64]
    units = find_units(network, example)
    asked = _hacked(network, zeroed, propose) if rule.way == "hack" else propose
    try:
        pruner = PruneWhileTraining(
            network,
            units,
            asked,
            every=rule.every * updates,
            total=course.recipe.epochs * updates,
            probe=Probe(network, data.train.first(2_000)),
            trajectory=Trajectory(network),
            delete=rule.way == "delete",
            example=example,
            finish=rule.finish,
        )
    except ScheduleError as error:
        raise ScheduleError(
            f"checks every {rule.every} epochs never come in the first {rule.finish:.0%} of "
            f"{course.recipe.epochs} epochs ({error})"
        ) from error
    return pruner.attach(course.optimizer), zeroed


def _hacked(network: nn.Module, zeroed: dict[Group, set[int]], propose: Proposal) -> Proposal:
    """The paper's removal: outgoing weights are set to zero once, and go on being trained."""

    def hack(probe: Probe, groups: Sequence[Group], mask: Mask, progress: Progress) -> Cut | None:
        known = {group: sorted(zeroed.get(group, ())) for group in groups if group in zeroed}
        cut = propose(probe, groups, mask.without(known), progress)
        if cut is not None:
            mask.without(cut.doomed).apply_(network)
            for group, units in cut.doomed.items():
                zeroed.setdefault(group, set()).update(units.tolist())
        return None

    return hack


def _accuracies(network: nn.Module, data: Split) -> dict[str, float]:
    told = {
        part: evaluate(network, getattr(data, part)).accuracy or 0.0
        for part in ("train", "validation", "test")
    }
    noise = torch.Generator().manual_seed(0)
    for deviation in NOISE:
        shaken = data.test.inputs + deviation * torch.randn(data.test.inputs.shape, generator=noise)
        told[f"noise {deviation}"] = (
            evaluate(network, Samples(shaken, data.test.targets)).accuracy or 0.0
        )
    return told


def _left(network: nn.Module, pruner: PruneWhileTraining | None) -> list[int]:
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)][:-1]
    if pruner is None:
        return [layer.out_features for layer in layers]
    return [pruner.mask.count(group) for group in pruner.groups]


@torch.no_grad()
def _confusion(network: nn.Module, data: Split) -> list[list[int]]:
    said, classes = network(data.test.inputs).argmax(1), len(data.classes)
    flat = torch.bincount(data.test.targets * classes + said, minlength=classes**2)
    return flat.reshape(classes, classes).tolist()
