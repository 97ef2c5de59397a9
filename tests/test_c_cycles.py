"""What one call takes: instructions that QEMU runs, cycles by the manual, bytes of stack."""

import shutil

import pytest
import torch
from torch import nn

import sentei
from c_networks import masked
from commands import run
from sentei.formats.c.cycles import PROCESSORS, _cycles, costs
from sentei.pruning.boards import BOARDS

needs_arm = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="no arm-none-eabi-gcc or no qemu-system-arm on this machine",
)


def dense(inputs, outputs, folder, format):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(inputs, outputs)), torch.randn(9, inputs)
    sentei.export(model, folder / "net.c", x, format=format)
    return folder / "net.c", x[0]


@needs_arm
@pytest.mark.parametrize("cpu", PROCESSORS)
def test_instructions_grow_with_the_weights(cpu, tmp_path):
    """Twice as many columns: as many instructions for each further weight, in every row."""
    found = {}
    for inputs in (32, 64, 96):
        path, x = dense(inputs, 8, tmp_path, "c-int8-int8")
        found[inputs] = costs(path, x, processors=[cpu])[cpu]
    more = [found[64].instructions - found[32].instructions]
    more.append(found[96].instructions - found[64].instructions)
    # On a Cortex-M0+ the long multiplication of each row takes a few more for some numbers.
    assert abs(more[0] - more[1]) <= more[0] / 100
    assert 4 * 8 * 32 <= more[0] <= 10 * 8 * 32  # load, load, multiply, add, step, branch
    for cost in found.values():
        assert cost.instructions < cost.cycles < 3 * cost.instructions
        assert 0 < cost.stack < 300


@needs_arm
def test_integers_take_a_fraction_where_there_is_no_floating_point_unit(tmp_path):
    network, mask, x = masked("mlp", 0.5)
    network = network[:3]
    mask = sentei.Mask.full(sentei.find_synapses(network))
    cost = {}
    for format in ("c-int8", "c-int8-int8"):
        sentei.export(network, tmp_path / "net.c", x, mask, format)
        cost[format] = costs(tmp_path / "net.c", x[0])["cortex-m0plus"]
    assert 4 * cost["c-int8-int8"].instructions < cost["c-int8"].instructions


@pytest.mark.parametrize(
    ("code", "after", "m0", "m4"),
    [
        ("adds r0, r1, r2", 102, 1, 1),
        ("ldr r0, [r1, #4]", 102, 2, 2),
        ("ldrsb.w r0, [r1, r2]", 104, 2, 2),
        ("strb r0, [r1, #0]", 102, 2, 1),
        ("bne.n 20 <f>", 102, 1, 1),
        ("bne.n 20 <f>", 20, 2, 3),
        ("bl 40 <g>", 40, 3, 3),
        ("blx r3", 900, 2, 3),
        ("push {r4, r5, r6, r7, lr}", 102, 6, 6),
        ("pop {r4-r7, pc}", 900, 8, 9),
        ("stmia r3!, {r0, r1}", 102, 3, 3),
        ("bx lr", 900, 2, 3),
        ("vmla.f32 s0, s1, s2", 104, 1, 3),
        ("udiv r0, r1, r2", 104, 1, 7),
    ],
)
def test_cycles_by_the_manual(code, after, m0, m4):
    assert _cycles(code, 100, after, PROCESSORS["cortex-m0plus"]) == m0
    assert _cycles(code, 100, after, PROCESSORS["cortex-m4"]) == m4


@pytest.mark.parametrize("board", [name for name, each in BOARDS.items() if each.core])
def test_every_board_with_a_core_has_cycles(board):
    assert BOARDS[board].core in PROCESSORS


@needs_arm
def test_a_network_is_made_to_fit_the_time_of_a_board(tmp_path, capsys):
    """Flash alone would let the network stay whole; the time makes it smaller."""
    torch.manual_seed(0)
    sentei.save(sentei.training.build("16-24-26:relu"), tmp_path / "net.safetensors")
    out = tmp_path / "net.c"
    words = ["fit", tmp_path / "net.safetensors", "--data", "letter", "--paths", "units"]
    words += ["--board", "nucleo-l031k6", "--format", "c-int8-int16", "--out", out]
    taken = {}
    for longest in ("9 ms", "0.25 ms"):
        code, _, err = run(*words, "--board-latency", longest, capsys=capsys)
        assert code == 0, err
        about = " ".join(out.read_text().replace("\n *", " ").split())
        assert f"{longest} a sample by estimate" in about
        assert " ms for one sample on nucleo-l031k6, by estimate" in err
        x = sentei.datasets.load("letter").test.inputs[0]
        cost = costs(out, x, processors=["cortex-m0plus"])["cortex-m0plus"]
        taken[longest] = cost.cycles / 32e3  # milliseconds at 32 MHz
    assert taken["0.25 ms"] <= 0.25 < taken["9 ms"] < 9


def test_times_of_other_boards_are_refused(tmp_path, capsys):
    words = ["fit", "16-4-26", "--data", "letter", "--board", "arduino-uno"]
    code, _, err = run(
        *words, "--board-latency", "5 ms", "--out", tmp_path / "net.c", capsys=capsys
    )
    assert code == 2
    assert "--board-latency needs a board with a Cortex-M0" in err
