"""A bad call is refused by name before anything changes: every public name, every argument.

`good_calls.py` has a good call of each name; here every argument in turn is replaced by every wrong
thing. `accepted_calls.txt` lists the wrong things that an argument may be after all.
"""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sentei
from good_calls import Call, World, fill, good_call, public

SOURCE = str(Path(sentei.__file__).parent)
TABLE = Path(__file__).with_name("accepted_calls.txt").read_text().splitlines()
ACCEPTED = {name: set(things.split()) for name, things in (each.split(": ") for each in TABLE)}
READ_MUCH = {"datasets.mnist", "datasets.letter"}  # seconds for each call that is not refused
# What a message may call an argument.
OTHER_WORDS = {
    "evaluate": "data",
    "learn": "data",
    "samples": "data",
    "units": "members",
    "unit": "members",
    "mask": "group",
    "group": "group",
    "model": "network|weight",
    "network": "network|weight",
    "small": "network",
    "original": "masked",
    "into": "file",
    "path": "file|ending|run folder",
    "journal": "run folder",
    "kept": "positions",
    "like": "tensor",
    "regression": "number",
    "groups": "units",
}
USERS_OWN = ("of", "judge")  # functions that are called, and that raise errors of their own


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
    networks = (w.model, w.copy)
    modules = [module for network in networks for module in network.modules()]
    parameters = [p for network in networks for p in network.parameters()]
    held = [*parameters, *(p.grad for p in parameters if p.grad is not None)]
    held += [each for of in w.optimizer.state.values() for each in of.values()]
    held += [each for of in w.trajectory._record.values() for each in of.values()]
    return [
        [tensor.detach().numpy().tobytes() for tensor in held],
        [(type(m), m.training, len(m._forward_hooks), len(vars(m))) for m in modules],
        [len(getattr(p, "_post_accumulate_grad_hooks", None) or ()) for p in parameters],
        (torch.get_rng_state().numpy().tobytes(), random.getstate()),
        [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(w.folder)],
        (w.probe.mask, w.pruner.mask, w.pruner.updates, w.tuner.epoch, w.stalled.before),
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


def unclear(error: Exception | None, name: str, argument: str, value: object) -> str:
    """Return what is wrong with a refusal; nothing if it is clear."""
    message = str(error)
    if error is None:
        return "is accepted, and the table does not say so"
    if not isinstance(error, (sentei.PruningError, TypeError, ValueError)):
        return f"raw {type(error).__name__}: {message}"
    if argument in USERS_OWN:
        return ""
    if not innermost(error).startswith(SOURCE):
        return f"raised in {innermost(error)}: {message}"
    known = [argument.strip("_"), *name.split("."), repr(value), type(value).__name__]
    known += OTHER_WORDS.get(argument, argument).split("|")
    if " " not in message or not any(word in message for word in known):
        return f"names neither argument nor function nor value: {message}"
    return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("files")
    fill(made)
    return made


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a text is a good name of a file


@pytest.mark.parametrize("name", sorted(public()))
def test_wrong_things_are_refused_by_name(name, folder):
    w = World(folder)
    call, things, before = good_call(name, w), wrong_things(w), state(w)
    found: list[str] = []
    for argument in call.arguments:
        accepted = ACCEPTED.get(f"{name}.{argument}", set())
        for thing in [each for each in things if each not in accepted]:
            error = refusal(call.but(argument, things[thing]))
            if why := unclear(error, name, argument, things[thing]):
                found.append(f"{argument}={thing}: {why}")
        if state(w) != before:
            found.append(f"{argument}: a refused call changed something")
            w = World(folder)
            call, things, before = good_call(name, w), wrong_things(w), state(w)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", sorted(public().keys() - READ_MUCH))
def test_good_calls_are_good_and_the_table_is_true(name, folder):
    w = World(folder)
    call, before = good_call(name, w), state(w)
    assert refusal(call) is None
    for argument in call.arguments:
        for thing in sorted(ACCEPTED.get(f"{name}.{argument}", ())):
            if state(w) != before:
                w = World(folder)
                call = good_call(name, w)
            error = refusal(call.but(argument, wrong_things(w)[thing]))
            assert error is None, f"{argument}={thing}: {error}"


def test_the_table_is_of_public_names_and_there_are_thousands_of_calls(folder):
    w = World(folder)
    calls = {name: good_call(name, w) for name in public()}
    arguments = {f"{name}.{each}" for name, call in calls.items() for each in call.arguments}
    assert ACCEPTED.keys() <= arguments
    assert len(arguments) * len(wrong_things(w)) > 9000
