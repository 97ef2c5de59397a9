"""Small pruning runs: sixty samples, a network trained on them, a retrainer with state."""

import time

import torch
from torch import nn

from hand import hidden, mlp
from sentei import Probe, loss_within, one_at_a_time, prune, ranked

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(3))
Y = (X.sum(1) > 0).long()


def trained(*widths, seed=0):
    model = mlp(*widths, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    model.zero_grad()
    return model


class Nudge:
    """A retrainer with state: each call trains a little with one optimizer."""

    def __init__(self, model):
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        self.calls = 0

    def __call__(self, model, mask):
        self.calls += 1
        for _ in range(3):
            self.optimizer.zero_grad()
            x = X[torch.randperm(60)[:20]]
            nn.functional.cross_entropy(model(x), (x.sum(1) > 0).long()).backward()
            self.optimizer.step()
            mask.hold_(model, self.optimizer)
        self.optimizer.zero_grad()

    def state_dict(self):
        return {"optimizer": self.optimizer.state_dict(), "calls": self.calls}

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state["optimizer"])
        self.calls = state["calls"]


def pruned(folder, resume=False, slowly=0.0, stop_after=None, seed=0):
    """Run pruning with retraining, which draws random numbers in every step."""
    torch.manual_seed(seed)
    model = trained(4, 8, 2)
    torch.manual_seed(seed + 1)
    run = prune(
        model,
        hidden(model),
        Probe(model, (X, Y)),
        ranked("ablation", one_at_a_time()),
        keeping=loss_within(0.3),
        retrain=Nudge(model),
        journal=folder,
        resume=resume,
    )
    steps = []
    for step in run:
        steps.append(step)
        time.sleep(slowly)
        if stop_after is not None and step.number == stop_after:
            break
    return model, steps
