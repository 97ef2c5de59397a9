"""Adapt layers after a cut: `Select` drops unread inputs, `refresh_` updates size attributes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sentei.network.attention import FewerHeads


class Select(nn.Module):
    """A layer that passes on only some inputs, so that the next layer can have fewer columns.

    The caller still passes all inputs.

    Args:
        index: (kept,) int64, positions along `dim` to pass on.
        dim: the dimension to select from, counted from the end.
    """

    index: Tensor

    def __init__(self, index: Tensor, dim: int = -1):
        super().__init__()
        self.register_buffer("index", index.long())
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Select along `dim`: from (..., n, ...) to (..., kept, ...)."""
        return torch.index_select(x, self.dim, self.index)

    def extra_repr(self) -> str:
        """Return how many positions are kept, for `print(model)`."""
        return f"{self.index.numel()} kept, dim={self.dim}"


def refresh_(module: nn.Module) -> None:
    """Update a layer's size attributes (`in_features`, `num_groups`, …) to fit its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        _refresh_convolution_(module)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        size = module.weight.shape[0]
        module.num_groups = module.num_groups * size // module.num_channels
        module.num_channels = size
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        held = module.weight if module.weight is not None else module.running_mean
        module.num_features = module.num_features if held is None else held.shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]
    elif isinstance(module, FewerHeads):
        module.refresh_()


def _refresh_convolution_(module: nn.modules.conv._ConvNd) -> None:
    depthwise = module.groups > 1 and module.groups == module.in_channels
    if module.transposed:  # weight: (in, out / groups, ...)
        in_channels = module.weight.shape[0]
        module.groups = in_channels if depthwise else module.groups
        module.in_channels = in_channels
        module.out_channels = module.weight.shape[1] * module.groups
        return
    out_channels = module.weight.shape[0]  # weight: (out, in / groups, ...)
    if depthwise:
        module.groups = out_channels * module.in_channels // module.out_channels
    module.in_channels = module.weight.shape[1] * module.groups
    module.out_channels = out_channels
