"""Steps as rows, progress on stderr, and the recipes for other libraries' loggers."""

import re
import sys
import textwrap
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from torch import nn

import sentei
from hand import hidden, mlp
from runs import X, Y, trained
from sentei import Probe, one_at_a_time, prune, ranked, units_at_most
from sentei.network.calls import PRODUCTS
from sentei.pruning import progress_line

GUIDE = (Path(__file__).parents[1] / "docs" / "guides" / "records.md").read_text()
NARROW = ranked("magnitude", one_at_a_time())


def run(**options):
    model = trained(4, 6, 2)
    return prune(model, hidden(model), Probe(model, (X, Y)), NARROW, **options)


def test_a_step_is_a_row_of_numbers(tmp_path):
    steps = list(
        run(journal=tmp_path / "run", until=units_at_most(4), evaluate=lambda _: {"f1": 2})
    )
    rows = sentei.rows(steps)
    last = steps[-1].measured
    counted = {"units": 4, "synapses": 24, "parameters": 30, "multiply_adds": 24, "removed": 1}
    quality = {"accuracy": last.accuracy, "loss": last.loss, "f1": 2.0}
    assert rows[-1] == {"step": 2, **quality, **counted, "bytes": last.bytes}
    assert [row["removed"] for row in rows] == [0, 1, 1]
    assert rows == [step.row() for step in steps] == sentei.rows(tmp_path / "run")
    assert sentei.rows(str(tmp_path / "run")) == rows


def test_what_is_not_there_is_left_out(tmp_path, monkeypatch):
    model = mlp(4, 6, 1)
    probe = Probe(model, (X, X.sum(1, keepdim=True)), "half_squared_error")
    first = next(prune(model, hidden(model), probe, NARROW))
    assert "accuracy" not in first.row()
    assert {"r2", "mean_absolute_error", "loss"} < first.row().keys()

    monkeypatch.delitem(PRODUCTS, nn.functional.linear)  # as of a function that is not known
    first = next(run())
    assert "multiply_adds" not in first.row()
    with pytest.raises(sentei.StructureError, match=r"multiply-adds of .*linear"):
        _ = first.measured.multiply_adds
    with pytest.raises(sentei.JournalError):
        sentei.rows(tmp_path / "nowhere")


def test_without_a_terminal_each_step_is_a_line(capsys):
    list(run(until=units_at_most(4)))
    assert capsys.readouterr() == ("", "")
    steps = list(run(until=units_at_most(4), progress=True))
    out, err = capsys.readouterr()
    assert not out
    lines = err.splitlines()
    assert [re.sub(r" \([\d.]+ s\)$", "", line) for line in lines] == [
        f"step {step.number}: {step.measured}" for step in steps
    ]


def test_a_resumed_run_says_where_it_goes_on(tmp_path, capsys):
    list(run(until=units_at_most(4), journal=tmp_path / "run"))
    list(run(until=units_at_most(3), journal=tmp_path / "run", resume=True, progress=True))
    assert re.findall(r"^step \d", capsys.readouterr().err, re.MULTILINE) == ["step 2", "step 3"]


def test_on_a_terminal_one_line_changes_and_the_last_step_stays(monkeypatch, capsys):
    screen = StringIO()

    def console(**options):
        assert options["stderr"]
        return Console(**{**options, "stderr": False}, file=screen, force_terminal=True, width=200)

    monkeypatch.setattr(progress_line, "Console", console)
    for step in run(until=units_at_most(4), progress=True):
        sys.stdout.write(f"mine {step.number}\n")
    text = screen.getvalue()
    assert capsys.readouterr() == ("mine 0\nmine 1\nmine 2\n", "")
    assert "after step 0: accuracy" in text
    assert "after step 1: accuracy" in text
    *_, last = text.strip().splitlines()
    assert re.search(r"step 2: accuracy .* \([\d.]+ s\)$", last)
    assert "mine" not in text


def recipe(name):
    """The code of the guide, then that of one recipe."""
    blocks = re.findall(r"^```python( title=\"\w+\")?\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    chosen = [textwrap.dedent(code) for title, code in blocks if title in ("", f' title="{name}"')]
    assert len(chosen) == 2
    return "\n".join(chosen)


@pytest.mark.filterwarnings("ignore")  # of the other libraries
def test_tensorboard_gets_every_number(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore
        EventAccumulator,
    )

    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(recipe("tensorboard"), names)
    found = EventAccumulator(str(tmp_path / "logs"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == set(names["step"].row())
    units = [(event.step, event.value) for event in found.Scalars("units")]
    assert units == [(0, 16), (1, 13), (2, 10), (3, 7), (4, 4)]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_every_number(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    names: dict = {}
    exec(recipe("mlflow"), names)
    client = mlflow.MlflowClient()
    (stored,) = client.search_runs(["0"])
    history = client.get_metric_history(stored.info.run_id, "units")
    assert [(each.step, each.value) for each in history] == [
        (0, 16), (1, 13), (2, 10), (3, 7), (4, 4)
    ]  # fmt: skip
    assert stored.data.metrics.keys() == names["step"].row().keys()


@pytest.mark.filterwarnings("ignore")
def test_optuna_searches_over_criterion_and_schedule(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(recipe("optuna"), names)
    study = names["study"]
    assert len(study.trials) == 5
    assert study.best_value == min(trial.value for trial in study.trials)
