"""A run is resumed only as the run that it is: each thing that changes a result is compared."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from hand import hidden, inputs, mlp
from random_runs import Nudge, X, Y, content, parts, pruned
from sentei import (
    JournalError,
    Mask,
    Probe,
    Trajectory,
    linear,
    loss_within,
    one_at_a_time,
    ranked,
    units_at_most,
)


class Scaled(nn.Module):
    """A layer of the user's own, with a setting that `repr` does not show and an unsaved buffer."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        self.scale = scale
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, x):
        return self.scale * torch.relu(x) + self.shift


class Squared(Scaled):
    def forward(self, x):
        return super().forward(x) ** 2


def middle(layer: nn.Module) -> dict:
    """The run's network with another activation."""
    model = mlp(4, 8, 2, act=nn.ReLU)
    model[1] = layer
    return of(model)


def of(model: nn.Module, data=(X, Y), loss="cross_entropy", trajectory=None) -> dict:
    return {
        "model": model,
        "groups": hidden(model),
        "probe": Probe(model, data, loss, trajectory),
        "retrain": Nudge(),
    }


def network() -> nn.Sequential:
    return mlp(4, 8, 2, act=nn.ReLU)


def frozen() -> nn.Sequential:
    model = network()
    model[2].bias.requires_grad_(False)
    return model


def recorded(updates: int) -> dict:
    model = network()
    trajectory = Trajectory(model)
    with torch.no_grad():
        model[0].bias += 1 if updates else 0
        if updates:
            trajectory()
            model[0].bias -= 1
            trajectory()
    return of(model, trajectory=trajectory)


def with_inputs(*order: int) -> dict:
    model = network()
    groups = [*hidden(model), inputs(4, "0")]
    return {**of(model), "groups": [groups[i] for i in order]}


def dead(*units: int, offered: tuple[int, ...] = (0,)) -> dict:
    given = with_inputs(0, 1)
    mask = Mask.full(given["groups"]).without({given["groups"][1]: list(units)})
    return {**given, "groups": [given["groups"][i] for i in offered], "mask": mask}


def turned() -> dict:
    given = of(network())
    (group,) = given["groups"]
    parts = tuple(replace(part, index=part.index.flip(0)) for part in group.listeners)
    return {**given, "groups": [replace(group, listeners=parts)]}


def own_loss(outputs, targets):
    return (outputs.argmax(1) != targets).float()


def mse(outputs, targets):
    return (outputs - nn.functional.one_hot(targets, 2)).square().mean(1)


def double() -> dict:
    """The run in float64."""
    model = network().double()
    return {**of(model, (X.double(), Y)), "retrain": None}


SHIFTED = (X + 1, Y)
# What is named, and the run there and here: functions that return changed arguments of `prune`.
CHANGES = {
    "proposal": ("propose", dict, lambda: {"propose": ranked("magnitude", one_at_a_time())}),
    "schedule": ("propose", dict, lambda: {"propose": ranked("ablation", linear(2, steps=3))}),
    "repair": ("propose", dict,
               lambda: {"propose": ranked("ablation", one_at_a_time(), repair="mean")}),
    "floor": ("keeping", lambda: {"keeping": loss_within(9.0)},
              lambda: {"keeping": loss_within(8.0)}),
    "no floor": ("keeping", lambda: {"keeping": loss_within(9.0)}, dict),
    "retrainer": ("retrain", dict, lambda: {"retrain": None}),
    "data": ("data", dict, lambda: of(network(), SHIFTED)),
    "order of the data": ("data", dict, lambda: of(network(), (X.flip(0), Y.flip(0)))),
    "evaluate": ("data", dict, lambda: {"evaluate": SHIFTED}),
    "other evaluate": ("data", lambda: {"evaluate": SHIFTED}, lambda: {"evaluate": (X + 2, Y)}),
    "loss": ("loss", dict, lambda: of(network(), loss=own_loss)),
    "own loss": ("loss", lambda: of(network(), loss=own_loss), lambda: of(network(), loss=mse)),
    "weights": ("weights", dict, lambda: of(mlp(4, 8, 2, act=nn.ReLU, seed=1))),
    "number type": ("weights", lambda: {**of(network()), "retrain": None}, double),
    "activation": ("network", dict, lambda: middle(nn.Tanh())),
    "slope": ("network", lambda: middle(nn.LeakyReLU(0.1)), lambda: middle(nn.LeakyReLU(0.2))),
    "own layer": ("network", lambda: middle(Scaled()), lambda: middle(Squared())),
    "setting": ("network", lambda: middle(Scaled()), lambda: middle(Scaled(2.0))),
    "unsaved buffer": ("network", lambda: middle(Scaled()), lambda: middle(Scaled(shift=1.0))),
    "frozen": ("network", dict, lambda: of(frozen())),
    "trajectory": ("trajectory", lambda: recorded(0), lambda: recorded(1)),
    "no trajectory": ("trajectory", lambda: recorded(1), lambda: of(network())),
    "groups": ("groups", dict, lambda: with_inputs(0, 1)),
    "order of groups": ("groups", lambda: with_inputs(0, 1), lambda: with_inputs(1, 0)),
    "slices": ("slices", dict, turned),
    "dead": ("dead", lambda: dead(1), lambda: dead(2)),
    "none dead": ("dead", lambda: dead(1), lambda: {**dead(1), "mask": dead()["mask"]}),
    "offered": ("may_be_cut", lambda: dead(1), lambda: dead(1, offered=(0, 1))),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_another_run_is_refused_by_name(tmp_path, what):
    name, there, here = CHANGES[what]
    pruned(tmp_path / "run", stop_after=2, **there())
    before = content(tmp_path / "run")
    with pytest.raises(JournalError, match=rf"holds another run: .*\b{name}\b.* differ") as refused:
        pruned(tmp_path / "run", resume=True, **here())
    assert "Name another folder" in str(refused.value)
    assert len(str(refused.value)) < 1200
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("what", CHANGES)
def test_the_same_run_is_resumed_with_equal_bytes(tmp_path, what):
    _, there, here = CHANGES[what]
    for side in (there, here):
        folder = tmp_path / side.__qualname__ / str(side is there)
        pruned(folder / "whole", stop_after=3, **side())
        pruned(folder / "parts", stop_after=1, **side())
        pruned(folder / "parts", stop_after=3, resume=True, **side())
        assert content(folder / "whole") == content(folder / "parts")


def test_where_the_run_ends_may_change(tmp_path):
    pruned(tmp_path / "run", until=units_at_most(6))
    _, steps = pruned(tmp_path / "run", until=units_at_most(4), resume=True)
    assert [step.number for step in steps] == [0, 1, 2, 3, 4]
    pruned(tmp_path / "whole", until=units_at_most(4))
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_everything_that_is_compared_is_tried(tmp_path):
    import json

    pruned(tmp_path / "run", stop_after=0)
    card = json.loads((tmp_path / "run" / "run.json").read_text())
    assert card.keys() - {"version", "checksum", "start"} == {
        name for name, _, _ in CHANGES.values()
    }


def test_what_was_given_is_as_before_when_a_run_is_refused(tmp_path):
    pruned(tmp_path / "run", stop_after=1)
    given = {**parts(), "propose": ranked("magnitude", one_at_a_time())}
    weights = copy.deepcopy(given["model"].state_dict())
    with pytest.raises(JournalError):
        pruned(tmp_path / "run", resume=True, **given)
    assert all(torch.equal(a, weights[n]) for n, a in given["model"].state_dict().items())
    assert given["retrain"].calls == 0
