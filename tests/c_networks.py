"""Networks that together have every kind of layer that C files hold, with dead synapses."""

import torch
from torch import nn

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
    }


def masked(name, dead):
    """Return a network with dead synapses in each layer, its mask, and inputs."""
    *layers, shape = networks()[name]
    network = nn.Sequential(*layers).eval()
    links = sentei.find_synapses(network)
    chosen = {g: torch.randperm(g.size)[: int(g.size * dead)] for g in links}
    mask = Mask.full(links).without(chosen)
    mask.apply_(network)
    return network, mask, torch.randn(100, *shape)
