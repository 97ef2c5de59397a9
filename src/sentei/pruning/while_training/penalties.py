"""Terms for the training loss that drive weights of whole units to zero before anything is cut."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.errors import GroupError
from sentei.network.belonging import check_groups
from sentei.network.units import Branches, Group, Neurons, tensor_of


@checked
def group_lasso(groups: Sequence[Group], model: nn.Module) -> Tensor:
    """Sum over members of the Euclidean norm of a member's weights, times the root of their number.

    Add it to the loss in your own loop, times a strength that you choose: whole units then shrink
    until `below("magnitude", ...)` or `ranked("magnitude", ...)` removes them at little cost. The
    weights of a unit are those that `magnitude` takes: the incoming ones without biases, and for an
    input feature those that read it. Of synapses it is the sum of absolute weights.

    Where a batch norm follows, it undoes a smaller scale of the weights: use `slimming` there.

    Args:
        groups: the units or synapses; at least one group.
        model: the network that has them.

    Returns:
        A scalar with a gradient; that of a norm of 0 is 0.

    Raises:
        GroupError: no groups, or groups that the model does not have.

    Source: Yuan and Lin (2006), Model selection and estimation in regression with grouped
    variables; for units of networks Wen, Wu, Wang, Chen and Li (2016), Learning structured sparsity
    in deep neural networks.
    """
    _check(groups, model)
    return torch.stack([_lasso(group, model) for group in groups]).sum()


@checked
def slimming(groups: Sequence[Group], model: nn.Module) -> Tensor:
    """Sum of the absolute scales with which batch norms pass units on.

    A unit whose scale is 0 outputs a constant. Add the term to the loss as `group_lasso`.

    Args:
        groups: units; those that no batch norm passes on add nothing, but one has to be.
        model: the network that has them.

    Returns:
        A scalar with a gradient.

    Raises:
        GroupError: no unit of the groups is passed on by a batch norm with a scale, or the model
            does not have the groups.

    Source: Liu, Li, Shen, Huang, Yan and Zhang (2017), Learning efficient convolutional networks
    through network slimming.
    """
    _check(groups, model)
    places = {
        (part.parameter, part.index.numpy().tobytes()): part
        for group in groups
        if isinstance(group, Neurons)
        for part in group.followers
        if part.parameter.endswith("weight")
        and isinstance(model.get_submodule(part.layer), nn.modules.batchnorm._BatchNorm)
    }
    if not places:
        raise GroupError(
            "slimming takes units that a batch norm with a scale passes on; of "
            f"{', '.join(repr(group.name) for group in groups)} there is none. Use group_lasso."
        )
    scales = [tensor_of(model, part.parameter)[part.index] for part in places.values()]
    return torch.stack([scale.abs().sum() for scale in scales]).sum()


def _check(groups: Sequence[Group], model: nn.Module) -> None:
    if not groups:
        raise GroupError(
            "a penalty is a sum over groups; groups= is empty. Pass those of find_units"
        )
    check_groups(model, groups)


def _lasso(group: Group, model: nn.Module) -> Tensor:
    """Return the sum of the norms of a group's members, each times the root of its size."""
    if isinstance(group, Branches):
        weights = [[tensor_of(model, n) for n in branch.parameters] for branch in group.branches]
        each = [torch.cat([w.flatten() for w in some if w.ndim > 1]) for some in weights]
        norms = [torch.linalg.vector_norm(own) * sqrt(own.numel()) for own in each]
        return torch.stack(norms).sum()
    if not isinstance(group, Neurons):
        return model.get_parameter(group.parameter).abs().sum()
    rows = [
        tensor_of(model, part.parameter).movedim(part.dim, 0)[part.index].flatten(1)
        for part in group.producers or group.listeners
        if tensor_of(model, part.parameter).ndim > 1
    ]
    weights = torch.cat(rows, 1)
    # Not a root of a sum of squares: the gradient of that is NaN at 0.
    return torch.linalg.vector_norm(weights, dim=1).sum() * sqrt(weights.shape[1])
