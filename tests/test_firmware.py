"""Networks as C and ONNX: the same outputs, the planned bytes, on every available machine."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sentei
from c_networks import ELEMENTWISE, masked
from sentei.errors import BudgetError, DataError, FileError, StructureError
from sentei.formats.c.compiled import STRICT, Compiled, compiler
from sentei.formats.c.emulated import self_test
from sentei.formats.c.quantised import outputs
from sentei.network.alive_weights import AliveWeights
from sentei.network.encoding import size
from sentei.network.encoding.coding import CODES, smallest
from sentei.network.encoding.format import FORMATS
from sentei.network.mask import Mask
from sentei.pruning.measuring import Measurement, Outline
from sentei.pruning.rules import limits

needs_cc = pytest.mark.skipif(compiler() is None, reason="no C compiler on this machine")
needs_arm = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="no arm-none-eabi-gcc or no qemu-system-arm on this machine",
)
needs_avr = pytest.mark.skipif(shutil.which("avr-gcc") is None, reason="no avr-gcc here")


@needs_cc
@pytest.mark.parametrize("dead", [0, 0.3, 0.8, 0.95])
@pytest.mark.parametrize(
    "name", ["mlp", "lenet", "odd", "signal", "depthwise", "residual", "gru", "lstm"]
)
def test_float_c_is_the_same_function(name, dead, tmp_path):
    network, mask, x = masked(name, dead)
    path = tmp_path / f"{name}.c"
    sentei.export(network, path, example=x, mask=mask)
    with torch.no_grad():
        wanted = network(x)
    torch.testing.assert_close(Compiled(path)(x), wanted, atol=1e-5, rtol=0)


@needs_cc
@pytest.mark.parametrize("format", ["c-int8", "c-int8-int8", "c-int8-int16"])
@pytest.mark.parametrize("name", ["mlp", "lenet", "depthwise", "residual"])
def test_int8_c_computes_what_was_planned_for_it(name, format, tmp_path):
    network, mask, x = masked(name, 0.5)
    path = tmp_path / f"{name}.c"
    sentei.export(network, path, example=x, mask=mask, format=format)
    stored = sentei.formats.c.as_c(network, x, mask, format)
    got, wanted = Compiled(path)(x), outputs(stored, x)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=0)
    with torch.no_grad():
        real = network(x)
    assert (got - real).abs().max() < 0.05 * max(1, float(real.abs().max()))
    assert not torch.equal(got, real)  # it is quantised indeed


@needs_cc
@pytest.mark.parametrize("format", ["c", "c-int8", "c-int8-int8", "c-int8-int16"])
@pytest.mark.parametrize("name", ["mlp", "lenet", "odd", "raw", "residual"])
def test_the_self_test_passes_without_undefined_behaviour(name, format, tmp_path):
    network, mask, x = masked(name, 0.7)
    sentei.export(network, tmp_path / "net.c", example=x, mask=mask, format=format)
    flags = [*STRICT, "-fsanitize=address,undefined", "-DNET_SELF_TEST"]
    build = [compiler(), *flags, "net.c", "-lm", "-o", "test"]
    subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run(["./test"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "net: 4 of 4 golden vectors passed\n"
    # A wrong weight is noticed: the test can fail.
    text = (tmp_path / "net.c").read_text()
    broken = re.sub(r"(_bias\[\d+\] \w+ = \{\s+)\S+,", r"\g<1>7.5f,", text)
    (tmp_path / "net.c").write_text(broken)
    subprocess.run(build, cwd=tmp_path, check=True)
    assert subprocess.run(["./test"], cwd=tmp_path, capture_output=True, check=False).returncode


@needs_cc
@pytest.mark.parametrize("layer", ELEMENTWISE, ids=lambda layer: type(layer).__name__)
def test_functions_of_one_value_are_exact_to_float32(layer, tmp_path):
    network = nn.Sequential(nn.Linear(1, 1), layer)
    nn.init.ones_(network[0].weight)
    nn.init.zeros_(network[0].bias)
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.linspace(-0.1, 0.1, 401)])[:, None]
    sentei.export(network, tmp_path / "net.c", x)
    with torch.no_grad():
        off = (Compiled(tmp_path / "net.c")(x).double() - network.double()(x.double())).abs()
    assert float((off / x.abs().clamp_min(1)).max()) < 3e-7


@needs_cc
def test_two_networks_link_into_one_program(tmp_path):
    for name, dead in (("one", 0.2), ("two", 0.9)):
        network, mask, x = masked("lenet", dead)
        sentei.export(network, tmp_path / f"{name}.c", example=x, mask=mask)
    (tmp_path / "main.c").write_text(
        '#include "one.h"\n#include "two.h"\nint main(void) { static float x[ONE_INPUTS];'
        "return one_classify(x) < 0 || two_classify(x) < 0; }\n"
    )
    build = [compiler(), *STRICT, "main.c", "one.c", "two.c", "-lm", "-o", "main"]
    subprocess.run(build, cwd=tmp_path, check=True)
    subprocess.run(["./main"], cwd=tmp_path, check=True)


@needs_cc
def test_kept_inputs_keep_the_callers_interface(tmp_path):
    network = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(50, 12)
    features, units = sentei.find_units(network, x, inputs=True)
    mask = Mask.full([features, units]).without({features: [0, 5, 11], units: [2]})
    small = sentei.shrink(network, mask, x)
    for format in ("c", "c-int8-int8"):
        sentei.export(small, tmp_path / "net.c", example=x, format=format)
        compiled = Compiled(tmp_path / "net.c")
        assert compiled.inputs == 12
        with torch.no_grad():
            off = (compiled(x) - small(x)).abs().max()
        assert off < (1e-6 if format == "c" else 0.05)
    planned = size.bytes_in(network, mask, "c", x)
    text = (tmp_path / "net.h").read_text()
    assert planned == 9 + 7 * 9 * 4 + 3 * 7 * 4 + (7 + 3) * 4
    assert f"NET_FLASH_BYTES {size.bytes_in(network, mask, 'c-int8-int8', x)}L" in text


# Plans.

PLANNED = [("lenet", 0), ("lenet", 0.4), ("lenet", 0.9), ("raw", 0), ("residual", 0.5)]


@pytest.mark.parametrize("name", [n for n, format in FORMATS.items() if format.numbers is None])
@pytest.mark.parametrize(("net", "dead"), [*PLANNED, ("lstm", 0.3)])
def test_the_plan_is_the_size_of_the_file(name, net, dead, tmp_path):
    network, mask, x = masked(net, dead)
    path = tmp_path / f"net{FORMATS[name].suffix}"
    sentei.export(network, path, example=x, mask=mask, format=name)
    assert path.stat().st_size == size.bytes_in(network, mask, name, x)


@pytest.mark.parametrize("name", [n for n, format in FORMATS.items() if format.numbers])
@pytest.mark.parametrize(("net", "dead"), PLANNED)
def test_the_plan_is_what_is_written(name, net, dead, tmp_path):
    network, mask, x = masked(net, dead)
    planned = size.bytes_in(network, mask, name, x)
    path = tmp_path / f"net{FORMATS[name].suffix}"
    sentei.export(network, path, example=x, mask=mask, format=name)
    widths = {"float": 4, "int32_t": 4, "int16_t": 2, "uint16_t": 2, "int8_t": 1, "uint8_t": 1}
    text = path.read_text()
    tables = re.findall(
        r"static const (\w+) \w+\[(\d+)\] NET_FLASH = \{", text.split("#ifdef NET_SELF")[0]
    )
    assert sum(widths[kind] * int(entries) for kind, entries in tables) == planned
    buffers = re.findall(r"^static (\w+) net_\w+\[(\d+)\];", text, re.MULTILINE)
    held = sum(widths[kind] * int(entries) for kind, entries in buffers)
    assert held == size.ram_in(network, mask, name, x)


def test_bytes_by_hand():
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    everything = Mask.full(sentei.find_synapses(network))
    assert size.bytes_in(network, everything, "c") == 4 * (6 + 2 + 4 + 2)
    assert size.bytes_in(network, everything, "c-int8") == (6 + 4) + 8 * 4
    first, _ = everything.groups
    # One weight of six: one byte of gaps in halves (its gap, and one to run past the end).
    assert size.bytes_in(network, everything.without({first: [0, 1, 2, 3, 4]}), "c-int8") == (
        1 + 1 + 4 + 8 * 4
    )
    assert size.ram_in(network, everything, "c") == 2 * 4
    assert size.ram_in(network, everything, "c-int8-int8") == 2


def read(code, rows, columns):
    """Decode the positions of the weights, as the C code does."""
    alive = np.zeros((rows, columns), dtype=bool)
    if code.name == "dense":
        return ~alive
    if code.name == "bitmap":
        bits = np.unpackbits(code.tables["bits"], bitorder="little")
        return bits[: rows * columns].reshape(rows, columns).astype(bool)
    if code.name.startswith("csr"):
        at = iter(code.tables["columns"])
        for row, count in enumerate(code.tables["counts"]):
            for _ in range(count):
                alive[row, next(at)] = True
        return alive
    gaps = code.tables["gaps"]
    if code.name == "gaps4":
        gaps = np.stack([gaps & 15, gaps >> 4], 1).reshape(-1)
    jump = {"gaps4": 15, "gaps8": 255}[code.name]
    stream = iter(int(gap) for gap in gaps)
    gap = next(stream)
    column = gap
    for row in range(rows):
        while column < columns:
            if gap != jump:
                alive[row, column] = True
                column += 1
            gap = next(stream)
            column += gap
        column -= columns
    return alive


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 9), st.integers(1, 700), st.floats(0, 1), st.integers(0, 10**6))
def test_every_code_lists_the_same_places(rows, columns, density, seed):
    alive = np.random.default_rng(seed).random((rows, columns)) < density
    made = {name: coding.encode(alive) for name, coding in CODES.items()}
    codes = {name: code for name, code in made.items() if code is not None}
    assert codes.keys() == CODES.keys() - ({"csr8"} if columns > 256 else set())
    for name, code in codes.items():
        places = read(code, rows, columns)
        assert (places == (np.ones_like(alive) if name == "dense" else alive)).all(), name
        assert code.weights == places.sum()


def counted(alive):
    return AliveWeights(alive.shape, (torch.from_numpy(alive.reshape(-1)),))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 700),
    st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.1, 0.25, 1.0]),
    st.integers(0, 10**6),
)
def test_sizes_are_known_without_encoding(rows, columns, density, seed):
    """The size of each code, its bound, and which is smallest, against codes that were made."""
    alive = np.random.default_rng(seed).random((rows, columns)) < density
    weights = counted(alive)
    made = {name: coding.encode(alive) for name, coding in CODES.items()}
    codes = [code for code in made.values() if code is not None]
    for name, coding in CODES.items():
        assert coding.bytes(weights) == (None if made[name] is None else made[name].bytes), name
    assert all(CODES[code.name].least(weights) <= code.bytes for code in codes)
    for each in (1, 4):
        totals = {code.name: code.bytes + code.weights * each for code in codes}
        best = min(totals, key=totals.__getitem__)  # of equals the first
        assert smallest(weights, each) == (best, totals[best])


@pytest.mark.parametrize(
    ("density", "weight_bytes", "best"),
    [
        (0.005, 1, "gaps8"),
        (0.1, 1, "gaps4"),
        (0.6, 1, "bitmap"),
        (1, 1, "dense"),
        (0.9, 4, "bitmap"),
    ],
)
def test_the_smallest_code_wins(density, weight_bytes, best):
    alive = np.random.default_rng(0).random((40, 500)) < density
    assert smallest(counted(alive), weight_bytes)[0] == best
    assert smallest(counted(np.eye(256, dtype=bool)[:, :200]), 1)[0] in ("csr8", "gaps8")


# ONNX.


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["mlp", "lenet", "odd", "signal", "depthwise", "raw", "residual", "gru", "lstm"]
)
def test_onnxruntime_agrees(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'sentei[onnx]'")
    onnx = pytest.importorskip("onnx", reason="pip install 'sentei[onnx]'")
    network, mask, x = masked(name, 0.5)
    path = tmp_path / "net.onnx"
    sentei.export(network, path, example=x[:1], mask=mask)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    for batch in (1, 7, 100):
        (got,) = session.run(None, {"input": x[:batch].numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.tensor(got), network(x[:batch]), atol=1e-5, rtol=0)


# On the boards.


@needs_arm
@pytest.mark.parametrize(
    ("name", "format"),
    [
        *(("lenet", f) for f in ("c", "c-int8", "c-int8-int8", "c-int8-int16")),
        ("raw", "c-int8-int8"),
        ("residual", "c-int8-int8"),
        ("gru", "c-int8"),
        ("lstm", "c"),
    ],
)
def test_golden_vectors_pass_on_an_emulated_cortex_m4(name, format, tmp_path):
    network, mask, x = masked(name, 0.6)
    sentei.export(network, tmp_path / "net.c", example=x, mask=mask, format=format)
    done = self_test(tmp_path / "net.c")
    assert done == "net: 4 of 4 golden vectors passed\n"


@needs_arm
@pytest.mark.parametrize(("format", "most"), [("c", 2800), ("c-int8", 1500)])
def test_a_64_32_10_network_is_this_small_on_a_cortex_m0(format, most, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    links = sentei.find_synapses(network)
    dead = {g: torch.randperm(g.size)[: g.size * 8 // 10] for g in links}
    mask = Mask.full(links).without(dead)
    sentei.export(network, tmp_path / "net.c", example=torch.randn(9, 64), mask=mask, format=format)
    build = ["arm-none-eabi-gcc", *STRICT, "-mcpu=cortex-m0plus", "-mthumb", "-Os", "-c", "net.c"]
    subprocess.run(build, cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["arm-none-eabi-size", "-A", "net.o"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    sections = dict(re.findall(r"^\.(\w+)\s+(\d+)", listed.stdout, re.MULTILINE))
    assert 0 < int(sections["text"]) + int(sections["rodata"]) <= most


@needs_avr
@pytest.mark.parametrize("name", ["mlp", "raw"])
def test_constants_stay_in_an_avrs_flash(name, tmp_path):
    network, mask, x = masked(name, 0.8)
    sentei.export(network, tmp_path / "net.c", example=x, mask=mask, format="c-int8-int8")
    build = ["avr-gcc", *STRICT, "-mmcu=atmega328p", "-Os", "-c", "net.c"]
    subprocess.run(build, cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["avr-size", "net.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    _, data, bss = map(int, listed.stdout.splitlines()[1].split()[:3])
    assert (data, bss) == (0, size.ram_in(network, mask, "c-int8-int8", x))


# What cannot be.


def refused(network, x, **settings):
    with pytest.raises((StructureError, ValueError, FileError)) as error:
        sentei.export(network, settings.pop("path", "never.c"), example=x, **settings)
    return str(error.value)


def test_bad_networks_are_refused_by_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = torch.randn(5, 4)
    norm = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert "'1' is a LayerNorm" in refused(norm, x)
    plain = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    broken = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        broken[1].weight[0, 0] = float("nan")
    for path in ("never.c", "never.onnx"):
        assert "'1' has one that is not (NaN" in refused(broken, x, path=path)
    links = sentei.find_synapses(plain)
    dead = Mask.full(links).without({links[0]: range(12)})
    assert "'0' has no input left" in refused(plain, x, mask=dead)
    assert "reads 4 numbers" in refused(plain, torch.randn(5, 3))
    assert "'9net'" in refused(plain, x, path="9net.c")
    assert "'while'" in refused(plain, x, name="while")
    assert "unknown ending '.txt'" in refused(plain, x, path="net.txt")
    assert "does not end in" in refused(plain, x, path="net.onnx", format="c")
    assert "Did you mean 'c-int8'" in refused(plain, x, format="c-int9")
    assert "2 outputs and 1 classes" in refused(plain, x, classes=["a"])
    whole = nn.Sequential(nn.Softmax(1), nn.Linear(4, 2))
    assert "Use format 'c-int8'" in refused(whole, x, format="c-int8-int8")
    with pytest.raises(DataError, match="example="):
        sentei.export(plain, "never.c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [0, -1, "0 KiB", "-3 KiB", "5 parsecs", "nan", ""])
def test_bad_budgets_are_refused(bad):
    with pytest.raises(BudgetError):
        limits.bytes_at_most(bad, format="c-int8")
    with pytest.raises(BudgetError):
        limits.ram_at_most(bad)


def test_limits_know_the_formats():
    model = sentei.training.build("4-3-2")
    example = torch.zeros(1, 4)
    mask = Mask.full(sentei.find_units(model, example))
    start = Measurement(None, 0.0).of(Outline(model, example), mask)
    for format in ("onnx", "c-int8"):
        (told,) = limits.bytes_at_most("1 KiB", format=format).told
        assert told(start).startswith(f"{start.bytes_in(format):,} bytes as {format}")
    assert limits.bytes_at_most("1 KiB", format="safetensors").told == ()
    with pytest.raises(ValueError, match="Did you mean 'c-int8'"):
        limits.bytes_at_most("1 KiB", format="c-int9")
    with pytest.raises(ValueError, match="C format 'onnx'"):
        limits.ram_at_most("1 KiB", format="onnx")
