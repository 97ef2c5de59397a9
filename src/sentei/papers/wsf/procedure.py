"""The paper's procedure: train, remove what moved least, retrain, restore what lost too much."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from itertools import islice

import torch
from torch import Tensor, nn

from sentei.criteria import Probe, Trajectory, scores
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import find_synapses
from sentei.papers.jobs import Result
from sentei.papers.wsf.parts import accuracies, data, structure
from sentei.pruning.loop import prune
from sentei.pruning.rules.limits import accuracy_at_least, accuracy_within
from sentei.pruning.rules.proposals import only, ranked
from sentei.pruning.rules.schedules import geometric, levels, one_at_a_time
from sentei.training.finetune import FineTune
from sentei.training.models import mlp
from sentei.training.recipe import Recipe
from sentei.training.train import evaluate, train

LEVELS = (25, 50, 70, 80, 90, 95, 97, 98, 99)
ABLATED = 500  # synapses that are ablated one by one
IMAGES = 2000  # samples they are ablated on


@lru_cache(maxsize=1)
def trained(
    name: str, seed: int, optimizer: str, epochs: int, rows: int
) -> tuple[nn.Module, Trajectory]:
    """A dense network with the record of its training; plain updates, no weight decay."""
    widths = "784-20-10" if name == "mnist" else "16-50-26"
    network = mlp(widths, "tanh", seed=seed)
    trajectory = Trajectory(network)
    recipe = Recipe(epochs, optimizer, batch_size=100, seed=seed)
    train(network, data(name, rows).train, recipe, after_update=[trajectory])
    return network, trajectory


def begun(name: str, seed: int, optimizer: str, epochs: int, rows: int):
    """A copy of the trained network that may be changed, with its trajectory."""
    network, trajectory = trained(name, seed, optimizer, epochs, rows)
    widths = "784-20-10" if name == "mnist" else "16-50-26"
    copy = mlp(widths, "tanh", seed=seed)
    copy.load_state_dict(network.state_dict())
    own = Trajectory(copy)
    own.load_state_dict(trajectory.state_dict())
    return copy, own


def process(seed: int, floor: float, relative: bool, steps: int = 50, rows: int = 0) -> Result:
    """Levels, retraining and undo down to a floor on validation: what is left at every step.

    Args:
        seed: of weights and order.
        floor: the accuracy to keep, or the most that may be lost of it if `relative`.
        relative: which of the two.
        steps: most that are kept.
        rows: of the training data; all if 0.
    """
    split = data(rows=rows)
    network, trajectory = begun("mnist", seed, "momentum", 10, rows)
    tune = FineTune(
        split.train, Recipe(1, "momentum", 0.05, 200, seed=seed), after_update=[trajectory]
    )
    probe = Probe(network, split.train.first(512), trajectory=trajectory)
    groups = [*find_synapses(network), *find_units(network, split.train.inputs[:8], inputs=True)]
    propose = only("synapse", ranked("wsf", levels(*LEVELS, then=one_at_a_time())))
    keeping = accuracy_within(floor) if relative else accuracy_at_least(floor)
    rows_of = []
    with tempfile.TemporaryDirectory() as journal:
        going = prune(
            *(network, groups, probe, propose),
            keeping=keeping,
            retrain=tune,
            evaluate=split.validation,
            journal=f"{journal}/run",
        )
        last = Mask.full(groups)
        for step in islice(going, steps):
            inputs, hidden, _ = structure(step.mask)
            row = {"synapses": step.measured.synapses, "inputs": inputs, "hidden": hidden}
            rows_of.append({**row, "validation": step.measured.accuracy})
            last = step.mask
    return {
        "steps": rows_of,
        **accuracies(network, split),
        "synapses": rows_of[-1]["synapses"],
        "structure": structure(last),
    }


def compared(
    seed: int,
    criterion: str,
    name: str = "mnist",
    keep: int = 38,
    steps: int = 9,
    tuned: int = 2,
    rows: int = 0,
) -> Result:
    """The same part of what remains goes at each step by one criterion, and is retrained."""
    split = data(name, rows)
    network, trajectory = begun(name, seed, "momentum", 10 if name == "mnist" else 40, rows)
    tune = FineTune(
        split.train, Recipe(tuned, "momentum", 0.05, 200, seed=seed), after_update=[trajectory]
    )
    probe = Probe(network, split.train.first(512), trajectory=trajectory)
    curve = []
    with tempfile.TemporaryDirectory() as journal:
        going = prune(
            *(network, find_synapses(network), probe),
            ranked(criterion, geometric(keep, steps)),
            retrain=tune,
            journal=f"{journal}/run",
        )
        for step in going:
            found = {part: evaluate(network, getattr(split, part)).accuracy for part in PARTS}
            curve.append({"synapses": step.measured.synapses, **found})
    return {"curve": curve}


PARTS = ("validation", "test")


def hypothesis(seed: int, optimizer: str = "momentum", rows: int = 0) -> Result:
    """Whether synapses that did not move matter less: how far they moved, and what they cost."""
    split = data(rows=rows)
    network, trajectory = begun("mnist", seed, optimizer, 10, rows)
    probe = Probe(network, split.train.first(IMAGES), trajectory=trajectory)
    groups = find_synapses(network)
    named = ("wsf", "magnitude", "karnin")
    told = {name: torch.cat([scores(name, probe, g) for g in groups]) for name in named}
    wsf = told["wsf"]
    lit = (split.train.inputs != 0).any(0)
    unlit = torch.cat([(~lit).repeat(20), torch.zeros(200, dtype=torch.bool)])
    lowest = torch.zeros_like(unlit)
    lowest[wsf.argsort(stable=True)[: int(0.92 * len(wsf))]] = True
    generator = torch.Generator().manual_seed(seed)
    first = groups[0].size
    moving = torch.cat([(~unlit[:first]).nonzero().flatten(), torch.arange(first, len(wsf))])
    drawn = moving[torch.randperm(len(moving), generator=generator)[:ABLATED]]
    rises = _rises(network, split.train.first(IMAGES), drawn, first)
    edges = torch.logspace(-5, 1, 49).double()
    return {
        **accuracies(network, split),
        "histogram": torch.histogram(wsf.clamp(1e-5, 10), edges).hist.tolist(),
        "still": (wsf == 0).double().mean().item(),
        "unlit": unlit.double().mean().item(),
        "still_and_unlit": (wsf[unlit] == 0).double().mean().item(),
        "unlit_of_lowest": unlit[lowest].double().mean().item(),
        "wsf_magnitude": spearman(wsf, told["magnitude"]),
        "wsf_magnitude_moving": spearman(wsf[moving], told["magnitude"][moving]),
        **{f"{name}_ablation": spearman(told[name][drawn], rises) for name in named},
        "random_ablation": spearman(torch.rand(len(drawn), generator=generator), rises),
        "removed": _one_shot(network, trajectory, wsf, split),
    }


def _rises(network: nn.Module, samples, drawn: Tensor, first: int) -> Tensor:
    """(k,) exact rise in mean loss without each synapse."""
    before = evaluate(network, samples).loss
    rises = []
    weights = [network.get_parameter(f"{name}.weight").data.view(-1) for name in ("fc1", "fc2")]
    for position in drawn.tolist():
        flat, at = (weights[0], position) if position < first else (weights[1], position - first)
        held = flat[at].item()
        flat[at] = 0
        rises.append(evaluate(network, samples).loss - before)
        flat[at] = held
    return torch.tensor(rises, dtype=torch.float64)


def _one_shot(network: nn.Module, trajectory: Trajectory, wsf: Tensor, split) -> list[dict]:
    """Accuracy without any retraining where the lowest are set to zero, or back to w(0)."""
    parameters = [network.get_parameter(f"{name}.weight") for name in ("fc1", "fc2")]
    begun_at = torch.cat([trajectory.start(f"{name}.weight").flatten() for name in ("fc1", "fc2")])
    held = torch.cat([p.detach().flatten() for p in parameters])
    order = wsf.argsort(stable=True)
    found = []
    for share in (0.5, 0.25, 0.1, 0.079, 0.05):
        gone = order[: int((1 - share) * len(order))]
        row: dict = {"kept": share}
        for value, back in (("zero", torch.zeros_like(held)), ("init", begun_at)):
            weights = held.clone()
            weights[gone] = back[gone]
            for p, part in zip(
                parameters, weights.split([p.numel() for p in parameters]), strict=True
            ):
                p.data.copy_(part.view(p.shape))
            row[value] = evaluate(network, split.test).accuracy
        found.append(row)
    for p, part in zip(parameters, held.split([p.numel() for p in parameters]), strict=True):
        p.data.copy_(part.view(p.shape))
    return found


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation; ties share their mean rank."""
    one, two = _ranks(a), _ranks(b)
    one, two = one - one.mean(), two - two.mean()
    return float((one * two).sum() / (one.norm() * two.norm()).clamp_min(1e-300))


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = values.double().unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[place]
