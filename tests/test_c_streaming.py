"""C files that are given only new steps of a signal: the outputs of whole windows, in less time."""

import re
import shutil
import subprocess

import pytest
import torch
from torch import nn

import sentei
from c_networks import Residual, normed
from sentei.errors import StructureError
from sentei.formats.c import as_c
from sentei.formats.c.compiled import STRICT, Compiled, compiler
from sentei.formats.c.cycles import costs
from sentei.formats.c.quantised import outputs
from sentei.network.encoding.format import C_FORMATS

needs_cc = pytest.mark.skipif(compiler() is None, reason="no C compiler on this machine")
needs_arm = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="no arm-none-eabi-gcc or no qemu-system-arm on this machine",
)


def plain():
    return nn.Sequential(
        *(nn.Conv1d(3, 8, 3), normed(nn.BatchNorm1d(8)), nn.ReLU(), nn.Conv1d(8, 6, 3, dilation=2)),
        *(nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4)),
    )


def strided():
    scale = torch.tensor([[3.0], [-1.0], [0.5]]), torch.tensor([[2.0], [0.7], [1.0]])
    return nn.Sequential(
        *(sentei.Standardise(*scale), nn.Conv1d(3, 6, 2, stride=2), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(6, 6, 2, groups=3), nn.Sigmoid(), nn.Flatten(), nn.Linear(30, 4)),
    )


@needs_cc
@pytest.mark.parametrize(
    ("format", "hop"), [*((each, 1) for each in C_FORMATS), ("c", 3), ("c-int8-int8", 8)]
)
def test_every_call_gives_the_outputs_of_the_window_that_ends_there(hop, format, tmp_path):
    torch.manual_seed(0)
    network, x = plain().eval(), torch.randn(40, 3, 24)
    sentei.export(network, tmp_path / "net.c", x, format=format, stream=hop)
    signal = torch.randn(3, 72)
    calls = torch.stack(signal.split(hop, 1))
    got = Compiled(tmp_path / "net.c", "-O0")(calls)
    ends = range(24, 73, hop)
    windows = torch.stack([signal[:, end - 24 : end] for end in ends])
    wanted = outputs(as_c(network, x, None, format), windows)
    got = got[24 // hop - 1 :]
    if format in ("c", "c-int8"):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    else:
        assert torch.equal(got, wanted)


@needs_cc
@pytest.mark.parametrize("format", C_FORMATS)
def test_strides_and_pools_keep_their_places(format, tmp_path):
    """Four new steps are one step behind a stride of two and a pool of two."""
    torch.manual_seed(0)
    network, x = strided().eval(), 2 * torch.randn(40, 3, 24)
    sentei.export(network, tmp_path / "net.c", x, format=format, stream=4)
    flags = [*STRICT, "-Wconversion", "-fsanitize=address,undefined", "-DNET_SELF_TEST"]
    build = [compiler(), *flags, "net.c", "-lm", "-o", "test"]
    subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run(["./test"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "net: 4 of 4 golden vectors passed\n"


def test_what_is_kept_by_hand(tmp_path):
    """One new step: 3 x 3 inputs, 8 x 5 of the first layer, 6 x 18 of the second; one channel."""
    torch.manual_seed(0)
    sentei.export(plain().eval(), tmp_path / "net.c", torch.randn(9, 3, 24), stream=1)
    text = (tmp_path / "net.c").read_text()
    buffers = dict(re.findall(r"^static float (net_\w+)\[(\d+)\];", text, re.MULTILINE))
    # New outputs of the first layer, 8, then 6 of the second, then those of the pool: one by one.
    assert buffers == {"net_values": "8", "net_kept": str(9 + 40 + 108), "net_work": "1"}
    header = (tmp_path / "net.h").read_text()
    assert "#define NET_WINDOW 24\n#define NET_NEW 1\n" in header
    assert f"NET_RAM_BYTES {4 * (8 + 157 + 1)}L" in header


@needs_arm
def test_new_steps_take_a_fraction_of_the_instructions(tmp_path):
    torch.manual_seed(0)
    network, x = plain().eval(), torch.randn(40, 3, 24)
    taken = []
    for stream in (None, 1):
        sentei.export(network, tmp_path / "net.c", x, format="c-int8-int8", stream=stream)
        sample = x[0] if stream is None else x[0, :, :1]
        cost = costs(tmp_path / "net.c", sample, processors=["cortex-m4"])["cortex-m4"]
        taken.append(cost.instructions)
    assert 4 * taken[1] < taken[0]


@pytest.mark.parametrize(
    ("network", "shape", "stream", "words"),
    [
        (plain(), (3, 24), 5, "not a multiple"),
        (plain(), (3, 24), 24, "fewer outputs"),
        (plain(), (3, 24), 0, "not a multiple"),
        (nn.Sequential(nn.Conv1d(3, 2, 3, padding=1), nn.ReLU()), (3, 8), 1, "'0' pads its input"),
        (nn.Sequential(nn.Conv1d(3, 2, 2, stride=2)), (3, 8), 1, "'0' has a stride of 2"),
        (nn.Sequential(nn.Conv1d(3, 2, 2), nn.MaxPool1d(3, 2)), (3, 8), 2, "'1' pools windows"),
        (nn.Sequential(nn.Linear(6, 2)), (6,), 1, "windows of a signal"),
        (nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)), (3, 2), 1, "no convolution over"),
        (Residual(), (2, 9, 10), 1, "windows of a signal"),
    ],
)
def test_what_new_steps_would_change_is_refused(network, shape, stream, words, tmp_path):
    with pytest.raises(StructureError, match=words):
        sentei.export(network.eval(), tmp_path / "net.c", torch.randn(4, *shape), stream=stream)
    assert not [*tmp_path.iterdir()]
