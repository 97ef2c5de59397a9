"""The stages of a network: plain operations of known shapes, from which C and ONNX are written.

Stages form a graph: each reads values by their numbers and gives a value of its own. The value 0 is
the network's input. Signals (channels, length) and sequences (steps, numbers) are images of height
one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sentei.network.alive_weights import AliveWeights
from sentei.network.encoding.sliding import Window

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """One operation on one sample; this base class itself only gives its values another shape.

    Attributes:
        name: qualified name of the layer.
        entering: shape of the (first) value that it reads; images are (channels, height, width).
        leaving: shape of the value that it gives.
        reads: numbers of the values that it reads.
        value: number of the value that it gives.
    """

    name: str
    entering: Shape
    leaving: Shape
    reads: tuple[int, ...] = field(default=(0,), kw_only=True)
    value: int = field(default=0, kw_only=True)

    @property
    def matrices(self) -> tuple[Weighted, ...]:
        """The matrices of weights that a file stores for the stage."""
        return ()


@dataclass(frozen=True)
class Weighted(Stage):
    """A linear layer, or a convolution if it has a window.

    Attributes:
        weight: (rows, columns) float; the columns of a convolution run over the input channels of
            the row's group, then over the kernel's rows and columns.
        bias: (rows,).
        alive: which weights are alive, with the same rows and columns; dead ones are zero.
        window: None for a linear layer.
        groups: number of channel groups of a convolution.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    alive: AliveWeights = field(repr=False)
    window: Window | None = None
    groups: int = 1

    @property
    def matrices(self) -> tuple[Weighted, ...]:
        """The layer's own matrix."""
        return (self,)

    @property
    def masked(self) -> Tensor:
        """The weight, with dead ones zero; on the meta device it has no values to set."""
        if self.weight.is_meta or self.alive.count == self.alive.size:
            return self.weight
        return self.weight * torch.from_numpy(self.alive.matrix()).to(self.weight.device)


@dataclass(frozen=True)
class Pool(Stage):
    """Pooling: the maximum or the mean of each window; `how` is "max" or "mean"."""

    how: str
    window: Window
    count_padding: bool = True


@dataclass(frozen=True)
class Pointwise(Stage):
    """An element-wise function and its settings."""

    function: str
    settings: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scaled(Stage):
    """Each channel times its scale plus its shift: a batch norm without a layer to fold it into."""

    scale: Tensor = field(repr=False)
    shift: Tensor = field(repr=False)


@dataclass(frozen=True)
class Standardised(Stage):
    """Each value minus a mean, divided by a standard deviation: raw inputs, made comparable.

    Attributes:
        mean: (entries,) float; as many values after one another have the same entry.
        std: (entries,) float.
        folds: whether every mean is small enough beside its deviation to be folded into weights.
        index: positions along the first dimension of `entering` that are standardised and passed
            on; None for all.
    """

    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)
    folds: bool
    index: Tensor | None = field(default=None, repr=False)

    @property
    def each(self) -> int:
        """Number of values after one another that have the same entry."""
        return size_of(self.leaving) // len(self.mean)


@dataclass(frozen=True)
class Softmax(Stage):
    """Softmax over all values of a flat sample, or its logarithm if `log`."""

    log: bool


@dataclass(frozen=True)
class Chosen(Stage):
    """Selection of the positions in `index` along the first dimension of the sample."""

    index: Tensor = field(repr=False)


@dataclass(frozen=True)
class Sum(Stage):
    """The sum of two values of one shape."""


@dataclass(frozen=True)
class Joined(Stage):
    """Values one after another along the first dimension.

    Attributes:
        parts: shape of each value.
    """

    parts: tuple[Shape, ...]


@dataclass(frozen=True)
class Transposed(Stage):
    """An exchange of the first and the last dimension: channels and steps of a signal."""


@dataclass(frozen=True)
class Kept(Stage):
    """The last steps of a signal, (channels, 1, steps): those of earlier calls, then new ones."""


@dataclass(frozen=True)
class Recurrent(Stage):
    """One recurrent layer in one direction that begins with a state of zeros.

    It leaves the states after all steps, (steps, 1, units), or only the last one, (1, 1, units).

    Attributes:
        kind: "gru", "lstm", "rnn_tanh" or "rnn_relu".
        inputs: from an input to the gates, which have `units` rows each, in torch's order.
        hidden: from the state to the gates, likewise.
    """

    kind: str
    inputs: Weighted
    hidden: Weighted

    @property
    def matrices(self) -> tuple[Weighted, ...]:
        """The matrix that reads the input, and the one that reads the state."""
        return self.inputs, self.hidden

    @property
    def units(self) -> int:
        """Numbers of one state."""
        return self.leaving[2]

    @property
    def gates(self) -> int:
        """Rows of each matrix."""
        return len(self.inputs.weight)


def size_of(shape: Shape) -> int:
    """Return the number of values in a sample of this shape."""
    total = 1
    for side in shape:
        total *= side
    return total
