"""Use an installed sentei once from end to end: `make wheel-test` runs this file beside a wheel.

It needs the package and its core dependencies only, and is run from another folder than the
checkout, so that every file it reads (modules, data sets, the page's assets) is the wheel's.
"""

import importlib
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import sentei
from sentei import datasets, formats, training
from sentei.formats.c.compiled import Compiled, compiler
from sentei.network.encoding.format import FORMATS

NEED_MORE = {"sentei.integrations.keras", "sentei.integrations.keras_layers"}
NEED_MORE |= {"sentei.integrations.lightning", "sentei.integrations.transformers"}  # extras


def every_module():
    place = Path(sentei.__file__)
    assert "site-packages" in place.parts, f"this is not an installed sentei: {place}"
    found = [module.name for module in pkgutil.walk_packages(sentei.__path__, "sentei.")]
    assert len(found) > 150
    assert set(found) > NEED_MORE
    for name in set(found) - NEED_MORE - {"sentei.__main__"}:
        importlib.import_module(name)
    for name in sentei.__all__:
        getattr(sentei, name)


def pruned(folder):
    """Prune a small network, keep its run folder, and return it cut, with some inputs."""
    assert datasets.load("mnist").test.rows == 10_000
    data = datasets.load("letter")
    network = training.build("16-12-26:relu")
    sentei.train(network, data.train.first(1000), sentei.Recipe(epochs=2, optimizer="adam"))
    x = data.test.inputs[:64]
    groups = sentei.find_units(network, x)
    steps = sentei.prune(
        network,
        groups,
        sentei.Probe(network, data.train.first(300)),
        sentei.ranked("ablation", sentei.one_at_a_time()),
        until=sentei.units_at_most(8),
        evaluate=data.validation,
        journal=folder / "run",
    )
    *_, last = steps
    assert (last.measured.units, last.number) == (8, 4)
    small = sentei.shrink(last.network(), last.mask, x)
    assert small[0].out_features == 8
    assert str(sentei.certify(last.network(), small, x))
    return small, x


def files(small, x, folder):
    """Write every format; read back what can be read here."""
    for format in FORMATS.values():
        sentei.export(small, folder / f"net{format.suffix}", x, format=format.name)
        assert (folder / f"net{format.suffix}").stat().st_size > 500
    with torch.no_grad():
        wanted = small(x)
        assert torch.equal(formats.load(folder / "net.safetensors")(x), wanted)
        if compiler() is not None:
            sentei.export(small, folder / "exact.c", x)
            torch.testing.assert_close(Compiled(folder / "exact.c")(x), wanted, atol=1e-5, rtol=0)


def page(folder):
    text = sentei.report(folder / "run", folder / "page.html").read_text("utf-8")
    assert "{{" not in text
    assert len(text) > 100_000


def commands(folder):
    program = Path(sys.executable).with_name("sentei")
    for words, says in (
        (["--help"], "prune"),
        (["export", "--help"], "c-int8-int8"),
        (["info", "net.safetensors"], "8"),
        (["export", "net.safetensors", "--data", "letter", "--format", "onnx"], "Saved net.onnx"),
    ):
        done = subprocess.run(
            [program, *words], cwd=folder, capture_output=True, text=True, check=True
        )
        assert says in done.stdout, done.stdout


def main():
    every_module()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files(*pruned(folder), folder)
        page(folder)
        commands(folder)
    python = sys.version.split()[0]
    sys.stdout.write(f"sentei works with Python {python} and torch {torch.__version__}\n")


if __name__ == "__main__":
    main()
