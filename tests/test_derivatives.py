"""Derivatives along gates against autograd's, for general networks and losses."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import hand
import zoo
from sentei import CriterionError, Mask, Probe, criteria, find_synapses, find_units
from sentei.criteria import Taylor1, Taylor2, Thresholded, obd, skeletonization, taylor1, taylor2
from sentei.losses import per_sample
from sentei.network.example import tensors
from sentei.probe.engines.chain import Chain
from sentei.probe.engines.gates import Gates
from sentei.probe.recording.recording import Slope

LOSSES = ["half_squared_error", "binary_cross_entropy", "cross_entropy"]
ACTIVATIONS = [nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ReLU]


def cubed(outputs, targets):
    """A custom loss whose Hessian has cross terms between outputs and is not of rank one."""
    apart = outputs - F.one_hot(targets, outputs.shape[1])
    return apart.pow(3).sum(1) + apart.prod(1) + (apart[:, :1] * apart).sum(1)


def along_gates(model, x, y, loss, group):
    """Return the per-sample losses as a function of the gates, which scale the units' columns."""

    def of(gates):
        weights = {}
        for part in group.listeners:
            weight = weights.get(part.parameter, model.get_parameter(part.parameter).detach())
            spread = torch.ones(weight.shape[part.dim], dtype=gates.dtype)
            spread = spread.index_put(
                (part.index.flatten(),), gates.repeat_interleave(part.index.shape[1])
            )
            shape = [1] * weight.ndim
            shape[part.dim] = -1
            weights[part.parameter] = weight * spread.view(shape)
        return per_sample(loss)(tensors(functional_call(model, weights, (x,)))[0], y)

    return of


def autograd(model, x, y, loss, group):
    """Slope, Hessian diagonal and mean absolute per-sample slope along gates, by autograd."""
    of, ones = along_gates(model, x, y, loss, group), torch.ones(group.size).double()
    mean = lambda gates: of(gates).mean()  # noqa: E731
    slope = torch.autograd.functional.jacobian(mean, ones)
    with sdpa_kernel(SDPBackend.MATH):  # the only one that can be differentiated twice
        hessian = torch.autograd.functional.hessian(mean, ones)
    each = torch.autograd.functional.jacobian(of, ones)
    return slope, hessian.diagonal(), each.abs().mean(0)


def close(found, wanted):
    return (found - wanted).abs().max() < 1e-8 * max(1.0, wanted.abs().max())


def mlp(widths, act, sigmoid_end=False, seed=0):
    model = hand.mlp(*widths, act=act, seed=seed)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1.3)
    if sigmoid_end:
        model.append(nn.Sigmoid())
    return model.double()


def data(n=40, width=5, classes=4):
    torch.manual_seed(1)
    return torch.randn(n, width).double(), torch.randint(0, classes, (n,))


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("loss", [*LOSSES, cubed])
@pytest.mark.parametrize(
    "widths",
    [(5, 6, 4), pytest.param((5, 6, 7, 4), marks=pytest.mark.slow), (5, 4, 3, 6, 4)],
    ids=str,
)
@pytest.mark.parametrize("sigmoid_end", [False, True])
def test_multilayer_perceptrons(widths, loss, act, sigmoid_end):
    model, (x, y) = mlp(widths, act, sigmoid_end), data()
    probe = Probe(model, (x, y), loss)
    for group in [hand.inputs(5, "0"), *hand.hidden(model)]:
        slope, bend, each = autograd(model, x, y, loss, group)
        assert close(probe.slopes(group), slope)
        assert close(probe.curvatures(group), bend)
        assert close(probe.slopes(group, Slope(absolute=True)), each)
        assert close(taylor2(probe, group, curvature="full"), bend / 2 - slope)
        assert type(probe._engines.chosen[group]) is Chain


@pytest.mark.parametrize("loss", LOSSES)
def test_the_diagonal_recursion_is_exact_where_it_should_be_and_only_there(loss):
    model, (x, y) = mlp((5, 6, 7, 4), nn.Sigmoid), data()
    probe = Probe(model, (x, y), loss)
    first, last = hand.hidden(model)
    for group, exact in ((first, False), (last, loss != "cross_entropy")):
        full, diagonal = probe.curvatures(group), probe.curvatures(group, "diagonal")
        apart = ((full - diagonal).abs().mean() / full.abs().mean()).item()
        assert (apart < 1e-12) if exact else (apart > 0.05)


def test_the_diagonal_recursion_is_the_papers():
    """Compare with the appendix, written out for two sigmoid layers and half squared error."""
    model, (x, y) = mlp((5, 6, 7, 4), nn.Sigmoid, sigmoid_end=True), data()
    o1 = torch.sigmoid(x @ model[0].weight.T + model[0].bias)
    o2 = torch.sigmoid(o1 @ model[2].weight.T + model[2].bias)
    out = torch.sigmoid(o2 @ model[4].weight.T + model[4].bias)
    apart = out - F.one_hot(y, 4)
    d3 = out * (1 - out)
    gx3, hx3 = apart * d3, d3**2 + apart * d3 * (1 - 2 * out)
    go2, ho2 = gx3 @ model[4].weight, hx3 @ model[4].weight ** 2
    d2 = o2 * (1 - o2)
    gx2, hx2 = go2 * d2, ho2 * d2**2 + go2 * d2 * (1 - 2 * o2)
    go1, ho1 = gx2 @ model[2].weight, hx2 @ model[2].weight ** 2
    first, last = hand.hidden(model)
    probe = Probe(model, (x, y), "half_squared_error")
    for group, o, g, h in ((first, o1, go1, ho1), (last, o2, go2, ho2)):
        estimate = (-o * g + o**2 * h / 2).mean(0)
        assert close(taylor2(probe, group, curvature="diagonal"), estimate.detach())
    saliency = (hx2.T @ o1**2 / len(x) * model[2].weight ** 2 / 2).flatten()
    assert close(obd(probe, find_synapses(model)[1]), saliency.detach())


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_networks_of_every_kind(name):
    model, x = zoo.build(name)
    out = tensors(model.eval()(x))[0]
    if out.ndim == 2:
        y, loss = torch.randint(0, out.shape[1], (len(x),)), "cross_entropy"
    else:
        torch.manual_seed(0)
        y, loss = torch.rand_like(out), "half_squared_error"
    model = model.double()
    x = x.double() if x.is_floating_point() else x
    y = y.double() if y.is_floating_point() else y
    probe = Probe(model, (x, y), loss)
    for group in find_units(model, x[:3], inputs=x.is_floating_point()):
        slope, bend, each = autograd(model, x, y, loss, group)
        assert close(probe.slopes(group), slope)
        assert close(probe.slopes(group, Slope(absolute=True)), each)
        assert close(probe.curvatures(group), bend)


@pytest.mark.parametrize("loss", [*LOSSES, cubed])
@pytest.mark.parametrize("widths", [(5, 4), (5, 6, 4), (5, 4, 3, 4)])
def test_synapses_of_perceptrons(widths, loss):
    model, (x, y) = mlp(widths, nn.Sigmoid), data()
    probe = Probe(model, (x, y), loss)
    for group in find_synapses(model):
        slope, bend, each = along_weights(model, x, y, loss, group)
        assert close(probe.slopes(group), slope)
        assert close(probe.slopes(group, Slope(absolute=True)), each)
        assert close(probe.curvatures(group), bend)
        assert close(obd(probe, group, curvature="full"), bend / 2)


def along_weights(model, x, y, loss, group):
    weight = model.get_parameter(group.parameter).detach()

    def of(gates):
        weights = {group.parameter: weight * gates.view(weight.shape)}
        return per_sample(loss)(tensors(functional_call(model, weights, (x,)))[0], y)

    ones = torch.ones(group.size).double()
    each = torch.autograd.functional.jacobian(of, ones)
    hessian = torch.autograd.functional.hessian(lambda gates: of(gates).mean(), ones)
    return each.mean(0), hessian.diagonal(), each.abs().mean(0)


def test_synapses_of_a_convolution():
    model, x = zoo.build("residual")
    model, x, y = model.eval().double(), x.double(), torch.zeros(len(x), dtype=torch.int64)
    probe, group = Probe(model, (x, y)), find_synapses(model)[0]
    slope, bend, _ = along_weights(model, x, y, "cross_entropy", group)
    assert len(group.shape) == 4
    assert close(taylor1(probe, group), -slope)
    assert close(taylor2(probe, group), bend / 2 - slope)
    with pytest.raises(CriterionError, match='curvature="full"'):
        obd(probe, group)
    with pytest.raises(CriterionError, match="each sample's own"):
        taylor1(probe, group, form="per-sample")


def test_synapses_before_a_layer_norm():
    """Torch 2.13 computes wrong second derivatives of layer norm by forward mode applied twice."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4)).double()
    x, y = data()
    probe = Probe(model, (x, y))
    for group in find_synapses(model):
        slope, bend, _ = along_weights(model, x, y, "cross_entropy", group)
        assert close(taylor2(probe, group), bend / 2 - slope)


def test_the_linear_error_of_probabilities():
    model, (x, y) = mlp((5, 6, 4), nn.Sigmoid), data()
    aims, (group,) = F.one_hot(y, 4), hand.hidden(model)
    for loss, ending in (
        ("cross_entropy", lambda z: z.softmax(1)),
        ("binary_cross_entropy", torch.sigmoid),
    ):
        probe = Probe(model, (x, y), loss)
        linear = lambda z, t: (ending(z) - aims).abs().sum(1)  # noqa: E731, B023
        slope, _, _ = autograd(model, x, y, linear, group)
        assert close(skeletonization(probe, group), -slope)


def test_what_is_dead_scores_nothing():
    model, (x, y) = mlp((5, 6, 7, 4), nn.Sigmoid), data()
    probe, group = Probe(model, (x, y)), hand.hidden(model)[0]
    model[2].weight.data[:, 2] = 0
    probe.update_(Mask.full([group]).without({group: [2]}))
    slope, bend, _ = autograd(model, x, y, "cross_entropy", group)
    for found, want in ((probe.slopes(group), slope), (probe.curvatures(group), bend)):
        assert close(found, want)
        assert found[2] == 0


def test_answers_are_sums_over_blocks():
    model, (x, y) = mlp((5, 6, 7, 4), nn.Tanh), data(5100)
    group, probe = hand.hidden(model)[0], Probe(model, (x, y))
    slope, bend, each = autograd(model, x, y, "cross_entropy", group)
    assert close(probe.slopes(group), slope)
    assert close(probe.slopes(group, Slope(absolute=True)), each)
    assert close(probe.curvatures(group), bend)


class InPlaceBranch(nn.Module):
    """A block with `x += branch(x)`: vmap fails if only the branch differs by candidate."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        y = torch.zeros_like(x)
        y += x + self.down(torch.sigmoid(self.up(x)))
        return self.head(y)


def test_what_vmap_cannot_run_goes_one_at_a_time():
    torch.manual_seed(0)
    model, (x, y) = InPlaceBranch().double(), data()
    probe = Probe(model, (x, y))
    for group in find_units(model, x[:3]):
        slope, bend, each = autograd(model, x, y, "cross_entropy", group)
        assert close(probe.curvatures(group), bend)
        assert close(probe.slopes(group, Slope(absolute=True)), each)
        assert close(probe.slopes(group), slope)
        assert type(probe._engines.chosen[group]) is Gates
        assert not probe._engines.chosen[group].batched_derivatives
        before = probe.one_at_a_time
        probe.rises_without(group)
        assert probe.one_at_a_time > before


class Once(torch.autograd.Function):
    """The square, whose derivative cannot be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *back):  # pyright: ignore[reportIncompatibleMethodOverride]
        return 2 * ctx.saved_tensors[0] * back[0]


def test_derivatives_that_do_not_exist_are_refused(monkeypatch):
    model, (x, y) = mlp((5, 6, 4), nn.Sigmoid), data()
    (group,) = hand.hidden(model)
    wrong = Probe(model, (x, y), lambda out, t: (out.argmax(1) != t).double())
    with pytest.raises(CriterionError, match='Use "ablation"'):
        taylor1(wrong, group)
    once = Probe(model, (x, y), lambda out, t: Once.apply(out).sum(1))
    monkeypatch.setattr(Chain, "curvatures", None)  # before any work
    with pytest.raises(CriterionError, match="differentiated twice"):
        taylor2(once, group)
    assert taylor1(once, group).isfinite().all()
    with pytest.raises(CriterionError, match="not defined for a callable"):
        skeletonization(once, group)
    with pytest.raises(CriterionError, match="whole units"):
        skeletonization(Probe(model, (x, y)), find_synapses(model)[0])
    model, x = zoo.build("residual")
    group = find_units(model, x)[0]
    with pytest.raises(CriterionError, match='curvature="full"'):
        taylor2(Probe(model, (x, torch.zeros(len(x)).long())), group, curvature="diagonal")


def test_unknown_settings_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'diagonal'"):
        Taylor2("diagnoal")
    with pytest.raises(ValueError, match="Did you mean 'absolute'"):
        Taylor1("absolut")
    with pytest.raises(ValueError, match="unknown middle 'mode'"):
        Thresholded(taylor2, "mode")
    with pytest.raises(ValueError, match="from 0 to 1"):
        Thresholded(taylor2, quantile=95)


def test_thresholds_by_hand():
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, -100.0]).double()
    two_sided = Thresholded(taylor2, "mean", times=10.0)  # the median of sizes is 3, so 30
    assert two_sided.replaced(scores).tolist() == [1, 2, 3, 4, 2.5]
    assert Thresholded(taylor2, "median", times=10.0).replaced(scores)[4] == 2.5
    literal = Thresholded(taylor2, "mean", two_sided=False, quantile=0.75)  # beyond 3
    assert literal.replaced(scores).tolist() == [1, 2, 3, -18, -100]


def test_thresholds_know_only_the_alive():
    model, (x, y) = mlp((5, 6, 4), nn.Sigmoid), data()
    (group,) = hand.hidden(model)
    probe = Probe(model, (x, y))
    model[2].weight.data[:, 1] = 0
    probe.update_(Mask.full([group]).without({group: [1]}))
    plain, found = taylor2(probe, group), Thresholded(taylor2, quantile=0.5)(probe, group)
    assert found[1] == 0
    large = plain.abs() > plain[probe.alive(group)].abs().quantile(0.5)
    ordinary = plain[~large & probe.alive(group)]
    assert torch.allclose(found[large], ordinary.mean())
    assert torch.equal(found[~large], plain[~large])


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.floats(0.01, 0.99))
def test_one_sided_thresholds_never_change_what_goes_first(values, quantile):
    scores = torch.tensor(values).double()
    for middle in ("mean", "median"):
        replaced = Thresholded(taylor2, middle, two_sided=False, quantile=quantile).replaced(scores)
        assert replaced[scores.argmin()] == replaced.min()


def test_criteria_take_their_settings_in_the_call():
    model, (x, y) = mlp((5, 6, 7, 4), nn.Sigmoid), data()
    probe, group = Probe(model, (x, y)), hand.hidden(model)[0]
    for name, settings in (
        ("taylor2-diagonal", {"curvature": "diagonal"}),
        ("taylor2", {"curvature": "full"}),
    ):
        found = criteria.taylor2(probe, group, **settings)
        assert torch.equal(criteria.CRITERIA[name](probe, group), found)
    assert repr(Taylor2("diagonal")) == "Taylor2(curvature='diagonal')"
    assert copy.copy(Taylor1()) == taylor1
