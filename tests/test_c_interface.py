"""What firmware sees of a C file: names, helpers, comment, layout; no warning on any compiler."""

import re
import shutil
import subprocess

import pytest
import torch
from torch import nn

import sentei
from c_networks import masked
from commands import run
from sentei.card import Card, set_card_
from sentei.formats.c.compiled import compiler
from sentei.formats.c.layout import WIDTH, laid_out
from sentei.network.encoding.format import C_FORMATS

needs_cc = pytest.mark.skipif(compiler() is None, reason="no C compiler on this machine")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
COMPILERS = {
    "x86": ("gcc",),
    "cortex-m0plus": ("arm-none-eabi-gcc", "-mcpu=cortex-m0plus", "-mthumb"),
    "cortex-m4": ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb"),
    "avr": ("avr-gcc", "-mmcu=atmega2560"),
}
NETWORKS = ("mlp", "lenet", "odd", "signal", "depthwise", "raw", "residual", "lstm")
INT8_ACTIVATIONS = ("mlp", "lenet", "depthwise", "raw", "residual")


def written(name, format, folder, dead=0.7):
    network, mask, x = masked(name, dead)
    sentei.export(network, folder / "net.c", example=x, mask=mask, format=format)
    return folder / "net.c"


def combinations():
    for format, numbers in C_FORMATS.items():
        for name in NETWORKS if numbers.activation == 4 else INT8_ACTIVATIONS:
            yield name, format


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return the C file of every combination, each in a folder of its own."""
    root = tmp_path_factory.mktemp("sources")
    for name, format in combinations():
        (root / f"{name}-{format}").mkdir()
    return [written(name, format, root / f"{name}-{format}") for name, format in combinations()]


ALIKE = ("cortex-m4",)  # the compiler of another target


@pytest.mark.parametrize(
    "target", [pytest.param(t, marks=[pytest.mark.slow] * (t in ALIKE)) for t in COMPILERS]
)
def test_no_compiler_warns(target, sources, tmp_path):
    cc, *flags = COMPILERS[target]
    if shutil.which(cc) is None:
        pytest.skip(f"no {cc} on this machine")
    # All code is compiled with its self test; without, only what is unused can be warned of anew.
    for more in (("-DNET_SELF_TEST", "-Os"), ("-O0",)):
        build = [cc, *flags, "-std=c99", *WARNINGS, *more, "-S", *sources]
        done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@needs_cc
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")
def test_a_cpp_program_uses_the_header(tmp_path):
    network, mask, x = masked("mlp", 0.5)
    set_card_(network, Card(classes=tuple("abcde"), features=tuple(f"f{k}" for k in range(20))))
    sentei.export(network, tmp_path / "net.c", x, mask, "c-int8-int8")
    (tmp_path / "main.cpp").write_text(
        '#include <cstdio>\n#define NET_NAMES\n#include "net.h"\n'
        "int main() { static float v[NET_INPUTS]; static int8_t q[NET_INPUTS];"
        "v[3] = 1e9f; v[4] = -1e9f; v[5] = 2.51f * NET_INPUT_STEP; v[6] = -v[5];"
        "net_quantise_input(v, q);"
        'std::printf("%d %d %d %d %d %s %s", q[2], q[3], q[4], q[5], q[6],'
        "net_names[4], net_features[19]); return net_classify(q) < 0; }\n"
    )
    for build in (
        [compiler(), "-std=c99", *WARNINGS, "-c", "net.c"],
        ["g++", "-std=c++11", *WARNINGS, "main.cpp", "net.o", "-lm", "-o", "main"],
    ):
        subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0 127 -127 3 -3 e f19"


@pytest.mark.parametrize(("name", "format"), [*combinations()])
def test_every_body_has_braces_and_every_line_one_statement(name, format, tmp_path):
    path = written(name, format, tmp_path)
    for text in (path.read_text(), path.with_suffix(".h").read_text()):
        assert max(map(len, text.splitlines())) <= WIDTH
        for line in text.splitlines():
            code = re.sub(r'"[^"]*"|/\*.*?\*/', "", line)
            outside = re.sub(r"\([^()]*(\([^()]*(\([^()]*\))*[^()]*\)[^()]*)*\)", "", code)
            assert outside.count(";") <= 1, line
            if re.match(r"\s*(for|while|if|\} else)\b", code):
                assert code.endswith("{"), line


def test_layout_by_hand():
    code = (
        "static int f(int a)\n{ if (a > 0) return 1; else if (a) { a = 2; } else a = g(';', a);\n"
        'for (;;) while (a) { a--; h("a; {b}  c"); } }'
    )
    assert laid_out(code.replace("';'", '";"')) == (
        "static int f(int a)\n{\n    if (a > 0) {\n        return 1;\n    } else if (a) {\n"
        '        a = 2;\n    } else {\n        a = g(";", a);\n    }\n    for (;;) {\n'
        '        while (a) {\n            a--;\n            h("a; {b}  c");\n        }\n    }\n'
        "}\n\n"
    )


def test_long_statements_are_broken_between_words():
    text = laid_out("void f(void) { " + "a_rather_long_name = " + " + ".join(["term"] * 60) + "; }")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("term") == 60


def test_the_comment_says_what_the_file_is(tmp_path):
    network, x = nn.Sequential(nn.Linear(3, 2)), torch.rand(5, 3)
    notes = ["Accuracy of the emitted code: 50.00%.", "sentei export " + "--long " * 40, "*/ oops"]
    sentei.export(network, tmp_path / "net.c", x, notes=notes)
    for name in ("net.c", "net.h"):
        text = (tmp_path / name).read_text()
        about = text[: text.index("*/\n")]
        assert re.search(r"Written by sentei \d+\.\d+|Written by sentei source", about)
        assert "\n * Accuracy of the emitted code: 50.00%.\n" in about
        assert about.count("--long") == 40
        assert "* / oops" in about
        assert max(map(len, text.splitlines())) <= WIDTH


@needs_cc
def test_the_commands_say_accuracy_budget_and_command(tmp_path, capsys):
    torch.manual_seed(0)
    sentei.save(sentei.training.build("16-12-26:relu"), tmp_path / "net.safetensors")
    words = ["fit", tmp_path / "net.safetensors", "--data", "letter", "--paths", "synapses"]
    out = tmp_path / "net.c"
    code, _, err = run(*words, "--budget", "700", "--format", "c-int8", "--out", out, capsys=capsys)
    assert code == 0, err
    about = " ".join(out.with_suffix(".h").read_text().split("*/")[0].replace("\n *", "").split())
    assert re.search(r"Made to fit 700 bytes\. Accuracy of the emitted code: \d+\.\d\d%", about)
    assert f"sentei fit {tmp_path}/net.safetensors --data letter" in about
