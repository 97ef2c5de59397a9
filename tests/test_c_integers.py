"""Integers in C: bit for bit what was planned, and no floating point where none is needed."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

import sentei
from c_networks import ELEMENTWISE, masked
from sentei.card import Card, set_card_
from sentei.formats.c import as_c
from sentei.formats.c.compiled import Compiled, compiler
from sentei.formats.c.quantised import output_steps, outputs
from sentei.network.encoding.size import bytes_in
from sentei.network.mask import Mask

needs_cc = pytest.mark.skipif(compiler() is None, reason="no C compiler on this machine")
needs_arm = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="no arm-none-eabi-gcc or no qemu-system-arm on this machine",
)
FORMATS = ("c-int8-int8", "c-int8-int16")
NOTHING = Mask.full([])


def by_hand(layer, x):
    """One layer in numpy's integers of 64 bits, from the definition."""
    out = np.zeros((len(x), len(layer.weights)), dtype=np.int64)
    for n, sample in enumerate(x):
        for row, weights in enumerate(layer.weights.long().numpy()):
            total = int(layer.bias[row]) + int((weights * sample).sum())
            assert abs(total) < 2**31
            steps = (total * int(layer.factors[row]) + 2 ** (layer.shift - 1)) // 2**layer.shift
            steps = min(max(steps, layer.low), layer.high)
            if layer.curve is not None:
                at, part = divmod(steps + 32768, 256)
                low, high = int(layer.curve[at]), int(layer.curve[at + 1])
                steps = low + ((high - low) * part + 128) // 256
            out[n, row] = steps
    return out


@pytest.mark.parametrize("format", FORMATS)
def test_integers_by_hand(format):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(30, 9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 5), nn.ReLU6()),
        nn.Linear(5, 3),
    )
    x = torch.randn(40, 30)
    net = as_c(model, x[:20], None, format)
    steps = x / net.scales[0].step
    here = steps.sign() * (steps.abs() + 0.5).floor()
    here = here.clamp(-net.scales[0].top, net.scales[0].top).long().numpy()
    for layer in net.layers:
        here = by_hand(layer, here)
    assert (output_steps(net, x).numpy() == here).all()
    assert sum(layer.curve is not None for layer in net.layers) == 1


@needs_cc
@pytest.mark.parametrize("dead", [0, 0.5, 0.9])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["mlp", "lenet", "depthwise", "odd", "raw", "residual"])
def test_c_is_bit_for_bit_what_was_planned(name, format, dead, tmp_path):
    network, mask, x = masked(name, dead)
    if isinstance(network, nn.Sequential) and isinstance(network[-1], (nn.Softmax, nn.Hardsigmoid)):
        network = network[:-1]
    x = torch.cat([x, 30 * x, torch.zeros_like(x[:1])])  # beyond what was calibrated, too
    sentei.export(network, tmp_path / "net.c", example=x[:100], mask=mask, format=format)
    net = as_c(network, x[:100], mask, format)
    assert torch.equal(Compiled(tmp_path / "net.c")(x), outputs(net, x))


@needs_cc
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("layer", ELEMENTWISE, ids=lambda layer: type(layer).__name__)
def test_functions_of_integers(layer, format, tmp_path):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 20), layer, nn.Linear(20, 4)).eval()
    x = 3 * torch.randn(300, 6)
    sentei.export(model, tmp_path / "net.c", example=x, format=format)
    net = as_c(model, x, None, format)
    got = Compiled(tmp_path / "net.c")(x)
    assert torch.equal(got, outputs(net, x))
    assert net.plan.flash == bytes_in(model, NOTHING, format, x)
    with torch.no_grad():
        off = (got - as_floats(model, net)(x)).abs().max() / got.abs().max()
    assert off < (0.03 if format == "c-int8-int8" else 6e-4)


def as_floats(model, net):
    """The network with the weights that its int8 numbers stand for."""
    copy = sentei.shrink(model, NOTHING)
    linear = [module for module in copy.modules() if isinstance(module, nn.Linear)]
    layers = [layer for layer in net.layers if layer is not None]
    for module, layer in zip(linear, layers, strict=True):
        inner = module.weight.detach().abs().amax(1) / 127
        with torch.no_grad():
            module.weight.copy_(layer.weights * inner[:, None])
    return copy


@pytest.mark.parametrize("format", FORMATS)
def test_no_sum_leaves_32_bits(format):
    """Large biases, dead rows and thousands of equal weights: the worst inputs stay within."""
    model = nn.Sequential(nn.Linear(3000, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[1] = 0
        model[0].weight[2] = 1e-9
        model[0].bias.copy_(torch.tensor([3e3, 5.0, -7.0, 0.0]))
    x = torch.rand(20, 3000)
    net = as_c(model, x, None, format)
    for layer, scale in zip(net.layers, net.scales, strict=False):
        worst = layer.weights.abs().double().sum(1) * scale.top + layer.bias.abs().double()
        assert float(worst.max()) < 2**31
        assert int(layer.factors.max()) < 2**31
    with torch.no_grad():
        off = (outputs(net, x) - model(x)).abs().max() / model(x).abs().max()
    assert off < 0.05


def test_all_outputs_of_a_dead_layer_are_constant():
    """Every hidden output is zero: its scale has no largest value to follow."""
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    x = torch.rand(20, 5)
    for format in FORMATS:
        with torch.no_grad():
            wanted = model(x)
        torch.testing.assert_close(
            outputs(as_c(model, x, None, format), x), wanted, atol=1e-3, rtol=0
        )


def test_sixteen_bits_are_finer_than_eight():
    network, mask, x = masked("lenet", 0.3)
    floats = outputs(as_c(network, x, mask, "c-int8"), x)
    off = [float((outputs(as_c(network, x, mask, f), x) - floats).abs().max()) for f in FORMATS]
    assert off[1] < off[0] / 20


@needs_arm
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("cpu", ["cortex-m0plus", "cortex-m3"])
def test_no_floating_point_is_linked_where_only_classes_are_asked_for(cpu, format, tmp_path):
    network, mask, x = masked("lenet", 0.6)
    sentei.export(network, tmp_path / "net.c", example=x, mask=mask, format=format)
    kind = "int8_t" if format == "c-int8-int8" else "int16_t"
    (tmp_path / "main.c").write_text(
        f'#include "net.h"\nstatic {kind} x[NET_INPUTS];\n'
        "int main(void) { return net_classify(x); }\n"
    )
    arm = ["arm-none-eabi-gcc", f"-mcpu={cpu}", "-mthumb", "-Os", "--specs=nosys.specs"]
    apart = ["-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-w"]
    build = [*arm, *apart, "main.c", "net.c", "-lm", "-o", "net.elf"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    listed = subprocess.run(
        ["arm-none-eabi-nm", "net.elf"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "net_classify" in listed.stdout
    floats = r"__aeabi_(f\w+|i2f|ui2f|d\w+)|expf|tanhf|net_predict$"
    assert not re.findall(rf" \w ({floats})", listed.stdout, re.MULTILINE)


@needs_cc
def test_helpers_by_hand(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    set_card_(model, Card(predicts="values"))
    x = torch.randn(50, 4)
    sentei.export(model, tmp_path / "net.c", x, format="c-int8-int16")
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "net.h"\nint main(void) {\n'
        "static const float v[NET_INPUTS] = {0.5f, -0.25f, 0.125f, 1.0f};"
        "int16_t x[NET_INPUTS], y[NET_OUTPUTS]; int k; net_quantise_input(v, x);"
        "net_predict_steps(x, y); for (k = 0; k < NET_OUTPUTS; k++)"
        ' printf("%.9g ", (double)net_dequantise(y[k])); return 0; }\n'
    )
    build = [compiler(), "-std=c99", "-Wall", "-Werror", "main.c", "net.c", "-o", "main"]
    subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True)
    got = torch.tensor([float(word) for word in done.stdout.split()])
    with torch.no_grad():
        wanted = model(torch.tensor([0.5, -0.25, 0.125, 1.0]))
    torch.testing.assert_close(got, wanted, atol=0.01, rtol=0)
