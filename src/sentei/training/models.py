"""Build the networks of the reproduced papers as `nn.Sequential`s with named torch layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import nn

from sentei.arguments import checked
from sentei.errors import unknown
from sentei.shards import refuse_sharded
from sentei.training.seeds import seeded

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


@checked
def mlp(
    widths: str | Sequence[int],
    activation: str | Callable[[], nn.Module] = "sigmoid",
    output: str | Callable[[], nn.Module] | None = None,
    *,
    init: str = "torch",
    seed: int = 0,
) -> nn.Sequential:
    """Build a multilayer perceptron with layers fc1, act1, fc2 and so on.

    Args:
        widths: numbers of inputs, hidden units and outputs, such as "784-100-10" or (784, 100, 10).
        activation: activation after every hidden layer: sigmoid, tanh, relu or gelu, or a callable
            that makes the layer, such as `nn.SiLU`.
        output: activation after the last layer, named or made in the same way; if None, the network
            outputs logits, as cross-entropy needs them.
        init: how weights are initialised; see `initialise_`.
        seed: seed of the initial weights; the global random state is not changed.

    Raises:
        ValueError: widths that are not whole numbers from 1, or an unknown name.
    """
    sizes = _widths(widths)
    between, last = _activation(activation), None if output is None else _activation(output)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with seeded(seed):
        for number, (inputs, outputs) in enumerate(pairwise(sizes), 1):
            layers[f"fc{number}"] = nn.Linear(inputs, outputs)
            follow = between if number < len(sizes) - 1 else last
            if follow is not None:
                layers[f"act{number}"] = follow()
        return initialise_(nn.Sequential(layers), init)


@checked
def annealing_cnn(
    padding: str = "valid", dropout: bool = True, *, init: str = "glorot", seed: int = 0
) -> nn.Sequential:
    """Build a network of two convolutions and two dense layers on (N, 1, 28, 28).

    It has 600,810 parameters.

    Source: the convolutional MNIST example of Keras as of September 2016, which Bartoldson's poster
    on annealed pruning starts from. That network ends in a softmax; this one outputs logits.

    Args:
        padding: padding of the first convolution: "valid"; "same" as in Keras's version of November
            2015 (28 by 28 stays; 703,210 parameters), or "full" as in its first version (28 by 28
            becomes 30 by 30; 813,802 parameters).
        dropout: whether to keep the two dropout layers (0.25 and 0.5).
        init: how weights are initialised; see `initialise_`.
        seed: seed of the initial weights.

    Raises:
        ValueError: an unknown padding or init.
    """
    around = {"valid": 0, "same": 1, "full": 2}
    if padding not in around:
        raise ValueError(unknown("padding", padding, around))
    flattened = (12 + around[padding]) ** 2 * 32
    with seeded(seed):
        layers = OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, 32, 3, padding=around[padding]),
            act1=nn.ReLU(),
            conv2=nn.Conv2d(32, 32, 3),
            pool=nn.MaxPool2d(2),
            act2=nn.ReLU(),  # the same bits as with ReLU before the pool, at a quarter of the cost
            drop1=nn.Dropout(0.25),
            flatten=nn.Flatten(),
            fc1=nn.Linear(flattened, 128),
            act3=nn.ReLU(),
            drop2=nn.Dropout(0.5),
            fc2=nn.Linear(128, 10),
        )
        if not dropout:
            del layers["drop1"], layers["drop2"]
        return initialise_(nn.Sequential(layers), init)


@checked
def distinctiveness_cnn(
    width: int = 64, filters: int = 10, *, init: str = "torch", seed: int = 0
) -> nn.Sequential:
    """Build a network of two convolutions and a hidden layer of 64 units on (N, 1, 28, 28).

    It has 26,474 parameters.

    Source: Zheng, Pruning Technique based on Distinctiveness for Deep Neural Network.

    Args:
        width: number of hidden units.
        filters: number of filters of the first convolution; the second has twice as many.
        init: how weights are initialised; see `initialise_`.
        seed: seed of the initial weights.

    Raises:
        ValueError: no units or no filters, or an unknown init.
    """
    _widths((filters, width))
    with seeded(seed):
        layers = OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, filters, 5),
            pool1=nn.MaxPool2d(2),
            act1=nn.ReLU(),
            conv2=nn.Conv2d(filters, 2 * filters, 5),
            pool2=nn.MaxPool2d(2),
            act2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(32 * filters, width),
            act3=nn.ReLU(),
            fc2=nn.Linear(width, 10),
        )
        return initialise_(nn.Sequential(layers), init)


@checked
def cnn(
    shape: str | Sequence[int],
    channels: str | Sequence[int],
    widths: str | Sequence[int],
    activation: str | Callable[[], nn.Module] = "relu",
    *,
    init: str = "torch",
    seed: int = 0,
) -> nn.Sequential:
    """Build a convolutional network for signals or images of any size and number of channels.

    Each convolution (3 wide, padded, so that the size stays) is followed by its activation and by
    max pooling of 2, while there is something to pool. Linear layers follow, with the activation
    between them. Layers are named conv1, act1, pool1 and so on, then flatten, fc1 and so on.

    Args:
        shape: of one input: channels and length, or channels, height and width, such as "3x32x32".
        channels: outputs of each convolution, such as "16-32".
        widths: outputs of each linear layer, the classes last, such as "64-10".
        activation: sigmoid, tanh, relu or gelu, or a callable that makes the layer.
        init: how weights are initialised; see `initialise_`.
        seed: seed of the initial weights; the global random state is not changed.

    Raises:
        ValueError: sizes that are not whole numbers from 1, an input of other dimensions, or an
            unknown name.
    """
    sizes = _sizes(shape.split("x") if isinstance(shape, str) else shape, "the shape of an input")
    if len(sizes) not in (2, 3):
        raise ValueError(
            "the shape of an input is channels and length, or channels, height and width, such as "
            f"3x32x32; got {shape!r}"
        )
    convolved = _sizes(_between(channels), "channels")
    ends, between = _sizes(_between(widths), "widths"), _activation(activation)
    convolution, pool = _LAYERS[len(sizes) - 1]
    depth, *size = sizes
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with seeded(seed):
        for number, outputs in enumerate(convolved, 1):
            layers[f"conv{number}"] = convolution(depth, outputs, 3, padding=1)
            layers[f"act{number}"] = between()
            if min(size) > 1:
                layers[f"pool{number}"] = pool(2)
                size = [each // 2 for each in size]
            depth = outputs
        layers["flatten"] = nn.Flatten()
        for number, (inputs, outputs) in enumerate(pairwise([depth * prod(size), *ends]), 1):
            layers[f"fc{number}"] = nn.Linear(inputs, outputs)
            if number < len(ends):
                layers[f"act{len(convolved) + number}"] = between()
        return initialise_(nn.Sequential(layers), init)


_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (nn.Conv1d, nn.MaxPool1d),
    2: (nn.Conv2d, nn.MaxPool2d),
}


@checked
def build(spec: str, *, seed: int = 0, init: str | None = None) -> nn.Sequential:
    """Build a network from a text such as "784-100-10:relu" or "cnn-annealing".

    Args:
        spec: the widths of a perceptron, optionally with the activation of hidden layers and that
            of the outputs ("784-100-10", "784-100-10:relu", "400-100-10:sigmoid:sigmoid"); the
            shape of an input, the channels of convolutions and the widths of linear layers of a
            `cnn`, optionally with its activation ("conv:3x32x32:16-32:64-10", in one dimension
            "conv:2x128:16:5:tanh"); "cnn-annealing", optionally with its padding
            ("cnn-annealing:full"); or "cnn-distinctiveness".
        seed: seed of the initial weights.
        init: how weights are initialised, see `initialise_`; if None, as in the source of the
            network.

    Raises:
        ValueError: an unknown network or option, with the nearest known one.
    """
    name, *words = spec.split(":")
    options = {} if init is None else {"init": init}
    if name not in NETWORKS and name[:1].isdigit():
        return mlp(name, *_at_most(words, 2, spec), seed=seed, **options)
    if name not in NETWORKS:
        raise ValueError(
            unknown("network", name, NETWORKS) + " Or give widths, such as 784-100-10."
        )
    make, least, most = NETWORKS[name]
    if len(words) < least:
        raise ValueError(
            f"{spec!r} has to say the shape of an input, channels and widths, such as "
            "conv:3x32x32:16-32:64-10"
        )
    return make(*_at_most(words, most, spec), seed=seed, **options)


# By name: what builds the network, and the least and the largest number of words after its name.
NETWORKS: dict[str, tuple[Callable[..., nn.Sequential], int, int]] = {
    "conv": (cnn, 3, 4),
    "cnn-annealing": (annealing_cnn, 0, 1),
    "cnn-distinctiveness": (distinctiveness_cnn, 0, 0),
}


@checked
def takes_flat(network: nn.Module) -> bool:
    """Return whether a network takes rows (N, values), not images: no convolution comes first."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((layer for layer in network.modules() if isinstance(layer, kinds)), None)
    return first is None or isinstance(first, nn.Linear)


@checked
@torch.no_grad()
def initialise_(network: nn.Sequential, init: str) -> nn.Sequential:
    """Draw new initial weights for a network from torch's global random generator.

    Args:
        network: changed in place, and returned.
        init: "torch" keeps the initial weights of torch's layers; "glorot" draws weights uniformly
            as Glorot and Bengio (2010) do and sets biases to zero; "normal" draws weights and
            biases from N(0, 1).

    Raises:
        ValueError: an unknown init.
        StructureError: tensors of the network are in shards on several devices.
    """
    if init not in INITS:
        raise ValueError(unknown("init", init, INITS))
    refuse_sharded(network)
    for parameter in network.parameters():
        INITS[init](parameter)
    return network


def _glorot_(parameter: nn.Parameter) -> None:
    if parameter.ndim < 2:
        nn.init.zeros_(parameter)
    else:
        nn.init.xavier_uniform_(parameter)


INITS: dict[str, Callable[[nn.Parameter], object]] = {
    "torch": lambda parameter: parameter,
    "glorot": _glorot_,
    "normal": nn.init.normal_,
}


def _widths(given: str | Sequence[int]) -> list[int]:
    words = given.split("-") if isinstance(given, str) else [str(width) for width in given]
    if len(words) < 2 or not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(
            f"widths must be at least two whole numbers from 1, such as 784-100-10; got {given!r}"
        )
    return [int(word) for word in words]


def _between(given: str | Sequence[int]) -> Sequence[str] | Sequence[int]:
    return given.split("-") if isinstance(given, str) else given


def _sizes(given: Sequence[str] | Sequence[int], what: str) -> list[int]:
    words = [str(size) for size in given]
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(
            f"{what} must be whole numbers from 1, as in conv:3x32x32:16-32:64-10; got "
            f"{', '.join(map(repr, words)) or 'none'}"
        )
    return [int(word) for word in words]


def _activation(given: str | Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    if not isinstance(given, str):
        return given
    if given not in ACTIVATIONS:
        raise ValueError(unknown("activation", given, ACTIVATIONS))
    return ACTIVATIONS[given]


def _at_most(words: list[str], most: int, spec: str) -> list[str]:
    if len(words) > most:
        raise ValueError(
            f"{spec!r} has {len(words)} options after its name; it may have {most} at most"
        )
    return words
