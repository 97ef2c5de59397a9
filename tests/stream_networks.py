"""Small networks with residual streams, and cuts of them."""

import torch
from torch import nn
from torch.nn import functional as F

import sentei
from sentei import Mask
from sentei.network.copying import copied

D = 12


class Centred(nn.Module):
    """A layer norm written by hand."""

    def __init__(self, width=D):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.epsilon = 1e-3

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        spread = centred.pow(2).mean(-1, keepdim=True)
        return self.weight * centred / (spread + self.epsilon).sqrt() + self.bias


class Root(nn.Module):
    """A root mean square norm written by hand; `minus` is subtracted from its scale."""

    def __init__(self, width=D, minus=0.0):
        super().__init__()
        self.scale, self.minus, self.tiny = nn.Parameter(torch.ones(width) - minus), minus, 1e-3

    def forward(self, x):
        square = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(square + self.tiny) * (self.scale + self.minus)


class Channels(nn.Module):
    """A layer norm over the channels of pictures."""

    def __init__(self, width=D):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = 1e-4

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + self.eps).sqrt()
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Length(nn.Module):
    """A norm without a count: units are divided by their length."""

    def __init__(self, width=D):
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.normalize(x, dim=-1) * self.g


class Blocks(nn.Module):
    """Blocks that add to a stream, with norms before them or behind the sums."""

    def __init__(self, norm, after=False):
        super().__init__()
        self.words, self.places = nn.Embedding(9, D), nn.Parameter(torch.randn(1, 5, D))
        self.first = nn.Parameter(torch.randn(1, 1, D))
        self.up = nn.ModuleList(nn.Linear(D, 7) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(7, D) for _ in range(2))
        self.gains = nn.ParameterList(torch.rand(D) + 0.5 for _ in range(2))
        self.norms = nn.ModuleList(norm() for _ in range(2))
        self.final, self.head = norm(), nn.Linear(D, 4)
        self.drop, self.after = nn.Dropout(0.2), after

    def forward(self, x):
        h = self.words(x) + self.places
        h = torch.cat([self.first.expand(len(x), -1, -1), h], 1)
        layers = zip(self.norms, self.up, self.down, self.gains, strict=True)
        for norm, up, down, gain in layers:
            own = h if self.after else norm(h)
            h = h + self.drop(down(up(own).relu())) * gain
            h = norm(h) if self.after else h
        return self.head(self.final(h)[:, 0])


class Tied(nn.Module):
    """Its head reads the stream with the weights of its words."""

    def __init__(self):
        super().__init__()
        self.words, self.up, self.down = nn.Embedding(9, D), nn.Linear(D, 7), nn.Linear(7, D)
        self.first, self.last = nn.RMSNorm(D), nn.RMSNorm(D)

    def forward(self, x):
        h = self.words(x)
        h = h + self.down(self.up(self.first(h)).relu())
        return F.linear(self.last(h), self.words.weight).mean(1)


class Pictures(nn.Module):
    """Depthwise convolutions on a stream of channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, D, 3, padding=1)
        self.wide = nn.Conv2d(D, D, 3, padding=1, groups=D)
        self.norm, self.up, self.down = Channels(), nn.Conv2d(D, 7, 1), nn.Conv2d(7, D, 1)
        self.head = nn.Linear(D, 4)

    def forward(self, x):
        h = self.stem(x)
        h = h + self.down(self.up(self.norm(self.wide(h))).relu())
        return self.head(h.mean((2, 3)))


class Encoder(nn.Module):
    """torch's own transformer layers."""

    def __init__(self, first=True):
        super().__init__()
        self.words = nn.Embedding(9, D)
        layer = nn.TransformerEncoderLayer(D, 3, 10, 0.1, batch_first=True, norm_first=first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(D, 4)

    def forward(self, x):
        return self.head(self.encoder(self.words(x)).mean(1))


def words():
    return torch.randint(0, 9, (3, 5))


HAND = {
    "before": lambda: (Blocks(lambda: nn.LayerNorm(D)), words()),
    "behind": lambda: (Blocks(lambda: nn.LayerNorm(D), after=True), words()),
    "without shifts": lambda: (Blocks(lambda: nn.LayerNorm(D, bias=False)), words()),
    "rms": lambda: (Blocks(lambda: nn.RMSNorm(D)), words()),
    "rms behind": lambda: (Blocks(lambda: nn.RMSNorm(D, eps=1e-2), after=True), words()),
    "centred by hand": lambda: (Blocks(Centred, after=True), words()),
    "root by hand": lambda: (Blocks(Root), words()),
    "root less one": lambda: (Blocks(lambda: Root(minus=1.0)), words()),
    "length": lambda: (Blocks(Length), words()),
    "pictures": lambda: (Pictures(), torch.randn(2, 3, 6, 6)),
    "torch before": lambda: (Encoder(), words()),
    "torch behind": lambda: (Encoder(first=False), words()),
}


def shaken(model):
    """A network in float64 whose norms and biases are not those of a new one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


def made(name):
    torch.manual_seed(0)
    model, x = HAND[name]()
    return shaken(model), x.double() if x.is_floating_point() else x


def streams(model, x, forward=None):
    found = [g for g in sentei.find_units(model, x, forward=forward) if g.kind == "stream"]
    assert found, sentei.not_offered(model, x, forward=forward)
    return found


def cut(groups, start=0):
    return Mask.full(groups).without({g: range(start, g.size, 3) for g in groups})


def masked_by(model, mask):
    masked = copied(model)
    mask.apply_(masked)
    return masked


def apart(a, b):
    return float((a - b).abs().max() / a.abs().max())
