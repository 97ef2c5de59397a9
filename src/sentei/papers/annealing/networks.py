"""Train the poster's network (600,810 parameters) in variants: dropout, annealing, or neither.

Also the timing of some variants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from sentei.datasets import load
from sentei.network.folding import sweep_
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Synapses, find_synapses
from sentei.papers.distortion import epoch_of
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Proposal, ranked
from sentei.pruning.rules.regrowth import regrowing
from sentei.pruning.rules.schedules import (
    Schedule,
    fsa,
    geometric,
    linear,
    multiples_of,
    one_shot,
)
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.reading.data import MemoryData
from sentei.samples import Samples
from sentei.training import Recipe, evaluate
from sentei.training.models import annealing_cnn
from sentei.training.train import Course

EPOCHS, EVERY, BATCH = 12, 50, 128
SEEN = 10_000  # training images that the training accuracy is measured on
TRIED = 512  # training images that the gradient of a dead connection is measured on
SETTLED = 0.75  # connections are exchanged in this first part of the training
DENSE = ("fc1", "fc2")


@dataclass(frozen=True)
class Variant:
    """One way of training the network.

    Attributes:
        words: text for legends.
        dropout: whether the network has the two dropout layers.
        padding: padding of the first convolution.
        propose: creates the proposal that is called every fifty updates, from the number of such
            calls in the training; None prunes nothing.
        units: whether whole units of every layer are removed, and deleted at once.
        alive: part of the dense connections that is there from the first update on, in each layer;
            which ones, is drawn at random.
        learning: settings that differ from the poster's recipe.
        distorted: strength of the random distortion of each image, see `distortion.distorted`; 0
            is none.
    """

    words: str
    dropout: bool = False
    padding: str = "valid"
    propose: Callable[[int], Proposal] | None = None
    units: bool = False
    alive: float = 1.0
    learning: Mapping[str, Any] = field(default_factory=dict)
    distorted: float = 0.0


def _smallest(schedule: Schedule) -> Callable[[int], Proposal]:
    """Remove the smallest weights of each layer by this schedule."""
    return lambda _: ranked("magnitude", schedule, within="group")


def _exchanged(events: int) -> Proposal:
    """Exchange the smallest weights for dead ones of large gradient; as many stay as there were."""
    return regrowing("magnitude", one_shot("100 %"), max(int(SETTLED * events), 1), share=0.3)


VARIANTS: dict[str, Variant] = {
    "dropout": Variant("dropout (ANN_D)", dropout=True),
    "annealed": Variant("annealing (ANN_A), linear", propose=_smallest(linear(by="0.5 %"))),
    "neither": Variant("neither"),
    "geometric": Variant("annealing, geometric", propose=_smallest(geometric(by="0.5 %"))),
    "fsa": Variant("annealing, FSA", propose=_smallest(fsa("44 %"))),
    "fsa-0.7": Variant("annealing, FSA to 0.7", propose=_smallest(fsa("44 %", finish=0.7))),
    "units": Variant(
        "whole units by FSA, deleted",
        propose=_smallest(multiples_of(8, fsa("56 %"))),
        units=True,
    ),
    "dropout-full": Variant("dropout, full padding", dropout=True, padding="full"),
    "dropout-same": Variant("dropout, same padding", dropout=True, padding="same"),
    "distorted": Variant(
        "annealing, distorted digits, Adam",
        propose=_smallest(fsa("44 %", finish=0.7)),
        learning={"optimizer": "adam", "lr": 0.002, "decay": "cosine"},
        distorted=0.5,
    ),
    "sparse-44": Variant("sparse from the start, 44 %", propose=_exchanged, alive=0.44),
    "sparse-10": Variant("sparse from the start, 10 %", propose=_exchanged, alive=0.1),
}


def trained(variant: str, seed: int, epochs: int, images: int) -> dict[str, Any]:
    """Train one variant; return accuracy, loss, seconds and sizes by epoch.

    Args:
        variant: a name in `VARIANTS`.
        seed: of the initial weights, the order of samples and dropout.
        epochs: passes through the data.
        images: how many of MNIST's training images are used, and at most how many test images.

    Returns:
        By epoch: accuracy and loss on training and test images, seconds, and members left in each
        group. Also the number of parameters and of units that died.
    """
    chosen = VARIANTS[variant]
    data = load("mnist:full", flat=False)
    samples, test = data.train.first(images), data.test.first(images)
    network = _network(chosen, seed)
    recipe = _recipe(chosen, seed, epochs)
    course = Course(network, samples, recipe)
    pruner = None
    if chosen.propose is not None:
        total = epochs * -(-images // BATCH)
        pruner = attached(network, chosen, course.optimizer, total, samples, seed)
    result: dict[str, Any] = {"train": [], "test": [], "seconds": [], "kept": []}
    for epoch in range(epochs):
        start = perf_counter()
        if chosen.distorted:
            course.samples = MemoryData(*epoch_of(samples, seed, epoch, chosen.distorted))
        course.epoch(epoch, ())
        result["seconds"].append(perf_counter() - start)
        result["train"].append(list(evaluate(network, samples.first(SEEN), batch_size=BATCH)))
        result["test"].append(list(evaluate(network, test, batch_size=BATCH)))
        if pruner is not None:
            result["kept"].append({group.name: pruner.mask.count(group) for group in pruner.groups})
    result["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    if pruner is not None and not chosen.units:
        result["died"] = _died(network, pruner.mask, samples.inputs[:64])
    return result


def timed(seed: int, blocks: int) -> dict[str, Any]:
    """Measure the training time of several variants, alternating in blocks of fifty updates.

    All variants run in one process. Schedules that have an end reach it within these
    blocks, so that the mean time of a block is that of a full training, which has more blocks.

    Returns:
        Seconds for every block of fifty updates, by variant, with one proposal in each block; and
        seconds inside the pruner's hooks of the annealed variant.
    """
    data = load("mnist:full", flat=False).train.first(EVERY * BATCH)
    turns = {name: _course(name, seed, data, blocks * EVERY) for name in TIMED}
    inside: list[float] = []
    course, pruner = turns["annealed"]
    if pruner is not None:
        _time_hooks(pruner, course.optimizer, inside)
    seconds: dict[str, Any] = {name: [] for name in TIMED}
    for block in range(blocks):
        for name, (course, _) in turns.items():
            start = perf_counter()
            course.epoch(block, ())
            seconds[name].append(perf_counter() - start)
    return {**seconds, "hook": inside}


TIMED = ("dropout", "annealed", "neither", "units")


def _network(variant: Variant, seed: int) -> torch.nn.Module:
    """Return the poster's network for a variant."""
    # Channels last makes every variant about a sixth faster on a CPU.
    network = annealing_cnn(variant.padding, variant.dropout, seed=seed)
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _recipe(variant: Variant, seed: int, epochs: int) -> Recipe:
    """Return the poster's training recipe with the variant's changes."""
    poster = {"optimizer": "adadelta", "lr": 1.0, "batch_size": BATCH}
    return Recipe(epochs, seed=seed, **{**poster, **variant.learning})


def _course(
    variant: str, seed: int, samples: Samples, total: int
) -> tuple[Course, PruneWhileTraining | None]:
    """Return a training of a variant with its pruner, if it has one; `total` updates in all."""
    chosen = VARIANTS[variant]
    network = _network(chosen, seed)
    course = Course(network, samples, _recipe(chosen, seed, 1))
    if chosen.propose is None:
        return course, None
    return course, attached(network, chosen, course.optimizer, total, samples, seed)


def _time_hooks(
    pruner: PruneWhileTraining, optimizer: torch.optim.Optimizer, inside: list[float]
) -> None:
    """Register hooks before and after each hook of the pruner; append the seconds between them."""
    since = [0.0]

    def begin(*_: Any) -> None:
        since[0] = perf_counter()

    def end(*_: Any) -> None:
        inside.append(perf_counter() - since[0])

    pruner.detach()
    weights = [pruner.model.get_parameter(f"{name}.weight") for name in DENSE]
    hooks = [weight.register_post_accumulate_grad_hook for weight in weights]
    for register in (optimizer.register_step_post_hook, *hooks):
        register(begin)
    pruner.attach(optimizer)
    for register in (optimizer.register_step_post_hook, *hooks):
        register(end)


def attached(
    network: torch.nn.Module,
    variant: Variant,
    optimizer: torch.optim.Optimizer,
    total: int,
    samples: Samples,
    seed: int,
) -> PruneWhileTraining:
    """Attach a pruner for the dense layers' synapses, or for units of all layers."""
    if variant.propose is None:
        raise ValueError(f"a pruner needs a variant with propose=; {variant.words!r} has none")
    example = samples.inputs[:64]
    if variant.units:
        groups, mask, probe = list(find_units(network, example)), None, None
    else:
        groups = [group for group in find_synapses(network) if group.name in DENSE]
        mask = _drawn(groups, variant.alive, seed)
        # Only a dead connection's gradient needs samples: its weight says nothing.
        probe = Probe(network, samples.first(TRIED)) if variant.alive < 1 else None
    propose = variant.propose(total // EVERY)
    return PruneWhileTraining(
        network, groups, propose, EVERY, total,
        probe=probe, delete=variant.units, example=example, mask=mask,
    ).attach(optimizer)  # fmt: skip


def _drawn(groups: Sequence[Synapses], part: float, seed: int) -> Mask:
    """Return a mask in which this part of each group is alive, drawn at random."""
    draw = torch.Generator().manual_seed(seed)
    orders = {group: torch.randperm(group.size, generator=draw) for group in groups}
    return Mask.full(groups).without(
        {group: order[round(part * group.size) :] for group, order in orders.items()}
    )


def _died(network: torch.nn.Module, mask: Mask, example: torch.Tensor) -> dict[str, int]:
    """Return how many units of each group died because all their connections were removed."""
    units = find_units(network, example)
    mask_with_units = Mask.full([*mask.groups, *units]).without(
        {group: mask.dead(group) for group in mask.groups}
    )
    swept = sweep_(network, mask_with_units, example)
    return {group.name: int(swept.dead(group).numel()) for group in units}
