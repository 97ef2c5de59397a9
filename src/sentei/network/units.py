"""Define what can be pruned: groups of units, of synapses, and of residual branches.

A group of units stores which slices of which parameters belong to each of its units. Everything
else in the package works with groups and positions within them, and does not depend on the types of
layers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.errors import GroupError
from sentei.shards import refuse_sharded

# Parameters of weight norms and recurrent layers, which need at least one unit: of a weight without
# rows, torch's weight norm ends the process.
_NEED_ONE = re.compile(r"\.parametrizations\.|\bweight_[gv]$|\b(weight|bias)_(ih|hh|hr)\w*$")
KINDS = ("neuron", "channel", "head", "input", "stream")
BRANCH = "branch"


@dataclass(frozen=True, eq=False)
class Listener:
    """The slices of one parameter that belong to a group's units.

    The class describes all three roles: a listener (its columns read the units), a producer (its
    rows compute them) and a follower (its entries pass them on). Each of them is a set of positions
    along one dimension of one parameter.

    Attributes:
        layer: qualified name of the module that owns the parameter ("" for the model itself).
        parameter: qualified name of the parameter or buffer.
        dim: the dimension of the parameter that the units index.
        index: (size, columns per unit), int64; row u lists the positions of unit u along `dim`.
    """

    layer: str
    parameter: str
    dim: int
    index: Tensor = field(repr=False)

    def _key(self) -> tuple:
        return self.parameter, self.dim, tuple(self.index.shape), self.index.numpy().tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Listener) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.parameter, self.dim, tuple(self.index.shape)))


@checked
@dataclass(frozen=True)
class Neurons:
    """A group of interchangeable units at one place of a network; each is removed as a whole.

    Two groups are equal if their name, kind and size are equal. So the groups of copies of a model,
    of resumed runs and of loaded files are equal, whatever their index tensors contain.

    Attributes:
        name: the layer that computes the units (with ":2", ":3", … where it has several groups).
        kind: "neuron", "channel", "head", "input", or "stream" (a width that a norm reads).
        size: number of units.
        producers: where the units are computed (weight rows and biases); none for inputs.
        followers: where they are passed on one by one (batch norm, depthwise convolution).
        listeners: where they are read. A unit that no listener reads is dead.
    """

    name: str
    kind: str
    size: int
    producers: tuple[Listener, ...] = field(default=(), compare=False, repr=False)
    followers: tuple[Listener, ...] = field(default=(), compare=False, repr=False)
    listeners: tuple[Listener, ...] = field(default=(), compare=False, repr=False)

    @property
    def least(self) -> int:
        """Smallest number of units that may remain; 0 where torch's layers can do without any."""
        parts = (*self.producers, *self.listeners)
        needed = self.kind != "neuron" or self.followers
        return int(bool(needed) or any(_NEED_ONE.search(part.parameter) for part in parts))


@checked
@dataclass(frozen=True)
class Synapses:
    """A group of synapses: the weights of one layer, each removed by itself; never its biases.

    Attributes:
        name: the layer.
        size: number of weights.
        parameter: qualified name of the weight.
        shape: shape of the weight; a member's position is its index in the flattened weight.
        columns: the dimension of the weight that indexes what the layer reads; None where only a
            run of the network shows it, as for a layer that is not torch's own.

    Raises:
        GroupError: `columns` is neither 0 nor 1.
    """

    name: str
    size: int
    parameter: str = field(compare=False)
    shape: tuple[int, ...] = field(compare=False, repr=False)
    kind: str = "synapse"
    columns: int | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.columns not in (None, 0, 1):
            raise GroupError(
                "columns= is the dimension of the weight that indexes inputs, 0 or 1, or None if "
                f"it is not known; got columns={self.columns}"
            )


@dataclass(frozen=True)
class Branch:
    """One residual branch: layers whose result is added to a stream, and which do nothing else.

    Attributes:
        name: the layer that computes the result (with ":2", ":3", … where it computes several).
        parameters: qualified names of the parameters that only the branch uses. With zeros in them
            its result is zero.
        gates: those of them that its result is proportional to; none where a norm comes last.
        zeros: for each module that computes nothing else, what `shrink` puts into its place: the
            form of its results, as `network.zeros.Zeros` takes it.
    """

    name: str
    parameters: tuple[str, ...] = field(repr=False)
    gates: tuple[str, ...] = field(default=(), repr=False)
    zeros: Mapping[str, Any] = field(default_factory=dict, repr=False)


@checked
@dataclass(frozen=True)
class Branches:
    """The residual branches of a network: each is one unit, and is removed whole.

    Attributes:
        name: of the group.
        size: number of branches.
        branches: the branches, in the order in which they are added.
    """

    name: str
    size: int
    branches: tuple[Branch, ...] = field(compare=False, repr=False)
    kind: str = BRANCH

    @property
    def least(self) -> int:
        """Smallest number of branches that may remain."""
        return 0

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each branch."""
        return tuple(branch.name for branch in self.branches)


Group = Neurons | Synapses | Branches
_PLURALS = {"synapse": "synapses", BRANCH: "branches"}


def members_word(group: Group) -> str:
    """Return what the members of a group are called in messages, such as "synapses"."""
    return _PLURALS.get(group.kind, f"{group.kind}s")


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """Return a parameter or buffer by its qualified name."""
    layer, _, short = name.rpartition(".")
    return getattr(model.get_submodule(layer), short)


@checked
def find_synapses(model: nn.Module) -> list[Synapses]:
    """Find the weights of all layers that mix their inputs: linear, convolution, attention layers.

    A weight that several modules share is listed once, under its first name. Embeddings, norms and
    biases are not synapses.

    Returns:
        One group for each weight, in the order of `model.named_parameters()`.

    Raises:
        StructureError: tensors of the network are in shards on several devices.
    """
    refuse_sharded(model)
    found = []
    for name, parameter in model.named_parameters():
        layer, _, short = name.rpartition(".")
        owner = model.get_submodule(layer)
        is_weight = short == "weight" or short.endswith("_weight")
        is_weight |= isinstance(owner, (nn.RNNBase, nn.RNNCellBase))
        if (
            is_weight
            and parameter.ndim >= 2
            and not isinstance(owner, (nn.Embedding, nn.EmbeddingBag))
        ):
            taken = any(group.name == layer for group in found)
            own, shape = name if taken else layer, tuple(parameter.shape)
            columns = _columns_of(owner)
            found.append(Synapses(own, parameter.numel(), name, shape, columns=columns))
    return found


def _columns_of(layer: nn.Module) -> int | None:
    """Return the dimension of a layer's weights that indexes its inputs; None if not known."""
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return 0
    known = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
    return 1 if isinstance(layer, (*known, nn.RNNBase, nn.RNNCellBase)) else None


def named(groups: Sequence[Group]) -> dict[tuple[str, str], Group]:
    """Return the groups by (kind, name).

    Raises:
        GroupError: two groups have the same kind and name.
    """
    by_name: dict[tuple[str, str], Group] = {}
    for group in groups:
        if (group.kind, group.name) in by_name:
            raise GroupError(
                f"groups must differ in name: two are {group.kind} {group.name!r}; "
                "pass each group once"
            )
        by_name[group.kind, group.name] = group
    return by_name


def refuse_shared_positions(groups: Iterable[Group]) -> None:
    """Raise GroupError if two groups of units hold the same position of a tensor.

    A cut of one of them would change what the other one means. Groups of `find_units` share none;
    one that is declared by hand may.
    """
    held: dict[tuple[str, int], list[tuple[Neurons, Tensor]]] = defaultdict(list)
    for group in groups:
        if isinstance(group, Neurons):
            for part in (*group.producers, *group.followers, *group.listeners):
                held[part.parameter, part.dim].append((group, part.index))
    for (parameter, dim), parts in held.items():
        positions = torch.cat([index.flatten() for _, index in parts])
        if len(parts) > 1 and positions.bincount(minlength=1).max() > 1:
            _refuse_shared(parameter, dim, parts)


def _refuse_shared(parameter: str, dim: int, parts: Sequence[tuple[Neurons, Tensor]]) -> None:
    owners: dict[int, Neurons] = {}
    for group, index in parts:
        for position in index.flatten().tolist():
            other = owners.setdefault(position, group)
            if other is not group:
                raise GroupError(
                    f"each row and column belongs to one group; {other.kind} {other.name!r} and "
                    f"{group.kind} {group.name!r} both hold position {position} along dimension "
                    f"{dim} of {parameter!r}. Leave one of them out."
                )
