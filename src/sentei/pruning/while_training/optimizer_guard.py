"""What a pruner holds of somebody else's training loop, and what it refuses there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from sentei.errors import StructureError
from sentei.network.units import Group, Synapses


@dataclass(frozen=True)
class PrunedParameter:
    """A parameter that pruning zeroes or cuts.

    Attributes:
        parameter: the object.
        shape: its shape when it was looked at.
        zeroed: whether what is dead in it is set to zero; the others are only cut.
    """

    parameter: nn.Parameter
    shape: tuple[int, ...]
    zeroed: bool


@dataclass(frozen=True)
class ZeroDeadGradients:
    """Zeroes the gradients of what a pruner holds dead, once a backward pass has added to them."""

    pruner: Any
    name: str

    def __call__(self, parameter: Tensor) -> None:
        """Called by autograd with the parameter."""
        if parameter.grad is not None:
            self.pruner.mask.zero_(self.name, parameter.grad)


def pruned_parameters(model: nn.Module, groups: Iterable[Group]) -> dict[str, PrunedParameter]:
    """Every parameter of these groups, by name."""
    there = dict(model.named_parameters(remove_duplicate=False))
    zeroed: dict[str, bool] = {}
    for group in groups:
        if isinstance(group, Synapses):
            zeroed[group.parameter] = True
            continue
        for part in group.listeners:
            zeroed[part.parameter] = True
        for part in (*group.producers, *group.followers):
            zeroed.setdefault(part.parameter, False)
    return {
        name: PrunedParameter(there[name], tuple(there[name].shape), zero)
        for name, zero in zeroed.items()
        if name in there
    }


def check_optimizer(
    optimizer: Optimizer, holds: Mapping[str, PrunedParameter], *, delete: bool
) -> None:
    """Refuse an optimizer that cannot be gone along with.

    Raises:
        ValueError: it is none.
        StructureError: it does not own a weight that may be cut, moves weights in the middle of an
            update, or another pruner holds a weight.
    """
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"attach() takes a torch.optim.Optimizer; got {optimizer!r}")
    if isinstance(optimizer, LBFGS):
        raise StructureError(
            "LBFGS moves weights several times in one update, where nobody can keep the dead at "
            "zero; take SGD, Adam, RMSprop, Adadelta or another that moves them once"
        )
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, it in holds.items():
        changed = it.zeroed or (delete and it.parameter.requires_grad)
        if changed and id(it.parameter) not in owned:
            raise StructureError(
                f"the optimizer does not own {name!r}, which may be cut: make it of "
                "model.parameters(), after the model has its final layers, or leave the group out"
            )
        if changed and any(
            isinstance(hook, ZeroDeadGradients) for hook in _after_gradient(it.parameter)
        ):
            raise StructureError(
                f"another pruner holds {name!r}; detach() it first, or give the two other groups"
            )


def check_still_there(model: nn.Module, holds: Mapping[str, PrunedParameter]) -> None:
    """Refuse a model whose parameters were replaced, or cut by somebody else.

    Raises:
        StructureError: a parameter is another object, or of another shape.
    """
    for name, it in holds.items():
        try:
            now = model.get_parameter(name)
        except AttributeError:
            now = None
        if now is not it.parameter:
            raise StructureError(
                f"parameter {name!r} was replaced by another object after attach(), so the "
                "optimizer trains a weight that the model does not use; change weights in "
                "place, or detach(), replace, and attach() to a new optimizer"
            )
        shape = tuple(it.parameter.shape)
        if shape != it.shape:
            raise StructureError(
                f"parameter {name!r} had shape {it.shape} and has {shape}: somebody "
                "else cut it, such as another pruner that deletes; let one pruner have both groups"
            )


def _after_gradient(parameter: nn.Parameter) -> list[Any]:
    return list((getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values())
