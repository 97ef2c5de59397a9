"""Read the inputs of layers' calls, and the loss's gradients by them, block by block."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from sentei.losses import PerSample, per_sample_losses
from sentei.network.calls import Call
from sentei.network.units import Listener
from sentei.probe.recording.recording import Pass, Recording

OnInput = Callable[[str, Tensor], None]
OnCall = Callable[[Call], None]


class _StopPass(Exception):  # noqa: N818 - control flow, not an error
    """Raised inside a forward pass to end it after the last call."""


def read_calls(
    recording: Recording, block: Pass, weights: Collection[str], on_call: OnCall
) -> None:
    """Run the network up to the last call of some weights, and pass each call to `on_call`.

    Nothing is recorded; call outputs already recorded for the block are replayed.

    Args:
        recording: the recording of the network.
        block: the samples.
        weights: names under which calls use the weights.
        on_call: called with each call before it is made.
    """
    last = max(recording.survey.readers(weights))

    def read(call: Call, kept: Tensor | None) -> None:  # noqa: ARG001 - the input is what counts
        on_call(call)
        if call.position == last:
            raise _StopPass

    try:
        recording.replay(block, dict.fromkeys(weights, read))
    except _StopPass:
        return


def read_listener_inputs(
    recording: Recording, block: Pass, listeners: Mapping[str, Listener], on_input: OnInput
) -> None:
    """Run the network up to the last listener and pass each listener's input to `on_input`.

    Args:
        recording: the recording of the network.
        block: the samples.
        listeners: by the parameter names under which calls use them.
        on_input: called with the listener's name and the input of one of its calls, (size, n): a
            row for each unit, over samples, positions and the unit's columns.
    """

    def read(call: Call) -> None:
        part = listeners[call.weight]
        if call.use.columns == part.dim:
            on_input(call.weight, unit_rows(call.input, call, part))

    read_calls(recording, block, listeners, read)


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
    recording.survey.readers(listeners)
    leaves: dict[tuple, list[Tensor]] = {}
    to_rows: dict[tuple, Callable[[Tensor], Tensor]] = {}

    def with_leaf(call: Call, kept: Tensor | None) -> Tensor:  # noqa: ARG001 - computed anew
        part = listeners[call.weight]
        leaf = torch.zeros_like(call.input, requires_grad=True)
        key = (tuple(call.input.shape), call.axis, part.index.numpy().tobytes())
        leaves.setdefault(key, []).append(leaf)
        to_rows[key] = lambda x: unit_rows(x, call, part)
        return call(call.input + leaf)

    with torch.enable_grad():
        out = recording.replay(block, dict.fromkeys(listeners, with_leaf), plain=True)
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
        taken = channels_first[call.channels(index)]
    return taken.flatten(1)
