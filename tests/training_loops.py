"""A user's own training loop: a small network, optimizers of every kind, and updates."""

import copy

import torch
from torch import nn

from sentei import linear, ranked

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "sgd-foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adam-foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, rho=0.95, eps=1e-8),
}

_random = torch.Generator().manual_seed(5)
X = torch.randn(60, 6, generator=_random, dtype=torch.float64)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()


def network(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 2)
    ).double()


def train(model, optimizer, updates=40, clip=None, accumulate=1, before=lambda x, y: None):
    for update in range(updates):
        optimizer.zero_grad()
        for part in range(accumulate):
            rows = torch.arange(part, 60, accumulate).roll(update)
            before(X[rows], Y[rows])
            (nn.functional.cross_entropy(model(X[rows]), Y[rows]) / accumulate).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def states(*parts):
    return copy.deepcopy([part.state_dict() for part in parts])


def restore(saved, *parts):
    for part, state in zip(parts, saved, strict=True):
        part.load_state_dict(state)


def falling(keep="40 %", steps=4):
    return ranked("magnitude", linear(keep, steps))
