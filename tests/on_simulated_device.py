"""Checks of networks on a simulated device, which `test_devices.py` runs in a process of its own.

torch counts devices before the first backward pass of a process: this one has to be there by then.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import chdir, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sentei
from sentei import cli, devices
from sentei.criteria import CRITERIA, REPAIRS
from simulated_device import NAME, copies, simulated

ROWS = 60
CHECKS: dict[str, Callable[[], object]] = {}
LONG: dict[str, Callable[[], object]] = {}  # those that take longer


def check(function):
    """Add a function to the checks."""
    CHECKS[function.__name__] = function
    return function


def long_check(function):
    """Add a function to the checks that take longer."""
    LONG[function.__name__] = function
    return function


class Encoder(nn.Module):
    """A layer of a transformer, and a head over all positions."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        """(n, positions, 8) -> (n, 3)."""
        return self.head(self.layer(x).mean(1))


def chain():
    """A network whose rest is a plain chain behind every layer."""
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def convolutional():
    """A convolutional network."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(5 * 4, 6), nn.ReLU(), nn.Linear(6, 3)),
    )


SHAPES = {chain: (6,), convolutional: (1, 6, 6), Encoder: (4, 8)}


def made(make, device):
    """Return a network on a device, and samples on the CPU."""
    torch.manual_seed(0)
    data = torch.randn(ROWS, *SHAPES[make]), torch.arange(ROWS) % 3
    return make().eval().to(device), data


def outcomes(make, device):
    """Return what criteria and repairs give for a network on a device, or why they give nothing."""
    model, data = made(make, device)
    units, synapses = sentei.find_units(model, data[0]), sentei.find_synapses(model)
    probe = sentei.Probe(model, data)
    asked: dict[str, Callable[[], Any]] = {}
    for name in CRITERIA:
        for groups in (units, synapses):
            asked[f"{name} {type(groups[0]).__name__}"] = lambda name=name, groups=groups: [
                sentei.criteria.scores(name, probe, group) for group in groups
            ]
    for name, repair in REPAIRS.items():
        asked[f"repair {name}"] = lambda repair=repair: [*mixed(repair, probe, units[-1])]
    found = {}
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except sentei.errors.PruningError as error:
            found[name] = str(error)
    return found


def mixed(repair, probe, group):
    """Yield what a repair mixes of the other units, for each listener."""
    yield from repair(probe, group, torch.tensor([0, 2]), sentei.Mask.full([group])).values()


def close(ours, theirs):
    """Return whether tensors are equal but for the order in which kernels add."""
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6, equal_nan=True)


def compare_outcomes(make):
    with simulated() as device:
        ours = outcomes(make, device)
    theirs = outcomes(make, "cpu")
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        if isinstance(wanted, str):
            assert ours[name] == wanted, name
        else:
            assert all(type(each) is torch.Tensor for each in ours[name]), name
            assert all(map(close, ours[name], wanted)), name
    assert any(not isinstance(wanted, str) for wanted in theirs.values())


@check
def scores_and_repairs_of_a_chain():
    compare_outcomes(chain)


@long_check
def scores_and_repairs_of_a_convolutional_network():
    compare_outcomes(convolutional)


@long_check
def scores_of_an_encoder():
    compare_outcomes(Encoder)


def pruned(make, device, repair):
    """Return the sizes, the loss and the outputs of what a run with retraining leaves."""
    model, data = made(make, device)
    groups, probe = sentei.find_units(model, data[0]), sentei.Probe(model, data)
    propose = sentei.ranked("ablation", sentei.linear("60 %", 2), repair=repair)
    retrain = sentei.FineTune(data, sentei.Recipe(epochs=1, batch_size=20))
    run = sentei.prune(model, groups, probe, propose, evaluate=data, retrain=retrain)
    *_, last = run
    small = sentei.shrink(last.network(), last.mask, data[0])
    sentei.certify(last.network(), small, data[0], mask=last.mask)
    assert types(small) == {torch.device(device).type}
    with tempfile.TemporaryDirectory() as folder:
        sentei.save(small, Path(folder, "small.safetensors"))
        saved = sentei.load(Path(folder, "small.safetensors"), make())
    assert types(saved) == {"cpu"}
    return [tuple(each.shape) for each in saved.parameters()], last.measured.loss, saved(data[0])


def types(model):
    """Return the types of the devices that a network is on."""
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


@long_check
def runs_with_repairs_and_retraining():
    for make, repair in ((convolutional, "least_squares"), (Encoder, None)):
        with simulated() as device:
            sizes, loss, outputs = pruned(make, device, repair)
        wanted = pruned(make, "cpu", repair)
        assert sizes == wanted[0]
        assert abs(loss - wanted[1]) < 1e-5
        assert close(outputs, wanted[2])


@check
def copies_to_the_cpu_do_not_grow_with_units():
    with simulated() as device:
        few, many = (copied(width, device) for width in (4, 16))
    assert few == many


def copied(width, device):
    """Return how many copies to the CPU each criterion makes to score the units of a layer."""
    data = torch.randn(ROWS, 6), torch.arange(ROWS) % 3
    model = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3)).to(device)
    groups = [*sentei.find_units(model, data[0]), *sentei.find_synapses(model)]
    probe = sentei.Probe(model, data)
    probe.loss()
    found = {}
    for criterion in CRITERIA:
        copies.clear()
        for group in groups:
            with suppress(sentei.errors.CriterionError):
                sentei.criteria.scores(criterion, probe, group)
        found[criterion] = copies.total()
    return found


NET = ["net.safetensors", "--data", "data.csv"]
LINES = {
    "train": ["data.csv", "--model", "6-5-4-3", "--epochs", "1", "--out", "net.safetensors"],
    "prune": [*NET, "--units-at-most", "6", "--journal", "run", "--retrain-epochs", "1"],
    "prune --resume": [*NET, "--units-at-most", "5", "--journal", "run", "--retrain-epochs", "1"],
    "fit": [*NET, "--budget", "150 B", "--paths", "both", "--out", "net.c"],
    "rank": [*NET, "--against", "taylor2"],
    "surface": [*NET, "--points", "3"],
    "tidy": NET,
    "compare": [*NET, "--criteria", "magnitude", "--steps", "1", "--seeds", "1", "--retrain", "1"],
    "explain": NET,
    "export": [*NET, "--format", "c-int8-int8"],
    "train --teacher net.safetensors": ["data.csv", "--model", "6-4-3", "--epochs", "1"],
}


def table():
    """Write a table of three classes."""
    torch.manual_seed(0)
    lines = [",".join([*map(str, range(6)), "label"])]
    for at, row in enumerate(torch.randn(90, 6).tolist()):
        label = "third" if at < 3 else str(row[0] > 0)
        lines.append(",".join([*(f"{value:.3f}" for value in row), label]))
    Path("data.csv").write_text("\n".join(lines) + "\n")


@check
def commands_run_on_the_device_they_are_given():
    with tempfile.TemporaryDirectory() as folder, chdir(folder), simulated():
        table()
        answer(["train", *LINES["train"], "--device", "auto"])
        for line, moves in ((["rank", *NET, "--device", NAME], True), (["rank", *NET], False)):
            copies.clear()
            answer(line)
            assert bool(copies.total()) is moves


@long_check
def every_command_answers_as_on_the_cpu():
    found = {}
    for where in ("cpu", NAME):
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            table()
            with simulated() if where == NAME else nullcontext():
                for command, line in LINES.items():
                    found[command, where] = answer([*command.split(), *line, "--device", where])
    for command in LINES:
        same(found[command, NAME], found[command, "cpu"], command)


def answer(given):
    """Run a command; return its object."""
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as ended:
        cli.main([*given, "--json", "--quiet"])
    assert not ended.value.code, (given, out.getvalue())
    return json.loads(out.getvalue())


def same(ours, theirs, where):
    """Check that two objects are alike: numbers to rounding; times may be others."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours.keys() - {"latency", "batch_latency", "certificate"}:
            same(ours[key], theirs[key], f"{where}: {key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other, where)
    elif isinstance(ours, float):
        assert abs(ours - theirs) <= 1e-4 * max(1, abs(theirs)), (where, ours, theirs)
    else:
        assert ours == theirs, where


@check
def a_device_that_is_not_there_is_refused():
    with simulated():
        assert devices.available() == ["cpu", NAME]
        assert devices.named("auto").type == NAME
        assert devices.named("cpu").type == "cpu"
        assert devices.named(f"{NAME}:0") == torch.device(NAME, 0)
        assert devices.named(NAME, number=3) == torch.device(NAME, 0)  # a fourth rank, one device
        for wrong in (f"{NAME}:1", f"{NAME}:x", "cuda", "nonsense", ""):
            with pytest.raises(ValueError, match="there is cpu, simulated, or auto"):
                devices.named(wrong)


def main():
    """Print why each check fails, as one JSON object; None where it does not."""
    with simulated():
        pass
    found = {}
    for name, function in (LONG if "long" in sys.argv else CHECKS).items():
        try:
            function()
            found[name] = None
        except Exception:
            found[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
