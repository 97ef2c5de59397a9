"""The poster's network, 600,810 parameters, trained with dropout, with annealing, with neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from sentei.datasets import load
from sentei.network.folding import sweep_
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import find_synapses
from sentei.papers.annealing.distortion import epoch_of
from sentei.pruning.rules.proposals import Proposal, ranked
from sentei.pruning.rules.schedules import fsa, geometric, linear, multiples_of
from sentei.pruning.while_training.during import PruneWhileTraining
from sentei.samples import Samples
from sentei.training import Recipe, evaluate
from sentei.training.models import annealing_cnn
from sentei.training.train import Course

EPOCHS, EVERY, BATCH = 12, 50, 128
SEEN = 10_000  # training images that the training curve is read off
DENSE = ("fc1", "fc2")


@dataclass(frozen=True)
class Variant:
    """One way of training the network.

    Attributes:
        words: for legends.
        dropout: with the two dropout layers.
        padding: of the first convolution.
        propose: what goes every fifty updates; nothing if None.
        units: whole units of every layer go, and are deleted at once.
        learning: what differs from the poster's recipe.
        distorted: how far every epoch turns, stretches and moves each image anew; see `distorted`.
    """

    words: str
    dropout: bool = False
    padding: str = "valid"
    propose: Callable[[], Proposal] | None = None
    units: bool = False
    learning: Mapping[str, Any] = field(default_factory=dict)
    distorted: float = 0.0


def _by_half_a_percent() -> Proposal:
    return ranked("magnitude", linear(by="0.5 %"), within="group")


VARIANTS: dict[str, Variant] = {
    "dropout": Variant("dropout (ANN_D)", dropout=True),
    "annealed": Variant("annealing (ANN_A), linear", propose=_by_half_a_percent),
    "neither": Variant("neither"),
    "geometric": Variant(
        "annealing, geometric",
        propose=lambda: ranked("magnitude", geometric(by="0.5 %"), within="group"),
    ),
    "fsa": Variant(
        "annealing, FSA", propose=lambda: ranked("magnitude", fsa("44 %"), within="group")
    ),
    "fsa-0.7": Variant(
        "annealing, FSA to 0.7",
        propose=lambda: ranked("magnitude", fsa("44 %", finish=0.7), within="group"),
    ),
    "units": Variant(
        "whole units by FSA, deleted",
        propose=lambda: ranked("magnitude", multiples_of(8, fsa("56 %")), within="group"),
        units=True,
    ),
    "dropout-full": Variant("dropout, full padding", dropout=True, padding="full"),
    "dropout-same": Variant("dropout, same padding", dropout=True, padding="same"),
    "distorted": Variant(
        "annealing, distorted digits, Adam",
        propose=lambda: ranked("magnitude", fsa("44 %", finish=0.7), within="group"),
        learning={"optimizer": "adam", "lr": 0.002, "decay": "cosine"},
        distorted=0.5,
    ),
}


def trained(variant: str, seed: int, epochs: int, images: int) -> dict[str, Any]:
    """Train one variant and tell its course.

    Args:
        variant: a name in `VARIANTS`.
        seed: of the initial weights, the order of samples and dropout.
        epochs: passes through the data.
        images: how many of MNIST's training images are used, and of its test images at most.

    Returns:
        Accuracy and loss by epoch, on training and test images; what is left; seconds.
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
        pruner = attached(network, chosen, course.optimizer, total, samples.inputs[:64])
    told: dict[str, Any] = {"train": [], "test": [], "seconds": [], "kept": []}
    for epoch in range(epochs):
        start = perf_counter()
        if chosen.distorted:
            course.samples = epoch_of(samples, seed, epoch, chosen.distorted)
        course.epoch(epoch, ())
        told["seconds"].append(perf_counter() - start)
        told["train"].append(list(evaluate(network, samples.first(SEEN), batch_size=BATCH)))
        told["test"].append(list(evaluate(network, test, batch_size=BATCH)))
        if pruner is not None:
            told["kept"].append({group.name: pruner.mask.count(group) for group in pruner.groups})
    told["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    if pruner is not None and not chosen.units:
        told["died"] = _died(network, pruner.mask, samples.inputs[:64])
    return told


def timed(seed: int, blocks: int) -> dict[str, Any]:
    """Time updates of several variants, in turns of fifty, in one process.

    Schedules that end do so within these blocks: what a block takes on average is what it takes on
    average in a whole training, which has more of them.

    Returns:
        Seconds of every block of fifty updates by variant, with one proposal in each, and seconds
        inside the hook of the annealed one.
    """
    data = load("mnist:full", flat=False).train.first(EVERY * BATCH)
    turns = {name: _course(name, seed, data, blocks * EVERY) for name in TIMED}
    inside: list[float] = []
    course, pruner = turns["annealed"]
    if pruner is not None:
        _clock(pruner, course.optimizer, inside)
    told: dict[str, Any] = {name: [] for name in TIMED}
    for block in range(blocks):
        for name, (course, _) in turns.items():
            start = perf_counter()
            course.epoch(block, ())
            told[name].append(perf_counter() - start)
    return {**told, "hook": inside}


TIMED = ("dropout", "annealed", "neither", "units")


def _network(variant: Variant, seed: int) -> torch.nn.Module:
    # Channels last: every variant takes about a sixth less time on a CPU.
    network = annealing_cnn(variant.padding, variant.dropout, seed=seed)
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _recipe(variant: Variant, seed: int, epochs: int) -> Recipe:
    poster = {"optimizer": "adadelta", "lr": 1.0, "batch_size": BATCH}
    return Recipe(epochs, seed=seed, **{**poster, **variant.learning})


def _course(
    variant: str, seed: int, samples: Samples, total: int
) -> tuple[Course, PruneWhileTraining | None]:
    chosen = VARIANTS[variant]
    network = _network(chosen, seed)
    course = Course(network, samples, _recipe(chosen, seed, 1))
    if chosen.propose is None:
        return course, None
    return course, attached(network, chosen, course.optimizer, total, samples.inputs[:64])


def _clock(
    pruner: PruneWhileTraining, optimizer: torch.optim.Optimizer, inside: list[float]
) -> None:
    """Put a hook before each of the pruner's and one behind it; `inside` gets what lies between."""
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
    example: torch.Tensor,
) -> PruneWhileTraining:
    """The variant's pruner, at work on the layers that dropout guarded, or on all units."""
    if variant.propose is None:
        raise ValueError(f"{variant.words} prunes nothing")
    if variant.units:
        groups = list(find_units(network, example))
    else:
        groups = [group for group in find_synapses(network) if group.name in DENSE]
    return PruneWhileTraining(
        network, groups, variant.propose(), EVERY, total, delete=variant.units, example=example
    ).attach(optimizer)


def _died(network: torch.nn.Module, mask: Mask, example: torch.Tensor) -> dict[str, int]:
    """How many units of each place have died because all their connections have."""
    units = find_units(network, example)
    both = Mask.full([*mask.groups, *units]).without(
        {group: mask.dead(group) for group in mask.groups}
    )
    swept = sweep_(network, both, example)
    return {group.name: int(swept.dead(group).numel()) for group in units}
