"""Checks on the optimizer and the parameters that a pruner shares with a user's training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS

from sentei.distributed import world
from sentei.errors import StructureError
from sentei.network.units import Branches, Group, Synapses
from sentei.pruning.while_training.rounds import Rounds, runs_hooks


@dataclass(frozen=True)
class PrunedParameter:
    """A parameter that pruning sets to zero in part, or makes smaller.

    Attributes:
        parameter: the parameter.
        shape: its shape when this record was made.
        zeroed: whether its dead weights are set to zero; if False, its entries are only deleted.
    """

    parameter: nn.Parameter
    shape: tuple[int, ...]
    zeroed: bool


@dataclass(frozen=True)
class ZeroDeadGradients:
    """A hook that zeroes the gradients of dead weights after a backward pass accumulates them.

    Attributes:
        pruner: the pruner whose mask is read.
        name: name of the parameter in the model.
        seen: called with the name after every backward pass that reaches the parameter.
    """

    pruner: Any
    name: str
    seen: Callable[[str], object]

    def __call__(self, parameter: Tensor) -> None:
        """Zero the parameter's gradients where it is dead; autograd calls this."""
        self.seen(self.name)
        if parameter.grad is not None:
            self.pruner.mask.zero_(self.name, parameter.grad)


def pruned_parameters(model: nn.Module, groups: Iterable[Group]) -> dict[str, PrunedParameter]:
    """Return every parameter that pruning these groups may change, by name."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    zeroed: dict[str, bool] = {}
    for group in groups:
        if isinstance(group, Synapses):
            zeroed[group.parameter] = True
            continue
        if isinstance(group, Branches):
            zeroed |= dict.fromkeys((n for b in group.branches for n in b.parameters), True)
            continue
        for part in group.listeners:
            zeroed[part.parameter] = True
        for part in (*group.producers, *group.followers):
            zeroed.setdefault(part.parameter, False)
    return {
        name: PrunedParameter(parameters[name], tuple(parameters[name].shape), zero)
        for name, zero in zeroed.items()
        if name in parameters
    }


def check_optimizers(rounds: Rounds, holds: Mapping[str, PrunedParameter], *, delete: bool) -> None:
    """Check that the pruner can keep dead weights at zero after every update.

    Args:
        rounds: the optimizers that train the model; none if the loop itself changes the weights.
        holds: the parameters that pruning changes, by name.
        delete: whether the pruner also deletes dead units from the tensors.

    Raises:
        StructureError: no optimizer owns a parameter that may be cut, one is LBFGS, which changes
            weights several times in one update, one does not run hooks, or another pruner holds a
            parameter.
    """
    for optimizer in rounds.moving:
        if isinstance(optimizer, LBFGS):
            raise StructureError(
                "LBFGS moves weights several times in one update, and dead weights cannot be kept "
                "at zero in between; use SGD, Adam, RMSprop, Adadelta or another that moves them "
                "once"
            )
        if not runs_hooks(optimizer):
            raise StructureError(
                f"step() of {type(optimizer).__name__} runs no hooks, because its constructor does "
                "not call that of torch.optim.Optimizer. Attach the optimizer that moves the "
                "weights, or attach([]) and call pruner.update() after every update."
            )
    owned = {
        id(parameter)
        for optimizer in rounds.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, held in holds.items():
        changed = held.zeroed or (delete and held.parameter.requires_grad)
        if changed and rounds.optimizers and id(held.parameter) not in owned:
            raise StructureError(
                f"the optimizer does not own {name!r}, which may be cut: make it with "
                "model.parameters(), after the model has its final layers, attach every optimizer "
                "of the loop, or leave the group out"
            )
        if changed and any(
            isinstance(hook, ZeroDeadGradients) for hook in _gradient_hooks(held.parameter)
        ):
            raise StructureError(
                f"another pruner holds {name!r}; detach() it first, or give the two pruners "
                "different groups"
            )


def check_parallel(model: nn.Module, *, rewraps: bool) -> None:
    """Check that units may be deleted from a model that several processes may train.

    Args:
        model: the model that the loop trains.
        rewraps: whether the model is wrapped again after every deletion.

    Raises:
        StructureError: it is wrapped, or there are several processes and it is not wrapped again.
    """
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
    if wrapped or (world() > 1 and not rewraps):
        raise StructureError(
            "DistributedDataParallel remembers the sizes of parameters, so that units cannot be "
            "deleted under it. Give the pruner the network inside, model.module, and wrap it again "
            "after every deletion: attach(optimizer, rewrap=function); or leave out delete= and "
            "shrink after training."
        )


def check_still_there(model: nn.Module, holds: Mapping[str, PrunedParameter]) -> None:
    """Check that the model's parameters are the same objects, of the same shape, as at `attach`.

    Raises:
        StructureError: a parameter is another object, or has another shape.
    """
    for name, held in holds.items():
        try:
            now = model.get_parameter(name)
        except AttributeError:
            now = None
        if now is not held.parameter:
            raise StructureError(
                f"parameter {name!r} was replaced by another object after attach(), so the "
                "optimizer trains a weight that the model does not use; change weights in "
                "place, or detach(), replace, and attach() to a new optimizer"
            )
        shape = tuple(held.parameter.shape)
        if shape != held.shape:
            raise StructureError(
                f"parameter {name!r} had shape {held.shape} and has {shape}: something other than "
                "this pruner cut it, such as another pruner that deletes; let one pruner have both "
                "groups"
            )


def _gradient_hooks(parameter: nn.Parameter) -> list[Any]:
    return list((getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values())
