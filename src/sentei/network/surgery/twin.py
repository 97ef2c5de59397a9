"""Redraw the weights of a copy of a network, so that no weight hides what a cut does wrong.

A head of zeros, a layer scale of 1e-6 or saturated activations hide a wrong cut from a comparison
of outputs. In a twin every layer has an effect of about the same size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sentei.network.calls import MIXING, Call, Calls
from sentei.network.example import as_found
from sentei.running import Example, run

SPREAD = 0.5, 2.0  # standard deviations of a layer's outputs that need no calibration


@torch.no_grad()
def redraw_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Redraw all floating-point parameters and running statistics, and return the network.

    Matrices and kernels are normal with the deviation 1 / sqrt(fan-in), scales are close to 1,
    shifts close to 0, running variances between 0.5 and 2. A shared parameter stays shared.

    Args:
        model: changed in place.
        seed: of the random numbers; the global random state does not change.
    """
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.copy_(_drawn(name, parameter, random))
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and name.endswith("running_var"):
            buffer.copy_(0.5 + 1.5 * torch.rand(buffer.shape, generator=random))
        elif buffer.is_floating_point() and name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=random))
    return model


def _drawn(name: str, like: Tensor, random: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=random)
    if sum(size > 1 for size in like.shape) < 2:  # an entry for each unit, or a single number
        short = name.rpartition(".")[2]
        is_shift = "bias" in short or short in ("beta", "shift")
        return 0.1 * noise if is_shift else 1 + 0.1 * noise
    return noise / (like.numel() / like.shape[0]) ** 0.5


@torch.no_grad()
def calibrate_(model: nn.Module, example: Example) -> nn.Module:
    """Divide each layer's weight by the spread of its outputs where that is far from 1.

    The layers are calibrated in the order in which they run, each at its first call.

    Args:
        model: changed in place.
        example: its inputs.
    """
    done: set[str] = set()

    def answer(call: Call) -> Tensor:
        result = call()
        if call.function not in MIXING or call.weight in done or not result.is_floating_point():
            return result
        done.add(call.weight)
        spread = float(result.float().std())
        if not (0 < spread < torch.inf) or SPREAD[0] <= spread <= SPREAD[1]:
            return result
        call.given[call.use.weight].div_(spread)
        return call()

    with as_found(model), Calls(model.eval(), answer):
        run(model, example)
    return model


@torch.no_grad()
def nudge_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Change every weight by about one unit in its last place, and return the network."""
    random = torch.Generator().manual_seed(seed)
    for parameter in _floating(model.parameters()):
        sign = torch.randint(0, 2, parameter.shape, generator=random).to(parameter) * 2 - 1
        parameter.mul_(1 + torch.finfo(parameter.dtype).eps * sign)
    return model


def _floating(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    return (tensor for tensor in tensors if tensor.is_floating_point())
