"""Properties that every criterion in the table must have."""

import copy
import math

import pytest
import torch
from torch import nn

import hand
from sentei import (
    CriterionError,
    GroupError,
    Mask,
    Probe,
    Recipe,
    Trajectory,
    declare,
    find_synapses,
    find_units,
    fixed,
    train,
)
from sentei.criteria import CRITERIA, Random, ablation, angles, criterion, magnitude, scores
from sentei.criteria.agreement import spearman

MEASURES_UNITS_ONLY = {
    *("ablation", "ablation-affine", "ablation-least-squares", "activation", "badness"),
    *("contribution", "distinctiveness", "sietsma-dow", "skeletonization", "variance"),
    "weight_change-angle",
}
SYNAPSES_ONLY = {"gradient", "wanda", "wsf"}
# Weights by their place, so that permuting them is a new training.
REMEMBERS = {"karnin", *(name for name in CRITERIA if name.startswith("weight_change"))}
MEANS_NOTHING = {"random"}
NAMES = sorted(CRITERIA)


@pytest.fixture
def model():
    return hand.mlp(4, 6, 5, 3)


@pytest.fixture
def probe(model):
    torch.manual_seed(2)
    data = torch.randn(30, 4), torch.randint(0, 3, (30,))
    trajectory = Trajectory(model)
    train(model, data, Recipe(2), after_update=[trajectory])
    return Probe(model, data, trajectory=trajectory)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_repeatable_and_one_for_each(name, model, probe):
    groups = [] if name in SYNAPSES_ONLY else [hand.inputs(4, "0"), *hand.hidden(model)]
    if name not in MEASURES_UNITS_ONLY:
        groups += find_synapses(model)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for group in groups:
        found = scores(name, probe, group)
        assert found.shape == (group.size,)
        assert found.dtype == torch.float64
        assert found.isfinite().all()
        assert found.unique().numel() > 1
        assert torch.equal(scores(name, probe, group), found)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", sorted(set(NAMES) - MEANS_NOTHING - SYNAPSES_ONLY - REMEMBERS))
def test_permuting_units_permutes_scores(name, model, probe):
    group, order = hand.hidden(model)[0], [3, 1, 5, 0, 2, 4]
    before = scores(name, probe, group)
    model[0].weight.data, model[0].bias.data = model[0].weight[order], model[0].bias[order]
    model[2].weight.data = model[2].weight[:, order]
    probe.forget_()
    assert torch.allclose(scores(name, probe, group), before[order], atol=1e-6)


def test_magnitude_by_hand():
    model = hand.mlp(2, 2, 1)
    model[0].weight.data = torch.tensor([[3.0, -4.0], [0.0, 2.0]])
    model[0].bias.data = torch.tensor([100.0, 100.0])
    model[2].weight.data = torch.tensor([[-7.0, 0.5]])
    probe = Probe(model, (torch.zeros(1, 2), torch.zeros(1, 1)), "half_squared_error")
    assert magnitude(probe, hand.hidden(model)[0]).tolist() == [5.0, 2.0]
    assert magnitude(probe, hand.inputs(2, "0")).tolist() == pytest.approx([3.0, math.sqrt(20)])
    first, second = find_synapses(model)
    assert magnitude(probe, first).tolist() == [3.0, 4.0, 0.0, 2.0]
    assert magnitude(probe, second).tolist() == [7.0, 0.5]


def test_magnitude_of_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2))
    x = torch.randn(5, 2, 4, 4)
    (group,) = find_units(model, x)
    found = magnitude(Probe(model, (x, torch.zeros(5, dtype=torch.int64))), group)
    assert torch.allclose(found, model[0].weight.double().flatten(1).norm(dim=1))


def one_hidden_by_hand():
    """Two hidden units, one input, one output; half squared error. By hand, unit by unit:

    x = 2, o = (relu(1.5 * 2), relu(-1 * 2 + 4)) = (3, 2), output = 0.5 * 3 - 2 * 2 + 1 = -1.5,
    target 1, so g = output - target = -2.5 and the loss is 3.125.
    """
    model = hand.mlp(1, 2, 1, act=nn.ReLU).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.5], [-1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 4.0]))
        model[2].weight.copy_(torch.tensor([[0.5, -2.0]]))
        model[2].bias.fill_(1.0)
    data = torch.tensor([[2.0]]).double(), torch.tensor([[1.0]]).double()
    return model, Probe(model, data, "half_squared_error")


def test_derivatives_by_hand():
    model, probe = one_hidden_by_hand()
    (group,) = hand.hidden(model)
    incoming, outgoing = find_synapses(model)
    # E' = o w g: 3 * 0.5 * -2.5 and 2 * -2 * -2.5; E'' = (o w)^2 = 1.5^2 and 4^2
    assert CRITERIA["taylor1"](probe, group).tolist() == [3.75, -10.0]
    assert CRITERIA["taylor1-absolute"](probe, group).tolist() == [3.75, 10.0]
    assert CRITERIA["taylor1-per-sample"](probe, group).tolist() == [3.75, 10.0]
    # A parabola is its own second order: removing the second unit leaves output 2.5, loss 1.125
    assert CRITERIA["taylor2"](probe, group).tolist() == [3.75 + 1.125, -10.0 + 8.0]
    assert CRITERIA["taylor2"](probe, group).tolist() == ablation(probe, group).tolist()
    assert CRITERIA["taylor2-diagonal"](probe, group).tolist() == [4.875, -2.0]
    assert CRITERIA["obd"](probe, group).tolist() == [1.125, 8.0]
    # The linear error is |-1.5 - 1|, its slope sign(-2.5) = -1: -E' = o w
    assert CRITERIA["skeletonization"](probe, group).tolist() == [1.5, -4.0]
    # Synapses from the hidden layer are the unit itself here; one into it passes f' = 1 on
    assert CRITERIA["taylor1"](probe, outgoing).tolist() == [3.75, -10.0]
    assert CRITERIA["obd"](probe, outgoing).tolist() == [1.125, 8.0]
    # w x dz: E' = 1.5 * 2 * 0.5 * -2.5 = -3.75 and -1 * 2 * -2 * -2.5 = -10; E'' = 1.5^2 and 4^2
    assert CRITERIA["taylor1"](probe, incoming).tolist() == [3.75, 10.0]
    assert CRITERIA["obd"](probe, incoming).tolist() == [1.125, 8.0]


def test_the_activation_of_a_head_is_the_mean_norm_of_its_output():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(12, 4, 7, batch_first=True).double().eval()
    x = torch.randn(9, 5, 12).double()
    heads, units = find_units(model, x)
    probe = Probe(model, (x, torch.rand_like(x)), "half_squared_error")
    read = {}
    for name in ("linear2", "self_attn"):
        hook = lambda _, given, name=name: read.update({name: given[0]})  # noqa: E731
        layer = model.linear2 if name == "linear2" else model.self_attn
        layer.register_forward_pre_hook(hook)
    with torch.no_grad():
        model(x)
    attention = model.self_attn
    q, k, v = nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, 2)
    split = lambda t: t.unflatten(2, (4, 3)).transpose(1, 2)  # noqa: E731
    mixed = (split(q) @ split(k).mT / 3**0.5).softmax(-1) @ split(v)  # (9, 4, 5, 3)
    assert torch.allclose(CRITERIA["activation"](probe, heads), mixed.norm(dim=3).mean((0, 2)))
    wanted = read["linear2"].abs().mean((0, 1))
    assert torch.allclose(CRITERIA["activation"](probe, units), wanted)
    probe.update_(Mask.full([units]).without({units: [2]}))
    assert CRITERIA["activation"](probe, units)[2] == 0


def test_activity_of_several_columns_and_uses_by_hand():
    class Twice(nn.Module):
        """Two units of two outputs each; a layer reads them once, and once negated and doubled."""

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 1)
            self.first.weight.data.copy_(torch.eye(4))

        def forward(self, x):
            x = self.first(x)
            return self.last(x) + self.last(-2 * x)

    x = torch.tensor([[3.0, 4, 0, 1], [0, 0, 5, 12]]).double()
    model = Twice().double()
    group = declare(model, x, {"first.weight": 0}, {"last.weight": 1}, units=2)
    probe = Probe(model, (x, torch.zeros(2, 1).double()), "half_squared_error")
    columns = group.listeners[0].index.tolist()
    norms = {(0, 1): [5.0, 0.0], (2, 3): [1.0, 13.0]} | {(0, 2): [3.0, 5.0], (1, 3): [17**0.5, 12]}
    wanted = [1.5 * sum(norms[tuple(own)]) / 2 for own in columns]
    assert CRITERIA["activation"](probe, group).tolist() == pytest.approx(wanted)


def test_activity_by_hand():
    """Three units over four samples: o_1 and o_2 = 1 - o_1 are opposites, o_3 is always 0.25."""
    o = torch.tensor([[0.0, 1, 0.25], [1, 0, 0.25], [0, 1, 0.25], [1, 0, 0.25]]).double()
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[0].bias.zero_()
        model[1].weight.copy_(torch.tensor([[2.0, -1.0, 4.0]]))
        model[1].bias.zero_()
    targets = torch.tensor([[1.0], [1.0], [1.0], [1.0]]).double()
    probe, (group,) = Probe(model, (o, targets), "half_squared_error"), find_units(model, o)
    near = lambda numbers: pytest.approx(numbers, abs=1e-6)  # noqa: E731
    assert CRITERIA["variance"](probe, group).tolist() == near([0.25, 0.25, 0])
    assert CRITERIA["activation"](probe, group).tolist() == near([0.5, 0.5, 0.25])
    # rms(o) |w|: sqrt(1/2) * 2, sqrt(1/2) * 1, 0.25 * 4
    assert CRITERIA["contribution"](probe, group).tolist() == near([2**0.5, 0.5**0.5, 1])
    # outputs are -1 + 1 = 0 and 2 + 1 = 3, so g = -1 and 2: mean square 2.5, times w^2
    assert CRITERIA["badness"](probe, group).tolist() == near([-10, -2.5, -40])
    # 1 and 2 are each other's mix, 3 is a constant: nothing is left over of any
    assert CRITERIA["obs"](probe, group).tolist() == near([0, 0, 0])
    assert CRITERIA["sietsma-dow"](probe, group).tolist() == near([0, 0, 0])
    # centred at a half: 1 and 2 point opposite ways, folded to 0; 3 is constant
    assert CRITERIA["distinctiveness"](probe, group).tolist() == near([0, 0, 0])
    found = angles(probe, group)
    assert found[0].tolist() == near([0, 180, 90])
    # without centring the opposites are at right angles, and 3 leans on both alike
    assert angles(probe, group, "none")[0].tolist() == near([0, 90, 45])
    assert angles(probe, group, "mean")[0, 1] == near(180)
    assert angles(probe, group, "mean")[2].isnan().all()  # less its mean it is nothing
    assert angles(probe, group, "minmax")[0, 1] == near(180)
    with pytest.raises(ValueError, match="Did you mean 'half'"):
        angles(probe, group, "halt")


def test_samples_that_cancel_do_not_cancel_one_by_one():
    model, _ = one_hidden_by_hand()
    # The second sample's target is as far on the other side: g = +2.5, so the slopes cancel.
    data = torch.tensor([[2.0], [2.0]]).double(), torch.tensor([[1.0], [-4.0]]).double()
    probe, (group,) = Probe(model, data, "half_squared_error"), hand.hidden(model)
    assert CRITERIA["taylor1"](probe, group).tolist() == [0, 0]
    assert CRITERIA["taylor1-per-sample"](probe, group).tolist() == [3.75, 10.0]


def test_random_has_its_own_seed(probe, model):
    first, second = hand.hidden(model)
    torch.manual_seed(1)
    one = Random(3)(probe, first)
    torch.manual_seed(2)
    assert torch.equal(Random(3)(probe, first), one)
    assert not torch.equal(Random(4)(probe, first), one)
    assert not torch.equal(Random(3)(probe, second)[:5], one[:5])
    assert one.min() >= 0
    assert one.max() < 1


def test_fixed_scores(probe, model):
    first, second = hand.hidden(model)
    given = {first: torch.arange(6), second: [0.5, math.inf, -1, 2, 3]}
    assert scores(fixed(given), probe, first).tolist() == [0, 1, 2, 3, 4, 5]
    assert scores(fixed(given), probe, second).tolist() == [0.5, math.inf, -1, 2, 3]
    assert scores(fixed(torch.ones(6)), probe, first).tolist() == [1] * 6
    with pytest.raises(GroupError, match=r"has 5 and was given \(6,\)"):
        fixed(torch.ones(6))(probe, second)
    with pytest.raises(GroupError, match=r"has 6 and was given \(2,\)"):
        fixed({first: [1.0, 2.0]})
    with pytest.raises(GroupError, match="no fixed scores for neuron group '2'"):
        fixed({first: torch.ones(6)})(probe, second)
    with pytest.raises(CriterionError, match="member 1 of the group is NaN"):
        fixed([0.0, math.nan])


def test_fixed_scores_are_copied(probe, model):
    group = hand.hidden(model)[0]
    mine = torch.ones(6, dtype=torch.float64)
    criterion = fixed(mine)
    mine.zero_()
    assert scores(criterion, probe, group).tolist() == [1] * 6


def test_names_and_functions():
    assert criterion("magnitude") is magnitude
    assert criterion(magnitude) is magnitude
    with pytest.raises(ValueError, match="Did you mean 'ablation'"):
        criterion("ablatoin")


def test_bad_scores_are_named(probe, model):
    group = hand.hidden(model)[0]

    def short(probe, group):
        return torch.zeros(group.size - 1)

    def hollow(probe, group):
        return torch.full((group.size,), torch.nan)

    with pytest.raises(CriterionError, match=r"'short' must return one score .*\(5,\)"):
        scores(short, probe, group)
    with pytest.raises(CriterionError, match=r"'hollow' .* member 0 of '0' is NaN"):
        scores(hollow, probe, group)
    with pytest.raises(CriterionError, match="it returned list"):
        scores(lambda probe, group: [0.0] * group.size, probe, group)


def test_the_table_is_sorted():
    assert list(CRITERIA) == sorted(CRITERIA)


def test_rank_correlation_shares_the_ranks_of_ties():
    three = torch.tensor([1.0, 2, 3])
    assert spearman(three, torch.tensor([10.0, 20, 90])) == pytest.approx(1)
    assert spearman(three, torch.tensor([3.0, 2, 1])) == pytest.approx(-1)
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, sizes sqrt(1.5) and sqrt(2).
    tied = spearman(torch.tensor([5.0, 5, 7]), three)
    assert tied == pytest.approx(1.5 / (1.5 * 2) ** 0.5)
    assert math.isnan(spearman(torch.ones(3), three))
