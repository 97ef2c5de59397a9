"""The layers `Standardise` and `Select`; `refresh_`, which fits size attributes to tensors."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.card import card_of, set_card_
from sentei.network.attention import FewerHeads
from sentei.network.counted_norm import CountedLayerNorm
from sentei.network.recurrent import GATES


class _ScalingLike(Protocol):
    @property
    def mean(self) -> Tensor: ...

    @property
    def std(self) -> Tensor: ...


class Standardise(nn.Module):
    """A layer that subtracts a mean and divides by a standard deviation.

    As the first layer of a network it lets the network, and every file written from it, take inputs
    as they are in the data.

    Args:
        mean: broadcastable to one sample: (features,) for rows, (channels, 1, 1) for images.
        std: standard deviation, likewise; above 0.

    Raises:
        ValueError: a mean or a deviation that is not finite, a deviation that is not above 0, or
            shapes that do not go together.
    """

    mean: Tensor
    std: Tensor

    @checked
    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        _check_broadcastable(mean, std)
        for name, values in zip(("mean", "std"), torch.broadcast_tensors(mean, std), strict=True):
            kept = values.detach().clone(memory_format=torch.contiguous_format)
            self.register_buffer(name, kept if kept.is_floating_point() else kept.float())
        wrong = ~(self.mean.isfinite() & self.std.isfinite() & (self.std > 0))
        if not wrong.is_meta and bool(wrong.any()):
            raise ValueError(
                "inputs are standardised by a finite mean and a finite deviation above 0; value "
                f"{int(wrong.flatten().nonzero()[0])} has mean {float(self.mean[wrong][0]):g} and "
                f"deviation {float(self.std[wrong][0]):g}. Use deviation 1 for a constant value."
            )

    @classmethod
    @checked
    def of(cls, scaling: _ScalingLike) -> Standardise:
        """Return the layer that does what a `datasets.Scaling` does, in float32."""
        return cls(scaling.mean.float(), scaling.std.float())

    @checked
    def before(self, network: nn.Module) -> nn.Sequential:
        """Return a network that standardises its inputs and then is the given one.

        The layers of an `nn.Sequential` keep their names, and this one is named "standardise".
        Other networks are named "network".
        """
        layers = dict(network._modules) if type(network) is nn.Sequential else {}
        if not layers or "standardise" in layers:
            layers = {"network": network}
        whole = nn.Sequential(OrderedDict([("standardise", self), *layers.items()]))
        whole.training = network.training
        set_card_(whole, card_of(network))
        return whole

    def forward(self, x: Tensor) -> Tensor:
        """Standardise (N, ...) samples, in their own dtype if it is a floating-point one."""
        if not x.is_floating_point():
            return (x - self.mean) / self.std
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def extra_repr(self) -> str:
        """Return the shape of mean and deviation, for `print(model)`."""
        return " x ".join(map(str, self.mean.shape))


def _check_broadcastable(mean: Tensor, std: Tensor) -> None:
    try:
        torch.broadcast_shapes(mean.shape, std.shape)
    except RuntimeError as error:
        raise ValueError(
            f"mean and std are of the same features; their shapes are {tuple(mean.shape)} and "
            f"{tuple(std.shape)}"
        ) from error


def standardises(network: nn.Module) -> bool:
    """Return whether a network standardises its inputs itself, before any layer with parameters."""
    for module in network.modules():
        if isinstance(module, Standardise):
            return True
        if any(True for _ in module.parameters(recurse=False)):
            return False
    return False


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
    elif isinstance(module, (FewerHeads, CountedLayerNorm)):
        module.refresh_()
    elif isinstance(module, nn.RNNBase):
        _refresh_recurrent_(module)
    elif isinstance(module, nn.RNNCellBase):
        module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


def _refresh_recurrent_(module: nn.RNNBase) -> None:
    """Update the sizes of a recurrent layer, and the order in which its weights lie in memory."""
    first: Tensor = module.get_parameter("weight_ih_l0")
    module.hidden_size = first.shape[0] // GATES[type(module)]
    module.input_size = first.shape[1]
    if module.proj_size:
        module.proj_size = module.get_parameter("weight_hr_l0").shape[0]
    module.flatten_parameters()


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
