"""Proofs in few passes: smaller inputs, marks and modes are shared only where that is sound."""

import copy
import math
from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

import wrong_cuts
from hand import part
from sentei.errors import CertificateError
from sentei.network.mask import Mask
from sentei.network.reducing import smaller
from sentei.network.surgery import reference as references
from sentei.network.surgery import twin as twins
from sentei.network.surgery.certificate import certify
from sentei.network.surgery.comparing import difference
from sentei.network.surgery.cutting import remove_dead_
from sentei.network.surgery.modes import same_in_both_modes
from sentei.network.surgery.observing import observed
from sentei.network.surgery.reference import Reference, State
from sentei.network.surgery.surgery import shrink
from sentei.network.surgery.twin import redraw_
from sentei.network.units import Neurons

IMAGE = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions, a norm and a head.

    What the first convolution gives is added in another order of channels, times a number that
    depends on the resolution. Unless that is 0, no channel can be cut.
    """

    def __init__(self, on_large=0.0, on_small=0.0):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, 4, 1), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 5, 3, 2, 1), nn.Linear(5, 2)
        self.on_large, self.on_small = on_large, on_small

    def forward(self, x):
        h = F.relu(self.norm(self.first(x)))
        h = h + h.flip(1) * (self.on_large if x.shape[-1] > 100 else self.on_small)
        return self.head(self.second(h).mean((2, 3)))


class Branching(Net):
    """Calls one function more on large images."""

    def forward(self, x):
        return super().forward(x.flip(0) if x.shape[-1] > 100 else x)


class Fixed(Net):
    """Takes one resolution only."""

    def forward(self, x):
        assert x.shape[-1] == 128
        return super().forward(x)


class Collapsing(Net):
    """Averages over patches of 32 by 32 pixels: one position remains of smaller images."""

    def forward(self, x):
        h = F.avg_pool2d(F.relu(self.norm(self.first(x))), 8)
        return self.head(self.second(h).mean((2, 3)))


NORM = ("weight", "bias", "running_mean", "running_var")
CHANNELS = Neurons(
    "first",
    "channel",
    6,
    (part("first", "weight", 0, 6), part("first", "bias", 0, 6)),
    tuple(part("norm", name, 0, 6) for name in NORM),
    (part("second", "weight", 1, 6),),
)
CUT = Mask.full([CHANNELS]).without({CHANNELS: [1, 2]})


def cut(model):
    masked = copy.deepcopy(model.eval())
    CUT.apply_(masked)
    return masked, remove_dead_(copy.deepcopy(masked), CUT)


@contextmanager
def passes(kind, example):
    """Count the passes of networks of a class: how many pixels run, and in which mode."""
    counted = []

    def count(module, args):
        if type(module) is kind and args[0].device.type != "meta":
            counted.append((args[0].numel() / example.numel(), module.training))

    handle = register_module_forward_pre_hook(count)
    try:
        yield counted
    finally:
        handle.remove()


def test_a_proof_takes_three_passes_of_one_sample_and_compares_every_layer():
    torch.manual_seed(0)
    example = torch.randn(1, 3, 224, 224)
    with passes(Net, example) as counted:
        shrink(Net(), CUT, example)
    assert sum(share for share, _ in counted) <= 3
    assert sum(share == 1 for share, _ in counted) == 2  # the masked network and the cut one
    assert {training for _, training in counted} == {False, True}
    proof = certify(*cut(Net()), example, mask=CUT)
    # An output and four layers with the own weights, and of the twin in two modes.
    assert (proof.compared, proof.uncompared) == (3 * 5, ())
    assert (proof.inputs, proof.real) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "size"), [(Net, 64), (Branching, 128), (Fixed, 128), (Collapsing, 128)]
)
def test_a_twin_runs_on_smaller_images_only_where_the_network_computes_alike(kind, size):
    torch.manual_seed(0)
    masked, small = cut(kind())
    twin = Reference(masked, IMAGE, CUT).twin
    assert twin is not None
    assert twin.example.shape == (2, 3, size, size)
    assert certify(masked, small, IMAGE, mask=CUT).uncompared == ()


@pytest.mark.parametrize("head", ["as built", "zero"])
@pytest.mark.parametrize("weights", [(0.5, 0.0), (0.0, 0.5)], ids=["large", "small"])
def test_a_cut_that_is_wrong_on_images_of_one_size_alone_is_refused(weights, head):
    torch.manual_seed(0)
    model = Net(*weights)
    if head == "zero":
        nn.init.zeros_(model.head.weight)
    masked, small = cut(model)
    with pytest.raises(CertificateError, match="outputs differ"):
        certify(masked, small, IMAGE, mask=CUT)
    size = 128 if weights[0] else 64
    other = IMAGE[..., :64, :64] if weights[0] else IMAGE
    # The hand-made example is what it says: on the other size alone, nothing is wrong.
    with torch.no_grad():
        assert torch.allclose(masked(other), small(other), atol=1e-6)
    assert size != other.shape[-1]


LARGE_IMAGES = (
    *("grouped", "separable", "residual_inplace", "squeeze_excite", "inverted"),
    *("layer_scale", "auxiliary", "transposed"),
)
QUICK = ("grouped", "squeeze_excite", "auxiliary", "embedding")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in (*LARGE_IMAGES, "embedding")
    ],
)
def test_no_wrong_cut_is_certified_and_no_right_one_refused_on_reduced_inputs(name, monkeypatch):
    build, example = wrong_cuts.NETWORKS[name]

    def large():
        small = example()
        if small.ndim == 2:
            return small.repeat(1, 30)
        return torch.randn(2, small.shape[1], 96, 96)

    monkeypatch.setitem(wrong_cuts.NETWORKS, name, (build, large))
    state = wrong_cuts.STATES[len(name) % len(wrong_cuts.STATES)]
    first = next(wrong_cuts.cuts(name))
    model, inputs = wrong_cuts.built(name, state)
    twin = Reference(first.masked(model), inputs, first.mask).twin
    assert twin is not None
    assert twin.example.shape[-1] < inputs.shape[-1]
    found = list(wrong_cuts.outcomes(name, [state]))
    assert not [each for each in found if each[2] == each[3]]
    assert any(not wrong for _, _, wrong, _ in found)


def test_what_is_reduced():
    def shapes(*given):
        return [[tuple(t.shape) for t in each] for each in smaller(given)]

    image = torch.rand(2, 3, 227, 300)
    assert shapes(image) == [
        [(2, 3, 67, 76)],
        [(2, 3, 99, 108)],
        [(2, 3, 131, 140)],
    ]
    tokens, mask = torch.zeros(2, 50).long(), torch.ones(2, 1, 50, 50).bool()
    assert shapes(tokens, mask)[-2:] == [
        [(2, 18), (2, 1, 18, 18)],
        [(2, 34), (2, 1, 34, 34)],
    ]
    assert shapes(torch.rand(2, 64, 64, 64), torch.rand(2, 3, 70, 70)) == []
    assert shapes(torch.rand(5, 784)) == []  # features are no steps
    steps = torch.rand(2, 40, 48)
    assert shapes(steps) == [[(2, 16, 48)], [(2, 40, 16)], [(2, 40, 32)]]
    assert next(smaller((tokens,)))[0].tolist() == tokens[:, :18].tolist()


class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout()
        self.kept = [torch.ones(4), torch.zeros(4)]

    def forward(self, x, y):
        return self.choice(self.drop(F.relu(self.a(x))), x, y)

    def choice(self, h, x, y):
        return self.b(h) + y


def choosing(choice):
    return type("Chooses", (Drops,), {"choice": choice})


MODES = {
    "dropout": (Drops, True),
    "a question": (
        choosing(lambda s, h, x, y: h + (len(h) if s.training else h.size(0))),
        True,
    ),
    "a function more": (choosing(lambda s, h, x, y: h * 2 if s.training else h), False),
    "a number": (choosing(lambda s, h, x, y: h * (2 if s.training else 3)), False),
    "a weight": (choosing(lambda s, h, x, y: (s.a if s.training else s.b)(h)), False),
    "an input": (choosing(lambda s, h, x, y: h + (x if s.training else y)), False),
    "a constant": (choosing(lambda s, h, x, y: h + s.kept[s.training]), False),
    "a result": (choosing(lambda s, h, x, y: [s.a(h), s.b(h)][s.training] + 1), False),
    "an output": (choosing(lambda s, h, x, y: [s.a(h), s.b(h)][s.training]), False),
    "a value": (choosing(lambda s, h, x, y: h if h.sum() > 0 else y), False),
}


@pytest.mark.parametrize("what", MODES)
def test_modes_count_as_the_same_only_if_every_value_is_computed_alike(what):
    build, same = MODES[what]
    model = build().eval()
    before = copy.deepcopy(model.state_dict())
    state = State(lambda: nullcontext(model), (torch.rand(3, 4), torch.rand(3, 4)))
    assert same_in_both_modes(state) == same
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training


def test_a_norm_over_the_batch_makes_the_modes_differ():
    model = Net().eval()
    assert not same_in_both_modes(State(lambda: nullcontext(model), IMAGE))


@pytest.mark.parametrize(("drops", "runs"), [(nn.Dropout, 0), (nn.BatchNorm1d, 2)])
def test_large_networks_run_in_training_mode_only_if_it_differs(drops, runs, monkeypatch):
    class Plain(nn.Sequential):
        pass

    def build():
        return Plain(nn.Linear(4, 6), drops(6) if runs else drops(0.5), nn.Linear(6, 3)).eval()

    monkeypatch.setattr(references, "LARGE", 0)
    units = Neurons(
        "0",
        "neuron",
        6,
        (part("0", "weight", 0, 6), part("0", "bias", 0, 6)),
        tuple(part("1", name, 0, 6) for name in NORM) if runs else (),
        (part("2", "weight", 1, 6),),
    )
    mask, example = Mask.full([units]).without({units: [1]}), torch.rand(3, 4)
    masked = build()
    mask.apply_(masked)
    small = shrink(masked, mask, example)
    with passes(Plain, example) as counted:
        proof = certify(masked, small, example, mask=mask)
    assert sum(training for _, training in counted) == runs
    assert proof.training_difference is not None
    wrong = copy.deepcopy(small)
    with torch.no_grad():
        wrong[2].bias.add_(0.01)
    with pytest.raises(CertificateError, match="outputs differ"):
        certify(masked, wrong, example, mask=mask)


finite = st.floats(-1e3, 1e3, width=32)
odd = st.sampled_from([0.0, math.inf, -math.inf, math.nan, 1e38, -1e38])


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(st.tuples(finite | odd, finite | odd), min_size=1, max_size=6),
    alike=st.booleans(),
)
def test_a_difference_is_what_a_loop_in_float64_says(pairs, alike):
    a, b = torch.tensor(pairs).T.contiguous()
    b = a.clone() if alike else b
    scale = max((abs(x) for x in a.tolist() if math.isfinite(x)), default=0.0)
    apart = 0.0
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        if x != y and not (math.isnan(x) and math.isnan(y)):
            apart = max(apart, abs(x - y) if math.isfinite(x - y) else math.inf)
    want = apart / scale if apart and scale else (math.inf if apart else 0.0)
    assert difference(a, b) == pytest.approx(want, rel=1e-5)


def test_redrawn_weights_are_others_where_numbers_are_used_again(monkeypatch):
    monkeypatch.setattr(twins, "DRAWN", 101)
    model = nn.Sequential(nn.Linear(30, 70), nn.Linear(70, 70))
    before = model[0].weight.data
    copied = before.clone()
    redraw_(model)
    assert torch.equal(before, copied)  # the memory that the weights had is not written to
    rows = torch.cat([model[0].weight[:, :30], model[1].weight[:, :30]]).detach()
    assert torch.pdist(rows).min() > 0.1
    assert torch.pdist(rows.T).min() > 0.1
    assert model[1].weight.std().item() == pytest.approx(70**-0.5, rel=0.2)


def test_what_a_calibrating_pass_computes_is_what_the_calibrated_network_computes():
    class Twice(nn.Module):
        """Uses a weight by a product of its own before the layer that is calibrated by it."""

        def __init__(self):
            super().__init__()
            self.weight, self.other = nn.Parameter(torch.rand(4, 4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.other(F.linear(100 * x, self.weight) + x @ (self.weight * 3))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(8, 4)
    first = observed(model, x, calibrating=True)
    again = observed(model, x)
    assert torch.equal(first.outputs, again.outputs)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first.layers, again.layers, strict=True))
    spread = [result.std().item() for _, result in again.layers[:1]]
    assert all(0.4 < value < 2.1 for value in spread)


def test_marks_of_smaller_images_say_which_channels_are_alive_on_large_ones():
    torch.manual_seed(0)
    masked, _ = cut(Net())
    reference = Reference(masked, IMAGE, CUT)
    marks = reference.marks(CUT, reference.own)
    assert marks is not None
    alive = [True, False, False, True, True, True]
    assert [mark.flatten().tolist() for mark in marks] == [alive, alive, [True], [True]]


def test_a_certificate_leaves_the_masked_network_in_its_memory():
    torch.manual_seed(0)
    masked, small = cut(Net())
    values, memory = copy.deepcopy(masked.state_dict()), [t.data_ptr() for t in masked.parameters()]
    certify(masked, small, IMAGE, mask=CUT)
    assert all(torch.equal(values[name], t) for name, t in masked.state_dict().items())
    assert [tensor.data_ptr() for tensor in masked.parameters()] == memory
