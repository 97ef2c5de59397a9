"""Hand-written networks for points and graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks_zoo.plain import PLAIN, plain


@plain(2, 3, 25, name="pointnet")
class PointNet(nn.Module):
    """Points, a learned transformation of them, and a maximum over all points."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.matrix = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 9))
        self.points = nn.Sequential(
            *(nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24), nn.ReLU()),
            *(nn.Conv1d(24, 48, 1), nn.BatchNorm1d(48), nn.ReLU()),
        )
        self.head = nn.Sequential(
            nn.Linear(48, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 3, points) to (samples, 5)."""
        turn = self.matrix(self.turn(x).amax(-1)).view(-1, 3, 3) + torch.eye(3).to(x)
        return self.head(self.points((x.transpose(1, 2) @ turn).transpose(1, 2)).amax(-1))


@plain(2, 3, 16, name="dgcnn")
class DGCNN(nn.Module):
    """Edge convolutions over the nearest neighbours of each point."""

    def __init__(self):
        super().__init__()
        self.edge1 = nn.Sequential(nn.Conv2d(6, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.edge2 = nn.Sequential(nn.Conv2d(32, 24, 1, bias=False), nn.BatchNorm2d(24))
        self.head = nn.Linear(40, 4)

    def neighbours(self, x: Tensor, where: Tensor) -> Tensor:
        """Return (samples, 2 width, points, 4): differences to four neighbours, and the points."""
        near = torch.gather(
            x.unsqueeze(2).expand(-1, -1, x.shape[-1], -1),
            3,
            where.unsqueeze(1).expand(-1, x.shape[1], -1, -1),
        )
        return torch.cat([near - x.unsqueeze(-1), x.unsqueeze(-1).expand_as(near)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 3, points) to (samples, 4)."""
        points = x.transpose(1, 2)
        where = torch.cdist(points, points).topk(4, largest=False).indices
        y = F.leaky_relu(self.edge1(self.neighbours(x, where)), 0.2).amax(-1)
        z = F.leaky_relu(self.edge2(self.neighbours(y, where)), 0.2).amax(-1)
        return self.head(torch.cat([y, z], 1).amax(-1))


def _graph(nodes: int, width: int) -> tuple[Tensor, Tensor]:
    links = (torch.rand(nodes, nodes) < 0.3).float()
    return torch.randn(nodes, width), ((links + links.T + torch.eye(nodes)) > 0).float()


class GCN(nn.Module):
    """Two graph convolutions with a normalised adjacency."""

    def __init__(self):
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(10, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        """Map (nodes, 10) and (nodes, nodes) to (nodes, 4)."""
        scale = links.sum(1).rsqrt()
        links = scale[:, None] * links * scale
        return links @ self.layer2(F.relu(links @ self.layer1(x)))


class GAT(nn.Module):
    """Graph attention with several heads, each with its own vectors."""

    def __init__(self, heads: int = 4, width: int = 6):
        super().__init__()
        self.heads, self.width = heads, width
        self.project = nn.Linear(10, heads * width, bias=False)
        self.source = nn.Parameter(torch.randn(heads, width))
        self.target = nn.Parameter(torch.randn(heads, width))
        self.head = nn.Linear(heads * width, 4)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        """Map (nodes, 10) and (nodes, nodes) to (nodes, 4)."""
        y = self.project(x).view(-1, self.heads, self.width)
        scores = (y * self.source).sum(-1)[:, None] + (y * self.target).sum(-1)
        scores = F.leaky_relu(scores, 0.2).masked_fill(links[..., None] == 0, float("-inf"))
        mixed = torch.einsum("ijh,jhd->ihd", scores.softmax(1), y)
        return self.head(F.elu(mixed.flatten(1)))


class SAGE(nn.Module):
    """Means of neighbours gathered with `index_add`, as graph libraries do."""

    def __init__(self):
        super().__init__()
        self.own, self.near, self.head = nn.Linear(10, 24), nn.Linear(10, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Map (nodes, 10) and (2, edges) to (nodes, 4)."""
        total = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        count = x.new_zeros(len(x)).index_add(0, edges[1], x.new_ones(edges.shape[1]))
        hidden = F.relu(self.own(x) + self.near(total / count.clamp(min=1)[:, None]))
        return self.head(hidden)


class GIN(nn.Module):
    """Sums of neighbours, each layer a small perceptron with batch norm; a sum over the graph."""

    def __init__(self):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(w, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 16))
            for w in (10, 16)
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Map (nodes, 10) and (2, edges) to (3,)."""
        for layer in self.layers:
            near = torch.zeros_like(x).scatter_add(
                0, edges[1][:, None].expand(-1, x.shape[1]), x[edges[0]]
            )
            x = F.relu(layer((1 + self.eps) * x + near))
        return self.head(x.sum(0))


PLAIN["gcn"] = lambda: (GCN(), _graph(9, 10))
PLAIN["gat"] = lambda: (GAT(), _graph(9, 10))
PLAIN["graphsage"] = lambda: (SAGE(), (torch.randn(9, 10), torch.randint(0, 9, (2, 30))))
PLAIN["gin"] = lambda: (GIN(), (torch.randn(9, 10), torch.randint(0, 9, (2, 30))))
