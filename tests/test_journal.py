"""The run folder: only complete steps, resuming to the same bytes, refusing another run."""

import copy
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from hand import hidden
from runs import Nudge, X, Y, pruned, trained
from sentei import (
    FileError,
    JournalError,
    Mask,
    Probe,
    PruningError,
    Synapses,
    find_synapses,
    find_units,
    loss_within,
    one_at_a_time,
    prune,
    ranked,
    units_at_most,
)
from sentei.network.encoding.packing import pack_groups, unpack_groups
from sentei.network.tracing.replay import Replay
from sentei.pruning.journal import Journal
from sentei.pruning.run_files import identity, stored_groups, write_json
from sentei.pruning.run_reader import read_run
from zoo import ZOO, build

SCRIPT = """
import sys, time, torch
sys.path.insert(0, {tests!r})
from runs import pruned
pruned({folder!r}, resume={resume}, slowly={slowly})
"""


def content(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def test_the_same_run_writes_the_same_bytes(tmp_path):
    pruned(tmp_path / "a")
    pruned(tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert "steps/00003.safetensors" in content(tmp_path / "a")


def test_a_resumed_run_ends_in_the_bytes_of_an_uninterrupted_one(tmp_path):
    model, steps = pruned(tmp_path / "whole")
    pruned(tmp_path / "parts", stop_after=2)
    torch.rand(17)  # whatever happened in between
    resumed, again = pruned(tmp_path / "parts", resume=True)
    assert content(tmp_path / "whole") == content(tmp_path / "parts")
    assert [s.number for s in again] == [s.number for s in steps]
    assert [s.mask for s in again] == [s.mask for s in steps]
    assert [s.measured for s in again] == [s.measured for s in steps]
    pairs = zip(model.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_kill_at_any_moment_loses_at_most_the_step_in_progress(tmp_path):
    _, steps = pruned(tmp_path / "whole")
    folder = tmp_path / "killed"
    fill = {"tests": str(Path(__file__).parent), "folder": str(folder), "slowly": 0.05}
    code = SCRIPT.format(**fill, resume=False)
    child = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    deadline = time.monotonic() + 60
    while not (folder / "steps" / "00002.safetensors").exists():
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    (folder / "steps" / ".00003.safetensors.x.part").write_bytes(b"half a step")
    _, again = pruned(folder, resume=True)
    (folder / "steps" / ".00003.safetensors.x.part").unlink(missing_ok=True)
    assert [s.mask for s in again] == [s.mask for s in steps]
    assert content(folder) == content(tmp_path / "whole")


def test_a_folder_with_a_run_needs_resume(tmp_path):
    pruned(tmp_path / "run", stop_after=1)
    before = content(tmp_path / "run")
    with pytest.raises(JournalError, match="resume=True"):
        pruned(tmp_path / "run")
    assert content(tmp_path / "run") == before


def test_another_runs_folder_is_refused_with_what_differs(tmp_path):
    pruned(tmp_path / "run", stop_after=1)
    model = trained(4, 8, 2, seed=5)
    with pytest.raises(JournalError, match="weights"):
        prune(
            model,
            hidden(model),
            Probe(model, (X, Y)),
            ranked("ablation", one_at_a_time()),
            journal=tmp_path / "run",
            resume=True,
        )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters.txt").write_text("dear all")
    with pytest.raises(JournalError, match="no run folder"):
        pruned(tmp_path / "other")


def test_damaged_folders_are_named(tmp_path):
    pruned(tmp_path / "run", stop_after=2)
    step = tmp_path / "run" / "steps" / "00001.safetensors"
    step.write_bytes(step.read_bytes()[:50])
    with pytest.raises(JournalError, match="step 1 cannot be read"):
        pruned(tmp_path / "run", resume=True)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(JournalError, match=r"run\.json is damaged"):
        pruned(tmp_path / "run", resume=True)


def test_a_full_disk_stops_the_run_at_the_last_whole_step(tmp_path, monkeypatch):
    real, written = os.fsync, []

    def full(handle):
        written.append(handle)
        if len(written) > 4:  # start, card, steps 0 and 1
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        pruned(tmp_path / "run")
    monkeypatch.undo()
    assert sorted(content(tmp_path / "run")) == [
        *("run.json", "start.safetensors"),
        *("steps/00000.safetensors", "steps/00001.safetensors"),
    ]
    _, steps = pruned(tmp_path / "run", resume=True)
    assert len(steps) > 3


def test_the_card_says_what_run_it_is(tmp_path):
    pruned(tmp_path / "run", stop_after=0)
    card = json.loads((tmp_path / "run" / "run.json").read_text())
    assert card["groups"] == [["neuron", "0", 8]]
    assert card["keeping"] == "loss_within(0.3)"
    assert "one_at_a_time()" in card["propose"]
    assert card["version"] == 4
    assert re.fullmatch(r"[0-9a-f]{16}", card["slices"])


def whole(group) -> tuple:
    """A group with its slices, which groups do not compare."""
    if isinstance(group, Synapses):
        return group, group.parameter, group.shape
    parts = (group.producers, group.followers, group.listeners)
    return group, *([(part.layer, part) for part in role] for role in parts)


@pytest.mark.parametrize("name", ZOO)
def test_groups_are_stored_with_their_slices_and_read_without_tracing(tmp_path, monkeypatch, name):
    model, example = build(name)
    groups = [*find_units(model, example, inputs=example.is_floating_point())]
    groups += find_synapses(model)
    Journal.open(tmp_path / "run", model, Mask.full(groups), {})
    monkeypatch.setattr(Replay, "__init__", lambda *_, **__: pytest.fail("the network was traced"))
    tensors, words = contents_of(tmp_path / "run" / "start.safetensors")
    card = json.loads((tmp_path / "run" / "run.json").read_text())
    again = stored_groups(tmp_path / "run", card, tensors, words)
    assert [whole(group) for group in again] == [whole(group) for group in groups]


def contents_of(path) -> tuple[dict, dict]:
    with safe_open(path, "pt") as file:
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        return tensors, json.loads(file.metadata()["sentei"])


def test_a_run_is_read_without_tracing(tmp_path, monkeypatch):
    _, steps = pruned(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Replay, "__init__", lambda *_, **__: pytest.fail("the network was traced"))
        run = read_run(tmp_path / "run")
    assert [record.mask for record in run.records] == [step.mask for step in steps]
    run.records[-1].mask.apply_(run.start)  # the slices are there
    for number in (0, len(steps) - 1):
        read, kept = run.network(number).state_dict(), steps[number].network().state_dict()
        assert all(torch.equal(read[key], kept[key]) for key in kept)


def test_a_group_with_other_slices_is_another_run(tmp_path):
    """A resumed mask would else be applied to other units than it was made for."""
    pruned(tmp_path / "run", stop_after=1)
    model = trained(4, 8, 2)
    (group,) = hidden(model)
    turned = [replace(part, index=part.index.flip(0)) for part in group.listeners]
    with pytest.raises(JournalError, match="another run: slices differ"):
        list(
            prune(
                model,
                [replace(group, listeners=tuple(turned))],
                Probe(model, (X, Y)),
                ranked("ablation", one_at_a_time()),
                keeping=loss_within(0.3),
                retrain=Nudge(model),
                journal=tmp_path / "run",
                resume=True,
            )
        )


def test_the_same_slices_of_another_parameter_are_another_run():
    model = trained(4, 8, 2)
    (group,) = hidden(model)
    (part,) = group.listeners
    other = replace(group, listeners=(replace(part, parameter="4.weight"),))
    one, two = (identity([g], *pack_groups([g]), model.state_dict()) for g in (group, other))
    assert one["slices"] != two["slices"]
    assert (one["groups"], one["weights"]) == (two["groups"], two["weights"])


@pytest.mark.parametrize("places", [None, [], "x", {}, {"producers": []}, ...])
def test_groups_without_slices_are_refused(places):
    tensors, (entry,) = pack_groups(hidden(trained(4, 8, 2)))
    entry = {key: value for key, value in entry.items() if key != "places"}
    entry |= {} if places is ... else {"places": places}
    with pytest.raises(FileError, match="these are damaged"):
        unpack_groups(tensors, [entry])


def test_a_step_under_another_number_is_not_read(tmp_path):
    pruned(tmp_path / "run", stop_after=2)
    steps = tmp_path / "run" / "steps"
    (steps / "00002.safetensors").write_bytes((steps / "00001.safetensors").read_bytes())
    run = read_run(tmp_path / "run")
    assert len(run.records) == 2
    assert "it holds step 1" in run.missing[0]


@pytest.mark.parametrize("version", [1, 2, 3, 5, None])
def test_folders_of_other_versions_are_refused_with_a_remedy(tmp_path, version):
    pruned(tmp_path / "run", stop_after=1)
    path = tmp_path / "run" / "run.json"
    card = json.loads(path.read_text())
    del card["checksum"]  # which versions 1 to 3 did not have
    if version == 5:
        write_json(path, {**card, "version": version})
    else:
        path.write_text(json.dumps({**card, "version": version}))
    before = content(tmp_path / "run")
    for attempt in (read_run, lambda folder: pruned(folder, resume=True)):
        with pytest.raises(JournalError, match=rf"version {version} .*Run it again") as refused:
            attempt(tmp_path / "run")
        assert ("slices" in str(refused.value)) == (version in (1, 2))
    assert content(tmp_path / "run") == before


def test_damaged_slices_are_refused(tmp_path):
    pruned(tmp_path / "run", stop_after=1)
    path = tmp_path / "run" / "start.safetensors"
    tensors, words = contents_of(path)

    def damaged(tensors: dict, words: dict) -> None:
        path.write_bytes(save(tensors, metadata={"sentei": json.dumps(words)}))
        with pytest.raises(JournalError, match=r"start\.safetensors.*Restore the folder"):
            read_run(tmp_path / "run")

    slices = {name for name in tensors if name.startswith("slices/")}
    assert slices == {
        *("slices/0/producers/0", "slices/0/producers/1", "slices/0/listeners/0"),
    }
    for name in slices:
        damaged({n: t for n, t in tensors.items() if n != name}, words)
        damaged({**tensors, name: tensors[name][:-1]}, words)
        damaged({**tensors, name: tensors[name] - 1}, words)
        damaged({**tensors, name: tensors[name] + 1}, words)
    damaged(tensors, {key: value for key, value in words.items() if key != "groups"})
    damaged(tensors, {**words, "groups": [{**words["groups"][0], "kind": "ghost"}]})
    path.write_bytes(save(tensors, metadata={"sentei": json.dumps(words)}))
    assert len(read_run(tmp_path / "run").records) == 2


JSON_VALUES = [None, "x", -1, 1.5, [], {}, [1], {"x": 1}]


def json_damage(value: dict) -> Iterator[tuple[str, object]]:
    """The object without each of its keys, and with other values in place of each."""
    for key, now in value.items():
        yield f"{key} removed", {name: held for name, held in value.items() if name != key}
        for other in JSON_VALUES:
            if other != now:
                yield f"{key} = {other!r}", {**value, key: other}


def damaged_cards(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    card = json.loads(path.read_text())
    for what, value in json_damage(card):
        yield what, lambda value=value: path.write_text(json.dumps(value))
    deep = "[" * 100_000 + "]" * 100_000
    for text in ("", "{", "[]", "1", "null", '"x"', deep):
        yield f"text {text[:9]}", lambda text=text: path.write_text(text)
    yield "bytes", lambda: path.write_bytes(b"\xff\xfe{}")


def damaged_tensors(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    tensors, words = contents_of(path)

    def write(tensors, text):
        metadata = None if text is None else {"sentei": text}
        return lambda: path.write_bytes(save(tensors, metadata=metadata))

    for what, value in json_damage(words):
        yield what, write(tensors, json.dumps(value))
    for text in (None, "", "[]", "1", "null"):
        yield f"metadata {text}", write(tensors, text)
    for name, tensor in tensors.items():
        rest = {other: held for other, held in tensors.items() if other != name}
        yield f"{name} removed", write(rest, json.dumps(words))
        if tensor.ndim and len(tensor) and path.name == "start.safetensors":
            yield f"{name} shorter", write({**rest, name: tensor[1:]}, json.dumps(words))
    yield "truncated", lambda: path.write_bytes(save(tensors)[:60])
    yield "removed", path.unlink


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("run.json", damaged_cards),
        ("start.safetensors", damaged_tensors),
        ("steps/00000.safetensors", damaged_tensors),
        ("steps/00002.safetensors", damaged_tensors),
    ],
)
def test_a_damaged_file_is_named_and_never_read_as_another_run(tmp_path, name, ways):
    """Whatever is missing or of another type: refused with file and remedy, or read as it was."""
    pruned(tmp_path / "run", stop_after=3)
    path = tmp_path / "run" / name
    whole, expected = path.read_bytes(), read_run(tmp_path / "run")
    refused = 0
    for what, damage in ways(path):
        damage()
        message = refusal(tmp_path / "run")
        if message is None:
            run = read_run(tmp_path / "run")
            assert len(run.records) == len(expected.records) or run.missing, what
            for record, other in zip(run.records, expected.records, strict=False):
                assert record.mask == other.mask, what
                assert same(run.network(record.number), expected.start, record.mask), what
        else:
            assert str(tmp_path / "run") in message, what
            assert not re.search(r"\.\s*\. ", message), what
            assert re.search(r"Restore|[Rr]un .*again|Name |model=|begun", message), what
            refused += 1
        path.write_bytes(whole)
    assert refused > 10 or name == "steps/00002.safetensors"


def refusal(folder) -> str | None:
    """The message with which a run folder is refused; None if it is read."""
    try:
        read_run(folder)
    except PruningError as error:
        return str(error)
    return None


def same(network, start, mask) -> bool:
    """Whether what is dead is zero in the network; retraining moved the rest."""
    masked = copy.deepcopy(network)
    mask.apply_(masked)
    shapes = [tuple(p.shape) for p in start.parameters()]
    return [tuple(p.shape) for p in network.parameters()] == shapes and all(
        torch.equal(a, b) for a, b in zip(masked.parameters(), network.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [("run.json", "[]"), ("run.json", "{"), ("start.safetensors", "no"), ("start.safetensors", "")],
)
def test_a_damaged_run_is_not_resumed(tmp_path, name, text):
    pruned(tmp_path / "run", stop_after=1)
    (tmp_path / "run" / name).write_text(text)
    before = content(tmp_path / "run")
    with pytest.raises(JournalError, match=rf"{name}.*(Restore the folder|run again)"):
        pruned(tmp_path / "run", resume=True)
    (tmp_path / "run" / name).unlink()
    with pytest.raises(JournalError):
        pruned(tmp_path / "run", resume=True)
    assert content(tmp_path / "run").keys() == before.keys() - {name}


def test_the_start_of_another_run_is_refused(tmp_path):
    pruned(tmp_path / "run", stop_after=1)
    other = trained(4, 8, 2, seed=5)
    Journal.open(tmp_path / "other", other, Mask.full(hidden(other)), {})
    start = (tmp_path / "other" / "start.safetensors").read_bytes()
    (tmp_path / "run" / "start.safetensors").write_bytes(start)
    for attempt in (read_run, lambda folder: pruned(folder, resume=True)):
        with pytest.raises(
            JournalError, match=r"does not belong to the run\.json.* weights differ"
        ):
            attempt(tmp_path / "run")


def test_a_run_killed_in_its_first_write_is_begun_anew(tmp_path):
    _, steps = pruned(tmp_path / "whole")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".start.safetensors.x.part").write_bytes(b"half")
    _, again = pruned(tmp_path / "run", resume=True)
    (tmp_path / "run" / ".start.safetensors.x.part").unlink()
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    start = (tmp_path / "run" / "start.safetensors").read_bytes()
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "start.safetensors").write_bytes(start[:100])
    pruned(tmp_path / "later")
    assert content(tmp_path / "later") == content(tmp_path / "whole")
    assert len(again) == len(steps)


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "run").write_text("dear all")
    with pytest.raises(JournalError, match="cannot be used as a run folder: Not a directory"):
        pruned(tmp_path / "run")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_run_is_read_in_its_own_dtype(tmp_path, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    probe = Probe(
        model, (X.to(dtype), Y), lambda outputs, y: outputs.float().gather(1, y[:, None])[:, 0]
    )
    run = prune(
        model, hidden(model), probe, ranked("magnitude", one_at_a_time()), journal=tmp_path / "run"
    )
    steps = list(itertools.islice(run, 3))
    for own in (None, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))):
        read = read_run(tmp_path / "run", own)
        for step in steps:
            pairs = zip(
                step.network().parameters(), read.network(step.number).parameters(), strict=True
            )
            assert all(a.dtype == b.dtype == dtype and torch.equal(a, b) for a, b in pairs)


def test_a_network_with_hooks_is_read_only_with_its_model(tmp_path):
    """A description of its layers would be another network: one without the hooks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    net[1].register_forward_hook(lambda module, inputs, output: output * 3)
    x, y = torch.rand(32, 4), torch.randint(0, 3, (32,))
    run = prune(
        net,
        find_units(net, x),
        Probe(net, (x, y)),
        ranked("magnitude", one_at_a_time()),
        until=units_at_most(4),
        journal=tmp_path / "run",
    )
    *_, step = run
    assert torch.equal(step.network()(x), net(x))
    with pytest.raises(JournalError, match="model="):
        read_run(tmp_path / "run").network(1)
