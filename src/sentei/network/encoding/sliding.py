"""Windows that slide over images: of convolutions and of pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from sentei.errors import StructureError

Pair = tuple[int, int]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """How a kernel goes over an image; every pair is (down, across)."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def over(self, height: int, width: int) -> Pair:
        """Height and width of what comes out."""
        down, across = (
            (size + 2 * pad - apart * (kernel - 1) - 1) // step + 1
            for size, pad, apart, kernel, step in zip(
                *((height, width), self.padding, self.dilation, self.kernel, self.stride),
                strict=True,
            )
        )
        return down, across


def convolution_window(
    layer: nn.Conv1d | nn.Conv2d, path: str, here: Shape
) -> tuple[Window, Shape]:
    """The window of a convolution, and the shape that leaves it.

    Raises:
        StructureError: padding with anything but zeros, or another shape than the layer's.
    """
    if layer.padding_mode != "zeros":
        raise StructureError(
            f"layer {path!r} pads with {layer.padding_mode!r}; only padding with zeros has a stage"
        )
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    dilation = (1, *layer.dilation) if len(layer.dilation) == 1 else layer.dilation
    if isinstance(layer.padding, str):
        around = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if layer.padding == "same" and any(total % 2 for total in around):
            raise StructureError(
                f"layer {path!r} pads one side more than the other ('same' with an even kernel); "
                "pass the padding as numbers"
            )
        padding = (around[0] // 2, around[1] // 2) if layer.padding == "same" else (0, 0)
    else:
        padding = _pair(layer.padding, 0)
    window = Window(kernel, stride, padding, (dilation[0], dilation[1]))
    if len(here) != 3 or here[0] != layer.in_channels:
        raise StructureError(
            f"layer {path!r} reads {layer.in_channels} channels and is given samples of shape "
            f"{here}; pass an example of the right shape"
        )
    return window, (layer.out_channels, *_left(window, path, here))


def pooling_window(layer: nn.Module, path: str, here: Shape) -> tuple[Window, Shape, bool]:
    """The window of a pooling layer, the shape that leaves it, and whether means count padding.

    Raises:
        StructureError: pooling that rounds up, or to a size that does not divide the image's.
    """
    given: Any = layer
    if len(here) != 3:
        raise StructureError(f"layer {path!r} pools images and is given samples of shape {here}")
    if "Adaptive" in type(layer).__name__:
        wanted = given.output_size
        wanted = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        one = here[1] == 1 and "1d" in type(layer).__name__
        down, across = (1, wanted[-1]) if one else wanted
        down, across = down or here[1], across or here[2]
        if here[1] % down or here[2] % across:
            raise StructureError(
                f"layer {path!r} pools {here[1:]} to {(down, across)}, which does not divide it; "
                "only windows of one size have a stage"
            )
        kernel = here[1] // down, here[2] // across
        window = Window(kernel, kernel)
    else:
        dilation = getattr(given, "dilation", 1)
        odd = given.ceil_mode or getattr(given, "divisor_override", None)
        if odd or dilation not in (1, (1,), (1, 1)) or getattr(given, "return_indices", False):
            raise StructureError(
                f"layer {path!r} pools with ceil_mode, dilation, return_indices or "
                "divisor_override; only plain pooling has a stage"
            )
        flat = "1d" in type(layer).__name__
        window = Window(
            *(_spread(size, flat, 1) for size in (given.kernel_size, given.stride)),
            padding=_spread(given.padding, flat, 0),
        )
    counting = bool(getattr(given, "count_include_pad", True))
    return window, (here[0], *_left(window, path, here)), counting


def _left(window: Window, path: str, here: Shape) -> Pair:
    down, across = window.over(here[1], here[2])
    if down < 1 or across < 1:
        raise StructureError(
            f"layer {path!r} has a window of {window.kernel} and is given images of {here[1:]}; "
            "pass an example with larger images"
        )
    return down, across


def _pair(sizes: tuple[int, ...], missing: int = 1) -> Pair:
    return (missing, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def _spread(size: int | tuple[int, ...], flat: bool, missing: int) -> Pair:
    if isinstance(size, int):
        return (missing, size) if flat else (size, size)
    return _pair(size, missing)
