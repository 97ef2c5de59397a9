"""Residual branches removed while a network trains: deleted, resumed, averaged."""

import copy

import pytest
import torch
from torch import nn

import sentei
from sentei.network.zeros import stand_ins

X, Y = torch.randn(32, 6, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3
STEPS = 24


class Residual(nn.Module):
    """Four branches; a layer scale of the second belongs to no module that goes with it."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 8))
            for _ in range(4)
        )
        self.scale = nn.Parameter(torch.full((8,), 0.3))

    def forward(self, x):
        x = self.stem(x)
        for at, part in enumerate(self.parts):
            x = x + (self.scale * part(x) if at == 1 else part(x))
        return self.head(x)


def made():
    torch.manual_seed(1)
    model = Residual()
    for at in (1, 2):
        model.parts[at][3].weight.data *= 0.01
    return model


def adam(model):
    return torch.optim.AdamW(model.parameters(), 0.01)


def groups_of(model, what):
    found = sentei.find_units(model, X[:2], depth=True)
    branches = [group for group in found if group.kind == "branch"]
    synapses = [s for s in sentei.find_synapses(model) if s.name.startswith("parts")]
    return {"branches": branches, "units": found, "synapses": [*branches, *synapses]}[what]


def pruner_of(model, what, *, delete=True, **settings):
    propose = sentei.ranked("magnitude", sentei.linear("50 %", 2), within="group")
    settings = {"every": 8, "total": STEPS, "delete": delete, "example": X[:2], **settings}
    return sentei.PruneWhileTraining(model, groups_of(model, what), propose, **settings)


def train(model, optimizer, first, last, average=None):
    for step in range(first, last):
        torch.manual_seed(step)
        at = torch.randint(0, 32, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[at]), Y[at]).backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(model)


def test_deleted_training_is_masked_training():
    trained = []
    for delete in (False, True):
        model = made()
        optimizer = adam(model)
        pruner = pruner_of(model, "branches", delete=delete).attach(optimizer)
        train(model, optimizer, 0, STEPS)
        pruner.detach()
        trained.append((model, optimizer, pruner))
    (masked, _, left), (small, optimizer, right) = trained
    assert left.mask.count(left.groups[0]) == right.groups[0].size == 2
    assert torch.allclose(masked(X), small(X), atol=1e-6)
    assert left.mask.groups[0].names != right.groups[0].names
    assert len(stand_ins(small)) >= 2
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in small.parameters()}
    assert {id(p) for p in optimizer.state} <= owned
    assert right.emptied == {}


@pytest.mark.parametrize("what", ["branches", "units", "synapses"])
@pytest.mark.parametrize("stop", [5, 12, 19])
def test_a_run_goes_on_from_its_state_after_branches_were_deleted(what, stop, tmp_path):
    straight = made()
    optimizer = adam(straight)
    whole = pruner_of(straight, what).attach(optimizer)
    train(straight, optimizer, 0, STEPS)

    stopped = made()
    optimizer = adam(stopped)
    before = pruner_of(stopped, what).attach(optimizer)
    train(stopped, optimizer, 0, stop)
    path = tmp_path / "net.safetensors"
    sentei.save(stopped, path)
    kept = optimizer.state_dict(), before.state_dict()
    before.detach()

    again = sentei.load(path, into=made())
    again.train()
    optimizer = adam(again)
    optimizer.load_state_dict(kept[0])
    resumed = pruner_of(again, what)
    resumed.load_state_dict(kept[1])
    resumed.attach(optimizer)
    train(again, optimizer, stop, STEPS)
    assert resumed.mask == whole.mask
    assert stand_ins(again) == stand_ins(straight) != {}
    for name, value in straight.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_an_average_of_the_weights_loses_the_same_branches():
    model = made()
    optimizer, average = adam(model), torch.optim.swa_utils.AveragedModel(model)
    pruner = pruner_of(model, "branches", companions=[average]).attach(optimizer)
    train(model, optimizer, 0, STEPS, average)
    pruner.detach()
    assert stand_ins(average.module) == stand_ins(model) != {}
    assert average(X).isfinite().all()


def test_all_branches_may_go_and_the_run_goes_on():
    model = made()
    optimizer = adam(model)
    (branches,) = groups_of(model, "branches")
    propose = sentei.ranked("magnitude", sentei.one_shot(0))
    pruner = sentei.PruneWhileTraining(
        model, [branches], propose, every=4, delete=True, example=X[:2]
    ).attach(optimizer)
    before = copy.deepcopy(model)
    train(model, optimizer, 0, STEPS)
    assert pruner.groups == []
    assert pruner.emptied == {"branch": 4}
    with torch.no_grad():
        assert not torch.equal(before(X), model(X))
        assert torch.allclose(model(X), model.head(model.stem(X)))
