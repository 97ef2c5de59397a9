"""`forward=`: run a network in the user's own way, wherever sentei runs it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.calls import Call, Calls
from sentei.network.copying import copied
from sentei.network.example import check, undisturbed
from sentei.network.finished import refuse_finished
from sentei.running import Example, Forward, ForwardCall, own_inputs, run


def with_forward(model: nn.Module, example: Example, forward: Forward | None) -> Example:
    """Return an example on which networks are run by a function of the user's, if there is one.

    Args:
        model: the network.
        example: what the function is given.
        forward: a function (model, example) -> outputs. If None, the example keeps its own way.

    Raises:
        StructureError: the network was quantised, exported or scripted; or the function does not
            run the network that it is given: on a copy of the network it uses weights of the
            network itself. A cut network would never be run.
        DataError: the function fails.
    """
    refuse_finished(model)
    example = dict(example) if isinstance(example, Mapping) else example  # torch maps dicts alone
    if forward is None:
        return example
    call = ForwardCall(own_inputs(example), forward)
    with undisturbed(model):
        check(model, call)
        used, on_copy = (_weights_used(each, call) for each in (model, copied(model)))
    missing = [name for name in used if name not in on_copy]
    if missing:
        raise StructureError(
            "forward= must run the network that it is given: given a copy, it used other weights "
            f"than the copy's for {', '.join(map(repr, missing[:3]))}. Reach every layer through "
            "its first argument, as in forward=lambda model, example: model.head(example)."
        )
    return call


def _weights_used(model: nn.Module, example: Example) -> set[str]:
    used: set[str] = set()

    def note(call: Call) -> Tensor:
        used.update(call.tensors)
        return call()

    with Calls(model, note):
        run(model, example)
    return used
