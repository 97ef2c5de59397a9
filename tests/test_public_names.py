"""The public names of the first release: each still leads to an object, renamed or not."""

import dataclasses
import functools
import importlib
from pathlib import Path

import pytest

import sentei

NAMES = Path(__file__).with_name("public_names.txt").read_text().split()

# Places that README and guides of the first release named.
PLACES = [
    "sentei.formats.c.compiled.Compiled",
    "sentei.formats.c.compiled.compiler",
    "sentei.formats.c.emulated.self_test",
    "sentei.integrations.keras.PruneWhileTraining",
    "sentei.integrations.lightning.PruneWhileTraining",
    "sentei.pruning.tidying.examined",
    "sentei.reporting.budgets.against_bytes",
]


def has(owner: object, name: str) -> bool:
    fields = dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ()
    return hasattr(owner, name) or name in {field.name for field in fields}


@pytest.mark.parametrize("path", NAMES)
def test_a_name_of_the_first_release_is_there(path):
    *owners, last = path.split(".")
    assert has(functools.reduce(getattr, owners, sentei), last)


def test_the_list_has_every_kind_of_name():
    assert len(NAMES) == len(set(NAMES)) > 300
    assert {"prune", "Probe.cut_", "Room.limit", "criteria.CRITERIA", "Step.removed"} < set(NAMES)
    assert not has(sentei.Probe, "cut")


@pytest.mark.parametrize("path", PLACES)
def test_a_place_that_a_guide_named_is_there(path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    module, _, name = path.rpartition(".")
    if "keras" in module:
        pytest.importorskip("keras")
    if "lightning" in module:
        pytest.importorskip("lightning")
    assert getattr(importlib.import_module(module), name).__doc__


def test_old_names_are_the_new_things():
    assert sentei.Room is sentei.MemoryBudget
    old = importlib.import_module("sentei.reporting.budgets")
    new = importlib.import_module("sentei.experiments.budgets")
    assert old.against_bytes is new.accuracy_at_budgets
    assert old.Curve is new.Curve
