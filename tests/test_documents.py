"""Pages and notebooks: their code runs and prints what they say; the reference lists every name."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import documents
import sentei
from sentei import losses

DOCS = Path(__file__).parent.parent / "docs"
REFERENCE = sorted(path for path in (DOCS / "reference").glob("*.md") if path.stem != "index")
NOT_RUN = {"index", "yolo"}  # a table; code for a package that is not among the tests'
QUESTIONS = sorted(p for p in (DOCS / "questions").glob("*.md") if p.stem not in NOT_RUN)
MODULES = ("criteria", "datasets", "formats", "training")
# Their libraries take seconds to import; their own tests run whole examples of them.
INTEGRATIONS = {f"integrations.{name}.PruneWhileTraining" for name in ("keras", "lightning")}
INTEGRATIONS |= {
    f"integrations.transformers.{name}"
    for name in ("PruningCallback", "save_pretrained", "Saved", "from_pretrained")
}


def public() -> dict[int, set[str]]:
    """Return the public names without modules, in sets of names for the same object."""
    names = [*sentei.__all__]
    names += [f"{each}.{name}" for each in MODULES for name in getattr(sentei, each).__all__]
    found = {name: value(name) for name in names}
    found |= {f"losses.{name}": loss for name, loss in losses.LOSSES.items()}
    grouped: dict[int, set[str]] = {}
    for name, thing in found.items():
        if not isinstance(thing, ModuleType):
            grouped.setdefault(id(thing), set()).add(name)
    return grouped


def value(name: str):
    module, _, last = name.rpartition(".")
    return getattr(getattr(sentei, module) if module else sentei, last)


def entries() -> dict[str, str]:
    """Return the example of each name that the reference lists: the block that follows it."""
    found = {}
    for page in REFERENCE:
        for name, text in re.findall(
            r"^::: sentei\.(\S+)\n(.*?)(?=^::: |\Z)", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            assert name not in found, f"{name} is listed twice"
            blocks = re.findall(r"```py(?:thon)?\n(.*?)```", text, re.DOTALL)
            found[name] = blocks[0] if blocks else ""
    return found


@pytest.mark.parametrize("page", [*REFERENCE, *QUESTIONS, DOCS / "index.md"], ids=lambda p: p.stem)
def test_a_pages_code_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = documents.code_blocks(page)
    assert blocks
    documents.run(blocks, page.name)


def test_the_reference_lists_every_public_name_with_an_example_that_uses_it():
    listed = entries()
    wanted = public()
    missing = [names for names in wanted.values() if not names & set(listed)]
    assert not missing
    known = set().union(*wanted.values()) | INTEGRATIONS
    known |= {f"losses.{name}" for name in ("chosen", "per_sample", "wanted")}
    assert set(listed) <= known
    for name, example in listed.items():
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", example), name
