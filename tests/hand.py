"""Multilayer perceptrons and their groups, written out by hand as a reference for tracing."""

import itertools

import torch
from torch import nn

from sentei.network.units import Listener, Neurons


def part(layer: str, name: str, dim: int, size: int, each: int = 1) -> Listener:
    """`size` units of `each` consecutive positions."""
    index = torch.arange(size * each).reshape(size, each)
    return Listener(layer, f"{layer}.{name}", dim, index)


def group(name: str, size: int, listener: str, kind: str = "neuron") -> Neurons:
    """The outputs of linear layer `name`, read by linear layer `listener`."""
    producers = (part(name, "weight", 0, size), part(name, "bias", 0, size))
    return Neurons(name, kind, size, producers, (), (part(listener, "weight", 1, size),))


def inputs(size: int, listener: str) -> Neurons:
    """The input features, read by linear layer `listener`."""
    return Neurons("input", "input", size, (), (), (part(listener, "weight", 1, size),))


def mlp(*widths: int, act: type[nn.Module] = nn.Sigmoid, seed: int = 0) -> nn.Sequential:
    """Linear layers "0", "2", "4", … with activations between."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


def hidden(model: nn.Sequential) -> list[Neurons]:
    """The hidden groups of an `mlp`."""
    linear = [(name, m) for name, m in model.named_children() if isinstance(m, nn.Linear)]
    return [
        group(name, layer.out_features, after)
        for (name, layer), (after, _) in itertools.pairwise(linear)
    ]
