"""What optimizers keep beside the weights of a network: find it, zero it, cut it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sentei.errors import StructureError

Optimizers = Optimizer | Sequence[Optimizer] | None


def with_inner(given: Optimizers) -> tuple[Optimizer, ...]:
    """Return optimizers, and those that they wrap, each once; the wrapping one comes first.

    SAM, Lookahead or accelerate's wrapper hold the optimizer that moves the weights as an
    attribute, and both may keep state for a weight.
    """
    found: dict[int, Optimizer] = {}
    waiting = [given] if isinstance(given, Optimizer) else list(given or ())
    while waiting:
        optimizer = waiting.pop(0)
        if id(optimizer) not in found:
            found[id(optimizer)] = optimizer
            waiting += inner(optimizer)
    return tuple(found.values())


def inner(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers among the attributes of one, also in lists and dicts."""
    found = []
    for name, value in vars(optimizer).items():
        if name in ("state", "param_groups"):
            continue
        values = value.values() if isinstance(value, Mapping) else value
        several = isinstance(value, (Mapping, list, tuple))
        found += [v for v in (values if several else [value]) if isinstance(v, Optimizer)]
    return found


def states_of(given: Optimizers, parameter: Tensor) -> Iterator[dict[str, Any]]:
    """Yield what each optimizer keeps for a parameter."""
    for optimizer in with_inner(given):
        if parameter in optimizer.state:  # a look-up alone would add an entry
            yield optimizer.state[parameter]


def forget_(given: Optimizers, parameter: Tensor) -> None:
    """Take a parameter that is no longer in the network from each optimizer."""
    parameter.grad = None
    for optimizer in with_inner(given):
        optimizer.state.pop(parameter, None)
        for group in optimizer.param_groups:
            group["params"] = [own for own in group["params"] if own is not parameter]


def refuse_other_shapes(given: Optimizers) -> None:
    """Check that what the optimizers keep can be cut with the weights.

    Raises:
        StructureError: an optimizer has state that is not shaped like its parameter.
    """
    for optimizer in with_inner(given):
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                single = not isinstance(value, Tensor) or value.numel() == 1
                if isinstance(value, list) or not (single or value.shape == parameter.shape):
                    raise StructureError(
                        f"{type(optimizer).__name__} keeps {name!r}, which does not have the shape "
                        "of its parameter and cannot be cut with it; use SGD, Adam, RMSprop, "
                        "Adadelta or a similar optimizer, or mask without shrinking"
                    )
