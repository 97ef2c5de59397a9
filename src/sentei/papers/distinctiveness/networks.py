"""The paper's two networks: train them, and split them in front of the layer that is pruned."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import nn

from sentei.criteria import Probe, Trajectory
from sentei.datasets import mnist
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Neurons
from sentei.samples import Samples
from sentei.training import Recipe, distinctiveness_cnn, mlp, train

MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels
PAPERS_TEST = 2_000
LITERAL = {"cnn": "half", "fnn": "none"}  # the centre that fits the paper's counts


@dataclass(frozen=True, eq=False)
class Head:
    """The hidden layer that is pruned, the classifier that reads it, and their inputs.

    Attributes:
        before, act, after: the hidden layer, its activation, the classifier.
        parts: the inputs of the hidden layer, with targets: train, validation and test (10,000
            images, of which the first 2,000 are the paper's).
        past: the trajectory of the three layers' training, for `Trajectory.load_state_dict`; None
            if it was not recorded.
    """

    before: nn.Linear
    act: nn.Module
    after: nn.Linear
    parts: dict[str, Samples]
    past: dict[str, Any] | None = None

    @property
    def network(self) -> nn.Sequential:
        """The three layers as one network; its weights are this head's own."""
        return nn.Sequential(OrderedDict(fc1=self.before, act=self.act, fc2=self.after)).eval()

    @cached_property
    def group(self) -> Neurons:
        """The hidden units."""
        (found,) = find_units(self.network, self.parts["train"].inputs[:8])
        return found

    @cached_property
    def probe(self) -> Probe:
        """The Probe on the training samples, which all scores and repairs are computed from."""
        return Probe(self.network, self.parts["train"])

    @cached_property
    def hidden(self) -> dict[str, Samples]:
        """The outputs of the hidden units, with targets."""
        with torch.no_grad():
            return {
                name: Samples(self.act(self.before(part.inputs)), part.targets)
                for name, part in self.parts.items()
            }

    def copy(self) -> Head:
        """Return a copy; all weights are copied."""
        return Head(*copy.deepcopy((self.before, self.act, self.after)), self.parts)

    def reading_it(self) -> Head:
        """Return a head that shares the hidden layer, with a copy of the classifier."""
        other = Head(self.before, self.act, copy.deepcopy(self.after), self.parts)
        vars(other)["hidden"] = self.hidden
        return other

    @torch.no_grad()
    def accuracies(self, *parts: str) -> dict[str, float]:
        """Return accuracy on each of the parts; for test also on the paper's 2,000 images."""
        found = {}
        for name in parts:
            outputs, targets = self.hidden[name]
            correct = (self.after(outputs).argmax(1) == targets).double()
            found[name] = correct.mean().item()
            if name == "test":
                found["paper"] = correct[:PAPERS_TEST].mean().item()
        return found


def trained(
    network: str,
    seed: int,
    epochs: int,
    width: int,
    filters: int,
    images: int,
    scaled: bool,
    recorded: bool = False,
) -> Head:
    """Train a network, split it in front of its hidden layer, and return the head."""
    data = samples(network == "fnn", images, scaled)
    activation = "sigmoid" if network == "fnn" else "relu"
    model = (
        mlp(f"784-{width}-10", activation, seed=seed)
        if network == "fnn"
        else distinctiveness_cnn(width=width, filters=filters, seed=seed)
    )
    past = Trajectory(model) if recorded else None
    train(
        model,
        data["train"],
        Recipe(epochs=epochs, batch_size=100, lr=0.005, seed=seed),
        after_update=[past] if past else (),
    )
    layers = OrderedDict(model.eval().named_children())
    names = list(layers)
    at = names.index("fc1")
    front = nn.Sequential(OrderedDict((name, layers[name]) for name in names[:at]))
    before, act, after = (layers[name] for name in names[at:])
    assert isinstance(before, nn.Linear)
    assert isinstance(after, nn.Linear)
    with torch.no_grad():
        parts = {
            name: Samples(torch.cat([front(x) for x in part.inputs.split(1000)]), part.targets)
            for name, part in data.items()
        }
    return Head(before, act, after, parts, None if past is None else _last_layers(past))


def _last_layers(past: Trajectory) -> dict[str, Any]:
    """Return the trajectory's state, for the last two layers only."""
    state = past.state_dict()
    weights = {n: parts for n, parts in state["weights"].items() if n.startswith(("fc1.", "fc2."))}
    return {**state, "weights": weights}


@cache
def samples(flat: bool, images: int, scaled: bool) -> dict[str, Samples]:
    """Return the paper's training and validation images, and all 10,000 test images."""
    split, whole = mnist("distinctiveness", flat=flat), mnist(flat=flat)
    parts = {
        "train": split.train.first(images),
        "validation": split.validation,
        "test": whole.test,
    }
    if scaled:
        parts = {n: Samples((p.inputs - MEAN) / DEVIATION, p.targets) for n, p in parts.items()}
    return parts
