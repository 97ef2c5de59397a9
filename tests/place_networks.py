"""Networks whose units have entries in tensors that no layer call names, or in computed weights.

`PLACES` maps a name to a function that builds (network, example), and to the groups to be offered,
as "kind size".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

W, H, N = 24, 4, 9  # width, heads, tokens
D = W // H
Built = Callable[[], tuple[nn.Module, Tensor]]
PLACES: dict[str, tuple[Built, list[str]]] = {}


def place(*groups: str, x: tuple[int, ...] = (3, N, 6)):
    """Register a network with the groups that it offers; `x` is the shape of its example."""

    def register(kind: Callable[[], nn.Module]):
        def built():
            torch.manual_seed(0)
            return kind(), torch.randn(x)

        PLACES[kind.__name__] = built, list(groups)
        return kind

    return register


def p(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[-1] ** 0.5 + 0.1)


class Attend(nn.Module):
    """A stem, attention whose parts subclasses change, and a head."""

    def __init__(self):
        super().__init__()
        self.heads = H
        self.stem, self.head = nn.Linear(6, W), nn.Linear(W, 3)
        self.qkv, self.proj = nn.Linear(W, 3 * W), nn.Linear(W, W)
        self.more()

    def more(self):
        pass

    def project(self, x):
        return self.qkv(x)

    def split(self, x):
        b, n, _ = x.shape
        return self.project(x).reshape(b, n, 3, self.heads, D).permute(2, 0, 3, 1, 4)

    def scores(self, q, k):
        return q @ k.mT * D**-0.5

    def mixed(self, q, k, v):
        return self.scores(q, k).softmax(-1) @ v

    def forward(self, x):
        x = self.stem(x)
        b, n, _ = x.shape
        y = self.mixed(*self.split(x)).transpose(1, 2).reshape(b, n, -1)
        return self.head((x + self.proj(y)).mean(1))


HEADS = "neuron 24", "head 4"


@place(*HEADS)
class RelativePositions(Attend):
    """A table of biases by relative position and head, as in windowed transformers."""

    def more(self):
        self.table = p(2 * N - 1, H)
        at = torch.arange(N)
        self.register_buffer("at", at[:, None] - at + N - 1)

    def scores(self, q, k):
        bias = self.table[self.at.view(-1)].view(N, N, -1).permute(2, 0, 1)
        return super().scores(q, k) + bias.unsqueeze(0)


@place(*HEADS)
class JoinedBias(Attend):
    """Biases of queries and values, and zeros for keys, joined by `cat`."""

    def more(self):
        self.qkv = nn.Linear(W, 3 * W, bias=False)
        self.q_bias, self.v_bias = p(W), p(W)

    def project(self, x):
        zeros = torch.zeros_like(self.v_bias, requires_grad=False)
        return F.linear(x, self.qkv.weight, torch.cat((self.q_bias, zeros, self.v_bias)))


@place(*HEADS)
class Temperature(Attend):
    def more(self):
        self.temperature = p(H, 1, 1)

    def scores(self, q, k):
        return super().scores(q, k) * self.temperature.exp()


@place(*HEADS)
class Slopes(Attend):
    """Distances times a slope for each head, from a buffer."""

    def more(self):
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, H + 1).view(H, 1, 1))

    def scores(self, q, k):
        at = torch.arange(q.shape[-2], device=q.device)
        return super().scores(q, k) - (at[:, None] - at).abs() * self.slopes


@place(*HEADS)
class HeadVectors(Attend):
    """Vectors for each head, (heads, width), added to queries."""

    def more(self):
        self.u = p(H, 1, D)

    def mixed(self, q, k, v):
        return super().mixed(q + self.u, k, v)


@place(*HEADS)
class FlatHeadVectors(Attend):
    """The same vectors in one row of heads x width, viewed."""

    def more(self):
        self.u = p(W)

    def mixed(self, q, k, v):
        return super().mixed(q + self.u.view(1, self.heads, 1, D), k, v)


@place(*HEADS)
class NormOverHeadWidth(Attend):
    """A norm of queries and keys whose scale all heads share."""

    def more(self):
        self.norm = nn.LayerNorm(D)
        self.rms = nn.RMSNorm(D)

    def mixed(self, q, k, v):
        return super().mixed(self.norm(q), self.rms(k), v)


@place(*HEADS)
class TokenScale(Attend):
    """A scale for each token, which all heads share."""

    def more(self):
        self.scale = p(N, 1)

    def mixed(self, q, k, v):
        return super().mixed(q, k, v * self.scale)


@place(*HEADS)
class ScalarGate(Attend):
    def more(self):
        self.gate = p(1)

    def mixed(self, q, k, v):
        return super().mixed(q, k, v) * self.gate.tanh()


@place("neuron 24", "neuron 4", "head 4")
class Unused(Attend):
    """Nothing more, and a layer behind which nothing comes."""

    def more(self):
        self.a, self.b = nn.Linear(W, 4), nn.Linear(4, W)

    def forward(self, x):
        y = self.stem(x)
        b, n, _ = y.shape
        z = self.mixed(*self.split(y)).transpose(1, 2).reshape(b, n, -1)
        return self.head((y + self.proj(z) + self.b(self.a(y).relu())).mean(1))


class Plain(nn.Module):
    """Two layers of a subclass between a stem and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 12), nn.Linear(10, 3)
        self.more()

    def more(self):
        self.layer = nn.Linear(12, 10)

    def middle(self, h):
        return self.layer(h)

    def forward(self, x):
        return self.head(self.middle(self.stem(x).relu()).relu())


FLAT = (5, 6)
PAIR = "neuron 12", "neuron 10"


@place(*PAIR, x=FLAT)
class TimesWeight(Plain):
    def more(self):
        self.w = p(12, 10)

    def middle(self, h):
        return h @ self.w


@place(*PAIR, x=FLAT)
class TimesTransposed(Plain):
    def more(self):
        self.w, self.b = p(10, 12), p(10)

    def middle(self, h):
        return h @ self.w.T + self.b


@place(*PAIR, x=FLAT)
class WeightFirst(Plain):
    def more(self):
        self.w = p(10, 12)

    def middle(self, h):
        return (self.w @ h.T).T


@place(*PAIR, x=FLAT)
class Einsum(Plain):
    def more(self):
        self.w = p(12, 10)

    def middle(self, h):
        return torch.einsum("ni,io->no", h, self.w)


@place(*PAIR, x=FLAT)
class Scaled(Plain):
    """A weight times constants and a learned number for each row."""

    def more(self):
        self.w, self.g = p(10, 12), p(10, 1)

    def middle(self, h):
        return F.linear(h, self.w * self.g * 0.5)


@place(*PAIR, x=FLAT)
class LowRankUpdate(Plain):
    """A weight plus a product of two thin ones."""

    def more(self):
        self.w, self.a, self.b = p(10, 12), p(2, 12), p(10, 2)

    def middle(self, h):
        return F.linear(h, self.w + self.b @ self.a)


@place("neuron 12", x=FLAT)
class Tied(nn.Module):
    """An autoencoder that uses one weight twice."""

    def __init__(self):
        super().__init__()
        self.w, self.b = p(12, 6), p(12)

    def forward(self, x):
        return F.linear(F.linear(x, self.w, self.b).relu(), self.w.t())


@place(*PAIR, x=FLAT)
class WeightNormRows(Plain):
    """The rows can be cut; the layer's own inputs are those of the stem, which cannot."""

    def more(self):
        self.layer = nn.Linear(12, 10)
        self.stem = parametrizations.weight_norm(self.stem)


@place("neuron 10", x=FLAT)
class WeightNorm(Plain):
    """Every weight of a row changes with the row's norm: columns cannot be cut."""

    def more(self):
        self.layer = parametrizations.weight_norm(nn.Linear(12, 10))


@place("neuron 10", x=FLAT)
class Standardised(Plain):
    def more(self):
        self.w = p(10, 12)

    def middle(self, h):
        w = self.w
        return F.linear(h, (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True))


@place(x=FLAT)
class SpectralNorm(Plain):
    def more(self):
        self.layer = parametrizations.spectral_norm(nn.Linear(12, 10))


@place(*PAIR, x=FLAT)
class Splines(Plain):
    """Functions of single inputs, five of them each: the weight is viewed as a matrix."""

    def more(self):
        self.w = p(10, 12, 5)

    def middle(self, h):
        bumps = torch.stack([(h - c).square().neg().exp() for c in range(5)], -1)
        return F.linear(bumps.flatten(1), self.w.flatten(1))


@place("neuron 12", "neuron 10", x=FLAT)
class Maxout(Plain):
    def more(self):
        self.layer = nn.Linear(12, 20)

    def middle(self, h):
        y = self.layer(h)
        return y.reshape(len(y), -1, 2).amax(-1)


class Experts(nn.Module):
    """Three experts whose weights are slices of one tensor, weighed by a router."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.router = nn.Linear(12, 3)
        self.up, self.down = p(3, 16, 12), p(3, 12, 16)

    def experts(self, h):
        each = [F.linear(F.linear(h, u).relu(), d) for u, d in zip(self.up, self.down, strict=True)]
        return torch.stack(each)

    def forward(self, x):
        h = self.stem(x).tanh()
        weigh = self.router(h).softmax(-1).T[..., None]
        return self.head(h + (self.experts(h) * weigh).sum(0))


EXPERTS = "neuron 12", "neuron 16"


@place(*EXPERTS, x=FLAT)
class SlicedExperts(Experts):
    pass


@place(*EXPERTS, x=FLAT)
class BatchedExperts(Experts):
    def experts(self, h):
        every = h.expand(3, *h.shape)
        return torch.bmm(torch.bmm(every, self.up.mT).relu(), self.down.mT)


@place(*EXPERTS, x=FLAT)
class EinsumExperts(Experts):
    def experts(self, h):
        y = torch.einsum("nd,efd->enf", h, self.up).relu()
        return torch.einsum("enf,edf->end", y, self.down)


@place("neuron 12", "neuron 16", x=FLAT)
class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(6, 16)
        self.both = nn.Bilinear(12, 16, 3)

    def forward(self, x):
        return self.both(self.a(x).relu(), self.b(x).tanh())


class Pictures(nn.Module):
    """Two convolutions and a head; subclasses put something between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, 3)
        self.more()

    def more(self):
        pass

    def between(self, x):
        return x

    def forward(self, x):
        x = self.b(self.between(self.a(x)).relu())
        return self.head(x.mean((2, 3)))


IMAGE = (2, 3, 8, 8)
CHANNELS = "channel 8", "channel 6"


@place(*CHANNELS, x=IMAGE)
class FrozenNorm(Pictures):
    """A batch norm of buffers, reshaped."""

    def more(self):
        for name in ("weight", "bias", "mean", "var"):
            self.register_buffer(name, torch.rand(8) + 0.5)

    def between(self, x):
        w, b, m, v = (t.reshape(1, -1, 1, 1) for t in (self.weight, self.bias, self.mean, self.var))
        scale = w * (v + 1e-5).rsqrt()
        return x * scale + (b - m * scale)


@place(*CHANNELS, x=IMAGE)
class LayerScale(Pictures):
    def more(self):
        self.gamma = p(8)

    def between(self, x):
        return x * self.gamma.view(1, -1, 1, 1)


@place(*CHANNELS, x=IMAGE)
class PositionTable(Pictures):
    """A learned value for each channel and position."""

    def more(self):
        self.positions = p(1, 8, 6, 6)

    def between(self, x):
        return x + self.positions


@place(*CHANNELS, x=IMAGE)
class ImageScale(Pictures):
    """A scale for each position, which all channels share."""

    def more(self):
        self.scale = p(6, 6)

    def between(self, x):
        return x * self.scale


@place("channel 6", x=IMAGE)
class StandardisedConvolution(Pictures):
    """Its rows can be cut, the channels it reads cannot."""

    def forward(self, x):
        w = self.b.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        x = F.conv2d(self.a(x).relu(), w, self.b.bias)
        return self.head(x.mean((2, 3)))


class Graph(nn.Module):
    """Graph attention: each head has vectors that score the ends of an edge."""

    def __init__(self):
        super().__init__()
        self.heads = H
        self.lin, self.head = nn.Linear(6, W, bias=False), nn.Linear(W, 3)
        self.source, self.target = p(1, H, D), p(1, H, D)

    def forward(self, x):
        n = x.shape[0]
        h = self.lin(x).view(n, self.heads, D)
        a, b = (h * self.source).sum(-1), (h * self.target).sum(-1)
        alpha = F.leaky_relu(a[:, None] + b[None], 0.2).softmax(1)
        out = (alpha[..., None] * h[None]).sum(1)
        return self.head(out.reshape(n, -1))


PLACES["Graph"] = (lambda: (torch.manual_seed(0), (Graph(), torch.randn(7, 6)))[1]), ["head 4"]


@place("neuron 24", "head 4")
class SharedBiases(nn.Module):
    """One table of position biases for two blocks: their heads go together."""

    def __init__(self):
        super().__init__()
        self.heads = H
        self.table = p(H, N, N)
        self.stem, self.head = nn.Linear(6, W), nn.Linear(W, 3)
        self.qkv = nn.ModuleList(nn.Linear(W, 3 * W) for _ in range(2))
        self.proj = nn.ModuleList(nn.Linear(W, W) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        b, n, _ = x.shape
        for qkv, proj in zip(self.qkv, self.proj, strict=True):
            q, k, v = qkv(x).reshape(b, n, 3, self.heads, D).permute(2, 0, 3, 1, 4)
            y = (q @ k.mT + self.table).softmax(-1) @ v
            x = x + proj(y.transpose(1, 2).reshape(b, n, -1))
        return self.head(x.mean(1))


# Units that must go together.


@place("channel 5", "channel 6", x=IMAGE)
class Halves(nn.Module):
    """Half of the channels pass by a convolution; `chunk` needs halves of one size."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 10, 3), nn.Conv2d(5, 5, 3, padding=1)
        self.c, self.head = nn.Conv2d(15, 6, 1), nn.Linear(6, 3)

    def forward(self, x):
        one, two = self.a(x).chunk(2, 1)
        x = self.c(torch.cat([one, two, two + self.b(two).relu()], 1)).relu()
        return self.head(x.mean((2, 3)))


@place("channel 4", "channel 4", "channel 12", x=IMAGE)
class Quarters(nn.Module):
    """Quarters that are convolved one after another, divided by a width that is an attribute."""

    def __init__(self):
        super().__init__()
        self.width = 4
        self.a, self.c, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 1), nn.Linear(12, 3)
        self.steps = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        parts = torch.split(self.a(x).relu(), self.width, 1)
        done, here = [parts[3]], 0
        for step, part in zip(self.steps, parts, strict=False):
            here = step(part + here).relu()
            done.append(here)
        return self.head(self.c(torch.cat(done, 1)).relu().mean((2, 3)))


@place("neuron 12", "neuron 10", x=FLAT)
class Gated(Plain):
    """A gated linear unit: a value and its gate go together."""

    def more(self):
        self.layer = nn.Linear(12, 20)

    def middle(self, h):
        return F.glu(self.layer(h))


@place(*PAIR, x=FLAT)
class MaskedWeight(Plain):
    """A weight times a buffer of zeros and ones, whose rows and columns go with the weight's."""

    def more(self):
        super().more()
        self.register_buffer("kept", (torch.rand(10, 12) < 0.7).float())

    def middle(self, h):
        return F.linear(h, self.layer.weight * self.kept, self.layer.bias)


@place(*PAIR, x=FLAT)
class FixedMatrix(Plain):
    """A matrix that is not trained, in a buffer: random features."""

    def more(self):
        self.register_buffer("fixed", torch.randn(10, 12))

    def middle(self, h):
        return F.linear(h, self.fixed)


@place(*PAIR, x=FLAT)
class TransposedFixedMatrix(Plain):
    """Such a matrix, stored with its columns first: a weight computed from a buffer alone."""

    def more(self):
        self.register_buffer("fixed", torch.randn(12, 10))

    def middle(self, h):
        return F.linear(h, self.fixed.t())


@place("neuron 12", "neuron 10", x=FLAT)
class GatedByHalves(Plain):
    def more(self):
        self.layer = nn.Linear(12, 20)

    def middle(self, h):
        value, gate = self.layer(h).chunk(2, -1)
        return value * gate.sigmoid()


@place("channel 12", "channel 6", "channel 6", x=IMAGE)
class Waves(nn.Module):
    """Gated convolutions with a residual and a skip packed in one layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 1)
        self.gates = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(2))
        self.out = nn.ModuleList(nn.Conv2d(6, 24, 1) for _ in range(2))
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x, skips = self.stem(x), 0
        for gate, out in zip(self.gates, self.out, strict=True):
            one, two = gate(x).chunk(2, 1)
            residual, skip = out(one.tanh() * two.sigmoid()).chunk(2, 1)
            x, skips = x + residual, skips + skip
        return self.head(skips.relu().mean((2, 3)))


@place("channel 8", "channel 2", "channel 6", x=IMAGE)
class Squeeze(Pictures):
    """Squeeze and excitation."""

    def more(self):
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def between(self, x):
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


@place("neuron 16", "neuron 12", "neuron 9", x=(3, 6))
class WeightsInBuffers(nn.Module):
    """A weight times a pattern in a buffer, and a layer whose weight is a buffer."""

    def __init__(self):
        super().__init__()
        self.enter, self.between, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(9, 3)
        self.register_buffer("pattern", (torch.rand(12, 16) > 0.3).float())
        self.register_buffer("frozen", torch.randn(9, 12) / 3)

    def forward(self, x):
        x = torch.tanh(self.enter(x))
        x = torch.tanh(F.linear(x, self.between.weight * self.pattern, self.between.bias))
        return self.head(F.linear(x, self.frozen).tanh())


@place("neuron 24", "head 4")
class OneKey(Attend):
    """One key and one value for all heads."""

    def more(self):
        self.qkv, self.key, self.value = nn.Linear(W, W), nn.Linear(W, D), nn.Linear(W, D)

    def split(self, x):
        b, n, _ = x.shape
        q = self.qkv(x).reshape(b, n, self.heads, D).transpose(1, 2)
        return q, self.key(x)[:, None], self.value(x)[:, None]


class PackedKey(nn.Module):
    """One key and one value for all heads, computed by the rows behind those of the queries."""

    def __init__(self):
        super().__init__()
        self.heads, self.qkv, self.proj = H, nn.Linear(W, W + 2 * D), nn.Linear(W, W)

    def forward(self, x):
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, self.heads + 2, D).transpose(1, 2)
        q, k, v = qkv[:, :-2], qkv[:, -2:-1], qkv[:, -1:]
        return self.proj(((q @ k.mT * D**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


@place("neuron 24", "head 4", "head 4")
class TwiceOnePackedKey(nn.Module):
    """Two such layers, one after the other."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([PackedKey(), PackedKey()])
        self.stem, self.head = nn.Linear(6, W), nn.Linear(W, 3)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x.mean(1))


@place("neuron 24", "neuron 16", "neuron 3")
class StateSpace(nn.Module):
    """A selective state space: the rows of one layer give each unit a step, and all a B and a C."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, W), nn.Linear(W, 3)
        self.enter, self.leave = nn.Linear(W, 32), nn.Linear(16, W)
        self.conv = nn.Conv1d(16, 16, 3, groups=16, padding=2)
        self.rank = 3
        self.select, self.step = nn.Linear(16, 3 + 2 * 4, bias=False), nn.Linear(3, 16)
        self.rates, self.skip = p(16, 4), p(16)

    def forward(self, x):
        x = self.stem(x)
        y, gate = self.enter(x).chunk(2, -1)
        y = F.silu(self.conv(y.mT)[..., :N].mT)
        step, b, c = self.select(y).split([self.rank, 4, 4], -1)
        step = F.softplus(self.step(step))
        state, found = 0, []
        for t in range(N):
            decay = torch.exp(-self.rates.exp() * step[:, t, :, None])
            state = decay * state + step[:, t, :, None] * b[:, t, None] * y[:, t, :, None]
            found.append((state * c[:, t, None]).sum(-1))
        y = torch.stack(found, 1) + y * self.skip
        return self.head((x + self.leave(y * F.silu(gate))).mean(1))


@place("neuron 24", "head 2")
class FewerKeys(Attend):
    """Two heads share a key and a value."""

    def more(self):
        self.qkv, self.kv = nn.Linear(W, W), nn.Linear(W, W)

    def split(self, x):
        b, n, _ = x.shape
        q = self.qkv(x).reshape(b, n, -1, D).transpose(1, 2)
        k, v = self.kv(x).reshape(b, n, 2, -1, D).permute(2, 0, 3, 1, 4)
        return q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)

    def forward(self, x):
        x = self.stem(x)
        b, n, _ = x.shape
        y = self.mixed(*self.split(x)).transpose(1, 2).reshape(b, n, -1)
        return self.head((x + self.proj(y)).mean(1))


# Recurrent layers.


class Sequence(nn.Module):
    """A recurrent layer between two linear ones, and a head on its last step."""

    def __init__(self, layer: nn.Module, width: int, form: str = "padded"):
        super().__init__()
        self.stem, self.layer, self.form = nn.Linear(6, 7), layer, form
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x).tanh()
        if self.form == "packed":
            x = nn.utils.rnn.pack_padded_sequence(x, [9, 7, 3], batch_first=True)
        out, _ = self.layer(x)
        if self.form == "packed":
            out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        return self.head(out.sum(1 if self.form != "time first" else 0))


class Cells(nn.Module):
    def __init__(self, cell: nn.Module):
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(6, 7), cell, nn.Linear(5, 3)

    def forward(self, x):
        state = None
        for step in self.stem(x).tanh().unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def _sequence(name: str, groups: list[str], make: Callable[[], nn.Module]) -> None:
    def built():
        torch.manual_seed(0)
        return make(), torch.randn(3, N, 6)

    PLACES[name] = built, groups


FIRST = {"batch_first": True}
for kind in (nn.LSTM, nn.GRU, nn.RNN):
    name = kind.__name__
    _sequence(name, ["neuron 7", "neuron 5"], lambda k=kind: Sequence(k(7, 5, **FIRST), 5))
    _sequence(
        f"{name}Both",
        ["neuron 7", "neuron 5"],
        lambda k=kind: Sequence(k(7, 5, 2, bidirectional=True, **FIRST), 10),
    )
    _sequence(
        f"{name}Packed",
        ["neuron 7", "neuron 5"],
        lambda k=kind: Sequence(k(7, 5, **FIRST), 5, "packed"),
    )
    _sequence(
        f"{name}TimeFirst",
        ["neuron 7", "neuron 5"],
        lambda k=kind: Sequence(k(7, 5, bias=False), 5, "time first"),
    )
for cell in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
    _sequence(cell.__name__, ["neuron 7", "neuron 5"], lambda c=cell: Cells(c(7, 5)))
_sequence(
    "Projected",
    ["neuron 7", "neuron 8", "neuron 4"],
    lambda: Sequence(nn.LSTM(7, 8, 2, proj_size=4, **FIRST), 4),
)
_sequence(
    "ReluRecurrence",
    ["neuron 7", "neuron 5"],
    lambda: Sequence(nn.RNN(7, 5, nonlinearity="relu", **FIRST), 5),
)
