"""The command line: help, misspelled options, bad input, and commands from start to end."""

import inspect
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hand
import sentei
from commands import run
from sentei import (
    CriterionError,
    UnreachableError,
    cli,
    criteria,
    datasets,
    find_synapses,
    formats,
    losses,
    training,
)
from sentei.cli import deployment, options, screen
from sentei.cli.fit import Budget, room_of
from sentei.cli.prune import SCHEDULES
from sentei.criteria.repairs.where_possible import WherePossible
from sentei.experiments import budgets, comparing
from sentei.formats.c.compiled import Compiled
from sentei.network.encoding.format import FORMATS
from sentei.pruning import searching
from sentei.pruning.boards import BOARDS
from sentei.pruning.rules import schedules


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small trained network on Letter Recognition."""
    path = tmp_path_factory.mktemp("cli") / "model.safetensors"
    network = training.build("16-12-26")
    data = datasets.load("letter").train.first(2000)
    training.train(network, data, training.Recipe(epochs=3, optimizer="adam", lr=0.01))
    formats.save(network, path)
    return path


def test_help_comes_without_torch_and_names_every_command():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sentei", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - start < 60
    for command in ("demo", "train", "prune", "rank", "surface", "info", "tidy", "compare"):
        assert command in done.stdout
    assert "torch" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["prnue"], '"prune"'),
        (["prune", "MODEL", "--criterian", "ablation"], "--criterion"),
        (["prune", "MODEL", "--criterion", "ablatoin"], "'ablation'"),
        (["prune", "MODEL", "--schedule", "lineer", "--keep", "3"], "'linear'"),
        (["prune", "MODEL", "--schedule", "linear"], "--keep"),
        (["prune", "MODEL"], "where to stop"),
        (["prune", "MODEL", "--repair", "afine"], "'affine'"),
        (["prune", "MODEL", "--twins", "95"], "<= 90"),
        (["prune", "MODEL", "--twins", "-1"], ">= 0"),
        (["prune", "MODEL", "--repair", "affine", "--synapses"], "--synapses"),
        (["prune", "MODEL", "--twins", "15", "--budget", "4KiB"], "--budget"),
        (["prune", "MODEL", "--schedule", "linear", "--keep", "3", "--budget", "4KiB"], "exclude"),
        (["prune", "MODEL", "--synapses", "--board", "arduino-uno"], "--synapses"),
        (["prune", "MODEL", "--twins", "15", "--schedule", "linear", "--keep", "3"], "--twins"),
        (["prune", "MODEL", "--twins", "15", "--criterion", "obs"], "--twins"),
        (["prune", "MODEL", "--keep", "3", "--units-at-most", "3"], "without --schedule"),
        (["prune", "MODEL", "--steps", "3", "--units-at-most", "3"], "without --schedule"),
        (["prune", "MODEL", "--no-inputs", "--units-at-most", "3"], "--inputs"),
        (["prune", "MODEL", "--paths", "units"], "--budget"),
        (["prune", "MODEL", "--units-at-most", "3", "--out", "."], "is a folder"),
        (["train", "--out", "/dev/null/net.safetensors"], "/dev/null is a file"),
        (["explain", "MODEL", "--data", "letter", "--out", "/dev/null/net.html"], "is a file"),
        (["prune", "MODEL", "--bytes-at-most", "32 XB"], "KiB"),
        (["prune", "MODEL", "--accuracy-within", "7"], "0.01"),
        (["train", "--model", "784-x-10"], "784-100-10"),
        (["train", "--data", "mnits"], "'mnist'"),
        (["train", "--epochs", "several"], "--epochs"),
        (["prune"], "--model"),
        (["surface", "MODEL", "--data", "letter", "--group", "hiden"], "Known: fc1"),
        (["surface", "MODEL", "--data", "letter", "--units", "3", "99"], "99"),
        (["surface", "MODEL", "--data", "letter", "--to", "inf"], "--to"),
        (["rank", "MODEL", "--data", "letter", "--loss", "entropy"], "'cross_entropy'"),
        (["rank", "MODEL", "--data", "letter", "--against", "tailor2"], "'taylor2'"),
        (["info", "no-such-file.safetensors"], "no-such-file"),
        (["train", "--config"], "TOML"),
    ],
)
def test_bad_usage_is_two_with_the_nearest_name(
    arguments, hint, model, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = [model if word == "MODEL" else word for word in arguments]
    code, out, err = run(*arguments, capsys=capsys)
    assert hint in (out + err).replace("\n", " ")
    assert code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--budget", "1KiB", "--board", "arduino-uno"], "exclude each other"),
        ([], "--budget 32KiB or --board NAME"),
        (["--budget", "5 parsecs"], "KiB"),
        (["--board", "arduino-one"], "'arduino-uno'"),
        (["--board", "arduino-uno", "--out", "a.onnx"], "--out net.c"),
        (["--budget", "1KiB", "--paths", "unit"], "'units'"),
        (["--budget", "1KiB", "--criterion", "ablatoin"], "'ablation'"),
    ],
)
def test_a_fit_is_refused_before_its_network_is_trained(words, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in words else ["--out", "a.c"]
    words = ["fit", "16-8-26", "--data", "letter", *out, *words]
    code, out, err = run(*words, capsys=capsys)
    assert (code, out) == (2, "")
    assert hint in err


def test_a_default_that_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("model.safetensors").mkdir()
    code, out, err = run("train", "letter", "--model", "16-4-26", capsys=capsys)
    assert (code, out) == (2, "")
    assert "model.safetensors is a folder" in err


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda *_: False)
    words = ["train", "letter", "--model", "16-4-26", "--out", tmp_path / "net.safetensors"]
    code, out, err = run(*words, capsys=capsys)
    assert (code, out) == (2, "")
    assert "no permission" in err


@pytest.mark.parametrize(
    ("inputs", "asked", "format"),
    [(16, None, "c-int8"), (16, "c", "c"), (784, None, "c-int8-int8"), (784, "c-int8", None)],
)
def test_a_board_takes_the_format_that_is_asked_for_or_that_its_ram_allows(inputs, asked, format):
    budget = Budget(board="arduino-uno")  # 2 KiB of RAM
    if format is None:
        with pytest.raises(UnreachableError, match="c-int8-int8"):
            room_of(budget, asked, "c", inputs)
    else:
        assert room_of(budget, asked, "c", inputs).format == format


def test_widths_are_trained_first_by_commands_that_look_at_a_network(capsys):
    words = ["--data", "letter", "--samples", 100, "--criterion", "magnitude"]
    code, out, err = run("rank", "16-4-26", *words, capsys=capsys)
    assert code == 0
    assert "training 16-4-26 10/10" in err
    assert "4 units by magnitude" in out


# What is printed.


def test_names_with_brackets_are_printed_as_they_are(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, "net[v2].safetensors")
    words = ["tidy", "net[v2].safetensors", "--data", "letter", "--out", "net[/b].safetensors"]
    code, out, _ = run(*words, capsys=capsys)
    assert code == 0
    assert "net[v2].safetensors: units" in out
    assert "net[/b].safetensors\n" in out


def test_a_network_is_written_though_nobody_reads_the_screen(model, tmp_path):
    words = ["prune", model, "--data", "letter", "--samples", "300", "--units-at-most", "8"]
    command = [sys.executable, "-m", "sentei", *words, "--out", tmp_path / "a.safetensors"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.close()
    assert running.returncode == 0
    assert formats.load(tmp_path / "a.safetensors")[0].out_features == 8


# What reaches the library.


def enough(asked):
    """A function that stores what it is given and ends the command."""

    def stop(*positional, **settings):
        asked.update(settings, positional=positional)
        raise ValueError("enough")

    return stop


SHARED = {
    "--seed": 5, "--samples": 300, "--retrain-epochs": 2, "--journal": "run",
    "--units-at-most": 6, "--synapses-at-most": "50 %", "--parameters-at-most": 400,
    "--bytes-at-most": "2 KiB", "--accuracy-within": 0.1, "--accuracy-at-least": 0.2,
    "--loss-within": 0.3,
}  # fmt: skip


def check_shared(asked, probed):
    """Assert that the options in `SHARED`, --data and --resume arrived."""
    split = datasets.load("letter", seed=5)
    assert torch.equal(probed, split.train.inputs[:300])
    assert torch.equal(asked["evaluate"].inputs, split.validation.inputs)
    assert asked["until"].words == (
        "all_of(units_at_most('6'), synapses_at_most('50 %'), parameters_at_most('400'), "
        "bytes_at_most('2 KiB', format='safetensors'))"
    )
    floors = "all_of(accuracy_within(0.1), accuracy_at_least(0.2), loss_within(0.3))"
    assert asked["keeping"].words == floors
    assert (str(asked["journal"]), asked["resume"]) == ("run", True)


def test_options_of_prune_reach_the_library(model, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(sentei, "prune", enough(asked))
    shared = [word for pair in SHARED.items() for word in pair]
    words = ["--criterion", "obd", "--repair", "affine", "--within", "group", "--inputs"]
    pace = ["--schedule", "cubic", "--keep", "3", "--steps", 4]
    code, _, err = run("prune", model, "--data", "letter", *shared, *words, *pace, "--resume",
                       capsys=capsys)  # fmt: skip
    assert (code, err) == (2, "sentei: enough\n")
    network, groups, probe, propose = asked["positional"]
    check_shared(asked, probe.samples.inputs)
    assert [group.kind for group in groups] == ["input", "neuron"]
    expected = sentei.ranked("obd", sentei.cubic("3", 4), within="group", repair="affine")
    assert propose == expected
    recipe = asked["retrain"].recipe
    assert (recipe.epochs, recipe.seed) == (2, 5)
    assert not asked["mask"].groups
    assert probe.model is network
    assert run("prune", model, "--data", "letter", "--twins", 15, capsys=capsys)[0] == 2
    assert asked["positional"][3] == sentei.twins(15.0, repair="affine")
    assert [group.kind for group in asked["positional"][1]] == ["neuron"]


def test_what_cannot_be_repaired_is_pruned_without_unless_a_repair_is_named(
    tmp_path, monkeypatch, capsys, caplog
):
    """A recurrent layer reads the units: no repair knows what it reads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first = nn.Linear(16, 12)\n"
        "        self.rnn = nn.GRU(12, 8, batch_first=True)\n"
        "        self.last = nn.Linear(8, 26)\n\n"
        "    def forward(self, x):\n"
        "        hidden = self.first(x).relu().unsqueeze(1)\n"
        "        return self.last(self.rnn(hidden)[0][:, 0])\n"
    )
    line = ["prune", "net.py:Net", "--data", "letter", "--samples", 100, "--criterion", "magnitude",
            "--schedule", "one_shot", "--keep", "50 %", "--out", "small.safetensors"]  # fmt: skip
    code, _, _ = run(*line, capsys=capsys)
    assert code == 0
    assert "units of 'first' are removed without a repair: what a listener reads" in caplog.text
    code, _, err = run(*line, "--repair", "least_squares", capsys=capsys)
    assert code != 0
    assert "Measure without a repair" in err
    assert run(*line, "--repair", "none", capsys=capsys)[0] == 0


def test_the_usual_repair_and_criterion_are_those_of_what_is_removed(model, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(sentei, "prune", enough(asked))
    half = ["--schedule", "one_shot", "--keep", "50 %"]
    for words, expected in (
        ([], WherePossible("least_squares")),
        (["--repair", "none"], None),
        (["--repair", "mean"], "mean"),
        (["--synapses", "--criterion", "magnitude"], None),
    ):
        assert run("prune", model, "--data", "letter", *half, *words, capsys=capsys)[0] == 2
        assert asked["positional"][3].repair == expected, words
    for words, criterion in (
        ([], "ablation-affine"),
        (["--repair", "none"], "ablation"),
        (["--synapses"], "magnitude"),
        (["--criterion", "obs"], "obs"),
    ):
        assert run("prune", model, "--data", "letter", *half, *words, capsys=capsys)[0] == 2
        assert asked["positional"][3].criterion == criterion, words
    twins = ["prune", model, "--data", "letter", "--twins", 15]
    for words, expected in (([], "affine"), (["--repair", "none"], None)):
        assert run(*twins, *words, capsys=capsys)[0] == 2
        assert asked["positional"][3] == sentei.twins(15.0, repair=expected)


def test_options_of_fit_reach_the_library(model, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(searching, "search", enough(asked))
    shared = [word for pair in SHARED.items() for word in pair]
    words = ["--criterion", "obd", "--inputs", "--paths", "both", "--paths", "units:30"]
    words += ["--synapse-criterion", "obs"]
    code, _, err = run("fit", model, "--data", "letter", *shared, *words, "--budget", "1KiB",
                       "--resume", "--out", "a.c", "--format", "c-int8", capsys=capsys)  # fmt: skip
    assert (code, err) == (2, "sentei: enough\n")
    _, learn, room = asked["positional"]
    check_shared(asked, learn.inputs)
    assert room == sentei.MemoryBudget("c-int8", "1KiB")
    assert (asked["units"], asked["synapses"], asked["inputs"]) == ("obd", "obs", True)
    assert asked["paths"] == ["both", "units:30"]
    recipe = asked["retrain"]().recipe
    assert (recipe.epochs, recipe.seed) == (2, 5)
    assert not asked["mask"].groups


# What the help says.


def page(capsys, *command):
    """The help of a command as one line of words, and its panels in order."""
    code, out, _ = run(*command, "--help", capsys=capsys)
    assert code == 0
    panels = re.findall(r"^╭─ (.+?) ─+╮$", out, re.MULTILINE)
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", out).split()), panels


APP = cli.build()
COMMANDS = sorted(name for name in APP if not name.startswith("-"))


def test_options_are_in_groups_and_in_one_order(capsys):
    orders = {name: page(capsys, name)[1] for name in COMMANDS}
    shared = [
        *("Network", "What is removed", "How fast", "Until when", "Repair and retraining"),
        *("Data", "Output", "Run"),
    ]
    assert orders["prune"] == shared
    own = ("Comparison", "Several at once")
    orders |= {
        name: [panel for panel in orders[name] if not panel.startswith(own)]
        for name in ("fit", "compare")
    }
    assert orders["fit"] == [name for name in shared if name != "How fast"]
    compared = orders["compare"]
    assert compared == [name for name in shared if name != "Until when"]
    for name in ("rank", "surface", "tidy", "train", "explain"):
        assert "Parameters" not in orders[name]
        ordered = [panel for panel in orders[name] if panel in shared]
        assert ordered == [panel for panel in shared if panel in ordered]
        assert {"Network", "Data", "Run"} <= set(ordered)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_described_and_none_is_without_meaning(name, capsys):
    said, _ = page(capsys, name)
    assert "--no-" not in said
    assert "--empty-" not in said
    for argument in APP[name].assemble_argument_collection(parse_docstring=True):
        if argument.show:
            assert len(argument.parameter.help or "") > 10, argument.names
    assert all(option in said for option in ("--config PATH", "--json", "--quiet"))


def test_budgets_are_an_option_of_fit(capsys):
    assert "--config FILE" in page(capsys)[0]
    for option in ("--budget", "--board", "--paths"):
        assert option in page(capsys, "fit")[0]
        assert option not in page(capsys, "prune")[0]
    for option in ("--schedule", "--twins", "--synapses ", "--repair "):
        assert option in page(capsys, "prune")[0]
        assert option not in page(capsys, "fit")[0]


def test_the_help_lists_all_that_the_library_knows(capsys):
    groups = options.CRITERIA.values()
    assert sorted(name for group in groups for name in group) == sorted(criteria.CRITERIA)
    assert sorted(options.REPAIRS) == sorted(criteria.REPAIRS)
    assert sorted(options.LOSSES) == sorted(losses.LOSSES)
    made = {
        name
        for name, value in inspect.getmembers(schedules, inspect.isfunction)
        if inspect.signature(value).return_annotation == "Schedule" and not name.startswith("_")
    }
    assert set(SCHEDULES) == made - {"levels", "multiples_of"}  # made from other schedules
    for command, tables in {
        "prune": (criteria.CRITERIA, criteria.REPAIRS, SCHEDULES, FORMATS),
        "compare": (criteria.CRITERIA, criteria.REPAIRS),
        "fit": (criteria.CRITERIA, FORMATS, BOARDS),
        "rank": (criteria.CRITERIA, losses.LOSSES),
    }.items():
        words = set(re.findall(r"[\w-]+", page(capsys, command)[0]))
        for table in tables:
            assert set(table) <= words, command


def test_the_help_says_rightly_what_each_criterion_scores():
    network = hand.mlp(4, 6, 3)
    probe = criteria.Probe(network, (torch.rand(20, 4), torch.arange(20) % 3))
    groups = {"Units": hand.hidden(network)[0], "Synapses": find_synapses(network)[0]}
    for what, names in options.CRITERIA.items():
        for name in names:
            for kind, group in groups.items():
                if kind in what or kind.lower() in what:
                    assert len(criteria.scores(name, probe, group)) == group.size
                else:
                    with pytest.raises(CriterionError):
                        criteria.scores(name, probe, group)


ROOT = Path(__file__).parent.parent
DOCUMENTED = [
    pytest.param(line, id=f"{file.stem}-{number}")
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for block in re.findall(r"^```sh\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)
    for number, line in enumerate(
        re.findall(r"^sentei .+", block.replace("\\\n", " "), re.MULTILINE), 1
    )
]


@pytest.mark.parametrize("line", DOCUMENTED)
def test_a_documented_command_line_has_known_options(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    words = shlex.split(os.path.expandvars(line), comments=True)[1:]
    for word in words:
        if word.endswith(".safetensors"):
            Path(word).touch()
        elif word.startswith("runs/"):
            Path(word).mkdir(parents=True, exist_ok=True)
    command, bound, _ = APP.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == words[0]
    assert bound.arguments


# Networks from files.

BROKEN = {
    "nan.safetensors": "'fc1.weight' in nan.safetensors",
    "statistics.safetensors": "'1.running_var' in statistics.safetensors",
    "text.safetensors": "text.safetensors",
    "folder": "folder",
    "missing.safetensors": "missing.safetensors",
}
TAKES_A_NETWORK = {
    **{name: [] for name in ("rank", "surface", "tidy", "compare", "explain", "export")},
    "units": [],
    "prune": ["--units-at-most", 3],
    "fit": ["--budget", "1KiB"],
    "train": ["--model", "16-4-26"],
}


@pytest.fixture(scope="module")
def broken(model, tmp_path_factory):
    """A folder with files that hold no usable network."""
    folder = tmp_path_factory.mktemp("broken")
    network = formats.load(model)
    normed = torch.nn.Sequential(torch.nn.Linear(16, 4), torch.nn.BatchNorm1d(4))
    with torch.no_grad():
        network.fc1.weight[0, 0] = float("nan")
        normed[1].running_var[2] = float("inf")
    formats.save(network, folder / "nan.safetensors")
    formats.save(normed, folder / "statistics.safetensors")
    (folder / "text.safetensors").write_text("no network")
    (folder / "folder").mkdir()
    return folder


def test_all_commands_that_take_a_network_are_known():
    takes = {name for name in COMMANDS if "--model" in str(_names(name))}
    of_a_run = {"figures", "watch"}  # these take the class at most
    assert takes == {*TAKES_A_NETWORK, "info", *of_a_run}


def _names(command):
    return [argument.names for argument in APP[command].assemble_argument_collection()]


@pytest.mark.parametrize("file", BROKEN)
@pytest.mark.parametrize("command", TAKES_A_NETWORK)
def test_what_cannot_be_loaded_is_named(command, file, broken, capsys, monkeypatch):
    monkeypatch.chdir(broken)
    before = sorted(broken.iterdir())
    words = ["--teacher", file] if command == "train" else [file]
    words += [] if command == "units" else ["--data", "letter"]
    given = [*words, *TAKES_A_NETWORK[command]]
    code, out, err = run(command, *given, capsys=capsys)
    assert code == (2 if file in ("folder", "missing.safetensors") else 1)
    assert BROKEN[file] in (out + err).replace("\n", " ")
    assert "another example" not in err
    assert sorted(broken.iterdir()) == before


# Seeds.


def kept_units(model, file):
    """The positions of the units of a model that are left in a pruned file."""
    rows = formats.load(model)[0].weight
    return {int((rows == row).all(1).nonzero()) for row in formats.load(file)[0].weight}


@pytest.mark.parametrize("seed", [0, 3])
def test_the_seed_reaches_random_scores(seed, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (group,) = hand.hidden(network := formats.load(model))
    data = torch.rand(2, network[0].in_features), torch.zeros(2, dtype=torch.long)
    scores = criteria.Random(seed)(sentei.Probe(network, data), group)
    shared = ["--data", "letter", "--samples", 300, "--criterion", "random", "--seed", seed]
    pruned = ["--schedule", "one_shot", "--keep", 5, "--out", "a.safetensors"]
    assert run("prune", model, *shared, *pruned, capsys=capsys)[0] == 0
    assert kept_units(model, "a.safetensors") == set(scores.argsort()[-5:].tolist())
    fitted = ["--budget", 1700, "--out", "b.safetensors"]
    assert run("fit", model, *shared, *fitted, capsys=capsys)[0] == 0
    kept = kept_units(model, "b.safetensors")
    assert 0 < len(kept) < 12
    assert kept == set(scores.argsort()[-len(kept) :].tolist())
    code, said, _ = run("rank", model, *shared, "--most", 1, capsys=capsys)
    assert code == 0
    assert re.search(rf"1 +{int(scores.argmin())} +{scores.min():.6g}", said)


def test_the_seed_reaches_comparisons(model, tmp_path, monkeypatch, capsys):
    asked = {}

    def stop(*_, **settings):
        asked.update(settings)
        raise ValueError("enough")

    monkeypatch.setattr(comparing, "compare", stop)
    monkeypatch.setattr(budgets, "accuracy_at_budgets", stop)
    words = ["compare", model, "--data", "letter", "--criteria", "random", "--seed", 4]
    assert run(*words, "--seeds", 2, capsys=capsys)[0] == 2
    assert list(asked["seeds"]) == [4, 5]
    assert run(*words, "--budgets", "1KiB", capsys=capsys)[0] == 2
    assert (asked["seed"], asked["units"]) == (4, criteria.Random(4))


def test_train_prune_rank_info_from_end_to_end(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("train", "--data", "letter", "--model", "16-10-26", "--epochs", 2,
                       "--out", "a.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    assert "training 2/2" in err  # plain lines where there is no terminal
    code, out, _ = run("rank", "a.safetensors", "--data", "letter", "--against", "magnitude",
                       "--samples", 500, capsys=capsys)  # fmt: skip
    assert code == 0
    assert "Spearman" in out
    code, out, _ = run("prune", "a.safetensors", "--data", "letter", "--units-at-most", "60 %",
                       "--samples", 500, "--out", "b.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    assert "same function" in out
    assert formats.load("b.safetensors").fc1.out_features == 6
    code, out, _ = run("info", "b.safetensors", capsys=capsys)
    assert code == 0
    assert "316" in out  # 6 · 16 + 6 + 26 · 6 + 26 entries, and 2 · 16 to standardise inputs
    assert torch.get_num_threads() == 1


def test_work_is_handed_over_and_twins_go(model, capsys, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    shared = ["--data", "letter", "--samples", 300]
    code, _, _ = run("prune", model, *shared, "--units-at-most", 5, "--repair", "least-squares",
                       "--criterion", "obs", "--out", "a.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    assert formats.load("a.safetensors")[0].out_features == 5
    for degrees in (0, 90):
        caplog.clear()
        code, _, _ = run("prune", model, *shared, "--twins", degrees, capsys=capsys)
        assert code == 0
        assert ("alike and" in caplog.text) == (degrees == 90)
    assert len(caplog.messages) == len(set(caplog.messages))


def test_surfaces_are_drawn_for_chosen_units(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("surface", model, "--data", "letter", "--samples", 200, "--units", 3, 0,
                       "--points", 11, "--out", "drawn/s", capsys=capsys)  # fmt: skip
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.startswith("fc1")]
    assert [row[1] for row in rows] == ["3", "0"]
    for name in ("s", "s-approximated"):
        assert (tmp_path / "drawn" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (tmp_path / "drawn" / f"{name}.svg").read_bytes()[:2000]
    code, out, _ = run("surface", model, "--data", "letter", "--samples", 50, "--points", 3,
                       "--out", "all", capsys=capsys)  # fmt: skip
    assert code == 0
    assert sum(line.startswith("fc1") for line in out.splitlines()) == 10


def test_toml_options_have_the_same_names(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(
        '[prune]\ndata = "letter"\nunits-at-most = 7\nsamples = 300\nout = "c.safetensors"\n'
    )
    code, _, _ = run("prune", model, "--config", "run.toml", capsys=capsys)
    assert code == 0
    assert formats.load("c.safetensors")[0].out_features == 7
    (tmp_path / "run.toml").write_text(
        '[prune]\ndata = "letter"\nbudget = "700 B"\npaths = ["both"]\nout = "small.c"\n'
    )
    assert run("prune", model, "--config", "run.toml", capsys=capsys)[0] == 0
    assert Path("small.c").exists()
    (tmp_path / "run.toml").write_text("[prune]\nunits-at-mots = 7\n")
    code, out, err = run("prune", model, "--config=run.toml", capsys=capsys)
    assert code == 2
    assert "units-at-most" in out + err
    for text, words in (("units-at-most = 7\n", "under a heading"), ("[prun]\n", "'prune'"),
                        ("[prune\n", "not valid TOML")):  # fmt: skip
        (tmp_path / "run.toml").write_text(text)
        code, _, err = run("prune", model, "--config", "run.toml", capsys=capsys)
        assert code == 2
        assert words in err


def test_a_run_is_resumed_and_another_is_refused(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = ["prune", model, "--data", "letter", "--samples", 300, "--journal", "run"]
    code, _, _ = run(*shared, "--units-at-most", 9, "--out", "x.safetensors", capsys=capsys)
    assert code == 0
    code, _, err = run(*shared, "--units-at-most", 6, "--out", "x.safetensors", capsys=capsys)
    assert code == 1
    assert "--resume" in err
    code, _, _ = run(
        *shared, "--units-at-most", 6, "--resume", "--out", "x.safetensors", capsys=capsys
    )
    assert code == 0
    assert formats.load("x.safetensors")[0].out_features == 6


def test_a_budget_that_the_floor_forbids_has_an_exit_code_of_its_own(
    model, capsys, caplog, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, _ = run("prune", model, "--data", "letter", "--samples", 300, "--units-at-most", 1,
                       "--accuracy-within", 0.02, "--out", "y", capsys=capsys)  # fmt: skip
    assert code == 3
    assert "was not reached" in caplog.text
    assert (tmp_path / "y").exists()


def test_synapses_can_be_pruned_and_stay_dead(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, _ = run("prune", model, "--data", "letter", "--synapses", "--criterion", "magnitude",
                     "--schedule", "linear", "--keep", "50 %", "--steps", 4, "--samples", 300,
                     "--retrain-epochs", 1, "--out", "z.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    mask = formats.load_mask("z.safetensors")
    alive = sum(mask.count(group) for group in mask.groups if group.kind == "synapse")
    assert alive == (16 * 12 + 12 * 26) // 2
    network = formats.load("z.safetensors")
    weights = [network[0].weight, network[2].weight]
    assert sum(int(w.count_nonzero()) for w in weights) == alive


def test_a_small_network_learns_from_a_saved_one(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = ["train", "letter", "--model", "16-6-26", "--epochs", 1]
    run(*shared, "--out", "alone.safetensors", capsys=capsys)
    code, _, _ = run(*shared, "--teacher", model, "--out", "taught.safetensors", capsys=capsys)
    assert code == 0
    alone, taught = (formats.load(f"{name}.safetensors").fc1.weight for name in ("alone", "taught"))
    assert not torch.equal(alone, taught)
    code, _, err = run(*shared, "--teacher", model, "--temperature", 0, capsys=capsys)
    assert code == 2
    assert "> 0" in err


def test_tidy_takes_out_what_says_nothing(model, tmp_path, capsys):
    network = formats.load(model)
    with torch.no_grad():
        network.fc2.weight[:, 3] = 0
        network.fc1.weight[5], network.fc1.bias[5] = network.fc1.weight[6], network.fc1.bias[6]
    untidy, tidied = tmp_path / "untidy.safetensors", tmp_path / "tidied.safetensors"
    formats.save(network, untidy)
    code, out, _ = run("tidy", untidy, "--data", "letter", "--out", tidied, capsys=capsys)
    assert code == 0
    assert "unread" in out
    assert "repeated" in out
    small, inputs = formats.load(tidied), datasets.load("letter").test.inputs
    assert small.fc1.out_features == 10
    assert torch.allclose(small(inputs), network(inputs), atol=1e-4)


def test_tidy_keeps_what_is_dead(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shared = ["--data", "letter", "--samples", 300]
    half = ["--synapses", "--criterion", "magnitude", "--schedule", "one_shot", "--keep", "30 %"]
    assert run("prune", model, *shared, *half, "--out", "a.safetensors", capsys=capsys)[0] == 0
    assert run("tidy", "a.safetensors", *shared, "--out", "b.safetensors", capsys=capsys)[0] == 0
    mask, network = formats.load_mask("b.safetensors"), formats.load("b.safetensors")
    assert len(mask.groups) == 2
    for group in mask.groups:
        weights = network.get_parameter(group.parameter).detach().flatten()
        assert torch.equal(mask.alive(group), weights != 0)
    inputs = datasets.load("letter").test.inputs
    assert torch.allclose(network(inputs), formats.load("a.safetensors")(inputs), atol=1e-4)


def test_compare_ranks_ways_and_draws_them(model, tmp_path, capsys):
    out = tmp_path / "compared"
    words = ["--data", "letter", "--steps", 2, "--keep", "4", "--seeds", 2, "--samples", 500]
    chosen = ["--criteria", "ablation", "--criteria", "wsf", "--criteria", "random"]
    code, printed, err = run("compare", model, *words, *chosen, "--out", out, capsys=capsys)
    assert code == 0, err
    lines = [line for line in printed.splitlines() if "±" in line]
    assert len(lines) == 4  # two criteria with and without repair; wsf has no trajectory
    assert "ablation + least" in lines[0]
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_a_budget_is_met_by_what_is_written_or_nothing_is(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = ["fit", model, "--data", "letter", "--format", "c-int8", "--paths", "both"]
    assert run(*fit, "--budget", "700 B", "--out", "small.c", capsys=capsys)[0] == 0
    (written,) = re.findall(r"FLASH_BYTES (\d+)L", Path("small.h").read_text())
    assert 0 < int(written) <= 700
    code, _, error = run(*fit, "--budget", "60 B", "--out", "never.c", capsys=capsys)
    assert (code, "221 bytes as c-int8" in error) == (3, True)
    floor = ["--accuracy-at-least", "0.01", "--loss-within", "0.0"]
    code, said, _ = run(*fit, "--budget", "300 B", *floor, "--out", "never.c", capsys=capsys)
    assert (code, "Nothing was written" in said) == (3, True)
    for bad in ("0", "-1KiB", "5 parsecs"):
        assert run(*fit, "--budget", bad, "--out", "never.c", capsys=capsys)[0] == 2
    code, _, error = run(*fit, "--board", "arduino-one", "--out", "never.c", capsys=capsys)
    assert (code, "Did you mean 'arduino-uno'" in error) == (2, True)
    assert (
        run(*fit, "--board", "arduino-uno", "--budget", "1KiB", "--out", "never.c", capsys=capsys)[
            0
        ]
        == 2
    )
    assert run(*fit, "--budget", "1KiB", "--out", "never.onnx", capsys=capsys)[0] == 2
    assert not Path("never.c").exists()
    assert not Path("never.onnx").exists()
    uno = ["fit", model, "--data", "letter", "--board", "arduino-uno", "--format", "c-int8-int8"]
    assert run(*uno, "--out", "uno.c", capsys=capsys)[0] == 0


def test_widths_are_trained_and_fitted_in_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "16-8-26:relu", "--data", "letter", "--samples", 300, "--paths", "both"]
    emulate = ["--emulate"] if shutil.which("qemu-system-arm") else []
    code, said, err = run(*fit, "--budget", "350 B", "--format", "c-int8", *emulate,
                          "--out", "net.c", capsys=capsys)  # fmt: skip
    assert code == 0, err
    assert "training 16-8-26:relu 10/10" in err
    assert re.search(r"both +\d+ +3[345]\d ", said)
    assert "units:50" not in said
    if emulate:
        assert "net: 4 of 4 golden vectors passed" in said
        classes, targets = re.findall(r"(?:are classes|targets are) ([\d ]+)", said)
        inputs, wanted = datasets.load("letter").test.first(10)
        here = Compiled("net.c")(inputs).argmax(1).tolist()
        assert [int(word) for word in classes.split()] == here
        assert [int(word) for word in targets.split()] == wanted.tolist()
    assert run(*fit, "--budget", "350 B", "--out", "9.c", capsys=capsys)[0] == 2
    code, _, err = run(
        "prune", "no-such.safetensors", "--data", "letter", "--units-at-most", 3, capsys=capsys
    )
    assert (code, "there is no file no-such.safetensors" in err) == (2, True)
    code, _, err = run(*fit, "--budget", "9 B", "--out", "never.c", "--emulate",
                       "--format", "onnx", capsys=capsys)  # fmt: skip
    assert (code, Path("never.c").exists()) == (2, False)


def test_a_board_chooses_the_format_that_its_ram_allows(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = ["fit", model, "--data", "letter", "--samples", 300, "--paths", "both"]
    assert run(*fit, "--board", "arduino-uno", "--out", "a.c", capsys=capsys)[0] == 0
    assert "format c-int8." in Path("a.c").read_text()
    (tmp_path / "a.c").rename(tmp_path / "fitted")
    assert run("prune", *fit[1:], "--board", "arduino-uno", "--out", "a.c", capsys=capsys)[0] == 0
    fitted, pruned = (
        re.sub(r"\n \*\s+", " ", Path(name).read_text()) for name in ("fitted", "a.c")
    )  # a comment in one line, since it has the command
    assert fitted == pruned.replace("sentei prune ", "sentei fit ")
    code, _, err = run(*fit, "--board", "arduino-uno", "--out", "a.onnx", capsys=capsys)
    assert (code, "--out net.c" in err) == (2, True)


def test_dead_synapses_of_a_file_stay_dead(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shared = ["--data", "letter", "--samples", 300]
    first = ["--synapses", "--criterion", "magnitude", "--schedule", "one_shot", "--keep", "40 %"]
    assert run("prune", model, *shared, *first, "--out", "a.safetensors", capsys=capsys)[0] == 0
    code, said, _ = run("prune", "a.safetensors", *shared, "--units-at-most", 9,
                        "--retrain-epochs", 1, "--out", "b.safetensors", capsys=capsys)  # fmt: skip
    assert code == 0
    mask, network = formats.load_mask("b.safetensors"), formats.load("b.safetensors")
    alive = sum(mask.count(group) for group in mask.groups if group.kind == "synapse")
    assert sum(int(layer.weight.count_nonzero()) for layer in (network[0], network[2])) == alive
    assert alive <= 0.4 * (16 * 12 + 12 * 26)
    assert f"{round(0.4 * (16 * 12 + 12 * 26)):,}" in said  # before: the dead did not count


def test_budgets_are_compared_and_drawn(model, tmp_path, capsys):
    out = tmp_path / "curve"
    words = ["--data", "letter", "--samples", 300, "--budgets", "40B, 300B", "--formats", "c-int8"]
    code, said, err = run("compare", model, *words, "--out", out, capsys=capsys)
    assert code == 0, err
    assert len(re.findall(r"^ +300 +(?:units|synapses|both) ", said, re.MULTILINE)) == 3
    assert said.count("not met") == 3
    assert out.with_suffix(".svg").stat().st_size > 10_000
    for bad in ("0", "4 parsecs", "-1KiB", ""):
        assert run("compare", model, "--budgets", bad, "--data", "letter", capsys=capsys)[0] == 2


def test_export_writes_every_format(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for ending in ("c", "onnx", "safetensors"):
        out = ["--out", f"net.{ending}"]
        assert run("export", model, "--data", "letter", *out, capsys=capsys)[0] == 0
        assert Path(f"net.{ending}").stat().st_size > 0
    assert "int8_t" not in Path("net.c").read_text().split("#ifdef NET_SELF_TEST")[0]
    assert (
        run("export", model, "--data", "letter", "--to", "c", "--out", "9.c", capsys=capsys)[0] == 2
    )


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ([], "one.c"),
        (["--format", "onnx"], "one.onnx"),
        (["--to", "onnx"], "one.onnx"),
        (["--to", "onnx", "--out", "a.onnx"], "a.onnx"),
        (["--format", "c-int8", "--out", "a.c"], "a.c"),
        (["--to", "c", "--format", "c-int8", "--out", "a.c"], "a.c"),
        (["--to", "c-int8", "--format", "c-int8", "--out", "a.c"], "a.c"),
        (["--to", "safetensors"], "one.safetensors"),
    ],
)
def test_export_writes_the_format_that_is_asked_for(asked, written, tmp_path, monkeypatch, capsys):
    """The command writes nothing here: what it hands on is compared."""
    monkeypatch.chdir(tmp_path)
    formats.save(training.build("16-4-26"), "one.safetensors")
    handed = []
    monkeypatch.setattr(deployment, "ship", lambda *given, **_: handed.append(given))
    code, _, err = run("export", "one.safetensors", "--data", "letter", *asked, capsys=capsys)
    assert code == 0, err
    ((_, out, _, format, *_),) = handed
    assert str(out) == written
    assert format == ("c-int8" if written == "a.c" else out.suffix[1:])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--format", "c-int9"], "Did you mean 'c-int8'"),
        (["--to", "onx"], "Did you mean 'onnx'"),
        (["--to", "onnx", "--format", "c"], "Leave out --to"),
        (["--to", "c-int8", "--format", "c"], "Leave out --to"),
        (["--to", "onyx", "--format", "onnx"], "Did you mean 'onnx'"),
        (["--to", "c", "--out", "a.onnx"], "Name it a.c, or choose the format 'onnx'"),
        (["--format", "onnx", "--out", "a.pt"], "unknown ending '.pt'"),
    ],
)
def test_export_refuses_formats_that_contradict(asked, says, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("export", model, "--data", "letter", *asked, capsys=capsys)
    assert (code, says in " ".join(err.split())) == (2, True), err
    assert list(tmp_path.iterdir()) == []


def test_the_help_of_export_lists_every_format(capsys):
    code, said, _ = run("export", "--help", capsys=capsys)
    assert code == 0
    assert set(FORMATS) <= set(re.findall(r"[\w-]+", said))
    assert "--to" not in said


def test_what_loggers_say_is_shown_once_and_they_are_left_as_they_were(caplog):
    logger = logging.getLogger("sentei")
    with screen.logged_once("sentei", logging.INFO):
        for _ in range(2):
            logger.info("a fold is inexact")
    logger.info("not shown")
    assert caplog.messages == ["a fold is inexact"]
    assert logger.level == logging.NOTSET
    assert not logger.filters
