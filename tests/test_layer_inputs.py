"""What synapses read: weights as matrices, patches of convolutions, and the criterion wanda."""

import itertools

import pytest
import torch
from torch import nn

import hand
from sentei import (
    CriterionError,
    Probe,
    StructureError,
    find_synapses,
    find_units,
    pattern,
    prune,
)
from sentei.criteria import obs, wanda
from sentei.network.calls import Calls
from sentei.network.layout import Layout
from sentei.probe.recording.synapse_inputs import columns_read, squares_read

CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


class Product(nn.Module):
    """x @ weight, with a row for each input, as some libraries write linear layers."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        flat = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return flat.reshape(*x.shape[:-1], -1)


def only_call(layer, x):
    calls = []

    def answer(call):
        calls.append(call)
        return call()

    with torch.no_grad(), Calls(layer, answer):
        output = layer(x)
    (call,) = calls
    return call, output


def assert_rows_times_columns_are_the_outputs(layer, x):
    layer, x = layer.double(), x.double()
    layer.bias.data.zero_()
    call, output = only_call(layer, x)
    layout = Layout.of(call)
    assert layout is not None
    rows = layout.matrices(layer.weight.detach())
    assert torch.equal(layout.weight(rows), layer.weight)
    columns = columns_read(call, layout)
    linear = layer.weight.ndim == 2
    sampled = output if linear or output.ndim == layer.weight.ndim else output[None]
    first = sampled.movedim(-1 if linear else 1, 0).flatten(1)
    assert torch.allclose(rows @ columns, first.unflatten(0, (layout.groups, -1)))
    squares, count = squares_read(call, layout)
    assert torch.allclose(squares, columns.square().sum(2))
    assert count == columns.shape[2]


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), Product(5, 3)])
def test_linear_layers_are_matrices(layer):
    assert_rows_times_columns_are_the_outputs(layer, torch.randn(2, 7, 5))


@pytest.mark.parametrize("dims", CONVOLUTIONS)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolutions_are_matrices(dims, groups):
    plain, transposed = CONVOLUTIONS[dims]
    for kernel, stride, dilation, padding, alone in itertools.product(
        (1, 2, 3), (1, 2), (1, 2), (0, 1, "same", "valid"), (False, True)
    ):
        x = torch.randn(*(() if alone else (2,)), 4, *(7, 6, 5)[:dims])
        options = {"stride": stride, "dilation": dilation, "groups": groups}
        if padding != "same" or stride == 1:
            layer = plain(4, 8, kernel, padding=padding, **options)
            assert_rows_times_columns_are_the_outputs(layer, x)
        if padding in (0, 1):
            more = 1 if max(stride, dilation) > 1 else 0
            layer = transposed(4, 8, kernel, padding=padding, output_padding=more, **options)
            assert_rows_times_columns_are_the_outputs(layer, x)


def test_a_kernel_may_differ_by_dimension():
    layer = nn.Conv2d(4, 8, (1, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2)
    assert_rows_times_columns_are_the_outputs(layer, torch.randn(3, 4, 6, 7))


def test_wanda_by_hand():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    model[0].weight.data = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    model[0].bias.data.zero_()
    model[2].weight.data = torch.tensor([[-1.0, 2.0]])
    x = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])  # root mean squares 1 and sqrt(2)
    first, last = find_synapses(model)
    probe = Probe(model, (x, torch.zeros(2, 1)), "half_squared_error")
    root = 2**0.5
    assert wanda(probe, first).tolist() == pytest.approx([1, 2 * root, 3, 0.5 * root])
    # The hidden units are (1, 3) and (0, 0).
    assert wanda(probe, last).tolist() == pytest.approx([1 / root, 2 * 3 / root])


def test_wanda_of_a_convolution_by_hand():
    model = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(2, 1))
    model[0].weight.data = torch.tensor([[[1.0, 1.0, -1.0]]])
    x = torch.tensor([[[3.0, 4.0]]])  # windows (0, 3, 4) and (3, 4, 0)
    probe = Probe(model, (x, torch.zeros(1, 1)), "half_squared_error")
    expected = [(n / 2) ** 0.5 for n in (9, 25, 16)]
    assert wanda(probe, find_synapses(model)[0]).tolist() == pytest.approx(expected)


def test_wanda_is_the_same_in_any_blocks_and_after_cuts_before_it():
    torch.manual_seed(0)
    model, x = hand.mlp(4, 6, 5, 3), torch.randn(40, 4)
    y = torch.arange(40) % 3
    whole, small = Probe(model, (x, y)), Probe(model, (x, y), memory="1 KiB")
    groups = find_synapses(model)
    for group in groups:
        assert torch.allclose(wanda(small, group), wanda(whole, group))
    mask = whole.mask.full(groups).without({groups[1]: range(20)})
    mask.apply_(model)
    whole.update_(mask)
    for group in groups:
        assert torch.equal(wanda(whole, group), wanda(Probe(model, (x, y)), group))


def test_wanda_measures_all_layers_in_one_pass(monkeypatch):
    model, x = hand.mlp(4, 6, 5, 3), torch.randn(40, 4)
    probe = Probe(model, (x, torch.arange(40) % 3))
    rows = []
    model[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    wanda(probe, find_synapses(model)[0])
    rows.clear()
    for group in find_synapses(model):
        wanda(probe, group)
    assert all(n < 40 for n in rows)  # only the check that the recording is still right


def test_what_wanda_cannot_score_is_refused():
    x = torch.arange(8).reshape(4, 2)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(6, 8, bias=False)

        def forward(self, tokens):
            return self.out(nn.functional.embedding(tokens, self.out.weight)).mean(1)

    for model, data in ((Tied(), x), (nn.Sequential(nn.LSTM(3, 2), Last()), torch.randn(4, 5, 3))):
        probe = Probe(model, (data, torch.zeros(4).long()))
        with pytest.raises(StructureError, match=r"leave it out with pick"):
            wanda(probe, find_synapses(model)[0])
    model = hand.mlp(4, 6, 3)
    probe = Probe(model, (torch.randn(4, 4), torch.zeros(4).long()))
    with pytest.raises(CriterionError, match="find_synapses"):
        wanda(probe, find_units(model, torch.randn(4, 4))[0])


class Last(nn.Module):
    def forward(self, outputs):
        return outputs[0][:, -1]


class Cross(nn.Module):
    """Attention whose query is larger than its key, and reads something else."""

    def __init__(self, *, same: bool = False):
        super().__init__()
        self.attention, self.same = nn.MultiheadAttention(8, 2, batch_first=True), same
        self.query, self.value = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def read(self, x):
        return (x, x, x) if self.same else (10 * self.query(x), x, self.value(x) / 10)

    def forward(self, x):
        return self.head(self.attention(*self.read(x), need_weights=False)[0].mean(1))


@pytest.mark.parametrize("same", [False, True])
def test_each_third_of_a_packed_weight_reads_its_own_input(same):
    torch.manual_seed(0)
    model, x = Cross(same=same).double().eval(), torch.randn(20, 5, 8).double()
    probe = Probe(model, (x, torch.arange(20) % 3))
    group = next(g for g in find_synapses(model) if g.parameter == "attention.in_proj_weight")
    weight = model.attention.in_proj_weight.detach()
    by_wanda, by_obs = (c(probe, group).view(24, 8) for c in (wanda, obs))
    for third, read in enumerate(model.read(x)):
        rows = slice(8 * third, 8 * third + 8)
        flat = read.detach().flatten(0, 1)
        products = flat.T @ flat / len(flat)
        wanted = weight[rows].abs() * products.diagonal().sqrt()
        assert torch.allclose(by_wanda[rows], wanted)
        damped = products + 0.01 * products.diagonal().mean() * torch.eye(8).double()
        wanted = weight[rows].square() / (2 * damped.inverse().diagonal())
        assert torch.allclose(by_obs[rows], wanted)


def test_a_packed_weight_is_pruned_and_refitted_third_by_third():
    torch.manual_seed(0)
    model, x = Cross().double().eval(), torch.randn(40, 5, 8).double()
    before = [model.attention.in_proj_weight.detach().clone(), *model.read(x)]
    probe = Probe(model, (x, torch.arange(40) % 3))
    group = next(g for g in find_synapses(model) if g.parameter == "attention.in_proj_weight")
    errors = []
    for repair in (None, "least_squares"):
        own = Cross().double().eval()
        own.load_state_dict(model.state_dict())
        probe = Probe(own, (x, torch.arange(40) % 3))
        list(prune(own, [group], probe, pattern(2, 4, "wanda", repair)))
        after = own.attention.in_proj_weight.detach()
        assert (after.view(24, 2, 4) != 0).sum(2).eq(2).all()
        change = (after - before[0]).view(3, 8, 8)
        errors.append([(r @ c.T).square().sum() for r, c in zip(before[1:], change, strict=True)])
    assert all(repaired < plain for plain, repaired in zip(*errors, strict=True))
