"""The commands of README, in order, as a reader would type them."""

import re
import shlex
from pathlib import Path

import pytest

from commands import run
from sentei import datasets

README = Path(__file__).parent.parent / "README.md"


def commands() -> list[list[str]]:
    """Return the lines of shell blocks that call sentei, split into words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("sentei ")]


def played(capsys) -> None:
    lines = commands()
    assert len(lines) >= 12
    for line in lines:
        if "--emulate" in line:  # needs a cross compiler and QEMU: tests of boards run it
            continue
        code, out, err = run(*line, capsys=capsys)
        assert code == 0, f"{line}: {err}"
        assert out


def test_every_command_runs_in_order(tmp_path, monkeypatch, capsys):
    """On 400 images of MNIST, so that it takes seconds."""
    monkeypatch.chdir(tmp_path)
    whole = datasets.mnist

    def small(*given):
        split = whole(*given)
        parts = {"train": 400, "validation": 200, "test": 200}
        few = {name: getattr(split, name).first(count) for name, count in parts.items()}
        return type(split)(split.name, **few, features=split.features, classes=split.classes)

    monkeypatch.setattr(datasets, "mnist", small)
    played(capsys)


@pytest.mark.slow
def test_every_command_runs_in_order_on_all_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    played(capsys)
