"""Read the inputs of a group's listeners, and the loss's gradients by them, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sentei.errors import StructureError
from sentei.network.calls import Call, Calls
from sentei.network.units import Listener
from sentei.probe.recording.recording import (
    Pass,
    PerSample,
    Recording,
    model_output,
    per_sample_losses,
)

OnInput = Callable[[str, Tensor], None]


class _StopPass(Exception):  # noqa: N818 - control flow, not an error
    """Raised inside a forward pass to end it after the last listener."""


def listener_positions(recording: Recording, listeners: Mapping[str, Listener]) -> dict[int, str]:
    """Map the position of each call that reads the units to the name of its listener.

    Raises:
        StructureError: no call of a pass uses a listener's weight.
    """
    users = {name: recording.survey.users(name) for name in listeners}
    for name, positions in users.items():
        if not positions:
            raise StructureError(
                f"a listener must be a weight that a layer call uses; no call uses {name!r} in a "
                "forward pass over this data. Leave its group out."
            )
    return {at: name for name, positions in users.items() for at in positions}


def read_listener_inputs(
    recording: Recording, block: Pass, listeners: Mapping[str, Listener], on_input: OnInput
) -> None:
    """Run the network up to the last listener and pass each listener's input to `on_input`.

    Nothing is recorded.

    Args:
        recording: the recording of the network.
        block: the samples; call outputs already recorded for them are replayed.
        listeners: by the parameter names under which calls use them.
        on_input: called with the listener's name and the input of one of its calls, (size, n): a
            row for each unit, over samples, positions and the unit's columns.
    """
    names = listener_positions(recording, listeners)
    last = max(names)

    def answer(call: Call) -> Tensor:
        recording.check(call)
        if call.position in names:
            part = listeners[names[call.position]]
            if call.use.columns == part.dim:
                on_input(names[call.position], unit_rows(call.input, call, part))
        if call.position == last:
            raise _StopPass
        kept = block.call_outputs.get(call.position) if call.mixes else None
        return call() if kept is None else kept.clone()

    try:
        with Calls(recording.model, answer):
            model_output(recording.model, block.samples)
    except _StopPass:
        return


def input_gradients(
    recording: Recording,
    block: Pass,
    listeners: Mapping[str, Listener],
    per_sample: PerSample,
) -> list[Tensor]:
    """Compute the derivatives of each sample's loss by the inputs of the listeners' calls.

    Derivatives of calls whose inputs have equal shape, axis and columns are added up: such calls
    usually read the same tensor.

    Returns:
        One (size, n) tensor for each distinct input: a row for each unit, over samples, positions
        and the unit's columns.
    """
    names = listener_positions(recording, listeners)
    leaves: dict[tuple, list[Tensor]] = {}
    to_rows: dict[tuple, Callable[[Tensor], Tensor]] = {}

    def answer(call: Call) -> Tensor:
        if call.position not in names:
            return call()
        part = listeners[names[call.position]]
        leaf = torch.zeros_like(call.input, requires_grad=True)
        key = (tuple(call.input.shape), call.axis, part.index.numpy().tobytes())
        leaves.setdefault(key, []).append(leaf)
        to_rows[key] = lambda x: unit_rows(x, call, part)
        return call(call.input + leaf)

    with torch.enable_grad(), Calls(recording.model, answer, plain=True):
        out = model_output(recording.model, block.samples)
        total = per_sample_losses(per_sample, out, block.samples.targets).sum()
        every = [leaf for group in leaves.values() for leaf in group]
        gradients = iter(torch.autograd.grad(total, every, materialize_grads=True))
    sums = {key: sum(next(gradients) for _ in group) for key, group in leaves.items()}
    return [to_rows[key](value) for key, value in sums.items() if isinstance(value, Tensor)]


def unit_rows(x: Tensor, call: Call, part: Listener) -> Tensor:
    """Rearrange a tensor shaped like a call's input to (size, n), a row for each unit."""
    channels_first = x.movedim(call.axis, 0)
    index = part.index.to(x.device)
    if call.groups == 1 and torch.equal(
        index.flatten(), torch.arange(x.shape[call.axis], device=x.device)
    ):
        taken = channels_first.reshape(*index.shape, *channels_first.shape[1:])
    else:
        taken = channels_first[_channels(call, index)]
    return taken.flatten(1)


def _channels(call: Call, index: Tensor) -> Tensor:
    """(size, n) input channels that each unit's columns read: one per column and group."""
    assert call.use.columns is not None
    width = call.given[call.use.weight].shape[call.use.columns]
    steps = torch.arange(0, call.input.shape[call.axis], width, device=index.device)
    return (index[:, :, None] + steps).flatten(1)
