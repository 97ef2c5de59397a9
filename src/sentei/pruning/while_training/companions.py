"""Copies of a network's weights that a training loop keeps, such as an average: masked and cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from sentei.errors import GroupError, StructureError
from sentei.network.mask import Mask
from sentei.network.surgery.cutting import remove_dead_
from sentei.network.surgery.size_attributes import copy_sizes_

Companion = nn.Module | Mapping[str, Tensor]


def companions_of(
    model: nn.Module, given: Sequence[Companion], pruned: Iterable[str], *, delete: bool
) -> list[Companion]:
    """Return the copies of the model among companions, without what is around them.

    Args:
        model: the network that is trained.
        given: modules that hold a copy of the network, such as an `AveragedModel`, or dicts of
            tensors by parameter name.
        pruned: names of the parameters that pruning sets to zero.
        delete: whether units are deleted.

    Raises:
        GroupError: a companion holds no copy of the network, or the network itself.
        StructureError: units are deleted, and a companion is a dict.
    """
    return [
        _copy_in(model, each)
        if isinstance(each, nn.Module)
        else _checked(model, each, pruned, delete=delete)
        for each in given
    ]


def hold_(companion: Companion, mask: Mask) -> None:
    """Zero the dead weights of a companion in place."""
    if isinstance(companion, nn.Module):
        mask.hold_(companion)
        return
    for name, tensor in companion.items():
        mask.zero_(name, tensor.detach())


def cut_(companion: Companion, mask: Mask, model: nn.Module) -> None:
    """Delete the dead units of a companion.

    This is the surgery that the certificate of the model has proven, also for other weights.

    Args:
        companion: a module with the layers that the model had before its own cut.
        mask: the mask of the model before its own cut.
        model: the network, cut.
    """
    if isinstance(companion, nn.Module):
        mask.apply_(companion)
        remove_dead_(companion, mask)
        copy_sizes_(companion, model)


def _copy_in(model: nn.Module, around: nn.Module) -> nn.Module:
    wanted = _shapes(model)
    for module in around.modules():
        if _shapes(module) == wanted:
            if {id(p) for p in module.parameters()} & {id(p) for p in model.parameters()}:
                raise GroupError(
                    f"a companion is a copy of the model, and this {type(around).__name__} has the "
                    "model's own weights; pass copy.deepcopy(model) or an AveragedModel"
                )
            return module
    raise GroupError(
        f"companions= takes modules with the model's own layers; this {type(around).__name__} has "
        "no part with the same parameter names and shapes. Make it as a copy of the model as it "
        "is now."
    )


def _checked(
    model: nn.Module, tensors: Mapping[str, Tensor], pruned: Iterable[str], *, delete: bool
) -> Mapping[str, Tensor]:
    if delete:
        raise StructureError(
            "with delete=True, a companion is a module: names and shapes of parameters change with "
            "the cut, and a dict of tensors cannot follow. Keep the copy as an AveragedModel or a "
            "copy.deepcopy(model)."
        )
    wanted = _shapes(model)
    for name in pruned:
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != wanted[name]:
            raise GroupError(
                f"companions= takes tensors by parameter name; {name!r} is pruned and has shape "
                f"{wanted[name]} in the model and {found or 'no entry'} in the companion"
            )
    return tensors


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    named = module.named_parameters(remove_duplicate=False)
    return {name: tuple(parameter.shape) for name, parameter in named}
