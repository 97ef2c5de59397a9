"""The table of file formats: each has a size and a writer, and no other list of names exists."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sentei
from sentei.formats.exporting import WRITERS, checked
from sentei.network.encoding import format as table
from sentei.network.encoding.format import FORMATS, c_numbers, format_ending_in, format_named
from sentei.network.encoding.size import SIZES
from sentei.pruning.boards import board

SOURCE = Path(__file__).parent.parent / "src" / "sentei"


def test_every_format_has_a_record_a_size_and_a_writer():
    assert [*SIZES] == [*WRITERS] == [*FORMATS]
    assert all(name == format.name == format_named(name).name for name, format in FORMATS.items())
    assert {name: format.suffix for name, format in FORMATS.items()} == {
        "safetensors": ".safetensors",
        "onnx": ".onnx",
        "c": ".c",
        "c-int8": ".c",
        "c-int8-int16": ".c",
        "c-int8-int8": ".c",
    }
    assert [name for name, format in FORMATS.items() if not format.least] == ["safetensors"]


def test_a_suffix_means_the_first_format_that_has_it():
    found = {suffix: format_ending_in(suffix).name for suffix in (".c", ".onnx", ".safetensors")}
    assert found == {".c": "c", ".onnx": "onnx", ".safetensors": "safetensors"}
    assert {format_ending_in(format.suffix).suffix for format in FORMATS.values()} == set(found)
    assert checked("a/net.c", None) == "c"
    assert checked("a/net.c", "c-int8-int8") == "c-int8-int8"
    with pytest.raises(
        ValueError, match=r"does not end in '\.c': a/net\.c\. Name it net\.onnx, or"
    ):
        checked("a/net.c", "onnx")


def test_the_number_types_of_c_formats():
    found = {name: str(c_numbers(name)) for name in FORMATS if name in table.C_FORMATS}
    assert found == {
        "c": "float32",
        "c-int8": "int8",
        "c-int8-int16": "int8-int16",
        "c-int8-int8": "int8-int8",
    }
    assert [c_numbers(name).activation for name in found] == [4, 4, 1, 2]


@pytest.mark.parametrize(
    ("look_up", "name", "says"),
    [
        (format_named, "c-int9", "unknown format 'c-int9'. Did you mean 'c-int8'"),
        (format_named, "csv", "unknown format 'csv'"),  # that a name begins with c says nothing
        (c_numbers, "onnx", "unknown C format 'onnx'. Known: c, c-int8, c-int8-int16, c-int8-int8"),
        (format_ending_in, ".onx", "unknown ending '.onx'. Did you mean '.onnx'"),
        (lambda name: board("arduino-uno").memory_budget(name, 9), "onnx", "unknown C format"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest(look_up, name, says):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        look_up(name)
    assert says in str(refused.value)


def test_the_table_loads_without_torch():
    code = "import sys, sentei.network.encoding.format; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_size_in_onnx_can_be_a_limit():
    """No layer of an ONNX file is without inputs, so the smallest size is that of one unit."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    data = torch.randn(32, 4), torch.randint(0, 2, (32,))
    groups, probe = sentei.find_units(network, data[0]), sentei.Probe(network, data)
    way = sentei.ranked("magnitude", sentei.one_at_a_time())
    limit = sentei.bytes_at_most("95 %", format="onnx")
    *_, last = sentei.prune(network, groups, probe, way, until=limit)
    assert 0 < last.measured.units < 3
    with pytest.raises(sentei.UnreachableError, match="bytes as onnx"):
        sentei.prune(network, groups, probe, way, until=sentei.bytes_at_most(9, format="onnx"))


# The code.

GUESSES = {"c", "c-", "-int8", "-int8-int8"}  # parts of names that would stand for a kind of format


def spelled(node: ast.AST) -> bool:
    """Whether a piece of code lists formats by name, compares with one, or takes a name apart."""
    match node:
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return len(named(parts)) > 1
        case ast.Dict(keys=keys):
            return len(named(keys)) > 1
        case ast.Compare(left=left, comparators=others):
            return bool(named([left, *others]))
        case ast.Call(
            func=ast.Attribute(attr="startswith" | "endswith" | "removeprefix"), args=args
        ):
            return any(isinstance(part, ast.Constant) and part.value in GUESSES for part in args)
    return False


def named(nodes) -> list:
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [value for value in constants if value in FORMATS]


@pytest.mark.parametrize(
    "line",
    [
        'FORMATS = ("c", "c-int8")',
        'to: Literal["c", "onnx"]',
        'known = [*C_FORMATS, "onnx", "safetensors"]',
        'sizes = {"safetensors": 1, "onnx": 2}',
        'format == "onnx"',
        'format.startswith("c")',
        'format.endswith("-int8-int8")',
    ],
)
def test_a_list_of_names_is_found(line):
    assert any(spelled(node) for node in ast.walk(ast.parse(line)))


def test_formats_are_listed_in_one_place():
    files = [path for path in SOURCE.rglob("*.py") if path != Path(table.__file__)]
    assert len(files) > 100
    found = {
        f"{path.relative_to(SOURCE)}: {ast.unparse(node)}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if spelled(node)
    }
    assert not found
