"""What a step stores on disk, what undo and resume restore, and which runs are told apart."""

import copy
import gc
import json
import os
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from hand import hidden, mlp
from runs import Nudge, X, Y, trained
from sentei import (
    BudgetError,
    Cut,
    JournalError,
    Mask,
    Probe,
    find_synapses,
    fixed,
    levels,
    loss_at_most,
    loss_within,
    one_at_a_time,
    one_shot,
    prune,
    ranked,
    units_at_most,
)
from sentei.pruning.journal import Journal, note
from sentei.pruning.measuring import Measurement
from sentei.pruning.run_files import write_tensors
from sentei.pruning.step_files import Record, Snapshot

NUMBERS = {
    "accuracy": 0.5,
    "loss": 0.25,
    "units": 3,
    "synapses": 18,
    "parameters": 23,
    "bytes": 300,
}
MEASURED = Measurement.read(NUMBERS)


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stored(folder, number):
    """The tensors and the plain data of a step's file."""
    with safe_open(folder / "steps" / f"{number:05}.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(  # noqa: SIM118
            file.metadata()["sentei"]
        )


def opened(folder, model=None, **more):
    model = mlp(4, 3, 2) if model is None else model
    groups = [*hidden(model), *find_synapses(model)]
    return Journal.open(folder, model, Mask.full(groups), {"data": "d"}, **more), model, groups


def after(model, mask, retrain=None, propose=None, random=None, undone=0):
    """A snapshot of the model under a mask."""
    masked = copy.deepcopy(model)
    mask.apply_(masked)
    weights = {name: tensor.clone() for name, tensor in masked.state_dict().items()}
    return Snapshot(weights, retrain, propose, random, undone)


def plain(model, mask, retrain, propose):  # a proposal without state
    return None


def test_a_step_comes_back_as_it_was(tmp_path):
    journal, model, groups = opened(tmp_path / "run")
    units, first, second = groups
    mask = Mask.full(groups).without({units: [1], first: [0, 11]})
    removed = {units: torch.tensor([1]), first: torch.tensor([0, 11])}
    scores = {units: torch.tensor([0.2])}  # of what was removed
    ranks, every = {second: torch.arange(6)}, {second: torch.arange(6.0)}
    state = {
        "step": 3, "rate": 0.5, "name": "adam", "on": True, "none": None, 7: [1, (2.5, "x")],
        "inner": {"moment": torch.arange(4.0), "list": [torch.tensor([2])]}, "empty": {},
    }  # fmt: skip
    snapshot = after(model, mask, state, {"before": 0.75}, torch.get_rng_state(), 2)
    mixes = {"2.weight": torch.rand(1, 4)}
    counted = torch.tensor([[3, 5], [2, 4]])
    measured = Measurement.read(NUMBERS, counted)
    record = Record(1, mask, removed, measured, scores, mixes, ranks, every)
    journal.write(Record(0, Mask.full(groups), {}, MEASURED, {}), after(model, Mask.full(groups)))
    journal.write(record, snapshot)
    again, found = journal.read(1)
    assert (again.number, again.mask, again.measured) == (1, mask, MEASURED)
    assert {g: p.tolist() for g, p in again.removed.items()} == {units: [1], first: [0, 11]}
    assert all(positions.dtype == torch.int64 for positions in again.removed.values())
    assert {g: s.tolist() for g, s in again.scores.items()} == {
        g: s.tolist() for g, s in scores.items()
    }
    assert again.ranks[second].tolist() == again.all_scores[second].tolist() == [*range(6)]
    assert torch.equal(again.measured.by_class, counted)
    assert torch.equal(again.mixes["2.weight"], mixes["2.weight"])
    assert all(torch.equal(found.weights[name], t) for name, t in snapshot.weights.items())
    assert found.weights.keys() == snapshot.weights.keys()
    assert (found.undone, found.propose) == (2, {"before": 0.75})
    assert torch.equal(found.random, snapshot.random)
    moment, listed = found.retrain["inner"]["moment"], found.retrain["inner"]["list"]
    assert moment.tolist() == [0, 1, 2, 3]
    assert [t.tolist() for t in listed] == [[2]]
    assert {key: value for key, value in found.retrain.items() if key != "inner"} == {
        "step": 3, "rate": 0.5, "name": "adam", "on": True, "none": None, 7: [1, [2.5, "x"]],
        "empty": {},
    }  # fmt: skip
    first_record, first_found = journal.read(0)
    assert (first_record.removed, first_record.mixes) == ({}, {})
    assert first_record.measured.by_class is None
    assert (first_found.retrain, first_found.propose, first_found.random) == (None, None, None)
    network = journal.network(1)
    assert all(torch.equal(network.state_dict()[n], t) for n, t in snapshot.weights.items())
    for value in (again, found):
        with pytest.raises(FrozenInstanceError):
            value.mask = mask


def test_only_tensors_that_masking_does_not_explain_are_stored(tmp_path):
    journal, model, groups = opened(tmp_path / "run")
    mask = Mask.full(groups).without({groups[0]: [1]})
    journal.write(Record(0, Mask.full(groups), {}, MEASURED, {}), after(model, Mask.full(groups)))
    plainly, repaired = after(model, mask), after(model, mask)
    repaired.weights["2.bias"] += 1
    journal.write(Record(1, mask, {}, MEASURED, {}), plainly)
    journal.write(Record(2, mask, {}, MEASURED, {}), repaired)
    weights = [
        [name for name in stored(tmp_path / "run", number)[0] if name.startswith("weights/")]
        for number in range(3)
    ]
    assert weights == [[], [], ["weights/2.bias"]]
    assert torch.equal(journal.read(2)[1].weights["2.bias"], model[2].bias + 1)
    # Reading one step leaves nothing of it in another.
    assert torch.equal(journal.network(1)[2].weight, plainly.weights["2.weight"])
    assert torch.equal(journal.network(0)[2].weight, model[2].weight)


def test_a_state_that_cannot_be_stored_is_named_and_nothing_is_written(tmp_path):
    journal, model, groups = opened(tmp_path / "run")
    full = Mask.full(groups)
    before = files(tmp_path / "run")
    for state in ({"a": {"b": [1, object()]}}, {"a": {"b": [1, {2}]}}):
        with pytest.raises(JournalError, match=r"retrain/a/b/1 is a (object|set)"):
            journal.write(Record(0, full, {}, MEASURED, {}), after(model, full, state))
    with pytest.raises(JournalError, match="propose/f is a function"):
        journal.write(Record(0, full, {}, MEASURED, {}), after(model, full, None, {"f": plain}))
    assert files(tmp_path / "run") == before
    assert [*journal.records()] == []


def test_the_last_step_is_the_last_before_a_gap(tmp_path):
    journal, model, groups = opened(tmp_path / "run")
    full = Mask.full(groups)
    assert ([*journal.records()], journal.gap()) == ([], None)
    for number in range(5):
        journal.write(Record(number, full, {}, MEASURED, {}), after(model, full))
        assert [record.number for record in journal.records()] == [*range(number + 1)]
        assert journal.gap() is None
    (tmp_path / "run" / "steps" / "00002.safetensors").unlink()
    assert [record.number for record in journal.records()] == [0, 1]
    assert journal.gap() == "step 2 is missing, though step 4 is there"
    (tmp_path / "run" / "steps" / "00000.safetensors").unlink()
    assert [*journal.records()] == []
    assert journal.gap() == "step 0 is missing, though step 4 is there"
    with pytest.raises(JournalError, match="step 2"):
        journal.read(2)


def test_files_of_a_named_folder_are_on_disk_and_those_of_a_temporary_one_need_not_be(
    tmp_path, monkeypatch
):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(handle))
    journal, model, groups = opened(tmp_path / "run")
    assert len(synced) == 2  # start and card
    journal.write(Record(0, Mask.full(groups), {}, MEASURED, {}), after(model, Mask.full(groups)))
    assert len(synced) == 3
    temporary, model, groups = opened(None)
    temporary.write(Record(0, Mask.full(groups), {}, MEASURED, {}), after(model, Mask.full(groups)))
    assert len(synced) == 3


def test_a_temporary_folder_goes_with_the_last_step_that_refers_to_it():
    model = mlp(4, 3, 2)
    propose = ranked("magnitude", one_at_a_time())
    steps = list(prune(model, hidden(model), Probe(model, (X, Y)), propose))
    folder = steps[0].folder
    assert (folder / "run.json").exists()
    assert folder.name.startswith("sentei-")
    last = steps[-1]
    del steps
    gc.collect()
    assert last.network() is not None
    del last
    gc.collect()
    assert not folder.exists()


def test_a_journal_keeps_the_network_as_it_was_opened(tmp_path):
    """Pruning changes the model in place: what is stored must not change with it."""
    journal, model, groups = opened(tmp_path / "run")
    before = copy.deepcopy(model.state_dict())
    full = Mask.full(groups)
    journal.write(Record(0, full, {}, MEASURED, {}), after(model, full))
    with torch.no_grad():
        model[0].weight.zero_()
        journal.network(0)[0].bias.zero_()
    for name, tensor in journal.network(0).state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_folder_may_hold_the_remains_of_a_first_write_and_nothing_else(tmp_path):
    for name, others in {
        "empty": [], "part": [".start.safetensors.x.part"], "start": ["start.safetensors"],
        "both": [".run.json.y.part", "start.safetensors"],
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        for other in others:
            (tmp_path / name / other).write_bytes(b"half")
        journal, *_ = opened(tmp_path / name)
        assert {"run.json", "start.safetensors"} <= files(tmp_path / name).keys()
        assert journal.folder == tmp_path / name
    for name in (".x", "x.part", ".x.part.txt", "about.json", "steps"):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (folder / name).write_bytes(b"else")
        with pytest.raises(JournalError, match=r"holds files but no run\.json"):
            opened(folder)
        assert files(folder) == {name: b"else"}


def test_notes_are_written_once(tmp_path):
    opened(tmp_path / "run")
    note(tmp_path / "run", {"command": "prune", "classes": ["é"]})
    first = (tmp_path / "run" / "about.json").read_bytes()
    found = json.loads(first)
    assert len(found.pop("checksum")) == 64
    assert found == {"command": "prune", "classes": ["é"]}
    note(tmp_path / "run", {"command": "another"})
    assert (tmp_path / "run" / "about.json").read_bytes() == first


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t, a: t.update({"weights/2.bias": t["weights/2.bias"][:1]}), "weight '2.bias' has"),
        (
            lambda t, a: t.update({"weights/2.bias": t["weights/2.bias"][None]}),
            "weight '2.bias' ha",
        ),
        (
            lambda t, a: t.update({"weights/9.bias": torch.ones(2)}),
            "not hold the weights",
        ),
        (lambda t, a: t.pop("weights/2.bias"), "not hold the weights that it names"),
        (lambda t, a: t.update({"alive/0": torch.zeros(2, dtype=torch.uint8)}), "3 members need"),
        (lambda t, a: t.update({"alive/0": torch.zeros(1)}), "3 members need as many bits"),
        (lambda t, a: t.update({"removed/0": torch.tensor([1])}), "removed of '0' is alive"),
        (lambda t, a: t.update({"ranks/0": torch.tensor([1])}), "ranks of '0' have shape"),
        (lambda t, a: a.update({"number": 2}), "it holds step 2"),
        (lambda t, a: a.update({"undone": 1.0}), "1.0 is no number of steps"),
        (lambda t, a: a.update({"undone": True}), "True is no number of steps"),
        (lambda t, a: a["measured"].update({"loss": "low"}), "are no measurements"),
        (lambda t, a: a.pop("retrain"), "'retrain' is missing"),
        (lambda t, a: a.update({"retrain": {"tensor": "gone"}}), "'gone' is missing"),
    ],
)
def test_a_damaged_step_is_refused_with_the_reason(tmp_path, change, reason):
    journal, model, groups = opened(tmp_path / "run")
    full = Mask.full(groups)
    repaired = after(model, full)
    repaired.weights["2.bias"] += 1
    journal.write(Record(0, full, {}, MEASURED, {}), after(model, full))
    journal.write(Record(1, full, {}, MEASURED, {}), repaired)
    tensors, about = stored(tmp_path / "run", 1)
    change(tensors, about)
    path = tmp_path / "run" / "steps" / "00001.safetensors"
    del about["checksum"]
    write_tensors(path, tensors, about)
    journal.close()  # it knows the checksums of what it wrote; another reader does not
    journal, *_ = opened(tmp_path / "run", model, resume=True)
    with pytest.raises(JournalError, match=f"step 1 cannot be read from .*{reason}"):
        journal.read(1)
    assert journal.read(0)[0].mask == full


# Undo and resume.


class Remembers:
    """A retrainer whose state is changed in place, as an optimizer's moments are."""

    def __init__(self):
        self.log, self.total, self.inner = [], torch.zeros(1), {"n": 0}

    def __call__(self, model, mask):
        self.log.append(len(self.log))
        self.total += 1
        self.inner["n"] += 1

    def state_dict(self):
        return {"log": self.log, "total": self.total, "inner": self.inner}

    def load_state_dict(self, state):
        self.log, self.total, self.inner = state["log"], state["total"], state["inner"]


def test_a_snapshot_shares_nothing_with_what_it_was_taken_of():
    model, retrain = mlp(4, 3, 2), Remembers()
    retrain(model, None)
    snapshot = Snapshot.take(model, retrain, plain, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(2):  # restoring shares nothing either: it can be restored again
        retrain(model, None)
        with torch.no_grad():
            model[0].weight.add_(1)
        snapshot.restore_(model, retrain, plain)
        assert (retrain.log, retrain.total.item(), retrain.inner) == ([0], 1, {"n": 1})
        assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())
    assert (snapshot.undone, snapshot.propose) == (4, None)


def test_random_numbers_go_back_where_a_retrainer_may_draw_them_and_only_there():
    model, retrain = mlp(4, 3, 2), Remembers()
    torch.manual_seed(3)
    snapshot = Snapshot.take(model, retrain, plain, 0)
    drawn = torch.rand(3)
    snapshot.restore_(model, retrain, plain)
    assert torch.equal(torch.rand(3), drawn)
    torch.manual_seed(3)
    without = Snapshot.take(model, None, plain, 0)
    assert (without.random, without.retrain) == (None, None)
    drawn = torch.rand(3)
    without.restore_(model, None, plain)
    assert not torch.equal(torch.rand(3), drawn)


def test_every_undo_takes_back_all_that_was_retrained():
    """Several steps in a row are undone: each begins from the same state."""
    model, retrain = trained(4, 8, 2), Remembers()
    seen = []

    def propose(probe, groups, mask, progress):
        seen.append((progress.undone, len(retrain.log), retrain.total.item(), retrain.inner["n"]))
        return ranked("ablation", levels(10, 20, 30, then=one_at_a_time()))(
            probe, groups, mask, progress
        )

    probe = Probe(model, (X, Y))
    steps = list(
        prune(model, hidden(model), probe, propose, keeping=loss_within(0.02), retrain=retrain)
    )
    assert [undone for undone, *_ in seen[:4]] == [0, 1, 2, 3]
    for _, *state in seen[:4]:
        assert state == [0, 0, 0]
    kept = len(steps) - 1
    assert (len(retrain.log), retrain.total.item(), retrain.inner["n"]) == (kept, kept, kept)


def ladder(folder, resume=False, stop=None):
    """A run that undoes steps on its way, and how often it had done so at each proposal."""
    torch.manual_seed(0)
    model = trained(4, 12, 2)
    seen = []

    def counted(progress):
        seen.append(progress.undone)
        return levels(25, 50, 75, then=one_at_a_time())(progress)

    counted.words = "levels"  # pyright: ignore
    run = prune(
        model, hidden(model), Probe(model, (X, Y)), ranked("magnitude", counted),
        keeping=loss_within(0.1), retrain=Nudge(model), journal=folder, resume=resume,
    )  # fmt: skip
    steps = []
    for step in run:
        steps.append(step)
        if step.number == stop:
            break
    return steps, seen


def test_a_resumed_run_knows_how_often_it_was_undone(tmp_path):
    whole, seen = ladder(tmp_path / "whole")
    assert seen[0] == 0
    assert seen[-1] >= 2
    assert len(whole) > 2
    stop = whole[-2].number
    before = ladder(tmp_path / "parts", stop=stop)[1]
    assert max(before) > 0  # something was undone before it was stopped
    resumed, later = ladder(tmp_path / "parts", resume=True)
    assert later[:2] == [0, before[-1]]  # first the schedule is checked, before anything is read
    assert [step.mask for step in resumed] == [step.mask for step in whole]
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    undone = [stored(tmp_path / "whole", step.number)[1]["undone"] for step in whole]
    assert undone == sorted(undone)
    assert undone[0] == 0 < undone[-1]


def halved(folder, **resume):
    model = mlp(4, 8, 2)
    return prune(
        model, hidden(model), Probe(model, (X, Y)), ranked("magnitude", one_at_a_time()),
        until=units_at_most("50 %"), keeping=loss_within(0.5), journal=folder, **resume,
    )  # fmt: skip


def test_limits_of_a_resumed_run_are_those_of_its_start(tmp_path):
    """Half of the units at the start, not of those that were left when it was resumed."""
    assert [step.measured.units for step in halved(tmp_path / "whole")] == [8, 7, 6, 5, 4]
    run = halved(tmp_path / "parts")
    assert [next(run).measured.units for _ in range(3)] == [8, 7, 6]
    run.close()
    again = list(halved(tmp_path / "parts", resume=True))
    assert [step.measured.units for step in again] == [8, 7, 6, 5, 4]
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    ended = list(halved(tmp_path / "parts", resume=True))
    assert [step.number for step in ended] == [0, 1, 2, 3, 4]


def test_a_run_is_resumed_only_where_that_is_asked_for(tmp_path):
    assert len(list(halved(tmp_path / "run"))) == 5
    before = files(tmp_path / "run")
    with pytest.raises(JournalError, match="already holds a run"):
        halved(tmp_path / "run")
    assert files(tmp_path / "run") == before


# Which runs are the same.


def squared(outputs, targets):
    return (outputs.softmax(1).gather(1, targets[:, None])[:, 0] - 1).square()


def a_run(folder, resume=False, **changed):
    """A run of three steps; `changed` are parts of it that differ."""
    model = trained(4, 5, 2)
    parts = {
        "propose": ranked("magnitude", one_shot(4)),
        "keeping": loss_within(5.0),
        "retrain": None,
        "loss": None,
        "data": (X, Y),
        "evaluate": None,
        **changed,
    }
    probe = Probe(model, parts["data"], *([parts["loss"]] if parts["loss"] else []))
    groups = changed.get("groups", hidden)(model)
    retrain = parts["retrain"](model) if parts["retrain"] else None
    run = prune(
        model, groups, probe, parts["propose"], keeping=parts["keeping"], retrain=retrain,
        evaluate=parts["evaluate"], journal=folder, resume=resume,
    )  # fmt: skip
    return [step.mask for step in run]


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("propose", {"propose": ranked("magnitude", one_shot(3))}),
        ("propose", {"propose": ranked("random", one_shot(4))}),
        ("propose", {"propose": ranked("magnitude", one_shot(4), within="group")}),
        ("keeping", {"keeping": loss_within(5.5)}),
        ("keeping", {"keeping": None}),
        ("retrain", {"retrain": Nudge}),
        ("data", {"data": (X[:59], Y[:59])}),
        ("data", {"data": (X, 1 - Y)}),
        ("data", {"data": (X + 1e-6, Y)}),
        ("data", {"evaluate": (X[:30], Y[:30])}),
        ("loss", {"loss": squared}),
        ("groups, may_be_cut, slices", {"groups": lambda m: [*hidden(m), *find_synapses(m)]}),
    ],
)
def test_a_run_with_another_part_is_another_run(tmp_path, key, changed):
    masks = a_run(tmp_path / "run")
    before = files(tmp_path / "run")
    message = rf"holds another run: {key} differ \({key.partition(',')[0]}: .* there, .* here\)"
    with pytest.raises(JournalError, match=message):
        a_run(tmp_path / "run", resume=True, **changed)
    assert files(tmp_path / "run") == before
    assert a_run(tmp_path / "run", resume=True) == masks  # the same parts are the same run


def test_all_that_differs_is_listed(tmp_path):
    a_run(tmp_path / "run")
    with pytest.raises(JournalError, match="another run: keeping, propose differ"):
        a_run(tmp_path / "run", resume=True, keeping=None, propose=ranked("magnitude", one_shot(2)))


# Refused runs leave everything as it was.


@pytest.mark.parametrize("why", ["floor", "budget", "folder", "damaged step", "fit"])
def test_a_refused_run_leaves_model_probe_retrainer_and_random_numbers_alone(tmp_path, why):
    model = trained(4, 5, 2)
    units = hidden(model)[0]
    given = Mask.full([units]).without({units: [0, 2]})
    probe, judge = Probe(model, (X, Y)), Probe(model, (X[:40], Y[:40]))
    retrain = Remembers()
    retrain(model, None)
    before = copy.deepcopy(model.state_dict())
    told = probe.loss(), judge.loss(), probe.mask, judge.mask
    more, error = {}, BudgetError
    if why == "floor":
        more = {"keeping": loss_at_most(0.0)}
    elif why == "budget":
        more = {"until": units_at_most(6)}
    else:
        error = JournalError
        more = {"journal": tmp_path / "run", "resume": why == "damaged step"}
        other = trained(4, 5, 2)
        propose = ranked("magnitude", one_at_a_time())
        run = prune(
            other, hidden(other), Probe(other, (X, Y)), propose, mask=given,
            retrain=Remembers() if why == "damaged step" else None,
            evaluate=Probe(other, (X[:40], Y[:40])), journal=tmp_path / "run",
        )  # fmt: skip
        assert len(list(run)) > 2
        if why == "damaged step":
            (tmp_path / "run" / "steps" / "00001.safetensors").write_bytes(b"half")
    state = torch.get_rng_state()
    with pytest.raises(error):
        list(
            prune(
                model, [units], probe, ranked("magnitude", one_at_a_time()), evaluate=judge,
                retrain=retrain, mask=given, **more,
            )
        )  # fmt: skip
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert (probe.loss(), judge.loss(), probe.mask, judge.mask) == told
    assert (retrain.log, retrain.total.item(), retrain.inner) == ([0], 1, {"n": 1})
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_whose_criterion_fails_goes_back_to_the_last_step_in_everything():
    model, retrain = trained(4, 5, 2), Remembers()
    units = hidden(model)[0]
    probe, judge = Probe(model, (X, Y)), Probe(model, (X[:40], Y[:40]))

    def propose(probe, groups, mask, progress):
        if progress.step == 3:
            retrain(model, mask)
            with torch.no_grad():
                model[2].bias.add_(1)
            raise KeyboardInterrupt
        return Cut({units: torch.tensor([progress.step])})

    run = prune(model, [units], probe, propose, evaluate=judge, retrain=retrain)
    last = None
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the steps before it count
        for step in run:
            last = step
    assert last is not None
    assert (last.number, last.mask.dead(units).tolist()) == (2, [1, 2])
    assert (retrain.log, retrain.total.item(), retrain.inner) == ([0, 1], 2, {"n": 2})
    assert probe.mask == judge.mask == last.mask
    assert judge.loss() == last.measured.loss
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), last.network().state_dict().values())
    )


def test_a_cut_that_was_undone_and_comes_again_ends_the_run():
    """Another cut in between is tried."""
    model = trained(4, 5, 2)
    units = hidden(model)[0]
    tried = []

    def propose(probe, groups, mask, progress):
        tried.append(progress.undone)
        position = 0 if progress.undone == 0 else 1
        return Cut({units: torch.tensor([position])})

    def worse(model, mask):
        model[2].bias.data.add_(torch.tensor([5.0, -5.0]))

    probe = Probe(model, (X, Y))
    run = prune(model, [units], probe, propose, keeping=loss_within(0.0), retrain=worse)
    assert [step.number for step in run] == [0]
    assert tried == [0, 1, 2]


def test_a_fixed_order_goes_on_after_what_was_swept(tmp_path):
    """`removed` counts what the sweep took along; a resumed run goes on from there."""
    model = mlp(4, 3, 2, 2)
    first, second = hidden(model)
    order = {first: torch.tensor([3.0, 4.0, 5.0]), second: torch.tensor([1.0, 2.0])}
    run = prune(model, [first, second], Probe(model, (X, Y)), ranked(fixed(order), one_at_a_time()),
                journal=tmp_path / "run")  # fmt: skip
    steps = list(run)
    assert [{g.name: p.tolist() for g, p in step.removed.items()} for step in steps] == [
        {}, {"2": [0]}, {"2": [1], "0": [0, 1, 2]},
    ]  # fmt: skip
    tensors, about = stored(tmp_path / "run", 2)
    assert about["number"] == 2
    assert {n: t.tolist() for n, t in tensors.items() if n.startswith(("alive/", "removed/"))} == {
        "alive/0": [0], "alive/1": [0], "removed/0": [0, 1, 2], "removed/1": [1],
    }  # fmt: skip


def test_steps_are_values_with_what_they_measured():
    model = nn.Sequential(*trained(4, 5, 2))
    propose = ranked("magnitude", one_at_a_time())
    step = next(prune(model, hidden(model), Probe(model, (X, Y)), propose))
    assert (step.number, step.removed, step.measured.units) == (0, {}, 5)
    assert replace(step, number=1) != step
    with pytest.raises(FrozenInstanceError):
        step.number = 1
