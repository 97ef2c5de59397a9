"""Hand-written networks: splines, experts, spikes, flows, agents, tables, coordinates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks_zoo.plain import PLAIN, plain, sequential


class SplineLayer(nn.Module):
    """A KAN layer: a base weight and cubic B-splines on each connection."""

    grid: Tensor

    def __init__(self, width: int, out: int, knots: int = 5, order: int = 3):
        super().__init__()
        self.order = order
        step = 2 / knots
        grid = torch.arange(-order, knots + order + 1) * step - 1
        self.register_buffer("grid", grid.expand(width, -1).contiguous())
        self.base = nn.Parameter(torch.randn(out, width) / width**0.5)
        self.spline = nn.Parameter(torch.randn(out, width, knots + order) / width**0.5)

    def basis(self, x: Tensor) -> Tensor:
        """Return (samples, width, knots + order) values of the B-splines."""
        grid, x = self.grid, x.unsqueeze(-1)
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:(-k)])
            bases = left * bases[..., :-1] + right * bases[..., 1:]
        return bases

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, width) to (samples, out)."""
        splines = F.linear(self.basis(x).flatten(1), self.spline.flatten(1))
        return F.linear(F.silu(x), self.base) + splines


class RadialLayer(nn.Module):
    """A KAN layer with Gaussian bases and a norm before them."""

    def __init__(self, width: int, out: int, centres: int = 6):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.register_buffer("centres", torch.linspace(-2, 2, centres))
        self.spline = nn.Linear(width * centres, out, bias=False)
        self.base = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, width) to (samples, out)."""
        bases = torch.exp(-((self.norm(x)[..., None] - self.centres) ** 2))
        return self.spline(bases.flatten(1)) + self.base(F.silu(x))


@sequential("kan", 6, 5)
def _kan() -> list[nn.Module]:
    return [SplineLayer(5, 12), SplineLayer(12, 8), SplineLayer(8, 2)]


@sequential("kan-radial", 6, 5)
def _kan_radial() -> list[nn.Module]:
    return [RadialLayer(5, 12), RadialLayer(12, 8), RadialLayer(8, 2)]


@plain(4, 10, name="soft-moe")
class Experts(nn.Module):
    """Experts as small perceptrons, weighed by a router."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(10, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 12)) for _ in range(3)
        )
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 10) to (samples, 4)."""
        weights = self.router(x).softmax(-1)
        mixed = torch.stack([expert(x) for expert in self.experts], 1)
        return self.head((weights[..., None] * mixed).sum(1))


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons with a surrogate gradient."""

    def __init__(self, width: int):
        super().__init__()
        self.leak = nn.Parameter(torch.full((width,), 0.9))
        self.threshold = nn.Parameter(torch.ones(1))

    def forward(self, current: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spikes and the potential after a step."""
        potential = self.leak * potential + current
        over = potential - self.threshold
        soft = torch.sigmoid(5 * over)
        spikes = soft + ((over > 0).to(over.dtype) - soft).detach()
        return spikes, potential - spikes * self.threshold


@plain(3, 10, name="spiking")
class Spiking(nn.Module):
    """A spiking network: two layers of leaky neurons, eight steps; spikes are counted."""

    def __init__(self):
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(10, 32), nn.Linear(32, 24)
        self.cells1, self.cells2, self.head = LIF(32), LIF(24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 10) currents to (samples, 4)."""
        a, b = x.new_zeros(len(x), 1), x.new_zeros(len(x), 1)
        total = torch.zeros(())
        for _ in range(8):
            spikes, a = self.cells1(2 * self.layer1(x), a)
            spikes, b = self.cells2(self.layer2(spikes), b)
            total = total + self.head(spikes)
        return total


class Coupling(nn.Module):
    """An affine coupling layer: one half scales and shifts the other."""

    def __init__(self, width: int, *, flip: bool):
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(
            nn.Linear(width // 2, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, width)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transformed values and the logarithm of the determinant."""
        a, b = x.chunk(2, -1)
        a, b = (b, a) if self.flip else (a, b)
        scale, shift = self.net(a).chunk(2, -1)
        scale = scale.tanh()
        b = b * scale.exp() + shift
        return torch.cat((b, a) if self.flip else (a, b), -1), scale.sum(-1)


@plain(5, 6, name="realnvp")
class RealNVP(nn.Module):
    """A normalising flow of four coupling layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Coupling(6, flip=bool(k % 2)) for k in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (samples, 6) to codes and log-likelihoods."""
        total = torch.zeros(())
        for layer in self.layers:
            x, change = layer(x)
            total = total + change
        return x, total - (x**2).sum(-1) / 2


class MADE(nn.Module):
    """A masked autoencoder: linear layers times fixed masks."""

    mask1: Tensor
    mask2: Tensor

    def __init__(self, width: int = 6, hidden: int = 30):
        super().__init__()
        order, inner = torch.arange(width), torch.arange(hidden) % (width - 1)
        self.layer1, self.layer2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.register_buffer("mask1", (inner[:, None] >= order).float())
        self.register_buffer("mask2", (order[:, None] > inner).float())

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 6) to (samples, 6)."""
        y = F.linear(x, self.layer1.weight * self.mask1, self.layer1.bias).relu()
        return F.linear(y, self.layer2.weight * self.mask2, self.layer2.bias)


PLAIN["made"] = lambda: (MADE(), torch.randn(4, 6))


@plain(2, 4, 36, 36, name="dqn-duelling")
class Duelling(nn.Module):
    """A duelling Q-network: a value and advantages less their mean."""

    def __init__(self):
        super().__init__()
        self.eyes = nn.Sequential(
            *(nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 24, 4, 2), nn.ReLU(), nn.Flatten())
        )
        self.value = nn.Sequential(nn.Linear(216, 32), nn.ReLU(), nn.Linear(32, 1))
        self.advantage = nn.Sequential(nn.Linear(216, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 4, 36, 36) to (samples, 6)."""
        hidden = self.eyes(x)
        advantage = self.advantage(hidden)
        return self.value(hidden) + advantage - advantage.mean(-1, keepdim=True)


@plain(4, 8, name="actor-critic")
class ActorCritic(nn.Module):
    """One body, a policy and a value."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.policy, self.value = nn.Linear(32, 3), nn.Linear(32, 1)
        self.spread = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (samples, 8) to means, spreads and values."""
        hidden = self.body(x)
        mean = self.policy(hidden)
        return mean, self.spread.exp().expand_as(mean), self.value(hidden).squeeze(-1)


class Recommender(nn.Module):
    """DLRM-like: embeddings and dense features, their products pairwise, a perceptron."""

    pairs: Tensor

    def __init__(self, width: int = 12):
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(20, width, mode="sum") for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, width), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(width + 6, 24), nn.ReLU(), nn.Linear(24, 1))
        self.register_buffer("pairs", torch.triu_indices(4, 4, 1), persistent=False)

    def forward(self, dense: Tensor, chosen: Tensor) -> Tensor:
        """Map (samples, 5) and (samples, 3) to (samples, 1)."""
        x = self.bottom(dense)
        all_ = torch.stack(
            [x, *(table(chosen[:, k : k + 1]) for k, table in enumerate(self.tables))], 1
        )
        products = (all_ @ all_.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([x, products], 1))


PLAIN["dlrm"] = lambda: (Recommender(), (torch.randn(3, 5), torch.randint(0, 20, (3, 3))))


class TwoTower(nn.Module):
    """Two towers, compared by the cosine of their outputs."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(30, 16), nn.Embedding(30, 16)
        self.user = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
        self.item = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Map (samples,) and (samples,) to (samples, samples)."""
        left = F.normalize(self.user(self.users(users)), dim=-1)
        return left @ F.normalize(self.item(self.items(items)), dim=-1).T


PLAIN["two-tower"] = lambda: (TwoTower(), (torch.randint(0, 30, (4,)), torch.randint(0, 30, (4,))))


@plain(4, 2, name="siren")
class Siren(nn.Module):
    """A picture as a function of coordinates: sines between linear layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 3)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (points, 2) to (points, 3)."""
        for layer in self.layers[:-1]:
            x = torch.sin(5 * layer(x))
        return self.layers[-1](x)


class NeRF(nn.Module):
    """Positions and directions encoded by sines; a skip of the input into the middle."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(56, 32), nn.ReLU())
        self.density, self.colour = nn.Linear(32, 1), nn.Linear(32 + 24, 3)

    def forward(self, where: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Map (points, 3) and (points, 3) to colours and densities."""
        powers = 2.0 ** torch.arange(4, dtype=where.dtype)
        codes = []
        for x in (where, direction):
            angles = (x[..., None] * powers).flatten(-2)
            codes.append(torch.cat([angles.sin(), angles.cos()], -1))
        hidden = self.second(torch.cat([self.first(codes[0]), codes[0]], -1))
        colour = self.colour(torch.cat([hidden, codes[1]], -1))
        return colour.sigmoid(), F.softplus(self.density(hidden))


PLAIN["nerf"] = lambda: (NeRF(), (torch.randn(5, 3), torch.randn(5, 3)))


class HyperNetwork(nn.Module):
    """One network computes the weights of a layer of another."""

    def __init__(self):
        super().__init__()
        self.code = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 6 * 10))
        self.before, self.head = nn.Linear(8, 10), nn.Linear(6, 3)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Map (samples, 8) and (samples, 4) to (samples, 3)."""
        weight = self.code(task).view(-1, 6, 10)
        hidden = torch.bmm(weight, self.before(x).relu()[..., None]).squeeze(-1)
        return self.head(hidden.relu())


PLAIN["hypernetwork"] = lambda: (HyperNetwork(), (torch.randn(3, 8), torch.randn(3, 4)))


@plain(3, 12, name="maxout")
class Maxout(nn.Module):
    """Maxout layers: the largest of two linear pieces."""

    def __init__(self):
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(12, 48), nn.Linear(24, 32)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 12) to (samples, 4)."""
        x = self.layer1(x).unflatten(-1, (24, 2)).amax(-1)
        x = self.layer2(x).unflatten(-1, (16, 2)).amax(-1)
        return self.head(x)


@plain(3, 12, name="highway")
class Highway(nn.Module):
    """Highway layers: a gate mixes a layer and what it reads."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(12, 24)
        self.change = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))
        self.gate = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 12) to (samples, 4)."""
        x = self.stem(x)
        for change, gate in zip(self.change, self.gate, strict=True):
            t = gate(x).sigmoid()
            x = t * change(x).relu() + (1 - t) * x
        return self.head(x)


class TiedAutoencoder(nn.Module):
    """The decoder uses the encoder's weight, transposed."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(20, 12)
        self.bias = nn.Parameter(torch.zeros(20))

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 20) to (samples, 20)."""
        return F.linear(self.encoder(x).relu(), self.encoder.weight.t(), self.bias)


PLAIN["tied-autoencoder"] = lambda: (TiedAutoencoder(), torch.randn(4, 20))


class MultiTask(nn.Module):
    """A body with three heads in a dict, one of which reads another."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 24), nn.GELU())
        self.classes, self.box = nn.Linear(24, 5), nn.Linear(24, 4)
        self.score = nn.Sequential(nn.Linear(28, 12), nn.ReLU(), nn.Linear(12, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (samples, 12) to a dict of outputs."""
        hidden = self.body(x)
        box = self.box(hidden)
        return {
            "classes": self.classes(hidden),
            "box": box,
            "score": self.score(torch.cat([hidden, box], -1)),
        }


PLAIN["multi-task"] = lambda: (MultiTask(), torch.randn(4, 12))
