"""Calls of torch functions that use a weight: recognised however written, and what they cost."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sentei
import zoo
from sentei.errors import StructureError
from sentei.network import calls
from sentei.network.calls import MIXING, PASSING, PRODUCTS, Calls, recorded_names
from sentei.network.counted_norm import counted_layer_norm
from sentei.network.encoding.size import multiply_adds


def test_a_shared_parameter_is_recorded_under_its_first_name():
    model, _ = zoo.build("tied")
    names = {"words.weight", "hidden.weight", "hidden.bias"}
    assert recorded_names(model) == {"out.weight": "words.weight", **{n: n for n in names}}


class Held:
    """Stands for the network's weight among the arguments of a call."""


W = Held()
X, IMAGE = torch.randn(6, 4), torch.randn(6, 4, 5, 5)
WORDS = torch.tensor([[0, 2], [3, 1]])


def layer(input, **more):
    return {"input": input, "weight": W, **more}


B3, B4 = torch.rand(3), torch.rand(4)
# For each function: the shape of its weight, and its arguments under torch's names, in order.
ARGUMENTS = {
    F.linear: ((3, 4), layer(X, bias=B3)),
    torch.addmm: ((4, 3), {"input": B3, "mat1": X, "mat2": W}),
    torch.matmul: ((4, 4), {"input": X, "other": W}),
    torch.mm: ((4, 3), {"input": X, "mat2": W}),
    F.embedding: ((5, 3), layer(WORDS, padding_idx=0)),
    F.conv1d: ((4, 2, 2), layer(IMAGE[..., 0], bias=B4, stride=2, padding=0, dilation=1, groups=2)),
    F.conv2d: ((3, 4, 2, 3), layer(IMAGE, bias=B3, stride=(2, 1))),
    F.conv3d: ((3, 4, 2, 1, 2), layer(IMAGE[..., None, :], bias=None, stride=2)),
    F.conv_transpose1d: ((4, 3, 2), layer(IMAGE[..., 0], bias=B3, stride=2)),
    F.conv_transpose2d: ((4, 3, 2, 2), layer(IMAGE, bias=None, stride=2)),
    F.conv_transpose3d: ((4, 3, 1, 2, 2), layer(IMAGE[:, :, None], bias=B3)),
    F.batch_norm: (
        (4,),
        {"input": X, "running_mean": -X[0], "running_var": X[1].exp(), "weight": W, "bias": B4},
    ),
    F.instance_norm: ((4,), {"input": IMAGE, "running_mean": -B4, "running_var": B4, "weight": W}),
    F.group_norm: ((4,), {"input": X, "num_groups": 2, "weight": W, "bias": B4}),
    F.layer_norm: ((4,), {"input": X, "normalized_shape": [4], "weight": W}),
    F.rms_norm: ((4,), {"input": X, "normalized_shape": [4], "weight": W, "eps": 1e-3}),
    counted_layer_norm: ((4,), {"input": X, "count": 6, "weight": W, "bias": B4}),
    F.prelu: ((4,), layer(IMAGE)),
    torch.index_select: ((2,), {"input": IMAGE, "dim": 1, "index": W}),
    torch.mul: ((4,), {"input": X, "other": W}),
    torch.sub: ((4,), {"input": X, "other": W}),
    torch.div: ((4,), {"input": W, "other": X}),
}
METHODS = {
    Tensor.matmul: torch.matmul,
    Tensor.mm: torch.mm,
    Tensor.addmm: torch.addmm,
    Tensor.prelu: F.prelu,
    Tensor.index_select: torch.index_select,
    Tensor.mul: torch.mul,
    Tensor.sub: torch.sub,
    Tensor.div: torch.div,
}


def ways(function, given):
    """All ways to write a call: so many arguments by position, the others by keyword, reversed."""
    names, values = [*given], [*given.values()]
    fewest = 1 if function in METHODS else 0
    for count in range(fewest, len(names) + 1):
        yield values[:count], {name: given[name] for name in reversed(names[count:])}


class Written(nn.Module):
    """Calls one function with its weight in place of `W`."""

    def __init__(self, function, shape, args, kwargs):
        super().__init__()
        if function in (torch.index_select, Tensor.index_select):
            self.register_buffer("held", torch.tensor([2, 0]))
        else:
            self.held = nn.Parameter(torch.linspace(0.3, 2, torch.Size(shape).numel()).view(shape))
        self.call = partial(self._call, function, args, kwargs)

    def _call(self, function, args, kwargs):
        own = {name: self.held if value is W else value for name, value in kwargs.items()}
        return function(*(self.held if value is W else value for value in args), **own)

    def forward(self):
        return self.call()


@pytest.mark.parametrize(
    "function", [*ARGUMENTS, *METHODS], ids=lambda f: getattr(f, "__qualname__", f.__name__)
)
def test_a_call_is_recognised_however_its_arguments_are_written(function):
    canonical = METHODS.get(function, function)
    shape, given = ARGUMENTS[canonical]
    found = []

    def answer(call):
        weight = call.given[call.use.weight]
        again = [call(), call(call.input), call(weight=weight), call(call.input * 0)]
        found.append((call.weight, call.mixes, call.axis, *again))
        return again[0]

    written = [Written(function, shape, *way) for way in ways(function, given)]
    for model in written:
        with torch.no_grad(), Calls(model, answer):
            result = model()
        assert torch.equal(result, model())
    assert len(found) == len(written) > 1
    for weight, mixes, axis, again, same, alike, off in found:
        assert (weight, mixes, axis) == ("held", canonical in MIXING, found[0][2])
        assert torch.equal(again, same)
        assert torch.equal(again, alike)
        assert torch.equal(off, found[0][-1])
        assert function is F.embedding or not torch.equal(off.nan_to_num(), again)


def test_every_function_of_the_tables_was_written():
    assert ARGUMENTS.keys() >= MIXING.keys() | PASSING.keys()


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_slope_for_all_units_belongs_to_no_unit(shape):
    class Sloped(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 2)
            self.slope = nn.Parameter(torch.full(shape, 0.2))

        def forward(self, x):
            return self.two(F.prelu(self.one(x), self.slope))

    (group,) = sentei.find_units(Sloped(), X)
    assert group.size == 3
    assert "slope" not in {part.parameter for part in group.followers}


def test_a_slope_of_each_unit_and_a_matrix_called_as_methods_are_cut():
    class Sloped(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3, 2))
            self.slope = nn.Parameter(torch.rand(3))

        def forward(self, x):
            return x.mm(mat2=self.one).prelu(self.slope).mm(self.two)

    model = Sloped()
    (group,) = sentei.find_units(model, X)
    mask = sentei.Mask.full([group]).without({group: [1]})
    small = sentei.shrink(model, mask, X)
    assert [tuple(p.shape) for p in small.parameters()] == [(4, 2), (2, 2), (2,)]


# What calls cost.


def constant(value):
    """Input values of 1 and a bias of 0; anything else as it is."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return torch.full_like(value, float(value.ndim > 1))


@pytest.mark.parametrize("function", MIXING, ids=lambda f: f.__name__)
def test_multiply_adds_are_those_counted_one_by_one(function):
    """Where all inputs and weights are 1, each product adds 1 to one output."""
    shape, given = ARGUMENTS[function]
    model = Written(function, shape, [], {name: constant(value) for name, value in given.items()})
    nn.init.ones_(model.held)
    products = []

    def answer(call):
        out = call()
        products.append(PRODUCTS[call.function](call.given[call.use.weight], call.input, out))
        return out

    with torch.no_grad(), Calls(model, answer):
        result = model()
    assert products == [0 if function is F.embedding else int(result.sum())]


def test_a_bag_of_embeddings_multiplies_nothing():
    bag = nn.Sequential(nn.EmbeddingBag(5, 4, mode="sum"), nn.Linear(4, 3))
    assert multiply_adds(bag, WORDS) == 12


def test_a_function_of_unknown_cost_is_refused(monkeypatch):
    monkeypatch.setitem(
        calls.MIXING, torch.bmm, calls.Use(("input", "mat2"), 2, 1, -1, weight="mat2")
    )

    class Batched(nn.Module):
        def __init__(self):
            super().__init__()
            self.held = nn.Parameter(torch.randn(6, 4, 3))

        def forward(self, x):
            return torch.bmm(x[:, None], self.held)

    with pytest.raises(StructureError, match=r"of torch\.bmm, which uses 'held', are not known"):
        multiply_adds(Batched(), X)
