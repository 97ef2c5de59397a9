"""Build and run the networks of `networks.py`, and say in one line why something failed."""

from __future__ import annotations

import copy
import dataclasses
import signal
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from networks_zoo import Build, Case, Forward
from sentei.errors import PruningError


@torch.no_grad()
def perturb_(model: nn.Module) -> None:
    """Change weights so that none hides a wrong cut: no zero matrices, biases or tiny scales."""
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        flat = parameter.numel() == max(parameter.shape, default=1)
        if not flat and float(parameter.std()) < 1e-3:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        elif flat and float(parameter.abs().max()) < 1e-3:
            parameter.normal_(std=0.1)
        elif flat:
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    for module in model.modules():
        if isinstance(module, _NormBase) and module.running_var is not None:
            assert module.running_mean is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)


def built(build: Build, seed: int = 0) -> Case:
    """Build a network with random, perturbed weights, in evaluation mode."""
    torch.manual_seed(seed)
    case = build()
    perturb_(case.model)
    case = dataclasses.replace(case, model=case.model.eval())
    with (
        torch.no_grad()
    ):  # weights that hooks compute, as the old weight norm does, get their values
        run(case.model, case)
    return case


def forward_of(case: Case) -> dict[str, Any]:
    """Return the argument `forward=` of sentei's functions, if the network needs one."""
    return {"forward": case.forward} if case.forward else {}


def run(model: nn.Module, case: Case, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Return all tensors that the network returns for the example, converted to a dtype."""
    torch.manual_seed(1)
    return leaves(called(model, copied(case.example, dtype), case.forward))


def called(model: nn.Module, example: Any, forward: Forward | None) -> Any:
    """Return what a network returns for an example."""
    if forward:
        return forward(model, example)
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def copied(value: Any, dtype: torch.dtype | None) -> Any:
    """Return a copy of an example with its floating-point tensors in a dtype."""
    if isinstance(value, Tensor):
        return value.clone().to(dtype if value.is_floating_point() else None)
    if isinstance(value, Mapping):
        return {name: copied(each, dtype) for name, each in value.items()}
    return tuple(copied(each, dtype) for each in value) if isinstance(value, tuple) else value


def leaves(value: Any) -> list[Tensor]:
    """Return all tensors in an output, however nested."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value) and not isinstance(value, Mapping):
        value = vars(value)
    if isinstance(value, Mapping):
        value = [*value.values()]
    return [t for each in value for t in leaves(each)] if isinstance(value, list | tuple) else []


@torch.no_grad()
def outputs(case: Case) -> list[Tensor]:
    """Return all tensors that a network returns for its example."""
    return run(copy.deepcopy(case.model), case)


def size(model: nn.Module) -> int:
    """Return the number of parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters())


def why(error: BaseException) -> str:
    """Return an error as one line; the place in sentei's source too, if it is not sentei's own."""
    text = " ".join(str(error).split())[:600]
    if isinstance(error, PruningError):
        return f"{type(error).__name__}: {text}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/sentei/" in f.filename]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so many seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
