"""What the listeners of a group hear of its units, block by block."""

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


class _StopPass(Exception):  # noqa: N818 - ends a pass once everything asked for was heard
    pass


def listener_positions(recording: Recording, listeners: Mapping[str, Listener]) -> dict[int, str]:
    """Which calls of a pass hear the units, and by which listener.

    Raises:
        StructureError: a listener that no call uses.
    """
    users = {name: recording.survey.users(name) for name in listeners}
    for name, positions in users.items():
        if not positions:
            raise StructureError(
                f"a listener must be a weight that a layer call uses; {name!r} is not used so in a "
                "pass over this data"
            )
    return {at: name for name, positions in users.items() for at in positions}


def read_listener_inputs(
    recording: Recording, block: Pass, listeners: Mapping[str, Listener], told: OnInput
) -> None:
    """Run the network as far as the last listener; nothing is kept.

    Args:
        recording: of the network.
        block: the samples; what is recorded of them is replayed.
        listeners: by the names under which calls use them.
        told: called with each listener's name and what one of its calls heard, (size, n): a row
            for each unit, over samples, positions and the unit's own columns.
    """
    names = listener_positions(recording, listeners)
    last = max(names)

    def answer(call: Call) -> Tensor:
        recording.check(call)
        if call.position in names:
            part = listeners[names[call.position]]
            if call.use.columns == part.dim:
                told(names[call.position], unit_rows(call.input, call, part))
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
    """Derivatives of each sample's loss along what each call hears, (size, n) for each call.

    Calls that hear the same tensor shape, as those of one tensor do, are added up first.
    """
    names = listener_positions(recording, listeners)
    leaves: dict[tuple, list[Tensor]] = {}
    lay_out: dict[tuple, Callable[[Tensor], Tensor]] = {}

    def answer(call: Call) -> Tensor:
        if call.position not in names:
            return call()
        part = listeners[names[call.position]]
        leaf = torch.zeros_like(call.input, requires_grad=True)
        key = (tuple(call.input.shape), call.axis, part.index.numpy().tobytes())
        leaves.setdefault(key, []).append(leaf)
        lay_out[key] = lambda x: unit_rows(x, call, part)
        return call(call.input + leaf)

    with torch.enable_grad(), Calls(recording.model, answer, plain=True):
        out = model_output(recording.model, block.samples)
        total = per_sample_losses(per_sample, out, block.samples.targets).sum()
        every = [leaf for group in leaves.values() for leaf in group]
        found = iter(torch.autograd.grad(total, every, materialize_grads=True))
    sums = {key: sum(next(found) for _ in group) for key, group in leaves.items()}
    return [lay_out[key](value) for key, value in sums.items() if isinstance(value, Tensor)]


def unit_rows(x: Tensor, call: Call, part: Listener) -> Tensor:
    """A tensor laid out as a call's input, as (size, n): a row for each unit."""
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
    """(size, n) input channels that each unit's columns hear: in a grouped call, several each."""
    assert call.use.columns is not None
    width = call.given[call.use.weight].shape[call.use.columns]
    steps = torch.arange(0, call.input.shape[call.axis], width, device=index.device)
    return (index[:, :, None] + steps).flatten(1)
