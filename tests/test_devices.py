"""Devices: what a network on one gives, which there are, and what their free memory bounds.

The device of most tests is simulated: they see where tensors are and go. On a real one, if there is
one, runs `test_accelerator.py`.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import on_simulated_device
import sentei
from sentei import devices


@pytest.fixture(scope="module")
def checked():
    """Return a function that returns why each check on the simulated device failed, or None."""

    @cache
    def run(*which):
        line = [sys.executable, Path(on_simulated_device.__file__), *which]
        ran = subprocess.run(line, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return run


@pytest.mark.parametrize("name", on_simulated_device.CHECKS)
def test_on_a_simulated_device(checked, name):
    assert checked()[name] is None, checked()[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", on_simulated_device.LONG)
def test_on_a_simulated_device_at_length(checked, name):
    assert checked("long")[name] is None, checked("long")[name]


@pytest.fixture
def gpu(monkeypatch):
    """Return a GPU of which torch says that 8 GiB are free, and 2 GiB more of torch's own."""
    said = {"mem_get_info": (8 << 30, 80 << 30), "memory_reserved": 3 << 30}
    for name, value in (said | {"memory_allocated": 1 << 30}).items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    return torch.device("cuda", 0)


def test_bounds_follow_the_free_memory_of_a_gpu(gpu):
    assert devices.free_memory(gpu) == 10 << 30
    assert devices.room(gpu, 7, 1 / 2) == 4 << 30  # the power of two below 5 GiB
    assert devices.room(gpu, 7, 1 / 80) == 1 << 27
    assert devices.room(gpu, 7, 0) == 1
    assert devices.free_memory(torch.device("cpu")) is None
    assert devices.room(torch.device("cpu"), 7, 1 / 2) == 7


@pytest.mark.parametrize(
    ("memory", "free", "most"),
    [(None, None, 1 << 30), ("6 MiB", None, 3 << 20), (None, 5, 5), ("6 MiB", 5, 5)],
)
def test_a_probe_records_as_much_as_is_free(monkeypatch, memory, free, most):
    room = lambda device, otherwise, part: otherwise if free is None else free  # noqa: E731
    monkeypatch.setattr("sentei.probe.probe.room", room)
    probe = sentei.Probe(nn.Linear(3, 2), (torch.randn(5, 3), torch.arange(5) % 2), memory=memory)
    assert probe._recorded == most


def test_a_device_without_float64_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="float64, which the device 'mps' does not have"):
        devices.named("mps")
    monkeypatch.setattr(devices, "_WITHOUT_FLOAT64", ("cpu",))
    with pytest.raises(sentei.errors.StructureError, match="float64, which the device 'cpu'"):
        sentei.Probe(nn.Linear(3, 2), (torch.randn(5, 3), torch.arange(5) % 2))


def test_random_states_are_kept_and_seeded():
    before = devices.random_states()[0]
    with devices.random_kept([torch.device("cpu")]):
        devices.seed_(3)
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with devices.random_kept([]):
        torch.manual_seed(3)
        assert torch.equal(torch.rand(2), first)
    with devices.seeded(3):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_source_seeds_devices_that_are_not_in_use():
    sources = Path(sentei.__file__).parent.rglob("*.py")
    calls = [path for path in sources if "torch.manual_seed(" in path.read_text()]
    assert not calls


def test_no_seed_is_left_for_devices_that_are_not_in_use(monkeypatch):
    """torch.manual_seed keeps it, and formats the call's stack each time."""
    monkeypatch.setattr(torch, "manual_seed", None)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    rows = torch.linspace(-1, 1, 15).view(5, 3)
    loader = torch.utils.data.DataLoader([(row, i % 2) for i, row in enumerate(rows)], 2)
    probe = sentei.Probe(model, loader)
    [group] = sentei.find_units(model, rows)
    mask = sentei.Mask.full([group]).without({group: [1]})
    mask.apply_(model)
    sentei.certify(model, sentei.shrink(model, mask, rows), rows, mask=mask)
    sentei.train(model, (rows, torch.arange(5) % 2), sentei.Recipe(epochs=1))
    assert probe.loss() == sentei.Probe(model, loader).loss()
