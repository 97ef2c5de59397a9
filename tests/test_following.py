"""Networks that are awkward to follow: compiled ones, foreign operators, layers of one unit."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sentei
from sentei.network.foreign import is_foreign, without_nan

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


class Around(nn.Module):
    """A network with another one inside, under the name `inner`."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.b, self.c = inner, nn.Linear(3, 7), nn.Linear(7, 2)

    def forward(self, x):
        return self.c(self.b(self.inner(x)).relu())


def compiled(net):
    return torch.compile(net, backend="eager")


def compiled_in_place(net):
    net[0].compile(backend="eager")
    return net


WRAPPED = {
    "compiled": (lambda: compiled(mlp()), ["_orig_mod.0", "_orig_mod.2"]),
    "a compiled part": (
        lambda: Around(compiled(mlp())),
        ["inner._orig_mod.0", "inner._orig_mod.2", "inner._orig_mod.4", "b"],
    ),
    "compiled in place": (lambda: compiled_in_place(mlp()), ["0", "2"]),
    "parallel": (lambda: nn.DataParallel(mlp()), ["module.0", "module.2"]),
    "a scripted part": (lambda: Around(torch.jit.trace(mlp(), X)), ["b"]),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_networks_are_cut_under_their_own_names(name):
    build, names = WRAPPED[name]
    net = build()
    groups = sentei.find_units(net, X)
    assert [group.name for group in groups] == names
    parameters = dict(net.named_parameters())
    assert all(part.parameter in parameters for group in groups for part in group.producers)
    mask = sentei.Mask.full(groups).without({group: [0, 2] for group in groups})
    masked = copy.deepcopy(net)
    mask.apply_(masked)
    small = sentei.shrink(net, mask, example=X)
    assert type(small) is type(net)
    assert torch.allclose(small(X), masked(X), atol=1e-5)
    net(X)  # compiled before the cut, and again after it
    sentei.shrink_(net, mask, example=X)
    assert torch.allclose(net(X), small(X), atol=1e-6)
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in masked.parameters())


@pytest.mark.parametrize("scripted", [torch.jit.script, lambda net: torch.jit.trace(net, X)])
def test_a_scripted_network_is_refused_by_name(scripted):
    with pytest.raises(sentei.StructureError, match=r"prune before you .*script; .* is scripted"):
        sentei.find_units(scripted(mlp()), X)


# Operators of other libraries.

LIBRARY = torch.library.Library("sentei_following", "FRAGMENT")
LIBRARY.define("pick(Tensor x, Tensor at) -> Tensor")
LIBRARY.define("sums(Tensor x) -> (Tensor, Tensor)")


@torch.library.impl(LIBRARY, "pick", "CPU")
def pick(x, at):
    """Return the values of x, (n, c, l), at real places (n, k), between those beside them.

    What a compiled operator does without a look: here NaN is an error in place of a crash.
    """
    assert not at.isnan().any()
    low = at.long()
    assert ((low >= 0) & (low < x.shape[-1])).all()
    high = (low + 1).clamp(max=x.shape[-1] - 1)
    part = (at - low)[:, None]
    return torch.stack([(1 - p) * a[:, i] + p * a[:, j] for a, i, j, p in zip(x, low, high, part)])


@torch.library.impl(LIBRARY, "sums", "CPU")
def sums(x):
    assert not x.isnan().any()
    return x.sum(-1), (x > 0).sum(-1)


class Picking(nn.Module):
    """Values at places that the network computes."""

    def __init__(self, relu=True):
        super().__init__()
        self.relu = relu
        self.a, self.at = nn.Conv1d(3, 8, 3), nn.Linear(8, 4)
        self.c, self.head = nn.Conv1d(8, 5, 1), nn.Linear(5, 3)

    def forward(self, x):
        y = self.a(x)
        y = y.relu() if self.relu else y
        at = self.at(y.mean(-1)).sigmoid() * (y.shape[-1] - 1)
        found = torch.ops.sentei_following.pick(y, at)
        return self.head(self.c(found).relu().mean(-1))


@pytest.mark.parametrize("relu", [False, True])
def test_operators_of_other_libraries_get_no_nan(relu):
    torch.manual_seed(0)
    net, x = Picking(relu), torch.randn(3, 3, 12)
    groups = sentei.find_units(net, x)
    assert [(group.name, group.size) for group in groups] == [("a", 8), ("c", 5)]
    reasons = {each.parameter: each.reason for each in sentei.not_offered(net, x)}
    assert "alike" in reasons["at.weight"]
    mask = sentei.Mask.full(groups).without({group: [0, 2] for group in groups})
    masked = copy.deepcopy(net)
    mask.apply_(masked)
    assert torch.allclose(sentei.shrink(net, mask, example=x)(x), masked(x), atol=1e-5)


def test_marks_pass_a_foreign_operator_where_its_result_depends_on_them():
    operator = torch.ops.sentei_following.sums
    x = torch.tensor([[1.0, 2.0], [torch.nan, 4.0], [0.0, 0.0]])
    total, count = without_nan(operator, (x,), {})
    assert total.isnan().tolist() == [False, True, False]
    assert total[0] == 3.0
    assert not count.is_floating_point()
    plain = torch.ones(2, 2)
    assert torch.equal(without_nan(operator, (plain,), {})[0], torch.full((2,), 2.0))
    every = without_nan(operator, (), {"x": torch.full((2, 2), torch.nan)})[0]
    assert every.isnan().all()


def test_foreign_operators_are_those_of_other_libraries():
    assert is_foreign(torch.ops.sentei_following.pick)
    assert is_foreign(torch.ops.sentei_following.pick.default)
    assert not any(map(is_foreign, (torch.ops.aten.relu, torch.ops.aten.relu.default, F.relu)))


# Values that decide what is returned.


class Detector(nn.Module):
    """Returns only what scores more than nothing: another number of rows for each input."""

    def __init__(self):
        super().__init__()
        self.body, self.head = mlp(), nn.Linear(3, 2)

    def forward(self, x):
        y = self.head(self.body(x).relu())
        return y[y[:, 0] > y[:, 0].mean()]


def test_a_network_that_returns_what_it_detects_is_refused_with_the_remedy():
    torch.manual_seed(0)
    net = Detector()
    with pytest.raises(sentei.StructureError, match="detects; pass forward="):
        sentei.find_units(net, X)
    groups = sentei.find_units(net, X, forward=lambda model, x: model.head(model.body(x).relu()))
    assert [group.name for group in groups] == ["body.0", "body.2", "body.4"]


# Few units, few samples.


class Thin(nn.Module):
    """Layers of a single unit, as a gate, a channel and a bottleneck."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(2, 1, 3), nn.BatchNorm2d(1), nn.Conv2d(1, 6, 3)
        self.gate, self.thin, self.head = nn.Linear(6, 1), nn.Linear(6, 1), nn.Linear(1, 3)

    def forward(self, x):
        x = self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3))
        return self.head(self.thin(x * self.gate(x).sigmoid()).tanh())


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_single_units_and_single_samples_are_followed(rows):
    torch.manual_seed(0)
    net, x = Thin(), torch.randn(rows, 2, 8, 8)
    groups = {group.name: group for group in sentei.find_units(net, x)}
    assert {name: group.size for name, group in groups.items()} == {"a": 1, "b": 6, "thin": 1}
    mask = sentei.Mask.full(groups.values()).without({groups["b"]: [1, 4]})
    masked = copy.deepcopy(net).eval()
    mask.apply_(masked)
    small = sentei.shrink(net.eval(), mask, example=x)
    assert torch.allclose(small(x), masked(x), atol=1e-5)
