"""The project itself: import directions, complete public names, documentation code that runs."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import sentei
from documents import code_blocks

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "sentei"

# Layers of the package ("rooms"), lowest first: each room, and the rooms that it may import besides
# GROUND. A module belongs to the room with the longest matching prefix of its name.
GROUND = {
    *("arguments", "card", "describing", "devices", "distributed", "errors", "html_table"),
    *("kinds", "losses", "metrics", "nests", "quantities", "running", "samples", "shards"),
    *("storage", "target_forms"),
}
NETWORK = {"network", "network.tracing", "network.surgery", "network.encoding"}
PROBE = NETWORK | {"reading", "probe.recording", "probe.engines", "probe"}
CRITERIA = PROBE | {"criteria.repairs", "criteria"}
PRUNING = CRITERIA | {"jobs", "pruning.rules", "pruning"}
ALL_BELOW_PAPERS = PRUNING | {
    *("block_by_block", "pruning.while_training", "formats", "formats.c", "training", "datasets"),
    *("reporting", "reporting.page", "experiments"),
}
ROOMS = {
    "jobs": set(),
    "reading": set(),
    "network": set(),
    "network.surgery": {"network"},
    "network.tracing": {"network", "network.surgery"},
    "network.encoding": {"network", "network.surgery"},
    "probe.recording": NETWORK | {"reading"},
    "probe.engines": NETWORK | {"reading", "probe.recording"},
    "probe": NETWORK | {"reading", "probe.recording", "probe.engines"},
    "criteria.repairs": PROBE,
    "criteria": PROBE | {"criteria.repairs"},
    "block_by_block": PROBE,
    "pruning.rules": CRITERIA,
    "pruning": CRITERIA | {"jobs", "pruning.rules"},
    "pruning.while_training": PRUNING,
    "training": {"reading"},
    "datasets": set(),
    "formats.c": NETWORK,
    "formats": NETWORK | {"formats.c"},
    "integrations": PRUNING | {"pruning.while_training", "formats"},
    "reporting.page": PRUNING | {"training", "datasets"},
    "reporting": PRUNING | {"reporting.page", "formats", "training", "datasets"},
    "experiments": PRUNING | {"reporting", "formats", "formats.c", "training", "datasets"},
    "papers": ALL_BELOW_PAPERS,
    "cli": ALL_BELOW_PAPERS | {"papers"},
}
# Modules that commands share, lowest first: each may import only those before it.
CLI = [
    *("command_line", "screen", "references", "failures", "stopping", "bounds", "conflicts"),
    "ranks",
    *(
        "deployment",
        "weights",
        "own_data",
        "options",
        "loading",
        "own_metric",
        "pruned",
        "board_time",
        "fit",
        "watching",
    ),
]


def modules():
    return sorted(SOURCE.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Return the modules and names of sentei that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("sentei.") for name in found if name.startswith("sentei.")}


def room(name: str) -> str | None:
    """Return the room of a module or of a name in it; None for a public name of `sentei`."""
    inside = [r for r in (*ROOMS, *GROUND) if name == r or name.startswith(f"{r}.")]
    return max(inside, key=len, default=None)


def upward(path: Path) -> set[str]:
    """Return the names that a file imports from rooms that its own room may not import."""
    own = room(dotted(path))
    if own is None:
        return set()
    allowed = GROUND | ROOMS.get(own, set()) | {own}
    return {name for name in imported(path) if room(name) not in allowed | {None}}


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_point_one_way(path):
    assert not upward(path)


def test_the_ground_imports_only_the_ground():
    for name in GROUND:
        assert {room(each) for each in imported(SOURCE / f"{name}.py")} <= GROUND


def test_every_module_is_in_a_room():
    homeless = [dotted(path) for path in modules() if room(dotted(path)) is None]
    assert homeless == ["__init__", "__main__"]
    assert {room(dotted(path)) for path in modules()} - {None} == GROUND | set(ROOMS)


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("network/mask.py", "from sentei.network.surgery.surgery import shrink", 1),
        ("network/surgery/surgery.py", "from sentei.network.mask import Mask", 0),
        ("network/surgery/sparse.py", "from sentei.network.tracing import links", 1),
        ("pruning/loop.py", "import sentei.pruning.while_training.during", 1),
        ("probe/engines/gates.py", "def f():\n    from sentei.probe.probe import Probe", 1),
        ("errors.py", "from sentei import losses, network", 1),
        ("reporting/tables.py", "from sentei.experiments.comparing import compare", 1),
        ("cli/rank.py", "from sentei import prune, formats", 0),
    ],
)
def test_an_upward_import_is_found(tmp_path, monkeypatch, module, line, found):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / module).write_text(line)
    assert len(upward(tmp_path / module)) == found


def test_rooms_import_in_no_circle():
    order: list[str] = []
    for name, allowed in ROOMS.items():
        assert name not in allowed
        assert not [other for other in allowed if name in ROOMS[other]], name
        order.append(name)
    assert len(order) == len(ROOMS)


def test_commands_share_what_lies_below_them_and_never_each_other():
    commands = sorted(path for path in (SOURCE / "cli").glob("*.py") if path.stem != "__init__")
    assert {path.stem for path in commands} > set(CLI)
    for path in commands:
        used = {name.split(".")[1] for name in imported(path) if name.startswith("cli.")}
        below = CLI[: CLI.index(path.stem)] if path.stem in CLI else CLI
        assert used <= set(below), f"{path.stem} imports {used - set(below)}"


def test_test_files_import_no_test_files():
    """What two of them need is in a helper module: else a changed test changes another's data."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    assert Path(__file__) in files
    found = {
        path.name: re.findall(r"^ *(?:from|import) +test_\w+.*", path.read_text(), re.MULTILINE)
        for path in files
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_make_test_slow_has_tests_to_run():
    """A marker that nothing has is a target that does nothing and fails."""
    marked = [
        p
        for p in Path(__file__).parent.glob("test_*.py")
        if "\n@pytest.mark.slow\n" in p.read_text()
    ]
    assert {path.name for path in marked} >= {"test_invariant.py", "test_size.py"}


def own_nodes(function: ast.AST) -> list[ast.AST]:
    """Return the nodes of a function, without those of functions in it."""
    children = [n for n in ast.iter_child_nodes(function) if not isinstance(n, ast.FunctionDef)]
    return children + [node for child in children for node in own_nodes(child)]


def test_no_test_returns_early_and_one_that_skips_cases_counts_the_others():
    """A test that returns or goes on before its assertions asserts nothing."""
    tests = {
        f"{path.name}: {function.name}": own_nodes(function)
        for path in sorted(Path(__file__).parent.glob("test_*.py"))
        for function in ast.parse(path.read_text()).body
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
    }
    assert len(tests) > 500
    for name, nodes in tests.items():
        assert not [node for node in nodes if isinstance(node, ast.Return)], name
        if any(isinstance(node, ast.Continue) for node in nodes):
            counts = [ast.unparse(n.target) for n in nodes if isinstance(n, ast.AugAssign)]
            asserted = [ast.unparse(n.test) for n in nodes if isinstance(n, ast.Assert)]
            assert any(f"{count} > 0" in test for count in counts for test in asserted), name


def test_the_architecture_page_lists_every_room_and_module():
    rows = re.findall(
        r"^\| `([a-z_/]+)` \| .+? \| (.+) \|$",
        (ROOT / "docs/architecture.md").read_text(),
        re.MULTILINE,
    )
    listed = {
        name.replace("/", "."): set(re.findall(r"`([a-z0-9_]+)`", files)) for name, files in rows
    }
    assert set(listed) == set(ROOMS)
    for name, files in listed.items():
        folder = SOURCE / name.replace(".", "/")
        there = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        if name == "cli":  # "and the commands"
            there &= set(CLI)
        if name == "reporting":
            there -= {"budgets"}  # a redirection for imports of the first release
        assert files == there, name


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_is_in_it_and_what_it_may_import(name):
    """One sentence of contents first, the permitted imports last; the permitted ones are true."""
    source = SOURCE / name.replace(".", "/") / "__init__.py"
    first, *_, last = (ast.get_docstring(ast.parse(source.read_text())) or "").split("\n\n")
    assert first.endswith(".")
    assert re.match(r"May import .+\.$", last, re.DOTALL)
    sentence = re.split(r";|\. |everything but", last)[0]
    named = set(re.findall(r"`([a-z._]+)`", sentence))
    assert named <= GROUND | ROOMS[name]
    if "everything but" in last:
        excepted = set(re.findall(r"`([a-z._]+)`", last))
        assert excepted == {room for room in ROOMS if room not in ROOMS[name] | {name}}


def test_public_names_are_sorted_complete_and_there():
    assert sentei.__all__ == sorted(set(sentei.__all__))
    for name in sentei.__all__:
        assert getattr(sentei, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'prnue'"):
        _ = sentei.prnue


@pytest.mark.parametrize("package", ["criteria", "datasets", "formats", "training"])
def test_packages_list_their_names_sorted(package):
    module = getattr(sentei, package)
    assert module.__all__ == sorted(module.__all__, key=lambda n: (not n.isupper(), n.islower(), n))
    assert all(hasattr(module, name) for name in module.__all__)


def test_importing_the_package_and_its_help_load_no_torch():
    for code in ("import sentei", "import sentei.cli"):
        probe = f"{code}, sys; print('torch' in sys.modules or 'matplotlib' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", probe], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "False", code


def test_the_version_is_the_changelogs():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def pickling(text: str) -> list[str]:
    """Return what in a source may run or write pickles."""
    found = []
    for node in ast.walk(ast.parse(text)):
        words = (
            ast.unparse(node) if isinstance(node, (ast.Call, ast.Import, ast.ImportFrom)) else ""
        )
        loads = words.startswith("torch.load(") and "weights_only=True" not in words
        if loads or re.match(r"(import|from) pickle|torch\.save\(", words):
            found.append(words)
        found += [words] * ("allow_pickle=True" in words)
    return found


def test_nothing_pickles():
    for path in modules():
        assert not pickling(path.read_text()), path


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from pickle import load", "torch.save(x, path)", "torch.load(path)"),
        *("torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)"),
    ],
)
def test_what_pickles_is_found(line):
    assert pickling(line)


def test_files_stay_readable():
    long = {p.name: len(p.read_text().splitlines()) for p in modules()}
    assert max(long.values()) <= 500, {name: n for name, n in long.items() if n > 500}


def packages_of(block: str) -> list[str]:
    return re.findall(r"^(?:from|import) (\w+)", block, re.MULTILINE)


def test_contributings_example_of_a_criterion_gives_what_it_says():
    (block,) = code_blocks(ROOT / "CONTRIBUTING.md")
    names = {name: getattr(sentei, name) for name in ("Probe", "Neurons", "CriterionError")}
    names |= {"torch": torch, "Tensor": torch.Tensor, "Group": sentei.Neurons}
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    model[2].weight.data = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    data = torch.rand(8, 3), torch.zeros(8, dtype=torch.long)
    probe = sentei.Probe(model, data)
    (group,) = sentei.find_units(model, data[0])
    assert sentei.criteria.scores(names["fan_out"], probe, group).tolist() == [4.0, 2.5]
    with pytest.raises(sentei.CriterionError, match="is a group of synapses"):
        sentei.criteria.scores(names["fan_out"], probe, sentei.find_synapses(model)[0])


def test_the_readmes_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks(ROOT / "README.md")
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


@pytest.mark.parametrize(
    "guide", sorted((ROOT / "docs" / "guides").glob("*.md")), ids=lambda p: p.stem
)
def test_a_guides_code_runs(guide, tmp_path):
    """Block after block in a process of its own, as a reader would type it.

    Blocks that import a package that is not installed are left out; files of the worked example
    are beside the script.
    """
    for file in (ROOT / "examples" / "own").glob("*.py"):
        shutil.copy(file, tmp_path)
    own = {file.stem for file in tmp_path.glob("*.py")}
    blocks = [
        block
        for block in code_blocks(guide)
        if all(name in own or find_spec(name) for name in packages_of(block))
    ]
    script = tmp_path / "guide.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
