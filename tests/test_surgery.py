"""Surgery on hand-made groups: exact, in place, all or nothing, with a certificate."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zoo
from hand import group, hidden, inputs, mlp, part
from sentei.errors import CertificateError, GroupError, StructureError
from sentei.network.folding import fold_, sweep_
from sentei.network.mask import Mask
from sentei.network.surgery.certificate import certify
from sentei.network.surgery.surgery import shrink, shrink_
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Neurons, find_synapses

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))


def masked(model: nn.Module, mask: Mask) -> nn.Module:
    copied = copy.deepcopy(model)
    mask.apply_(copied)
    return copied


def test_hand_sized_cut():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        model[0].bias.copy_(torch.tensor([0.5, -0.5]))
        model[2].weight.copy_(torch.tensor([[10.0, 100.0]]))
        model[2].bias.zero_()
    units = hidden(model)[0]
    small = shrink(model, Mask.full([units]).without({units: [1]}))
    assert small[0].weight.tolist() == [[1.0, 2.0]]
    assert small[2].weight.tolist() == [[10.0]]
    assert small(torch.tensor([[1.0, 1.0]])).item() == 35.0  # 10 · (1 + 2 + 0.5)
    assert model(torch.tensor([[1.0, 1.0]])).item() == 685.0  # untouched: + 100 · (3 + 4 - 0.5)
    assert (small[0].out_features, small[2].in_features) == (1, 1)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_masked_is_shrunk_for_any_mask(data):
    widths = data.draw(st.lists(st.integers(1, 6), min_size=3, max_size=5))
    model = mlp(*widths, act=data.draw(st.sampled_from([nn.Sigmoid, nn.ReLU, nn.Tanh]))).double()
    groups = [inputs(widths[0], "0"), *hidden(model), *find_synapses(model)]
    doomed = {
        g: data.draw(
            st.lists(st.integers(0, g.size - 1), max_size=g.size - (g.kind == "input"), unique=True)
        )
        for g in groups
    }
    mask = Mask.full(groups).without(doomed)
    x = torch.randn(7, widths[0], dtype=torch.float64)
    small = shrink(model, mask)
    assert torch.allclose(masked(model, mask)(x), small(x), atol=1e-12)
    again = mask.shrunk()
    again.check(small)  # the mask of the shrunk network fits it ...
    assert torch.allclose(masked(small, again)(x), small(x), atol=0)  # ... and changes nothing


def test_everything_may_go_but_the_bias():
    model = mlp(4, 3, 2)
    units = hidden(model)[0]
    small = shrink(model, Mask.full([units]).without({units: [0, 1, 2]}))
    assert torch.equal(small(X), model[2].bias.expand(40, 2))


def test_removed_inputs_keep_the_callers_interface():
    model = mlp(4, 3, 2)
    read = inputs(4, "0")
    mask = Mask.full([read]).without({read: [0, 2]})
    small = shrink(model, mask)
    assert sorted(small.state_dict()) == [
        *("0.0.index", "0.1.bias", "0.1.weight"),
        *("2.bias", "2.weight"),
    ]
    assert small[0][0].index.tolist() == [1, 3]
    assert torch.allclose(small(X), masked(model, mask)(X))
    # Once more: the Select that is there is cut, none is added.
    again = mask.shrunk()
    read = again.groups[0]
    smaller = shrink(small, again.without({read: [0]}))
    assert smaller[0][0].index.tolist() == [3]
    assert sorted(smaller.state_dict()) == sorted(small.state_dict())


def test_inputs_are_removed_in_place():
    """The layer moves behind a Select; the optimizer's parameters stay the same objects."""
    model = mlp(4, 3, 2)
    first, last = model[0].weight, model[2].weight
    model(X).sum().backward()
    read = inputs(4, "0")
    mask = Mask.full([read]).without({read: [0, 2]})
    expected = masked(model, mask)(X)
    assert shrink_(model, mask, example=X) == mask.shrunk()
    assert (model[0][1].weight is first, model[2].weight is last) == (True, True)
    assert (tuple(first.shape), first.grad) == ((3, 2), None)
    assert last.grad is not None
    assert torch.allclose(model(X), expected)


def test_a_select_counts_what_still_arrives():
    """Unit 0 is no longer computed, and all four inputs still come: input 1 arrives at place 3."""
    torch.manual_seed(0)
    model = zoo.Beside()
    groups = find_units(model, X, inputs=True)
    read, units = sorted(groups, key=lambda g: g.name, reverse=True)
    assert (read.kind, units.name) == ("input", "first")
    mask = Mask.full(groups).without({read: [1], units: [0]})
    small = shrink(model, mask, X)
    assert small.last[0].index.tolist() == [0, 1, 2, 4, 5]
    assert small.first[0].index.tolist() == [0, 2, 3]
    assert torch.equal(small.last[1].weight, model.last.weight[:, [1, 2, 3, 5, 6]])
    assert torch.allclose(small(X), masked(model, mask)(X), atol=1e-6)
    left = {group.kind: group for group in mask.shrunk().groups}
    found = {group.kind: group for group in find_units(small, X, inputs=True)}
    for kind, at in {"input": [2, 3, 4], "neuron": [0, 1]}.items():
        assert left[kind] == found[kind]
        for role in ("producers", "followers", "listeners"):
            assert set(getattr(left[kind], role)) == set(getattr(found[kind], role))
        (select,) = (p for p in left[kind].followers if p.parameter == "last.0.index")
        assert select.index.flatten().tolist() == at
    # Once more: unit 1 of the first network, no longer computed, and its inputs 0 and 3.
    again = mask.shrunk().without({left["neuron"]: [0], left["input"]: [0, 2]})
    smaller = shrink(small, again, X)
    assert smaller.last[0].index.tolist() == [0, 3]
    assert smaller.first[0].index.tolist() == [2]
    assert torch.allclose(smaller(X), masked(small, again)(X), atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 2, 2), (3, 5)),
        (nn.Conv2d(3, 2, 2), (3, 5, 5)),
        (nn.Conv3d(3, 2, 2), (3, 3, 3, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_select_before_a_convolution_drops_channels(layer, shape):
    model, x = nn.Sequential(layer, nn.Flatten()), torch.randn(70, *shape)
    (read,) = find_units(model, x, inputs=True)
    mask = Mask.full([read]).without({read: [1]})
    small = shrink(model, mask, x)
    assert small[0][0].index.tolist() == [0, 2]
    assert small[0][0].dim == 1 - x.ndim
    assert small[0][1].in_channels == 2
    assert torch.allclose(small(x), masked(model, mask)(x), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.01),
        lambda p: torch.optim.Adadelta(p),
    ],
)
def test_masked_training_is_shrunk_training(make):
    model = mlp(4, 6, 5, 2, act=nn.Tanh).double()
    x, y = X.double(), torch.randn(40, 2, dtype=torch.float64)
    groups = [*hidden(model), *find_synapses(model)]
    mask = Mask.full(groups).without({groups[0]: [1, 4], groups[1]: [0], groups[2]: [2, 3, 9]})

    def updates(network, optimizer, held, count):
        for _ in range(count):
            optimizer.zero_grad()
            (network(x) - y).square().mean().backward()
            optimizer.step()
            held.hold_(network, optimizer)

    optimizer = make(model.parameters())
    updates(model, optimizer, Mask.full(groups), 5)  # so that there is state to be cut along
    other = copy.deepcopy(model)
    copied = make(other.parameters())
    copied.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    mask.apply_(model)
    mask.hold_(model, optimizer)
    small = shrink_(other, mask, copied)
    small.hold_(other, copied)
    updates(model, optimizer, mask, 20)
    updates(other, copied, small, 20)
    assert other[0].out_features == 4
    assert torch.allclose(model(x), other(x), atol=1e-12)


def test_only_what_is_cut_loses_its_gradient_and_everything_of_its_state():
    model = mlp(4, 6, 5, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(X).sum().backward()
    optimizer.step()
    first, _ = hidden(model)
    moments = {n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters()}
    last = model[4].weight.grad.clone()
    kept = []

    class Record:
        def keep_(self, parameter, dim, keep):
            kept.append((parameter, dim, keep.tolist()))

    returned = shrink_(model, Mask.full([first]).without({first: [1]}), optimizer, Record(), X)
    assert [group.size for group in returned.groups] == [5]
    stay = [0, 2, 3, 4, 5]
    assert sorted(kept) == [("0.bias", 0, stay), ("0.weight", 0, stay), ("2.weight", 1, stay)]
    assert [model[0].weight.grad, model[0].bias.grad, model[2].weight.grad] == [None] * 3
    assert torch.equal(model[4].weight.grad, last)
    assert model[2].bias.grad is not None
    moments["0.weight"], moments["0.bias"] = moments["0.weight"][stay], moments["0.bias"][stay]
    moments["2.weight"] = moments["2.weight"][:, stay]
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        assert torch.equal(state["exp_avg"], moments[name]), name
        assert state["exp_avg_sq"].shape == parameter.shape
        assert state["step"] == 1


def test_an_optimizer_whose_state_cannot_be_cut_is_refused_before_anything_changes():
    model = mlp(4, 3, 2)
    (units,) = hidden(model)
    before = copy.deepcopy(model.state_dict())
    mask = Mask.full([units]).without({units: [0]})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = model[0].weight
    for odd in ({"rows": torch.zeros(3)}, {"n": 1, "old": [torch.zeros(3, 4)]}):
        optimizer.state[first] = odd
        with pytest.raises(StructureError, match=f"SGD keeps '{list(odd)[-1]}', which does not"):
            shrink_(model, mask, optimizer, example=X)
        assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    optimizer.state[first] = {"n": 1, "step": torch.ones(1), "same": torch.ones(3, 4), "none": None}
    shrink_(model, mask, optimizer, example=X)
    assert optimizer.state[first]["same"].shape == (2, 4)
    assert optimizer.state[first]["step"].shape == (1,)


@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format])
def test_a_volume_is_left_as_it_lay_in_memory(layout):
    model = nn.Sequential(nn.Conv3d(3, 4, 2), nn.Conv3d(4, 3, 2)).to(memory_format=layout)
    x = torch.randn(4, 3, 4, 4, 4)
    (units,) = find_units(model, x)
    small = shrink(model, Mask.full([units]).without({units: [0]}), x)
    assert small[1].weight.shape == (3, 3, 2, 2, 2)
    assert small[1].weight.is_contiguous(memory_format=layout)
    assert torch.equal(small[1].weight, model[1].weight[:, 1:])


def test_one_layer_alone_cannot_lose_inputs_in_place():
    model = nn.Linear(4, 2)
    (pixels,) = find_units(model, X, inputs=True)
    with pytest.raises(StructureError, match=r"put it in nn\.Sequential"):
        shrink_(model, Mask.full([pixels]).without({pixels: [1]}), example=X)
    assert model.in_features == 4
    assert shrink_(model, Mask.full([pixels]), example=X).count(pixels) == 4


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_what_is_left_lies_in_memory_as_the_whole_did(layout):
    x = torch.randn(8, 3, 9, 9)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(125, 2)
    ).to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    units = find_units(model, x)
    shrink_(model, Mask.full(units).without({g: [0, 2] for g in units}), optimizer, example=x)
    weight = model[2].weight
    assert weight.shape == (3, 4, 3, 3)
    for tensor in (weight, optimizer.state[weight]["exp_avg"], model[:3](x)):
        assert tensor.is_contiguous(memory_format=layout)
        assert tensor.is_contiguous() == (layout == torch.contiguous_format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_loss_from_before_the_cut_does_not_break_the_next_backward(dtype):
    model, x = mlp(4, 3, 2).to(dtype), X.to(dtype)
    units = hidden(model)[0]
    old = model(x).sum()
    old.backward(retain_graph=True)
    shrink_(model, Mask.full([units]).without({units: [0]}))
    assert model[0].weight.grad is None
    assert model[0].weight.dtype == dtype
    model(x).sum().backward()  # with `old` alive autograd still knows the old shapes
    assert model[0].weight.grad.shape == (2, 4)
    assert old.item() == old.item()


def test_parameters_stay_the_same_objects():
    model = mlp(4, 3, 2)
    before = list(model.parameters())
    units = hidden(model)[0]
    shrink_(model, Mask.full([units]).without({units: [0]}))
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


class HardCoded(nn.Module):
    """A network whose forward() uses the width of its hidden layer as a constant."""

    def __init__(self, remembered: bool):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)
        self.inner = 6 if remembered else -1

    def forward(self, x):
        width = self.inner if self.inner > 0 else 6
        return self.second(self.first(x).tanh().reshape(-1, width))


def test_a_forward_that_hard_codes_a_size_is_refused_by_name_and_left_alone():
    model = HardCoded(remembered=False)
    units = group("first", 6, "second")
    before = copy.deepcopy(model.state_dict())
    mask = Mask.full([units]).without({units: [2]})
    with pytest.raises(CertificateError, match="group 'first'"):
        shrink_(model, mask, example=X)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert model.first.out_features == 6


def test_an_integer_that_explains_the_failure_is_patched():
    model = HardCoded(remembered=True)
    units = group("first", 6, "second")
    mask = Mask.full([units]).without({units: [2]})
    small = shrink(model, mask, example=X)
    assert (small.inner, model.inner) == (5, 6)
    assert torch.allclose(small(X), masked(model, mask)(X), atol=1e-6)
    shrink_(model, mask, example=X)
    assert model.inner == 5


def test_of_two_numbers_that_might_be_the_size_the_right_one_is_changed():
    """Both equal the old width; the other one is a factor, and may not change."""

    class Factor(HardCoded):
        def __init__(self):
            super().__init__(remembered=True)
            self.factor = 6

        def forward(self, x):
            return super().forward(x) * self.factor

    model = Factor()
    units = group("first", 6, "second")
    mask = Mask.full([units]).without({units: [2]})
    small = shrink(model, mask, example=X)
    assert (small.inner, small.factor) == (5, 6)
    assert torch.allclose(small(X), masked(model, mask)(X), atol=1e-5)


def test_only_the_group_at_fault_is_named():
    class Two(HardCoded):
        def __init__(self):
            super().__init__(remembered=False)
            self.good, self.end = nn.Linear(2, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.end(self.good(super().forward(x)).tanh())

    model = Two()
    bad, good = group("first", 6, "second"), group("good", 5, "end")
    full = Mask.full([bad, good])
    with pytest.raises(CertificateError, match=r"cutting group 'first' does not reproduce .*run"):
        shrink(model, full.without({bad: [0], good: [1]}), example=X)
    assert shrink(model, full.without({good: [1]}), example=X).good.out_features == 4


def test_groups_that_fail_only_together_are_said_to():
    class Sum(nn.Module):
        """Allows two widths to differ in one of them from six, not in both."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6)
            self.c, self.d = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            a, b = self.a(x).tanh(), self.b(x).tanh()
            both = a.shape[1] < 6 and b.shape[1] < 6
            return self.c(a) + self.d(b) + (1.0 if both else 0.0)

    groups = [group("a", 6, "c"), group("b", 6, "d")]
    with pytest.raises(CertificateError, match="cutting group these together does not"):
        shrink(Sum(), Mask.full(groups).without({g: [0] for g in groups}), example=X)


def test_what_shrink_does_not_know_is_refused():
    model = mlp(4, 3, 2)
    with pytest.raises(ValueError, match=r"sparse=.*'auto'.*None keeps layers dense"):
        shrink(model, Mask.full(hidden(model)), X, sparse="autp")


def test_a_convolution_keeps_a_channel():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    units = Neurons(
        "0",
        "channel",
        3,
        (part("0", "weight", 0, 3), part("0", "bias", 0, 3)),
        (),
        (part("2", "weight", 1, 3),),
    )
    with pytest.raises(StructureError, match="keep at least one of its 3"):
        shrink(model, Mask.full([units]).without({units: [0, 1, 2]}), torch.rand(2, 1, 8, 8))
    with pytest.raises(StructureError, match="example="):
        shrink(model, Mask.full([units]).without({units: [0]}))
    one = shrink(model, Mask.full([units]).without({units: [0, 2]}), torch.rand(2, 1, 8, 8))
    assert one[0].out_channels == 1


def test_a_mask_of_another_model_is_refused_before_anything_changes():
    model = mlp(4, 3, 2)
    other = hidden(mlp(4, 9, 2))[0]
    with pytest.raises(GroupError, match="group '0' is not this model's"):
        shrink(model, Mask.full([other]).without({other: [8]}))


def test_certificates_tell_networks_apart():
    model = mlp(4, 3, 2)
    same, other = copy.deepcopy(model), mlp(4, 3, 2, seed=1)
    proof = certify(model, same, X[:10])
    assert (proof.inputs, proof.real, proof.difference) == (64, 10, 0.0)
    assert "same function on 64 inputs (54 of them random)" in str(proof)
    with pytest.raises(CertificateError, match="evaluation mode outputs differ"):
        certify(model, other, X)


def test_certificates_cover_training_mode_and_leave_everything_as_found():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    other = copy.deepcopy(model)
    other[1].running_mean.add_(1)
    other[1].train()
    # In training mode batch norm ignores its running mean: only evaluation tells these two apart.
    with pytest.raises(CertificateError, match="evaluation mode"):
        certify(model, other, X)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    model.eval()
    proof = certify(model, copy.deepcopy(model), X)
    assert proof.training_difference == 0.0  # no dropout in the proof, though p is 0.5
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert not any(m.training for m in model.modules())
    momentum = copy.deepcopy(model)
    momentum[1].eps = 0.5
    momentum[1].running_var.copy_(model[1].running_var + model[1].eps - 0.5)
    with pytest.raises(CertificateError, match="training mode"):
        certify(model, momentum, X)


def test_folding_duplicates_and_complements_changes_nothing():
    model = mlp(4, 4, 2).double()
    with torch.no_grad():  # unit 1 repeats unit 0, unit 2 is its complement: 1 - sigmoid(z)
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[0].weight[2], model[0].bias[2] = -model[0].weight[0], -model[0].bias[0]
    units = hidden(model)[0]
    before = model(X.double())
    mix = torch.tensor([[1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 1]], dtype=torch.float64)
    fold_(model, units, torch.tensor([1, 2]), {units.listeners[0]: mix})
    assert not model[2].weight[:, 1:3].count_nonzero()
    assert torch.allclose(model(X.double()), before, atol=1e-12)


def test_folds_that_lean_on_the_doomed_or_have_nowhere_to_go_are_refused():
    model = mlp(4, 3, 2)
    units = hidden(model)[0]
    listener = units.listeners[0]
    with pytest.raises(GroupError, match="units that stay"):
        fold_(model, units, torch.tensor([0]), {listener: torch.ones(1, 4)})
    with pytest.raises(GroupError, match=r"shape \(1, 4\)"):
        fold_(model, units, torch.tensor([0]), {listener: torch.ones(1, 3)})
    model[2].bias = None
    with pytest.raises(StructureError, match="no bias"):
        fold_(model, units, torch.tensor([0]), {listener: torch.tensor([[0.0, 0, 0, 1]])})


def test_sweeping_removes_what_nobody_reads_and_folds_what_hears_nothing():
    model = mlp(4, 3, 3, 2).double()
    first, second = hidden(model)
    read = inputs(4, "0")
    w0, w1, w2 = find_synapses(model)
    mask = Mask.full([read, first, second, w0, w1, w2])
    # Unit 0 of the first layer hears nothing, unit 2 of the second is not read.
    mask = mask.without({w0: [0, 1, 2, 3], w2: [2, 5]})
    mask.apply_(model)
    before = model(X.double())
    swept = sweep_(model, mask, X.double())
    assert swept.dead(first).tolist() == [0]
    assert swept.dead(second).tolist() == [2]
    assert torch.allclose(model(X.double()), before, atol=1e-12)
    small = shrink(model, swept)
    assert (small[0].out_features, small[2].out_features) == (2, 2)
    assert torch.allclose(small(X.double()), before, atol=1e-12)


def test_sweeping_goes_on_to_a_fixpoint():
    model = mlp(4, 3, 3, 2).double()
    first, second = hidden(model)
    mask = Mask.full([inputs(4, "0"), first, second]).without({second: [0, 1, 2]})
    mask.apply_(model)
    swept = sweep_(model, mask, X.double())
    assert [swept.count(g) for g in swept.groups] == [1, 0, 0]  # nobody reads any of it
    forwards = Mask.full([first, second]).without({first: [0, 1, 2]})
    model = mlp(4, 3, 3, 2).double()
    forwards.apply_(model)
    before = model(X.double())
    swept = sweep_(model, forwards, X.double())
    assert swept.count(second) == 0  # deaf: constants in the last bias
    assert torch.allclose(model(X.double()), before, atol=1e-12)


def test_a_deaf_channel_behind_zero_padding_stays():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sigmoid(), nn.Conv2d(2, 1, 3, padding=1))
    units = Neurons(
        "0",
        "channel",
        2,
        (part("0", "weight", 0, 2), part("0", "bias", 0, 2)),
        (),
        (part("2", "weight", 1, 2),),
    )
    weights = find_synapses(model)[0]
    mask = Mask.full([units, weights]).without({weights: [0]})
    mask.apply_(model)
    example = torch.rand(3, 1, 5, 5)
    before = model(example)
    assert sweep_(model, mask, example) == mask  # its constant is cut off at the border
    assert torch.equal(model(example), before)


@pytest.mark.parametrize("groups", [4, 8])
def test_a_group_norm_without_weights_counts_fewer_groups(groups):
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.GroupNorm(groups, 8, affine=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 2),
    )
    x = torch.randn(70, 1, 5, 5)
    (units,) = find_units(model, x)
    small = shrink(model, Mask.full([units]).without({units: [1]}), example=x)
    assert small[1].num_groups == groups - 1
    assert small[1].num_channels == small[0].out_channels == 8 - 8 // groups


def test_a_network_that_is_one_layer_loses_inputs_twice():
    model, x = nn.Linear(4, 2), torch.randn(70, 4)
    (pixels,) = find_units(model, x, inputs=True)
    mask = Mask.full([pixels]).without({pixels: [1]})
    small = shrink(model, mask, example=x)
    (rest,) = mask.shrunk().groups
    assert [part.parameter for part in rest.listeners] == ["1.weight"]
    smaller = shrink(small, mask.shrunk().without({rest: [0]}), example=x)
    assert smaller[0].index.tolist() == [2, 3]
    assert torch.equal(smaller[1].weight, model.weight[:, 2:])
