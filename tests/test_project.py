"""The project itself: imports point one way, names are complete, documentation tells the truth."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sentei

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "sentei"

# Who may import whom; the ground may be imported by all.
GROUND = {"distributed", "errors", "losses", "samples", "storage"}
BELOW = {
    "network": set(),
    "criteria": {"network"},
    "pruning": {"criteria", "network"},
    "training": set(),
    "datasets": set(),
    "formats": {"network"},
    "integrations": {"pruning", "criteria", "network"},
    "reporting": {"formats", "pruning", "criteria", "network", "training", "datasets"},
    "papers": {"reporting", "formats", "pruning", "criteria", "network", "training", "datasets"},
    "cli": {
        "papers",
        "reporting",
        "formats",
        "pruning",
        "criteria",
        "network",
        "training",
        "datasets",
    },
}


def modules():
    return sorted(SOURCE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The parts of sentei that a file imports, at its top or anywhere in it."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "sentei":
                names = [f"sentei.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("sentei.")}
    return parts


def test_imports_point_one_way():
    seen = 0
    for path in modules():
        part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):
            continue
        allowed = GROUND | BELOW.get(part, set()) | {part} | set(BELOW.get(part, GROUND))
        known = {name for name in imported(path) if name in GROUND | set(BELOW)}
        if part == "cli":
            continue  # commands use the public names, which lead everywhere
        assert known <= allowed, f"{path.relative_to(ROOT)} imports {known - allowed}"
        seen += 1
    assert seen > 30


def test_the_ground_imports_only_the_ground():
    for name in GROUND:
        assert imported(SOURCE / f"{name}.py") <= GROUND


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


def test_nothing_pickles():
    for path in modules():
        text = path.read_text()
        assert not re.search(r"import pickle|torch\.(load|save)\(|allow_pickle=True", text), path


def test_files_stay_readable():
    long = {p.name: len(p.read_text().splitlines()) for p in modules()}
    assert max(long.values()) <= 350, {name: n for name, n in long.items() if n > 350}


def code_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


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
    """Block after block in a process of its own, as a reader would type it."""
    blocks = code_blocks(guide)
    script = tmp_path / "guide.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
