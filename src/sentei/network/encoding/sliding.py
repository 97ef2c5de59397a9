"""Compute the sliding windows and output shapes of convolutions and pooling layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from sentei.errors import StructureError

Pair = tuple[int, int]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Kernel size, stride, padding and dilation of a sliding window; all (vertical, horizontal)."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def over(self, height: int, width: int) -> Pair:
        """Return the output height and width for an input of `height` by `width`."""
        down, across = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // step + 1
            for size, pad, dilation, kernel, step in zip(
                *((height, width), self.padding, self.dilation, self.kernel, self.stride),
                strict=True,
            )
        )
        return down, across


def convolution_window(
    layer: nn.Conv1d | nn.Conv2d, path: str, here: Shape
) -> tuple[Window, Shape]:
    """Return the window of a convolution and its output shape, for inputs of shape `here`.

    Raises:
        StructureError: the layer pads with anything but zeros, or pads one side more than the
            other, or does not accept samples of shape `here`.
    """
    if layer.padding_mode != "zeros":
        raise StructureError(
            f"layer {path!r} pads with {layer.padding_mode!r}; only padding with zeros is supported"
        )
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    dilation = (1, *layer.dilation) if len(layer.dilation) == 1 else layer.dilation
    if isinstance(layer.padding, str):
        both_sides = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if layer.padding == "same" and any(total % 2 for total in both_sides):
            raise StructureError(
                f"layer {path!r} pads one side more than the other ('same' with an even kernel); "
                "pass the padding as numbers"
            )
        padding = (both_sides[0] // 2, both_sides[1] // 2) if layer.padding == "same" else (0, 0)
    else:
        padding = _pair(layer.padding, 0)
    window = Window(kernel, stride, padding, (dilation[0], dilation[1]))
    if len(here) != 3 or here[0] != layer.in_channels:
        raise StructureError(
            f"layer {path!r} reads {layer.in_channels} channels and gets samples of shape "
            f"{here}; pass an example of the right shape"
        )
    return window, (layer.out_channels, *_output_size(window, path, here))


def pooling_window(layer: nn.Module, path: str, here: Shape) -> tuple[Window, Shape, bool]:
    """Return the window of a pooling layer, its output shape, and whether means count padding.

    Raises:
        StructureError: the layer uses ceil_mode, dilation, return_indices or divisor_override,
            pools to a size that does not divide the image's, or does not get images.
    """
    pooling: Any = layer
    if len(here) != 3:
        raise StructureError(f"layer {path!r} pools images and gets samples of shape {here}")
    if "Adaptive" in type(layer).__name__:
        target = pooling.output_size
        target = target if isinstance(target, tuple) else (target, target)
        is_1d = here[1] == 1 and "1d" in type(layer).__name__
        down, across = (1, target[-1]) if is_1d else target
        down, across = down or here[1], across or here[2]
        if here[1] % down or here[2] % across:
            raise StructureError(
                f"layer {path!r} pools {here[1:]} to {(down, across)}, which does not divide it; "
                "only windows of equal size are supported"
            )
        kernel = here[1] // down, here[2] // across
        window = Window(kernel, kernel)
    else:
        dilation = getattr(pooling, "dilation", 1)
        odd = pooling.ceil_mode or getattr(pooling, "divisor_override", None)
        if odd or dilation not in (1, (1,), (1, 1)) or getattr(layer, "return_indices", False):
            raise StructureError(
                f"layer {path!r} pools with ceil_mode, dilation, return_indices or "
                "divisor_override; only pooling without them is supported"
            )
        is_1d = "1d" in type(layer).__name__
        window = Window(
            *(_as_pair(size, is_1d, 1) for size in (pooling.kernel_size, pooling.stride)),
            padding=_as_pair(pooling.padding, is_1d, 0),
        )
    counting = bool(getattr(pooling, "count_include_pad", True))
    return window, (here[0], *_output_size(window, path, here)), counting


def _output_size(window: Window, path: str, entering: Shape) -> Pair:
    """Return the output height and width; raise StructureError if the window does not fit."""
    down, across = window.over(entering[1], entering[2])
    if down < 1 or across < 1:
        raise StructureError(
            f"layer {path!r} has a window of {window.kernel} and gets images of {entering[1:]}; "
            "pass an example with larger images"
        )
    return down, across


def _pair(sizes: tuple[int, ...], missing: int = 1) -> Pair:
    """Return one or two sizes as a pair; `missing` is the vertical size in one dimension."""
    return (missing, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def _as_pair(size: int | tuple[int, ...], is_1d: bool, missing: int) -> Pair:
    """Return a size that may be one integer as a pair; `missing` as in `_pair`."""
    if isinstance(size, int):
        return (missing, size) if is_1d else (size, size)
    return _pair(size, missing)
