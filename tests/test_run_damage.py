"""Damage to a run folder: each changed bit, and each wrong value, is one error that names it."""

import copy
import json
import random
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from random_runs import content, pruned
from sentei import JournalError, loss_within
from sentei.pruning.checksums import check, sealed, with_room
from sentei.pruning.journal import note
from sentei.pruning.run_files import write_json, write_tensors
from sentei.pruning.run_reader import read_run
from sentei.reporting.page import of_journal

WORDS = {
    "names": {"data": "moons", "classes": ["a", "b"], "features": ["x"], "mean": [0.5], "std": [1]},
    "command": "sentei prune",
    "seed": 0,
    "versions": {"sentei": "1"},
}
FILES = ("run.json", "about.json", "start.safetensors", "steps/00000.safetensors",
         "steps/00001.safetensors", "steps/00003.safetensors")  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    pruned(folder, stop_after=3)
    note(folder, WORDS)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def refusal(call) -> str | None:
    """The message of a call's JournalError; None if there is none. Another error passes through."""
    try:
        call()
    except JournalError as error:
        return str(error)
    return None


def read(folder) -> str | None:
    """What a reader says of a damaged folder, None if nothing."""
    found = []
    message = refusal(lambda: found.append(read_run(folder)))
    return message or (" ".join(found[0].missing) or None)


def resumed(folder) -> str | None:
    return refusal(lambda: pruned(folder, stop_after=0, resume=True))


def flips(folder: Path, count: int) -> list[tuple[str, int]]:
    """Positions of bits, evenly over the files, at random in each; the same ones every time."""
    draw, each = random.Random(17), -(-count // len(FILES))
    sizes = {name: 8 * (folder / name).stat().st_size for name in FILES}
    return [(name, bit) for name in FILES for bit in draw.sample(range(sizes[name]), each)]


def check_flips(folder: Path, count: int) -> int:
    seen = 0
    for name, bit in flips(folder, count):
        path = folder / name
        before = path.read_bytes()
        damaged = bytearray(before)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        for attempt in (read, resumed):
            message = attempt(folder)
            assert message is not None, f"bit {bit} of {name} was not noticed by {attempt}"
            assert str(path) in message or message.startswith(str(folder)), message
            assert "again into another folder" in message or "Restore" in message, message
        path.write_bytes(before)
        seen += 1
    assert read(folder) is None
    assert resumed(folder) is None
    return seen


def test_a_flipped_bit_is_noticed(run):
    assert check_flips(run, 60) == 60


@pytest.mark.slow
def test_two_thousand_flipped_bits_are_noticed(run):
    assert check_flips(run, 2000) >= 2000


def test_a_file_is_the_same_with_its_checksum():
    words = {"a": [1, {"c": 2, "b": float("inf")}], "z": '\u2028 \\"'}
    text = with_room(words, indent=2)
    data, checksum = sealed(text.encode())
    assert len(data) == len(text.encode())
    assert check(data) == checksum == json.loads(data)["checksum"]
    assert {k: v for k, v in json.loads(data).items() if k != "checksum"} == words
    with pytest.raises(ValueError, match="no checksum"):
        check(b"{}")
    with pytest.raises(ValueError, match="another name"):
        with_room({"checksum": 1})


def test_a_step_of_another_run_is_noticed(run, tmp_path):
    """Equal networks and steps, another floor: only the chain tells the files apart."""
    pruned(tmp_path / "other", stop_after=3, keeping=loss_within(9.0))
    for number in range(4):
        name = f"steps/{number:05}.safetensors"
        mine = (run / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != mine
        shutil.copy(tmp_path / "other" / name, run / name)
        for attempt in (read, resumed):
            message = attempt(run)
            assert message
            assert f"step {number}" in message
            assert "does not follow" in message
        (run / name).write_bytes(mine)


def test_a_step_exchanged_while_the_run_is_open_is_noticed(tmp_path):
    _, steps = pruned(tmp_path / "run", stop_after=2)
    saved = read_run(tmp_path / "run")
    pruned(tmp_path / "other", stop_after=2, retrain=None)
    name = "steps/00002.safetensors"
    shutil.copy(tmp_path / "other" / name, tmp_path / "run" / name)
    for network in (steps[2].network, lambda: saved.network(2)):
        with pytest.raises(JournalError, match=r"step 2 .*00002\.safetensors"):
            network()
    steps[1].network()


def rewritten(path: Path, **changes) -> None:
    """Write a step file again with other words, under a checksum that is right."""
    tensors, words = load_file(path), words_in(path)
    del words["checksum"]
    write_tensors(path, tensors, {**words, **changes})


def test_a_last_step_that_follows_but_is_another_is_noticed(tmp_path):
    _, steps = pruned(tmp_path / "run", stop_after=2)
    steps[2].network()
    rewritten(tmp_path / "run" / "steps" / "00002.safetensors", undone=5)
    with pytest.raises(JournalError, match=r"step 2 .*00002\.safetensors: it was exchanged"):
        steps[2].network()


def test_a_state_that_the_retrainer_cannot_load_is_named(run):
    rewritten(run / "steps" / "00003.safetensors", retrain={"dict": [["calls", 1]]})
    message = resumed(run) or ""
    assert (
        f"the state after step 3 cannot be read from {run / 'steps'}: 'last' is missing" in message
    )


def test_a_flipped_bit_in_the_version_is_damage_and_no_other_version(run):
    card = (run / "run.json").read_bytes()
    assert b'"version": 4' in card
    (run / "run.json").write_bytes(card.replace(b'"version": 4', b'"version": 5'))
    for attempt in (read, resumed):
        assert "run.json is damaged: its checksum" in (attempt(run) or "")


def test_a_gap_is_refused_when_the_run_is_resumed(run):
    (run / "steps" / "00001.safetensors").unlink()
    assert "step 1 is missing, though step 3 is there" in (read(run) or "")
    message = resumed(run)
    assert message
    assert "step 1 is missing" in message
    assert "Restore the missing step" in message


# Values that are no longer what they were, under a checksum that is right.

VALUES = [None, True, "x", "", -1, 1.5, 1e999, float("nan"), 10**30, [], {}, [[]], [None], {"x": 1}]
RAW = [
    b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xef\xbb\xbf{}", b"\xff\xfe{}", b"{}\x00", b"NaN",
    '{"a": 1}'.encode("utf-16"), '{"ä": 1}'.encode("latin-1"), b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"version": ' + b"9" * 5000 + b"}", b"\x00" * 64,
    b'{"version": 4, "version": 4}', b'{"version": Infinity}', b"{'version': 4}", b'{"a": 1,}',
]  # fmt: skip


def deep(levels: int):
    value: object = 0
    for _ in range(levels):
        value = [value]
    return value


def mutated(words, draw: random.Random):
    """A copy in which one value, at any depth, is another, removed, doubled or moved."""
    words = copy.deepcopy(words)
    places = []

    def walk(value):
        keys = value.keys() if isinstance(value, dict) else range(len(value))
        for key in list(keys):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    walk(words)
    holder, key = draw.choice(places)
    way = draw.randrange(5)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), holder[key])
    elif way == 2:
        other, its_key = draw.choice(places)
        holder[key] = copy.deepcopy(other[its_key])
    elif way == 3 and draw.random() < 0.1:
        holder[key] = deep(300)
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))
    return words


def fuzz(run: Path, count: int) -> tuple[int, int]:
    """Change a value in a file and renew its checksum; return how many were refused and read."""
    draw, outcomes = random.Random(5), []
    for number in range(count):
        path = run / FILES[number % len(FILES)]
        before = path.read_bytes()
        if path.suffix == ".json":
            words = mutated(json.loads(before), draw)
            words.pop("checksum", None)
            write_json(path, words)
        else:
            tensors, words = load_file(path), mutated(words_in(path), draw)
            words.pop("checksum", None)
            if draw.random() < 0.3:
                name = draw.choice(sorted(tensors))
                change = draw.choice([lambda t: t[:-1] if t.ndim else t, lambda t: t.bool()])
                tensors[name] = change(tensors[name])
            write_tensors(path, tensors, words)
        for call in (read_run, of_journal, lambda f: pruned(f, stop_after=0, resume=True)):
            message = refusal(lambda call=call: call(run))
            if message is not None:
                assert str(run) in message, message
                assert any(w in message for w in ("Restore", "again", "Name ", "model=")), message
            outcomes.append(message is not None)
        path.write_bytes(before)
    return sum(outcomes), len(outcomes) - sum(outcomes)


def words_in(path: Path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["sentei"])


def test_a_wrong_value_is_one_error_or_changes_nothing(run):
    refused, as_before = fuzz(run, 60)
    assert refused > 60
    assert refused + as_before == 180


@pytest.mark.slow
def test_three_thousand_wrong_values(run):
    refused, as_before = fuzz(run, 3000)
    assert refused > 3000
    assert as_before > 100


@pytest.mark.parametrize("name", ["run.json", "about.json"])
def test_text_that_is_no_json_object(run, name):
    for text in RAW:
        (run / name).write_bytes(text)
        before = content(run)
        for attempt in (read, resumed):
            message = attempt(run) or ""
            assert str(run) in message, text[:20]
            assert "Restore the folder" in message or "Run it again" in message, message
        assert content(run) == before


@pytest.mark.parametrize("name", ["run.json", "about.json"])
def test_a_key_that_stands_twice_is_refused(run, name):
    path = run / name
    text = path.read_text().rstrip()[:-1].rstrip() + ',\n  "twice": 4, "twice": 4\n}\n'
    digest = json.loads(path.read_text())["checksum"]
    path.write_bytes(sealed(text.replace(digest, "0" * 64).encode())[0])
    for attempt in (read, resumed):
        assert "a key stands in it twice" in (attempt(run) or "")


def test_other_errors_are_not_hidden(run, monkeypatch):
    monkeypatch.setattr("sentei.pruning.journal.unpack_record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_run(run)
