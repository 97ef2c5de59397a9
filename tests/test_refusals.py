"""A run that is refused, or fails before its first step, leaves everything as it was."""

import copy

import pytest
import torch

import hand
import sentei
from sentei import Mask, Probe, one_at_a_time, ranked

CRITERION = "magnitude"


def problem():
    torch.manual_seed(0)
    model = hand.mlp(4, 8, 3)
    data = torch.rand(64, 4), torch.randint(0, 3, (64,))
    (group,) = hand.hidden(model)
    return model, data, group


class Retrainer:
    """Counts its calls, as state."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model, mask):
        self.calls += 1

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def finished(folder):
    """Store a run of the problem in a folder."""
    model, data, group = problem()
    run = sentei.prune(
        model,
        [group],
        Probe(model, data),
        ranked(CRITERION, one_at_a_time()),
        until=sentei.units_at_most(4),
        mask=Mask.full([group]).without({group: [1, 2]}),
        journal=folder,
    )
    assert len(list(run)) > 1


def full_disk(monkeypatch):
    def fail(*_, **__):
        raise sentei.errors.FileError("no space left on the device")

    monkeypatch.setattr("sentei.storage.write", fail)


REFUSED = {
    "floor": ({"keeping": sentei.accuracy_at_least(1.0)}, sentei.BudgetError),
    "budget": ({"until": sentei.bytes_at_most(1)}, sentei.BudgetError),
    "more than there is": ({"until": sentei.units_at_most(100)}, sentei.BudgetError),
    "a run is there": ({"before": finished}, sentei.JournalError),
    "another run": (
        {"before": finished, "resume": True, "propose": ranked("random", one_at_a_time())},
        sentei.JournalError,
    ),
    "another floor": (
        {"before": finished, "resume": True, "keeping": sentei.loss_at_most(1e9)},
        sentei.JournalError,
    ),
    "another retrainer": (
        {"before": finished, "resume": True, "retrain": Retrainer()},
        sentei.JournalError,
    ),
    "another loss": (
        {"before": finished, "resume": True, "loss": "half_squared_error"},
        sentei.JournalError,
    ),
    "other samples": ({"before": finished, "resume": True, "rows": 63}, sentei.JournalError),
    "other judge": ({"before": finished, "resume": True, "judged": 63}, sentei.JournalError),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_run_changes_nothing(why, tmp_path):
    settings, error = copy.copy(REFUSED[why][0]), REFUSED[why][1]
    model, (x, y), group = problem()
    rows = settings.pop("rows", 64)
    probe = Probe(model, (x[:rows], y[:rows]), settings.pop("loss", "cross_entropy"))
    if judged := settings.pop("judged", 0):
        settings["evaluate"] = x[:judged], y[:judged]
    if before := settings.pop("before", None):
        before(tmp_path / "run")
    first = copy.deepcopy(model.state_dict())
    rises = probe.rises_without(group)
    known = Mask.full([group]).without({group: [0]})
    with torch.no_grad():
        model[2].weight[:, 0] = 0
        first["2.weight"][:, 0] = 0
    probe.update_(known)
    with pytest.raises(error):
        list(
            sentei.prune(
                model,
                [group],
                probe,
                settings.pop("propose", ranked(CRITERION, one_at_a_time())),
                mask=Mask.full([group]).without({group: [1, 2]}),
                journal=tmp_path / "run",
                **settings,
            )
        )
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    assert probe.mask == known
    again = probe.rises_without(group)
    assert again[0] == 0
    assert torch.isfinite(again).all()
    assert rises.shape == again.shape
    assert (again[1:3] != 0).all()


def damaged(folder):
    finished(folder)
    path = folder / "steps" / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("why", ["no space", "damage"])
def test_a_run_that_fails_at_its_first_step_changes_nothing(why, tmp_path, monkeypatch):
    model, data, group = problem()
    probe = Probe(model, data)
    if why == "damage":
        damaged(tmp_path / "run")
    first = copy.deepcopy(model.state_dict())
    run = sentei.prune(
        model,
        [group],
        probe,
        ranked(CRITERION, one_at_a_time()),
        mask=Mask.full([group]).without({group: [1, 2]}),
        journal=tmp_path / "run",
        resume=why == "damage",
    )
    if why == "no space":
        full_disk(monkeypatch)
    with pytest.raises(sentei.errors.PruningError):
        next(run)
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    assert probe.mask == Mask.full(())


def test_the_mask_of_a_probe_is_not_assigned():
    model, data, group = problem()
    with pytest.raises(AttributeError):
        Probe(model, data).mask = Mask.full([group])
