"""Names that come from others reach a terminal as text; they cannot colour, move or hide it."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from commands import run
from sentei.cli import screen
from sentei.cli.screen import Screen, progress
from sentei.errors import DataError, FileError, visible
from sentei.formats import inspect, save

EVIL = "\x1b[2J\x1b]0;mine\x07[red]\u202efdp.\r\x9b31m\udcff"
SEEN = r"\x1b[2J\x1b]0;mine\x07[red]\u202efdp.\r\x9b31m\udcff"


def clean(text):
    return text == visible(text)


def test_control_characters_are_spelled_out_and_nothing_else():
    assert visible(EVIL) == SEEN
    assert visible(visible(EVIL)) == SEEN
    for text in ("", "plain", "Größe\t[2]\nnext", "日本語", "\\x1b"):
        assert visible(text) == text


@pytest.mark.parametrize("kind", [DataError, FileError])
def test_messages_of_errors_are_visible(kind):
    assert str(kind(f"{EVIL} is wrong")) == f"{SEEN} is wrong"


def test_logs_are_visible(capsys):
    with screen.logs_shown():
        # Without the last character, which cannot be part of a report of pytest's.
        logging.getLogger("sentei").warning("group %s", EVIL[:-1])
    assert capsys.readouterr() == ("", f"group {SEEN.removesuffix(visible(EVIL[-1]))}\n")


def test_other_packages_logs_are_shown_from_warnings_on(capsys):
    with screen.logs_shown():
        for name, level in (("sentei", 20), ("other", 20), ("other", 30), ("other", 40)):
            logger = logging.getLogger(f"{name}.here")
            logger.setLevel(logging.INFO)
            logger.log(level, "%s at %d", name, level)
            logger.setLevel(logging.NOTSET)
    assert capsys.readouterr() == ("", "sentei at 20\nother at 30\nother at 40\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_what_commands_print_is_visible(terminal, capsys, monkeypatch):
    from rich.table import Table
    from rich.text import Text

    console = Screen(
        highlight=False, markup=False, force_terminal=terminal, color_system=None, width=200
    )
    monkeypatch.setattr("sentei.cli.screen.notes", console)
    table = Table(EVIL, title=EVIL, caption=EVIL)
    table.add_row(EVIL)
    console.print(EVIL, Text(EVIL), table)
    if not terminal:
        with progress(EVIL, 3) as advance:
            advance(1, EVIL)
    said = capsys.readouterr().out
    assert clean(said)
    times = 5 if terminal else 7
    assert said.count(SEEN) == times  # all but the Text, from which rich itself takes some out
    assert said.count(r"\x1b[2J\x1b]0;mine") == times + 1


def test_a_table_of_hostile_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "\x1b[31m[red]a"
    rows = "".join(f"{n},{n * n % 7},{'no' if n % 2 else name}\n" for n in range(40))
    (tmp_path / f"{name}.csv").write_text(f"{name},b,y\n{rows}")
    out = f"{name}.safetensors"
    data = ("--data", f"{name}.csv")
    given = ("train", "--model", "2-3-2", *data, "--epochs", "1", "--out", out)
    code, said, err = run(*given, capsys=capsys)
    assert code == 0, err
    assert clean(said + err)
    assert r"Saved \x1b[31m[red]a.safetensors" in said
    (tmp_path / f"{name}.csv").write_text(f"{name},b,y\n1,2,no\n{name},2,no\n{rows}")
    code, said, err = run("rank", out, *data, capsys=capsys)
    assert code == 2
    assert clean(said + err)
    assert r"\x1b[31m[red]a" in err


def test_a_network_of_hostile_names(tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    save(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)), path)
    held = load_file(path)
    text = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    card = json.loads(text["__metadata__"]["sentei"])
    card["architecture"]["children"][0][0] = "\x1b[31m[red]"
    card["sentei"] = "\x1b[2J"
    renamed = {name.replace("0.", "\x1b[31m[red]."): tensor for name, tensor in held.items()}
    save_file(renamed, path, {"sentei": json.dumps(card)})
    assert inspect(path)
    code, said, err = run("info", path, capsys=capsys)
    assert code == 0, err
    assert clean(said + err)
    assert r"\x1b[31m[red]" in said


def test_names_that_cannot_be_encoded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "\udcff").mkdir()
    code, said, err = run("train", "--out", "\udcff", capsys=capsys)
    assert code == 2
    assert r"\udcff is a folder" in (said + err).replace("\n", "")
    with torch.no_grad(), pytest.raises(FileError, match=r"\\udcff is a folder"):
        save(nn.Linear(2, 2), "\udcff")
