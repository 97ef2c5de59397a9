"""`PruningCallback` in transformers' Trainer: masked, deleted, resumed with the same bits."""

import json
import os
import shutil

import pytest
import torch
from torch import nn

from sentei import Probe, find_synapses, find_units, linear, ranked
from sentei.errors import CriterionError, StructureError

os.environ["HF_HUB_OFFLINE"] = "1"

from hugging_face import WORDS, build, inner_units, transformers
from sentei.integrations.json_state import from_json, to_json
from sentei.integrations.transformers import (
    PruningCallback,
    from_pretrained,
    save_pretrained,
)
from sentei.network.zeros import stand_ins

pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
pytestmark = pytest.mark.filterwarnings("ignore")  # what other packages warn of is not ours

ROWS = [{"input_ids": row, "labels": row.flip(0)} for row in WORDS["input_ids"]] * 8
HALF = {"every": 4, "total": 8}  # two proposals, after four and eight updates


def half(groups=None, **settings):
    propose = ranked("magnitude", linear("50 %", 2), within="group")
    return PruningCallback(propose, groups, **{**HALF, **settings})


class Interrupt(transformers.TrainerCallback):
    """Raises an exception after an update, as a user who stops a process does."""

    def __init__(self, after):
        self.after = after

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.after:
            raise KeyboardInterrupt


def trainer(model, folder, *callbacks, rows=ROWS, **settings):
    settings = {"max_steps": 12, "save_steps": 6, "learning_rate": 0.01, **settings}
    arguments = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=2, gradient_accumulation_steps=2, use_cpu=True,
        report_to=[], disable_tqdm=True, logging_strategy="no", seed=1, **settings,
    )  # fmt: skip
    return transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[*callbacks])


def units(model):
    return inner_units(model, WORDS)


def branches(model):
    return [group for group in find_units(model, WORDS, depth=True) if group.kind == "branch"]


def units_and_branches(model):
    return [*units(model), *branches(model)]


DELETED = {"delete": True, "example": WORDS}
WAYS = {
    "synapses": (find_synapses, {}),
    "units": (units, {}),
    "deleted": (units, DELETED),
    "branches": (branches, DELETED),
    "both": (units_and_branches, DELETED),
}


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("llama", "deleted"),
        *(slow(name, "branches") for name in ("llama", "gpt2")),
        *(slow("llama", way) for way in ("synapses", "units", "both")),
        *(slow("gpt2", way) for way in ("units", "synapses", "deleted")),  # tied weights
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(name, way, tmp_path):
    groups, settings = WAYS[way]
    dropout = {"attention_dropout": 0.1} if name == "llama" else {}
    whole, _ = build(name, **dropout)
    full = {n: p.numel() for n, p in whole.named_parameters()}
    straight = half(groups, **settings)
    trainer(whole, tmp_path / "whole", straight, save_strategy="no").train()
    assert (straight.pruner.updates, straight.pruner.events) == (12, 2)

    stopped, _ = build(name, **dropout)
    with pytest.raises(KeyboardInterrupt):
        trainer(stopped, tmp_path / "run", half(groups, **settings), Interrupt(7)).train()
    again, _ = build(name, **dropout)
    resumed = half(groups, **settings)
    trainer(again, tmp_path / "run", resumed).train(resume_from_checkpoint=True)
    assert (resumed.pruner.updates, resumed.pruner.events) == (12, 2)
    assert resumed.pruner.mask == straight.pruner.mask
    weights = whole.state_dict()
    assert weights.keys() == again.state_dict().keys()
    for weight, value in again.state_dict().items():
        assert torch.equal(value, weights[weight]), weight
    smaller = {n for n, p in again.named_parameters() if p.numel() < full[n]}
    assert bool(smaller) is (way in ("deleted", "both"))
    assert stand_ins(again) == stand_ins(whole)
    assert bool(stand_ins(again)) is (way in ("branches", "both"))
    assert not any(p._post_accumulate_grad_hooks for p in again.parameters())
    assert not again._load_state_dict_pre_hooks
    if settings:
        plain = (name, way) == ("llama", "deleted")
        assert save_pretrained(again, tmp_path / "small", WORDS).plain is plain
        found = from_pretrained(tmp_path / "small")
        again.eval()
        assert torch.equal(found(**WORDS).logits, again(**WORDS).logits)


def test_dead_weights_are_zero_after_every_update_and_in_every_checkpoint(tmp_path):
    model, _ = build("llama")
    callback = half()
    seen = []

    class Look(transformers.TrainerCallback):
        def on_step_end(self, *_, **__):
            pruner = callback.pruner
            for group in pruner.groups:
                weight = model.get_parameter(group.parameter).flatten()
                assert not weight[pruner.mask.dead(group)].any()
            seen.append(sum(len(pruner.mask.dead(group)) for group in pruner.groups))

    trainer(model, tmp_path, callback, Look()).train()
    size = sum(group.size for group in callback.pruner.groups)
    assert seen[2] == 0
    assert seen[3] == seen[6] == pytest.approx(size / 4, abs=len(callback.pruner.groups))
    assert seen[7] == seen[11] == pytest.approx(size / 2, abs=len(callback.pruner.groups))
    kept = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    state = from_json(kept["stateful_callbacks"]["PruningCallback"]["attributes"]["pruning"])
    assert state["updates"] == 6
    assert sum(map(len, state["dead"].values())) == seen[5]


def test_the_trainer_s_own_number_of_updates_is_the_total_and_epochs_are_known(tmp_path):
    model, _ = build("llama")
    callback = PruningCallback(
        ranked("magnitude", linear("50 %"), within="group"), every="1 epoch"
    )  # of four updates: sixteen rows, two at a time, accumulated twice
    trainer(model, tmp_path, callback, max_steps=-1, num_train_epochs=2).train()
    assert (callback.pruner.updates, callback.pruner.events) == (8, 2)
    assert callback.pruner.cadence.every == 4
    for group in callback.pruner.groups:
        assert callback.pruner.mask.count(group) == group.size // 2


def test_a_second_training_continues_and_another_model_starts_again(tmp_path):
    model, _ = build("llama")
    callback = half(units, total=16)
    trainer(model, tmp_path, callback, max_steps=5, save_strategy="no").train()
    dead = {g.name: callback.pruner.mask.dead(g).tolist() for g in callback.pruner.groups}
    assert any(dead.values())
    trainer(model, tmp_path, callback, max_steps=2, save_strategy="no").train()
    assert callback.pruner.updates == 7
    assert {g.name: callback.pruner.mask.dead(g).tolist() for g in callback.pruner.groups} == dead
    other, _ = build("llama")
    trainer(other, tmp_path, callback, max_steps=2, save_strategy="no").train()
    assert callback.pruner.updates == 2
    assert callback.pruner.model is other
    assert not any(callback.pruner.mask.dead(g).numel() for g in callback.pruner.groups)


def test_a_training_that_an_exception_ended_leaves_loaded_weights_alone(tmp_path):
    """The same Trainer resumes: the pruner of before knew of more dead weights than there are."""
    model, _ = build("llama")
    callback = half(units, total=16)
    run = trainer(model, tmp_path, callback, Interrupt(5), save_steps=3)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert any(callback.pruner.mask.dead(g).numel() for g in callback.pruner.groups)
    straight, _ = build("llama")
    other = half(units, total=16)
    trainer(straight, tmp_path / "other", other, save_strategy="no").train()
    run.callback_handler.pop_callback(Interrupt)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert callback.pruner.mask == other.pruner.mask
    for weight, value in straight.state_dict().items():
        assert torch.equal(model.state_dict()[weight], value), weight


def test_a_criterion_that_measures_needs_a_probe(tmp_path):
    propose = ranked("ablation", linear(by=2))
    for fits in (False, True):
        model, settings = Classifier(), {}
        x = torch.rand(8, 4)
        data = [{"x": row, "labels": i % 3} for i, row in enumerate(x)]
        if fits:
            settings = {"probe": Probe(model, (x, torch.arange(8) % 3), forward=logits)}
        groups = find_units(model, x, forward=logits)
        callback = PruningCallback(propose, groups, every=2, **settings)
        run = trainer(model, tmp_path, callback, rows=data, max_steps=4, save_strategy="no")
        if fits:
            run.train()
            assert callback.pruner.events == 2
        else:
            with pytest.raises(CriterionError, match="probe="):
                run.train()


class Classifier(nn.Module):
    """A network of the user's own, whose checkpoints are plain state_dicts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))

    def forward(self, x, labels=None):
        logits = self.net(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def logits(net, inputs):
    return net(inputs)["logits"]


def test_masked_training_is_the_training_of_the_smaller_network(tmp_path):
    x = torch.rand(16, 4, generator=torch.Generator().manual_seed(0)).double()
    data = [{"x": row, "labels": i % 3} for i, row in enumerate(x)]
    models = []
    for delete in (False, True):
        model = Classifier().double()
        groups = find_units(model, x, forward=logits)
        callback = half(groups, delete=delete, example=x, forward=logits)
        trainer(model, tmp_path, callback, rows=data, save_strategy="no").train()
        models.append(model)
    masked, small = models
    assert (masked.net[0].out_features, small.net[0].out_features) == (9, 5)
    assert torch.allclose(logits(masked, x), logits(small, x), rtol=0, atol=1e-12)
    assert not torch.allclose(logits(masked, x), logits(Classifier().double(), x), atol=1e-3)


def test_networks_of_one_s_own_resume_after_a_deletion(tmp_path):
    x = torch.rand(16, 4)
    data = [{"x": row, "labels": i % 3} for i, row in enumerate(x)]

    def found(net):
        return find_units(net, x, forward=logits)

    models = []
    for stop in (False, True):
        model, settings = Classifier(), {"delete": True, "example": x, "forward": logits}
        run = trainer(model, tmp_path / "run", half(found, **settings), rows=data)
        run.train()
        if stop:
            shutil.rmtree(tmp_path / "run" / "checkpoint-12")
            model = Classifier()
            run = trainer(model, tmp_path / "run", half(found, **settings), rows=data)
            run.train(resume_from_checkpoint=True)
        models.append(model)
    assert models[0].net[0].out_features == 5
    for name, value in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], value)


def test_arguments_with_which_it_cannot_work_are_refused_before_training(tmp_path):
    model, _ = build("llama")
    with pytest.raises(StructureError, match="restore_callback_states_from_checkpoint"):
        trainer(model, tmp_path, half(), restore_callback_states_from_checkpoint=True)
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 6}
    with pytest.raises(StructureError, match="load_best_model_at_end"):
        trainer_with_eval(model, tmp_path, half(units, **DELETED), **best)
    trainer_with_eval(model, tmp_path, half(), **best)
    with pytest.raises(StructureError, match="one PruningCallback"):
        trainer(model, tmp_path, half(), half(units)).train()
    with pytest.raises(TypeError, match="propose"):
        PruningCallback("magnitude")


def trainer_with_eval(model, folder, callback, **settings):
    arguments = transformers.TrainingArguments(
        str(folder), save_steps=6, use_cpu=True, report_to=[], **settings
    )
    return transformers.Trainer(
        model, arguments, train_dataset=ROWS, eval_dataset=ROWS, callbacks=[callback]
    )


def test_a_checkpoint_without_the_callback_starts_it_from_its_updates(tmp_path):
    model, _ = build("llama")
    trainer(model, tmp_path).train()
    again, _ = build("llama")
    shutil.rmtree(tmp_path / "checkpoint-12")
    callback = PruningCallback(ranked("magnitude", linear("50 %"), within="group"), every=3)
    trainer(again, tmp_path, callback).train(resume_from_checkpoint=True)
    assert (callback.pruner.updates, callback.pruner.events) == (6, 2)
    for group in callback.pruner.groups:
        assert callback.pruner.mask.count(group) == group.size // 2
    assert (tmp_path / "checkpoint-12").exists()


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "x"], 3: (1, (2,)), "n": float("inf")},
        torch.arange(6).view(2, 3),
        torch.randn(3, 0),
        torch.tensor([True, False, True]),
        torch.tensor(2.5, dtype=torch.bfloat16),
        {("a", 1): {"deep": [torch.randn(5, dtype=torch.float64)]}},
    ],
)
def test_states_survive_json(value):
    again = from_json(json.loads(json.dumps(to_json(value))))
    leaves, other = map(torch.utils._pytree.tree_leaves, (value, again))
    assert len(leaves) == len(other)
    for a, b in zip(leaves, other):
        assert type(a) is type(b)
        if isinstance(a, torch.Tensor):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert torch.equal(a, b)
        else:
            assert a == b
    assert torch.utils._pytree.tree_structure(value) == torch.utils._pytree.tree_structure(again)


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match=r"holds a Generator.*state_dict of the proposal"):
        to_json({"random": [torch.Generator()]})
