"""A small pruning run with a retrainer that has a state and draws random numbers."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hand import hidden, mlp
from sentei import Probe, one_at_a_time, prune, ranked

torch.manual_seed(3)
X = torch.randn(60, 4)
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).long()


class Nudge:
    """A retrainer that moves every weight by a random step, and remembers the last one."""

    def __init__(self, size: float = 0.01):
        self.size, self.calls, self.last = size, 0, torch.zeros(1)

    def __call__(self, model: nn.Module, mask: Any) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                self.last = self.size * torch.randn_like(parameter)
                parameter.add_(self.last)
        mask.apply_(model)
        self.calls += 1

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "last": self.last, "best": float("inf")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls, self.last = state["calls"], state["last"]

    words = "Nudge"


def parts() -> dict[str, Any]:
    """The arguments of `prune` for the run."""
    torch.manual_seed(0)
    model = mlp(4, 8, 2, act=nn.ReLU)
    return {
        "model": model,
        "groups": hidden(model),
        "probe": Probe(model, (X, Y)),
        "propose": ranked("ablation", one_at_a_time()),
        "retrain": Nudge(),
    }


def pruned(folder: Any, stop_after: int | None = None, slowly: float = 0.0, **changed: Any) -> Any:
    """Run it, with some arguments changed; return the network and its steps."""
    given = {**parts(), **changed}
    steps, run = [], prune(**given, journal=folder)
    for step in run:
        steps.append(step)
        time.sleep(slowly)
        if step.number == stop_after:
            run.close()
            break
    return given["model"], steps


def content(folder: Any) -> dict[str, bytes]:
    """The files of a folder by their path in it."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
