"""A bad call is refused by name before anything changes: every public name, every argument."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sentei
from good_calls import Call, World, fill, good_call, public

SOURCE = str(Path(sentei.__file__).parent)


def nothing():
    """Take no arguments."""


def wrong_things(w: World) -> dict[str, object]:
    return {
        "None": None,
        "True": True,
        "3": 3,
        "-1": -1,
        "2.5": 2.5,
        "nan": float("nan"),
        "'x'": "x",
        "bytes": b"x",
        "[]": [],
        "{}": {},
        "[None]": [None],
        "object": object(),
        "class": nn.ReLU,
        "function": nothing,
        "tensor": torch.ones(2, 3),
        "array": np.ones(3),
        "module": nn.ReLU(),
        "mask": w.other_mask,
        "group": w.other_groups[1],
    }


def state(w: World) -> list[object]:
    """Return everything that a bad call must leave as it is."""
    networks = [w.model, w.copy]
    held = [t for n in networks for t in (*n.state_dict().values(), *(p.grad for p in n.parameters()))]
    held += [v for each in w.optimizer.state.values() for v in each.values()]
    held += [v for v in w.trajectory.state_dict()["parameters"].values()] if 0 else []
    modules = [module for network in networks for module in network.modules()]
    return [
        [None if tensor is None else tensor.numpy().tobytes() for tensor in held],
        [(type(m), m.training, len(m._forward_hooks), sorted(vars(m))) for m in modules],
        [p.requires_grad for n in networks for p in n.parameters()],
        (torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[2]),
        [(p, p.stat().st_mtime_ns) for p in sorted(w.folder.rglob("*"))],
        (w.probe.mask, w.pruner.mask, w.pruner.updates, w.tuner.epoch),
    ]


def innermost(error: BaseException) -> str:
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename


def refusal(call: Call) -> Exception | None:
    """Return the error of a call; None if it is accepted."""
    try:
        done = call()
        if hasattr(done, "close"):
            done.close()
    except Exception as error:
        return error
    return None


def unclear(error: Exception, name: str, argument: str, value: object) -> str:
    """Return what is wrong with a refusal; nothing if it is clear."""
    message = str(error)
    if not isinstance(error, (sentei.PruningError, TypeError, ValueError)):
        return f"raw {type(error).__name__}: {message}"
    if not innermost(error).startswith(SOURCE):
        return f"raised in {innermost(error)}: {message}"
    known = (argument.strip("_"), *name.split("."), repr(value), type(value).__name__)
    if " " not in message or not any(word in message for word in known):
        return f"names neither argument nor function nor value: {message}"
    return ""
