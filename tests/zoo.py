"""Small networks of every kind that the invariants are tested on: name -> (network, example).

Builders take no arguments and draw from torch's current seed; examples have a few samples.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei import Standardise


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.again(torch.tanh(self.again(x)))))


class Tied(nn.Module):
    """An output layer with the weights of the embedding."""

    def __init__(self):
        super().__init__()
        self.words, self.hidden = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, 9, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.words(tokens).mean(1))))


class PermutedFlatten(nn.Module):
    """Channels last before the flatten, so that a channel's columns are strided."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 5, 3), nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).permute(0, 2, 3, 1).flatten(1))


class Block(nn.Module):
    """A basic residual block, with a projection where the width changes."""

    def __init__(self, width: int, out: int, stride: int = 1, inplace: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.inplace = inplace
        self.shortcut = nn.Sequential()
        if width != out or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=self.inplace)))
        if self.inplace:
            y += self.shortcut(x)
            return F.relu_(y)
        return F.relu(y + self.shortcut(x))


class Dense(nn.Module):
    """Each layer reads all the earlier ones side by side."""

    def __init__(self):
        super().__init__()
        self.stem, self.one = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.two, self.bn = nn.Conv2d(7, 3, 3, padding=1), nn.BatchNorm2d(10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([x, F.relu(self.one(x))], 1)
        x = torch.cat([x, F.relu(self.two(x))], 1)
        return self.head(F.relu(self.bn(x)).mean((2, 3)))


class PaddedShortcut(nn.Module):
    """A residual addition of channels that are shifted against each other by zero padding."""

    def __init__(self):
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.narrow(x))
        x = F.pad(x, (0, 0, 0, 0, 2, 2)) + F.relu(self.wide(x))
        return self.head(F.relu(x)).mean((2, 3))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn(self.conv(x)))
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return self.last(x * torch.sigmoid(gate)).mean((2, 3))


class SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 7), nn.Linear(4, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Chunk(nn.Module):
    """Gate and value from one layer."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 14), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(torch.sigmoid(gate) * value)


class Attention(nn.Module):
    """Hand-written attention, fused or with separate layers for query, key and value."""

    def __init__(self, width: int = 12, heads: int = 3, fused: bool = True):
        super().__init__()
        self.width = width // heads
        if fused:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.fused = fused
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        made = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (y.reshape(batch, length, -1, self.width).transpose(1, 2) for y in made)
        weights = (q @ k.transpose(-2, -1) / self.width**0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, length, -1))


class VisionTransformer(nn.Module):
    """Patches, two pre-norm blocks, mean over tokens."""

    def __init__(self, fused: bool = True, width: int = 12):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 4, width) * 0.1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attend = nn.ModuleList(Attention(width, fused=fused) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 10), nn.GELU(), nn.Linear(10, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        for i in range(2):
            x = x + self.attend[i](self.norms[2 * i](x))
            x = x + self.mlp[i](self.norms[2 * i + 1](x))
        return self.head(x.mean(1))


class TorchAttention(nn.Module):
    """`nn.MultiheadAttention` between two layers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class TorchTransformer(nn.Module):
    """`nn.TransformerEncoderLayer`, twice, and a classifier."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 10, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class EmbeddingMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.fc = nn.Embedding(11, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.words(tokens).mean(1))


class TwoOutputs(nn.Module):
    """Features that are an output and a layer's input at once; a second head beside them."""

    def __init__(self):
        super().__init__()
        self.body, self.features = nn.Linear(4, 6), nn.Linear(6, 5)
        self.one, self.two = nn.Linear(5, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.body(x))
        features = self.features(x)
        return {
            "classes": self.one(F.relu(features)),
            "features": features[:, :2],
            "box": self.two(x),
        }


class Beside(nn.Module):
    """A layer that reads hidden units and, beside them, the inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([torch.tanh(self.first(x)), x], 1))


class Recurrent(nn.Module):
    """A recurrent layer in the middle: its own units are not offered, its neighbours' may be."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Linear(3, 5), nn.GRU(5, 6, batch_first=True)
        self.fc, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(self.rnn(F.relu(self.embed(x)))[0][:, -1])))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))


def mlp_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 5),
        nn.PReLU(5), nn.Dropout(0.3), nn.Linear(5, 3),
    )  # fmt: skip


def raw_rows() -> nn.Module:
    mean, std = torch.tensor([3.0, -1.0, 0.0, 20.0]), torch.tensor([2.0, 0.5, 1.0, 4.0])
    return nn.Sequential(
        Standardise(mean, std), nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.ReLU(),
        nn.Linear(5, 3),
    )  # fmt: skip


def raw_images() -> nn.Module:
    mean, std = torch.tensor([0.3, 5.0]).view(2, 1, 1), torch.tensor([0.5, 9.0]).view(2, 1, 1)
    return nn.Sequential(
        Standardise(mean, std), nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(45, 3),
    )  # fmt: skip


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv1d(5, 4, 3, stride=2), nn.GELU(),
        nn.Flatten(), nn.Linear(4 * 4, 3),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def separable() -> nn.Module:
    """Expand, depthwise, project (MobileNetV2); then a depthwise layer with two rows a channel."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6(),
        nn.Conv2d(4, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, groups=3),
        nn.Hardswish(), nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, 5, 3),
        nn.InstanceNorm2d(5, affine=True), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 4, 3),
    )  # fmt: skip


def residual(inplace: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace),
        Block(4, 4, 1, inplace), Block(4, 6, 2, inplace), Block(6, 6, 1, inplace),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, 2), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, groups=4),
        nn.Conv2d(4, 1, 1),
    )  # fmt: skip


def layer_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    )


def _rows(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(3, *shape)


def _tokens(length: int, words: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, words, (3, length))


Entry = tuple[Callable[[], nn.Module], Callable[[], Tensor]]

ZOO: dict[str, Entry] = {
    "mlp": (mlp, _rows(4)),
    "mlp_norm": (mlp_norm, _rows(4)),
    "raw_rows": (raw_rows, _rows(4)),
    "raw_images": (raw_images, _rows(2, 6, 6)),
    "shared": (Shared, _rows(4)),
    "tied": (Tied, _tokens(3, 9)),
    "lenet": (lenet, _rows(1, 14, 14)),
    "permuted_flatten": (PermutedFlatten, _rows(2, 4, 4)),
    "conv1d": (conv1d, _rows(2, 9)),
    "grouped": (grouped, _rows(2, 6, 6)),
    "separable": (separable, _rows(2, 5, 5)),
    "group_norm": (group_norm, _rows(2, 6, 6)),
    "residual": (residual, _rows(2, 6, 6)),
    "residual_inplace": (lambda: residual(inplace=True), _rows(2, 6, 6)),
    "dense": (Dense, _rows(2, 4, 4)),
    "padded_shortcut": (PaddedShortcut, _rows(2, 3, 3)),
    "squeeze_excite": (SqueezeExcite, _rows(2, 5, 5)),
    "swiglu": (SwiGLU, _rows(4)),
    "chunk": (Chunk, _rows(4)),
    "vit": (VisionTransformer, _rows(1, 8, 8)),
    "vit_separate": (lambda: VisionTransformer(fused=False), _rows(1, 8, 8)),
    "torch_attention": (TorchAttention, _rows(4, 5)),
    "torch_transformer": (TorchTransformer, _rows(4, 5)),
    "embedding": (EmbeddingMean, _tokens(4, 11)),
    "transposed": (transposed, _rows(1, 6, 6)),
    "layer_norm": (layer_norm, _rows(4)),
    "two_outputs": (TwoOutputs, _rows(4)),
    "beside": (Beside, _rows(4)),
    "recurrent": (Recurrent, _rows(4, 3)),
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network of the zoo and its example, from one seed; batch norms have seen some data."""
    make, example = ZOO[name]
    torch.manual_seed(seed)
    model, x = make(), example()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model, x
