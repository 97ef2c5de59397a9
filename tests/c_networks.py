"""Networks that together have every kind of layer that C files hold, with dead synapses."""

import torch
from torch import nn
from torch.nn import functional as F

import sentei
from sentei.network.mask import Mask

ELEMENTWISE = (
    *(nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.Softsign(), nn.Hardsigmoid()),
    *(nn.Hardswish(), nn.LeakyReLU(0.3), nn.ELU(0.7), nn.Hardtanh(-0.5, 2.0), nn.GELU()),
)


def normed(layer):
    layer.running_mean.uniform_(-1, 1)
    layer.running_var.uniform_(0.5, 2)
    return layer


class Residual(nn.Module):
    """Additions, a concatenation, a depthwise convolution, a norm of its own, a mean over all."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), normed(nn.BatchNorm2d(8))
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.down, self.other = nn.Conv2d(8, 12, 1, 2), nn.Conv2d(8, 12, 3, 2, 1)
        self.alone, self.each = normed(nn.BatchNorm2d(12)), nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.last = nn.Linear(24, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = self.second(F.relu(self.first(x), inplace=True))
        y += x
        y = y.relu_()
        y = self.down(y) + self.other(y)
        y = torch.cat((y.sigmoid(), self.each(self.alone(y))), dim=1)
        return self.last(y.mean((2, 3)))


class Steps(nn.Module):
    """A convolution over a signal, then recurrent layers over its steps."""

    def __init__(self, kind=nn.GRU, layers=1):
        super().__init__()
        self.front = nn.Conv1d(3, 5, 5, stride=2)
        self.steps = kind(5, 6, layers, batch_first=True)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        every, state = self.steps(F.relu(self.front(x)).transpose(1, 2))
        state = state[0] if isinstance(state, tuple) else state
        y = state[-1] if len(state) == 1 else every[:, -1]
        return F.log_softmax(self.last(y), dim=-1)


def networks():
    """Networks that together have every kind of stage, with the shapes of their samples."""
    torch.manual_seed(0)
    return {
        "mlp": (
            *(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 12), nn.Tanh()),
            *(nn.Linear(12, 5), nn.Softmax(1)),
            (20,),
        ),
        "lenet": (
            *(nn.Conv2d(2, 6, 3, padding=1), normed(nn.BatchNorm2d(6)), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.MaxPool2d(2), nn.Sigmoid()),
            *(nn.Flatten(), nn.Linear(16, 4)),
            (2, 12, 14),
        ),
        "odd": (
            *(nn.Conv2d(2, 6, (3, 2), padding=(2, 1), bias=False), nn.Hardswish()),
            *(nn.Conv2d(6, 8, 3, stride=2, padding=2, dilation=2, groups=2), nn.ReLU6()),
            *(nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), nn.MaxPool2d(2, padding=1)),
            *(nn.Flatten(), nn.Linear(128, 4), nn.Hardsigmoid()),
            (2, 9, 11),
        ),
        "signal": (
            *(normed(nn.BatchNorm1d(3)), nn.Conv1d(3, 4, 5, padding="same"), nn.LeakyReLU(0.1)),
            *(nn.AdaptiveAvgPool1d(5), nn.Flatten(), nn.ELU(), nn.Linear(20, 3), nn.GELU()),
            *(normed(nn.BatchNorm1d(3)), nn.Softsign(), nn.LogSoftmax(-1)),
            (3, 20),
        ),
        "depthwise": (
            *(nn.Conv2d(3, 3, 3, groups=3, padding=1), nn.SiLU(), nn.Conv2d(3, 6, 1)),
            *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
            (3, 8, 8),
        ),
        "raw": (
            sentei.Standardise(torch.tensor([[[9.0]], [[-0.5]]]), torch.tensor([[[4.0]], [[0.1]]])),
            *(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(96, 3),),
            (2, 8, 8),
        ),
        "residual": (Residual(), (2, 9, 10)),
        "gru": (Steps(), (3, 25)),
        "lstm": (Steps(nn.LSTM, 2), (3, 25)),
    }


def masked(name, dead):
    """Return a network with dead synapses in each layer, its mask, and inputs."""
    *layers, shape = networks()[name]
    network = (layers[0] if len(layers) == 1 else nn.Sequential(*layers)).eval()
    links = sentei.find_synapses(network)
    chosen = {g: torch.randperm(g.size)[: int(g.size * dead)] for g in links}
    mask = Mask.full(links).without(chosen)
    mask.apply_(network)
    return network, mask, torch.randn(100, *shape)
