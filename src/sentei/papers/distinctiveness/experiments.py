"""Distinctiveness experiments: each job trains a network and prunes it in many ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from sentei.criteria import Probe, Trajectory, angles, criterion, scores
from sentei.criteria.activity import steady
from sentei.datasets import mnist
from sentei.experiments.comparing import compare, ways
from sentei.network.mask import Mask
from sentei.network.units import Group, Neurons
from sentei.papers.distinctiveness.merges import EDITS, REWIRING
from sentei.papers.distinctiveness.networks import LITERAL, Head, trained
from sentei.papers.redundancy import effective_rank
from sentei.pruning.loop import mask_cut_
from sentei.pruning.rules.proposals import Cut, lowest, mixed
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.rules.twins import Pairing, pairs, twins
from sentei.training import Recipe, mlp, train

THRESHOLDS = tuple(range(15, 65, 5))
CENTRES = ("half", "none", "mean", "minmax")
DRAWS = 5  # random choices of units, as the control
FEW = ("ablation", "ablation-least-squares", "magnitude", "random")  # compared with --quick
LITTLE = 5_000  # images for the criteria that are compared, and for retraining

# A criterion and a repair for each curve; units are removed one at a time and ranked again.
METHODS: dict[str, tuple[str, str | None]] = {
    "ablation": ("ablation", None),
    "ablation + least squares": ("ablation-least-squares", "least_squares"),
    "obs + least squares": ("obs", "least_squares"),
    "distinctiveness": ("distinctiveness", None),
    "distinctiveness + affine": ("distinctiveness", "affine"),
    "magnitude": ("magnitude", None),
    "random": ("random", None),
    "random + least squares": ("random", "least_squares"),
}
# The same, for the sigmoid network 784-100-10.
HUNDRED: dict[str, tuple[str, str | None]] = {
    "ablation": ("ablation", None),
    "obs + least squares": ("obs", "least_squares"),
    "ablation + least squares": ("ablation-least-squares", "least_squares"),
    "ablation + least loss": ("ablation-least-squares", "least_loss"),
}


def trial(
    network: str,
    seed: int,
    epochs: int,
    width: int = 64,
    filters: int = 10,
    images: int = 20_000,
    scaled: bool = True,
    curves: bool = True,
    compared: bool = False,
    quick: bool = False,
) -> dict[str, Any]:
    """Train one of the paper's networks, and prune it in every way.

    Args:
        network: "cnn" or "fnn".
        seed: of all random numbers.
        epochs: passes through the data; the paper has 10 and 100.
        width: number of hidden units.
        filters: filters of the first convolution; the second has twice as many.
        images: number of training images.
        scaled: whether pixels are scaled to mean 0 and deviation 1; otherwise they are from 0 to 1.
        curves: whether to try all centres and thresholds, and to remove units one by one with
            `METHODS`; otherwise only the centre that fits the paper's counts, at 30 degrees.
        compared: whether to prune it also by every criterion of sentei.
        quick: whether `compared` uses only a few criteria.

    Returns:
        Accuracies, size, number of dead units, loss, effective rank and angles of the trained
        network; and the result of each way to prune it.
    """
    head = trained(network, seed, epochs, width, filters, images, scaled, compared)
    probe, group = head.probe, head.group
    dead = steady(probe, group)
    known: dict[Any, Any] = {}
    found = {"accuracy": head.accuracies("train", "validation", "test"), "size": group.size}
    found |= {"dead": int(dead.sum()), "loss": probe.loss()}
    found["effective rank"] = effective_rank(probe, group)
    found["angles"] = angle_summary(probe, group, dead)
    found["readings"] = [
        reading(head, centre, degrees, dead, seed, known)
        for centre in (CENTRES if curves else (LITERAL[network],))
        for degrees in (THRESHOLDS if curves else (30,))
    ]
    found["ours"] = [ours(head, degrees) for degrees in THRESHOLDS]
    if curves:
        found["curves"] = {name: curve(head, *how, seed) for name, how in METHODS.items()}
    if compared:
        found["ways"] = every_way(head, seed, FEW if quick else None)
    return found


def reading(
    head: Head, centre: str, degrees: float, dead: Tensor, seed: int, known: dict[Any, Any]
) -> dict[str, Any]:
    """Run the paper's procedure with one centre and threshold; merge the pairs in every way.

    Args:
        head: the trained layers.
        centre: what outputs are measured from; see `criteria.angles`.
        degrees: the threshold on the angle.
        dead: which units are constant, (units,) bool.
        seed: of the random control.
        known: cache of results by pairs; is extended.
    """
    found = angles(head.probe, head.group, centre, precise=True)
    pairing, one_stays = pairs(found, degrees, "paper", both=True), pairs(found, degrees)
    if (pairing, one_stays) not in known:  # many thresholds give the same pairs
        known[pairing, one_stays] = _merged(head, pairing, one_stays, seed)
    after, control = known[pairing, one_stays]
    removed = pairing.gone
    return {
        "centre": centre,
        "degrees": degrees,
        "removed": len(removed),
        "removed dead": int(dead[removed].sum()) if removed else 0,
        "opposite": len(pairing.opposite) // 2,
        "one stays": len(one_stays.gone),
        "after": after,
        "random": control,
    }


def _merged(head: Head, pairing: Pairing, one_stays: Pairing, seed: int) -> tuple[dict, list]:
    """Merge the pairs in every way; return the test accuracies, and those of random removals."""
    after = {}
    for name, edit in EDITS.items():
        copied = head.copy() if name in REWIRING else head.reading_it()
        edit(copied.before, copied.after, pairing)
        after[name] = copied.accuracies("test")
    for name in ("affine", "least_squares"):
        after[name] = without(head, one_stays.gone, name).accuracies("test")
    control = [drawn(head, len(pairing.gone), seed * 1000 + draw) for draw in range(DRAWS)]
    return after, [without(head, units, None).accuracies("test") for units in control]


def ours(head: Head, degrees: float) -> dict[str, Any]:
    """Prune with sentei's own `twins` at one threshold; return units removed and accuracy."""
    copied, mask, size = head.reading_it(), Mask.full([head.group]), head.group.size
    cut = twins(degrees)(head.probe, [head.group], mask, Progress(1, None, size, size))
    if cut is not None:
        mask = mask_cut_(copied.network, mask, cut)
    removed = size - mask.count(head.group)
    return {"degrees": degrees, "removed": removed, **copied.accuracies("test")}


def curve(head: Head, name: str, repair: str | None, seed: int) -> dict[str, list[float]]:
    """Remove units one by one until one is left; return accuracy after each removal.

    Scores and repairs are computed on the training samples.
    """
    copied, group, mask = head.reading_it(), head.group, Mask.full([head.group])
    probe = copied.probe
    rows = [copied.accuracies("validation", "test")]
    while mask.count(group) > 1:
        judged = scores(criterion(name, seed), probe, group)
        doomed = lowest({group: judged}, mask, [group], 1)
        cut = Cut(doomed, mixed(repair, probe, doomed, mask))
        mask = mask_cut_(copied.network, mask, cut)
        probe.update_(mask)
        rows.append(copied.accuracies("validation", "test"))
    return {part: [row[part] for row in rows] for part in ("validation", "test")}


def every_way(head: Head, seed: int, criteria: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run `sentei compare` on the hidden layer, with and without a little retraining.

    Criteria use the first 5,000 training images. Retraining is one epoch over them after each of
    nine cuts. Accuracy is that on all test images, which are used for nothing else.
    """
    learn = head.parts["train"].first(LITTLE)
    past = Trajectory(head.network)
    assert head.past is not None
    past.load_state_dict(head.past)
    found = compare(
        past.model,
        learn,
        head.parts["test"],
        ways(criteria, retrain=(0, 1)),
        samples=LITTLE,
        seeds=(seed,),
        trajectory=past,
    )
    return [
        {
            **asdict(curve.way),
            "left": curve.left,
            "accuracy": curve.accuracy,
            "agreement": curve.agreement,
        }
        for curve in found
    ]


def without(head: Head, units: list[int], repair: str | None) -> Head:
    """Return a copy of the head without these units, after the given repair."""
    pruned, mask = head.reading_it(), Mask.full([head.group])
    if units:
        doomed: dict[Group, Tensor] = {head.group: torch.tensor(units)}
        mask_cut_(pruned.network, mask, Cut(doomed, mixed(repair, head.probe, doomed, mask)))
    return pruned


def drawn(head: Head, count: int, seed: int) -> list[int]:
    """Return `count` random units."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(head.group.size, generator=generator)[:count].tolist()


def angle_summary(probe: Probe, group: Neurons, dead: Tensor) -> dict[str, list[float]]:
    """Return the deciles of the angles between units that are not constant, for each centre."""
    found = {}
    for centre in CENTRES:
        matrix = angles(probe, group, centre, precise=True)[~dead][:, ~dead]
        pair_angles = matrix[tuple(torch.triu_indices(len(matrix), len(matrix), 1))]
        pair_angles = pair_angles[pair_angles.isfinite()]
        ends = torch.linspace(0, 1, 11, dtype=pair_angles.dtype)
        found[centre] = pair_angles.quantile(ends).tolist() if len(pair_angles) else []
    return found


def hundred(seed: int, epochs: int = 10, images: int | None = None) -> dict[str, Any]:
    """Train a sigmoid network 784-100-10 on MNIST and prune it, without retraining, by `HUNDRED`.

    Args:
        seed: of all random numbers.
        epochs: passes through the data.
        images: number of training images; all if None.

    Returns:
        Test accuracy of the dense network, and for each of `HUNDRED` after each removal.
    """
    data = mnist()
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    if images is not None:
        parts["train"] = data.train.first(images)
    model = mlp("784-100-10", seed=seed)
    train(model, parts["train"], Recipe(epochs=epochs, batch_size=100, lr=0.002, seed=seed))
    before, act, after = model.eval().children()
    assert isinstance(before, nn.Linear)
    assert isinstance(after, nn.Linear)
    head = Head(before, act, after, parts)
    return {name: curve(head, *how, seed)["test"] for name, how in HUNDRED.items()}
