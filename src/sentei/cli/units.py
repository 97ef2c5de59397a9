"""The command `sentei units`: list what can be removed from a network, and what cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from sentei.cli.bounds import Count
from sentei.cli.options import NETWORK, REMOVED, Depth, Samples, Shown, Weights
from sentei.cli.screen import Result, head

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sentei import Inventory
    from sentei.network.tracing.inventory import Offered
    from sentei.probe.estimates import Estimate

MODEL = """File of a network that sentei saved (.safetensors), your own network as file.py:name or
package.module:name, or layer widths such as 784-64-32-10:relu; nothing is trained."""
SHAPE = """Shape of one input, such as 3 32 32 (channels, height, width). If left out, the width of
a linear layer that comes first, else that of an MNIST image: 1 28 28."""
DATA = """Data whose inputs the network is tried on, in place of random ones: named as for other
commands, your own as file.py:name. Networks of several inputs need it."""
MNIST = (1, 28, 28)


def units(
    model: Annotated[str, Parameter(group=NETWORK, help=MODEL)],
    *,
    weights: Weights = None,
    shape: Annotated[
        list[Count] | None, Parameter(group=NETWORK, help=SHAPE, consume_multiple=True)
    ] = None,
    data: Annotated[str | None, Parameter(group=NETWORK, help=DATA)] = None,
    inputs: Annotated[
        bool, Parameter(group=REMOVED, help="List input features too, as a group.")
    ] = False,
    depth: Depth = False,
    samples: Samples = 10_000,
    shown: Shown = Shown(),
) -> Result:
    """List the groups of units that can be removed from a network, and what cannot, with reasons.

    A group's parameters are those that go when it keeps as few units as it can. What belongs to a
    group: tensors whose rows compute its units, tensors that pass them on (batch norm), and
    tensors whose columns read them. At the end it is estimated from two timed passes how long work
    on the network would take on one thread, and how much memory: finding these units, shrinking,
    and criteria on `--samples` samples.
    """
    from sentei import inventory
    from sentei.cli.loading import untrained
    from sentei.probe.estimates import estimates

    shown.start()
    network = untrained(model, weights)
    example = _example(network, shape) if data is None else _of_data(network, data)
    found = inventory(network, example, inputs=inputs, depth=depth)
    costs = estimates(network, example, found.groups, samples) if found.groups else []
    return Result({**_data(found), "estimates": costs}, _shown(found) + _costs(costs, samples))


def _example(network: nn.Module, shape: Sequence[int] | None) -> Tensor:
    """Return two random inputs.

    Raises:
        DataError: the network does not take inputs of this shape.
    """
    import torch

    from sentei.errors import DataError, StructureError
    from sentei.network.example import check, guessed

    if shape is None:
        try:
            return guessed(network)
        except StructureError:  # another layer than a linear one comes first
            shape = MNIST
    example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        check(network, example)
    except DataError as error:
        words = " ".join(map(str, shape))
        raise DataError(
            f"--shape has to name the shape of one input of the network, and {words} does not fit: "
            f"{error} For several inputs name --data."
        ) from error
    return example


def _of_data(network: nn.Module, data: str) -> Any:
    """Return two inputs of the data, as the network takes them."""
    from sentei.cli.loading import fitting
    from sentei.cli.options import Data

    return fitting(network, Data(data), standardise=True).train.first(2).inputs


def _data(found: Inventory) -> dict[str, Any]:
    return {
        "parameters": found.parameters,
        "removable": found.removable,
        "share": found.share(found.removable),
        "groups": [
            {
                **_facts(each),
                "parameters": each.parameters,
                "share": found.share(each.parameters),
            }
            for each in found.offered
        ],
        "not_offered": found.not_offered,
    }


def _facts(each: Offered) -> dict[str, Any]:
    from sentei.network.units import Neurons

    group = each.group
    facts = {"name": group.name, "kind": group.kind, "units": group.size}
    if not isinstance(group, Neurons):
        pairs = zip(group.names, each.by_branch, strict=True)
        branches = [{"name": name, "parameters": count} for name, count in pairs]
        return {**facts, "least": 0, "branches": branches}
    parts = {
        role: [{"parameter": part.parameter, "dim": part.dim} for part in getattr(group, role)]
        for role in ("producers", "followers", "listeners")
    }
    return {**facts, "least": group.least, **parts}


def _shown(found: Inventory) -> list[Any]:
    from sentei.reporting.tables import by_branch, left_out, offered

    if found.groups:
        share = found.share(found.removable)
        words = f"{found.removable:,} of {found.parameters:,} parameters ({share:.1%}) can go"
        shown = [head(f"Offered: {words}"), offered(found), *_overlap(found)]
        for each in found.offered:
            if each.by_branch:
                shown += [head("Branches, each removed whole"), by_branch(found, each)]
    else:
        shown = [head(f"Nothing is offered: none of {found.parameters:,} parameters can go")]
    if found.not_offered:
        shown += [head("Not offered"), left_out(found)]
    return shown


def _overlap(found: Inventory) -> list[str]:
    """Say why the parameters of all groups are fewer than the sum of the rows, where they are."""
    if sum(each.parameters for each in found.offered) == found.removable:
        return []
    return ["Groups share parameters: each row counts all of its own, the last row each one once."]


def _costs(costs: Sequence[Estimate], samples: int) -> list[Any]:
    from sentei.reporting.tables import foretold

    words = f"Estimated cost on one thread; criteria are estimated for {samples:,} samples"
    meaning = (
        "A pass is one run of the network on one sample, and times are of this machine. Name "
        "another number of samples with --samples."
    )
    return [head(words), foretold(costs), meaning] if costs else []
