"""Redraw the weights of a network, so that no weight hides what a cut does wrong.

A head of zeros, a layer scale of 1e-6 or saturated activations hide a wrong cut from a comparison
of outputs. In a twin every layer has an effect of about the same size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Random numbers that are drawn. Larger networks use them several times over: drawing 86 million for
# a ViT-B takes longer than its forward pass. The count is a prime, so that rows of one matrix
# differ as long as they are fewer.
DRAWN = 2_097_143


@torch.no_grad()
def redraw_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Redraw all floating-point parameters and running statistics, and return the network.

    Matrices and kernels are normal with the deviation 1 / sqrt(fan-in), scales are close to 1,
    shifts close to 0, running variances between 0.5 and 2. A shared parameter stays shared. The
    tensors get other memory: the numbers that they held are not written to.

    Args:
        model: changed in place.
        seed: of the random numbers; the global random state does not change.
    """
    numbers = _Numbers(model, seed)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = _drawn(name, parameter, numbers)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and name.endswith("running_var"):
            buffer.data = torch.empty_like(buffer).copy_(0.5 + 1.5 * numbers.uniform(buffer))
        elif buffer.is_floating_point() and name.endswith("running_mean"):
            buffer.data = torch.empty_like(buffer).copy_(0.1 * numbers.normal(buffer))
    return model


class _Numbers:
    """Seeded random numbers, handed out in order and from the first again after the last."""

    def __init__(self, model: nn.Module, seed: int):
        self._random = torch.Generator().manual_seed(seed)
        total = sum(p.numel() for p in (*model.parameters(), *model.buffers()))
        self._drawn = torch.randn(min(total, DRAWN), generator=self._random)
        self._at = 0

    def normal(self, like: Tensor) -> Tensor:
        """Return normal numbers in the shape of a tensor, float32."""
        parts, left = [], like.numel()
        while left:
            part = self._drawn[self._at : self._at + left]
            parts.append(part)
            left -= len(part)
            self._at = (self._at + len(part)) % len(self._drawn)
        found = parts[0] if len(parts) == 1 else torch.cat([*parts, self._drawn[:0]])
        return found.reshape(like.shape)

    def uniform(self, like: Tensor) -> Tensor:
        """Return numbers from 0 to 1 in the shape of a tensor, float32."""
        return torch.rand(like.shape, generator=self._random)


def _drawn(name: str, like: Tensor, numbers: _Numbers) -> Tensor:
    noise = numbers.normal(like).to(like.device)
    if sum(size > 1 for size in like.shape) < 2:  # an entry for each unit, or a single number
        short = name.rpartition(".")[2]
        is_shift = "bias" in short or short in ("beta", "shift")
        scale, middle = 0.1, 0.0 if is_shift else 1.0
    else:
        scale, middle = (like.numel() / like.shape[0]) ** -0.5, 0.0
    result = torch.empty_like(like, requires_grad=False)
    return result.copy_(noise).mul_(scale).add_(middle)


@torch.no_grad()
def nudge_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Change every weight by about one unit in its last place, and return the network.

    The tensors get other memory, as in `redraw_`.
    """
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            sign = torch.randint(0, 2, parameter.shape, generator=random).to(parameter) * 2 - 1
            parameter.data = parameter.data * (1 + torch.finfo(parameter.dtype).eps * sign)
    return model
