"""The wsf paper's pruning procedure with undo, a comparison of criteria, and a test of its idea."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from itertools import islice

import torch
from torch import Tensor, nn

from sentei.criteria import Probe, Trajectory, scores
from sentei.criteria.agreement import spearman
from sentei.jobs.results import Result
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import find_synapses
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
ABLATED = 500  # number of synapses that are ablated one by one
IMAGES = 2000  # number of samples that the loss is measured on


@lru_cache(maxsize=1)
def trained(
    name: str, seed: int, optimizer: str, epochs: int, rows: int
) -> tuple[nn.Module, Trajectory]:
    """Train a dense network without weight decay; return it with the record of its weights."""
    widths = "784-20-10" if name == "mnist" else "16-50-26"
    network = mlp(widths, "tanh", seed=seed)
    trajectory = Trajectory(network)
    recipe = Recipe(epochs, optimizer, batch_size=100, seed=seed)
    train(network, data(name, rows).train, recipe, after_update=[trajectory])
    return network, trajectory


def begun(name: str, seed: int, optimizer: str, epochs: int, rows: int):
    """Return a copy of the trained network, free to be changed, with its own trajectory."""
    network, trajectory = trained(name, seed, optimizer, epochs, rows)
    widths = "784-20-10" if name == "mnist" else "16-50-26"
    copy = mlp(widths, "tanh", seed=seed)
    copy.load_state_dict(network.state_dict())
    own = Trajectory(copy)
    own.load_state_dict(trajectory.state_dict())
    return copy, own


def process(seed: int, floor: float, relative: bool, steps: int = 50, rows: int = 0) -> Result:
    """Run the paper's procedure: remove by levels, retrain, undo a step that breaches the floor.

    Args:
        seed: of weights and order of samples.
        floor: lowest validation accuracy, or the largest loss of it if `relative`.
        relative: whether `floor` is a loss of accuracy.
        steps: stop after this number of kept steps.
        rows: number of training samples; all if 0.

    Returns:
        Synapses, inputs, hidden units and validation accuracy at every step, and the final
        accuracies, synapses and structure.
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
        pruning = prune(
            *(network, groups, probe, propose),
            keeping=keeping,
            retrain=tune,
            evaluate=split.validation,
            journal=f"{journal}/run",
        )
        last = Mask.full(groups)
        for step in islice(pruning, steps):
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
    """Prune by one criterion in geometric steps with retraining; return accuracy at each step."""
    split = data(name, rows)
    network, trajectory = begun(name, seed, "momentum", 10 if name == "mnist" else 40, rows)
    tune = FineTune(
        split.train, Recipe(tuned, "momentum", 0.05, 200, seed=seed), after_update=[trajectory]
    )
    probe = Probe(network, split.train.first(512), trajectory=trajectory)
    curve = []
    with tempfile.TemporaryDirectory() as journal:
        pruning = prune(
            *(network, find_synapses(network), probe),
            ranked(criterion, geometric(keep, steps)),
            retrain=tune,
            journal=f"{journal}/run",
        )
        for step in pruning:
            found = {part: evaluate(network, getattr(split, part)).accuracy for part in PARTS}
            curve.append({"synapses": step.measured.synapses, **found})
    return {"curve": curve}


PARTS = ("validation", "test")


def hypothesis(seed: int, optimizer: str = "momentum", rows: int = 0) -> Result:
    """Measure how far training moved each synapse, and how that relates to exact ablation.

    Args:
        seed: of weights and order of samples.
        optimizer: optimizer of the dense training.
        rows: number of training samples; all if 0.
    """
    split = data(rows=rows)
    network, trajectory = begun("mnist", seed, optimizer, 10, rows)
    probe = Probe(network, split.train.first(IMAGES), trajectory=trajectory)
    groups = find_synapses(network)
    names = ("wsf", "magnitude", "karnin")
    scores_by_name = {name: torch.cat([scores(name, probe, g) for g in groups]) for name in names}
    wsf = scores_by_name["wsf"]
    lit = (split.train.inputs != 0).any(0)
    unlit = torch.cat([(~lit).repeat(20), torch.zeros(200, dtype=torch.bool)])
    lowest = torch.zeros_like(unlit)
    lowest[wsf.argsort(stable=True)[: int(0.92 * len(wsf))]] = True
    generator = torch.Generator().manual_seed(seed)
    first = groups[0].size
    lit_synapses = torch.cat([(~unlit[:first]).nonzero().flatten(), torch.arange(first, len(wsf))])
    sampled = lit_synapses[torch.randperm(len(lit_synapses), generator=generator)[:ABLATED]]
    rises = _rises(network, split.train.first(IMAGES), sampled, first)
    edges = torch.logspace(-5, 1, 49).double()
    return {
        **accuracies(network, split),
        "histogram": torch.histogram(wsf.clamp(1e-5, 10), edges).hist.tolist(),
        "still": (wsf == 0).double().mean().item(),
        "unlit": unlit.double().mean().item(),
        "still_and_unlit": (wsf[unlit] == 0).double().mean().item(),
        "unlit_of_lowest": unlit[lowest].double().mean().item(),
        "wsf_magnitude": spearman(wsf, scores_by_name["magnitude"]),
        "wsf_magnitude_moving": spearman(
            wsf[lit_synapses], scores_by_name["magnitude"][lit_synapses]
        ),
        **{f"{name}_ablation": spearman(scores_by_name[name][sampled], rises) for name in names},
        "random_ablation": spearman(torch.rand(len(sampled), generator=generator), rises),
        "removed": _one_shot(network, trajectory, wsf, split),
    }


def _rises(network: nn.Module, samples, drawn: Tensor, first: int) -> Tensor:
    """Return the exact rise in mean loss without each synapse, (k,) float64."""
    before = evaluate(network, samples).loss
    rises = []
    weights = [network.get_parameter(f"{name}.weight").data.view(-1) for name in ("fc1", "fc2")]
    for position in drawn.tolist():
        flat, at = (weights[0], position) if position < first else (weights[1], position - first)
        original = flat[at].item()
        flat[at] = 0
        rises.append(evaluate(network, samples).loss - before)
        flat[at] = original
    return torch.tensor(rises, dtype=torch.float64)


def _one_shot(network: nn.Module, trajectory: Trajectory, wsf: Tensor, split) -> list[dict]:
    """Return test accuracy with the lowest synapses set to zero or w(0), without retraining."""
    parameters = [network.get_parameter(f"{name}.weight") for name in ("fc1", "fc2")]
    initial_weights = torch.cat(
        [trajectory.start(f"{name}.weight").flatten() for name in ("fc1", "fc2")]
    )
    trained_weights = torch.cat([p.detach().flatten() for p in parameters])
    order = wsf.argsort(stable=True)
    found = []
    for share in (0.5, 0.25, 0.1, 0.079, 0.05):
        removed = order[: int((1 - share) * len(order))]
        row: dict = {"kept": share}
        for value, replacement in (
            ("zero", torch.zeros_like(trained_weights)),
            ("init", initial_weights),
        ):
            weights = trained_weights.clone()
            weights[removed] = replacement[removed]
            for p, part in zip(
                parameters, weights.split([p.numel() for p in parameters]), strict=True
            ):
                p.data.copy_(part.view(p.shape))
            row[value] = evaluate(network, split.test).accuracy
        found.append(row)
    for p, part in zip(
        parameters, trained_weights.split([p.numel() for p in parameters]), strict=True
    ):
        p.data.copy_(part.view(p.shape))
    return found
