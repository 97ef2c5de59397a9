"""What the loss is: which one is measured unasked, which targets it takes, what does not count."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Set

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentei import Probe, find_units, one_at_a_time, prune, ranked, units_at_most
from sentei.card import Card, set_card_
from sentei.errors import CriterionError, DataError, LossError
from sentei.losses import LOSSES, chosen, cross_entropy, per_sample_losses
from sentei.metrics import MEAN_ABSOLUTE_ERROR, R2, metrics_for
from sentei.probe.engines.chain import Chain
from sentei.target_forms import IGNORED
from sentei.training import FineTune, Recipe, evaluate, train

N, C, T = 12, 3, 5


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def classes(*shape: int, count: int = C) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(8))


def without(targets: Tensor, *rows: int) -> Tensor:
    """Return the targets with positions marked as ignored: all of some rows, or some of each."""
    targets = targets.clone()
    if targets.ndim == 1:
        targets[list(rows)] = IGNORED
        return targets
    flat = targets.view(len(targets), -1)
    for row in range(len(flat)):
        flat[row, : 1 + row % (flat.shape[1] - 1)] = IGNORED
    flat[list(rows)] = IGNORED
    return targets


# Independent computations with torch: they loop over samples and positions, and average by hand.


def by_hand(name: str, outputs: Tensor, targets: Tensor) -> tuple[float, str]:
    """Return the mean loss and what is predicted."""
    values, kind = [], "values"
    for out, target in zip(outputs, targets, strict=True):
        if name == "cross_entropy" and target.shape == out.shape:
            values.append((-out.log_softmax(0) * target).sum(0).mean())
        elif name == "cross_entropy":
            kind = "classes"
            places = [
                -out[(slice(None), *at)].log_softmax(0)[int(target[at])]
                for at in itertools.product(*map(range, target.shape))
                if target[at] != IGNORED
            ]
            values += [torch.stack(places).mean()] if places else []
        else:
            value = target
            if out.numel() > 1 and target.ndim == 0:
                kind, value = "classes", torch.eye(len(out))[int(target)]
            if name == "binary_cross_entropy":
                binary = set(targets.flatten().tolist()) <= {0, 1}
                kind = "labels" if binary and kind == "values" else kind
            value = value.float().reshape(out.shape)
            torch_loss = {
                "half_squared_error": lambda o, v: F.mse_loss(o, v, reduction="sum") / 2,
                "absolute_error": lambda o, v: F.l1_loss(o, v, reduction="sum"),
                "binary_cross_entropy": lambda o, v: F.binary_cross_entropy_with_logits(
                    o, v, reduction="sum"
                ),
            }[name]
            values.append(torch_loss(out, value))
    return torch.stack(values).mean().item(), kind


CE, HALF, ABS, BCE = "cross_entropy", "half_squared_error", "absolute_error", "binary_cross_entropy"
UNASKED = None
VALUES_FIT = {HALF, ABS}
ONE_CLASS = {UNASKED, CE, HALF, ABS, BCE}
PLACES = {UNASKED, CE}
LABELS_FIT = {HALF, ABS, BCE}
one, several, sequence, image = drawn(N, 1), drawn(N, C), drawn(N, C, T), drawn(N, C, 2, 3)
few = classes(N)
shares = drawn(N, C).softmax(1)

# For each kind of targets: the outputs, the targets, and the losses that fit; None is no name.
KINDS: dict[str, tuple[Tensor, Tensor, Set[str | None]]] = {
    "floats (N,), one output": (one, drawn(N), VALUES_FIT),
    "floats (N, 1), one output": (one, drawn(N, 1), VALUES_FIT),
    "floats (N, 1), outputs (N,)": (drawn(N), drawn(N, 1), VALUES_FIT),
    "floats (N,), outputs (N,)": (drawn(N), drawn(N).neg(), VALUES_FIT),
    "floats (N, k)": (several, drawn(N, C).neg(), VALUES_FIT),
    "floats (N, k, 2), no classes": (drawn(N, 4, 2), drawn(N, 4, 2).neg(), VALUES_FIT),
    "floats of another width": (several, drawn(N, 2), set()),
    "floats (N,), several outputs": (several, 2 * drawn(N).sigmoid(), set()),
    "floats (N, k) for outputs of half a shape": (drawn(N, 4, 2), drawn(N, 8), set()),
    "float64": (one, drawn(N).double(), VALUES_FIT),
    "float16": (one, drawn(N).half(), VALUES_FIT),
    "fractions": (several, drawn(N, C).sigmoid(), LABELS_FIT),
    "fractions (N,), one output": (one, drawn(N).sigmoid(), LABELS_FIT),
    "class numbers beyond, uint16": (several, (few + 1).to(torch.uint16), set()),
    "uint16, one output": (one, classes(N, count=9).to(torch.uint16), VALUES_FIT),
    "NaN": (one, drawn(N).index_fill(0, torch.tensor(3), torch.nan), set()),
    "complex": (one, drawn(N).to(torch.complex64), set()),
    "labels as floats": (several, classes(N, C, count=2).float(), LABELS_FIT),
    "labels as whole numbers": (several, classes(N, C, count=2), LABELS_FIT),
    "labels as bools": (several, classes(N, C, count=2).bool(), LABELS_FIT),
    "labels (N,) as bools, one output": (one, classes(N, count=2).bool(), LABELS_FIT),
    "labels (N,) as whole numbers, one output": (one, classes(N, count=2), LABELS_FIT),
    "labels (N,) as floats, one output": (one, classes(N, count=2).float(), LABELS_FIT),
    "labels (N, 1) as whole numbers": (one, classes(N, 1, count=2), LABELS_FIT),
    "bools (N,), several outputs": (several, classes(N, count=2).bool(), set()),
    "counts, one output": (one, classes(N, count=9), VALUES_FIT),
    "counts (N, k)": (several, classes(N, C, count=9), VALUES_FIT),
    "one class": (one, torch.zeros(N).long(), LABELS_FIT),
    "class numbers as floats": (several, few.float(), set()),
    "class numbers (N, 1)": (several, few[:, None], set()),
    **{
        f"class numbers as {dtype}": (several, few.to(dtype), ONE_CLASS)
        for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16)
    },
    "class numbers beyond": (several, few.index_fill(0, torch.tensor(4), C), set()),
    "class numbers below": (several, few.index_fill(0, torch.tensor(4), -1), set()),
    "ignored (N,)": (several, without(few, 1, 5), PLACES),
    "ignored (N,), int32": (several, without(few, 1, 5).int(), PLACES),
    "positions (N, T)": (sequence, classes(N, T), PLACES),
    "positions (N, T), uint8": (sequence, classes(N, T).byte(), PLACES),
    "positions (N, H, W)": (image, classes(N, 2, 3), PLACES),
    "ignored (N, T)": (sequence, without(classes(N, T)), PLACES),
    "ignored (N, T), some samples wholly": (sequence, without(classes(N, T), 0, 7), PLACES),
    "ignored (N, H, W)": (image, without(classes(N, 2, 3), 2), PLACES),
    "positions beyond": (sequence, classes(N, T).index_fill(0, torch.tensor(2), 9), set()),
    "positions with classes last": (drawn(N, T, C), classes(N, T), set()),
    "probabilities": (several, shares, {CE, *LABELS_FIT}),
    "probabilities at positions": (sequence, drawn(N, C, T).softmax(1), {CE, *LABELS_FIT}),
    "probabilities that sum to 2": (several, shares * 2, VALUES_FIT),
}
SAID = {  # what else the message has to say
    "class numbers beyond": "row 4 has 3.*more outputs",
    "class numbers below": "row 4 has -1",
    "positions beyond": "from 0 to 9",
    "class numbers as floats": r"targets\.long\(\)",
    "bools (N,), several outputs": r"targets\.long\(\)",
    "positions with classes last": "dimension 1",
    "floats of another width": r"float32 of shape \(N, 2\), from .*callable",
    "floats (N,), several outputs": "No loss of sentei takes them: pass a callable",
    "NaN": "row 3 has nan",
}


class Same(nn.Module):
    """Gives the outputs back that it gets as inputs."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs * self.one


EVERY = list(itertools.product(KINDS, [None, *LOSSES]))


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in EVERY if n not in KINDS[k][2]])
def test_a_loss_that_does_not_fit_is_refused_with_those_that_do(kind, name):
    outputs, targets, fitting = KINDS[kind]
    calls = [lambda: Probe(Same(), (outputs, targets), name)]
    if kind != "NaN":  # training and evaluation check that before the loss
        calls += [
            lambda: evaluate(Same(), (outputs, targets), loss=name),
            lambda: train(Same(), (outputs, targets), Recipe(1, loss=name)),
        ]
    for call in calls:
        with pytest.raises(LossError) as refused:
            call()
        said = str(refused.value)
        assert isinstance(refused.value, DataError)
        named = {part for part in LOSSES if f'loss="{part}"' in said.partition("fit: ")[2]}
        assert named == fitting - {None}
        assert str(targets.dtype).removeprefix("torch.") in said
        assert re.search(SAID.get(kind, ""), said, re.DOTALL)


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in EVERY if n in KINDS[k][2]])
def test_a_loss_that_fits_is_what_torch_computes(kind, name):
    outputs, targets, _ = KINDS[kind]
    value, predicts = by_hand(name or CE, outputs.float(), targets)
    probe = Probe(Same(), (outputs, targets), name)
    assert probe.loss() == pytest.approx(value, rel=1e-5)
    assert probe.chosen.name == (name or CE)
    assert probe.chosen.predicts == predicts
    found = evaluate(Same(), (outputs, targets), loss=name, batch_size=5)
    assert found.loss == pytest.approx(value, rel=1e-5)
    assert found.accuracy == probe.accuracy()
    assert (found.accuracy is None) == (predicts == "values")
    history = train(Same(), (outputs, targets), Recipe(1, "sgd", lr=1e-12, loss=name))
    assert history.losses[0] == pytest.approx(value, rel=1e-5)
    assert history.loss == probe.chosen.name


def smooth(outputs, targets):
    return F.cross_entropy(outputs, targets, label_smoothing=0.1, reduction="none")


def weighted(outputs, targets):
    weight = torch.tensor([0.2, 1.0, 3.0])
    return F.cross_entropy(outputs, targets, weight=weight, reduction="none")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("loss", [smooth, weighted])
def test_callables_get_class_numbers_of_any_integer_type(loss, dtype):
    probe = Probe(Same(), (several, few.to(dtype)), loss)
    assert probe.loss() == pytest.approx(loss(several, few).mean().item(), rel=1e-6)
    assert probe.loss_name is None
    assert probe.accuracy() == (several.argmax(1) == few).double().mean().item()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
@pytest.mark.parametrize("loss", [smooth, weighted])
def test_samples_that_do_not_count_are_left_out_for_callables_too(loss, dtype):
    ignored = Probe(Same(), (several, without(few, 0, 3).to(dtype)), loss)
    rest = [row for row in range(N) if row not in (0, 3)]
    assert ignored.loss() == pytest.approx(loss(several[rest], few[rest]).mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "returned"),
    [
        (F.cross_entropy, r"\(\)"),
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), rf"\({N}, {T}\)"),
        (lambda o, t: F.cross_entropy(o, t).item(), "float"),
    ],
)
def test_callables_have_to_give_one_number_a_sample(loss, returned):
    data = sequence, classes(N, T)
    for call in (
        lambda: Probe(Same(), data, loss).loss(),
        lambda: evaluate(Same(), data, loss=loss),
        lambda: train(Same(), data, Recipe(1, loss=loss)),
    ):
        with pytest.raises(LossError, match=rf"shape \({N},\); this one returns {returned}"):
            call()


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: (o - t).square(),
        lambda o, t: (o - t).square().mean(1),
        lambda o, t: (o - t).square().mean(0),
        lambda o, t: F.relu(o - t).mean(1),
    ],
)
@pytest.mark.parametrize("shapes", [((N, 1), (N,)), ((N,), (N, 1))])
def test_outputs_that_meet_the_targets_of_other_samples_are_refused(loss, shapes):
    outputs, targets = drawn(*shapes[0]), drawn(N).neg().reshape(shapes[1])
    targets[: N // 2] = 0  # the first ones are equal, and would show nothing
    for call in (
        lambda: Probe(Same(), (outputs, targets), loss),
        lambda: evaluate(Same(), (outputs, targets), loss=loss),
        lambda: train(Same(), (outputs, targets), Recipe(1, loss=loss)),
    ):
        with pytest.raises(LossError, match=r"one number per sample|must depend on its own"):
            call()


def test_functions_that_put_targets_into_shape_are_taken():
    def loss(outputs, targets):
        return (outputs.squeeze(1) - targets).square()

    value = (one.squeeze(1) - drawn(N)).square().mean().item()
    assert Probe(Same(), (one, drawn(N)), loss).loss() == pytest.approx(value)


# Which loss.


def test_a_name_goes_before_the_networks_own_loss_and_that_before_cross_entropy():
    data = several, few
    network = Same()
    assert Probe(network, data).loss_name == CE
    set_card_(network, Card(loss=HALF))
    assert Probe(network, data).loss_name == HALF
    assert Probe(network, data, ABS).loss_name == ABS
    assert Probe(network, data).on((one.expand(N, C), drawn(N, C))).loss_name == HALF
    assert evaluate(network, data).loss == pytest.approx(by_hand(HALF, *data)[0])
    assert evaluate(network, data, loss=smooth).loss == pytest.approx(smooth(*data).mean().item())
    assert train(network, data, Recipe(1)).loss == HALF
    with pytest.raises(LossError, match="the loss of this network, half_squared_error, needs"):
        Probe(network, (several, drawn(N)))
    with pytest.raises(ValueError, match="Did you mean 'half_squared_error'"):
        Probe(network, data, "half_square_error")


def test_a_run_measures_and_retrains_with_the_networks_own_loss():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    x, y = drawn(60, 4), drawn(60, 4).sum(1)
    set_card_(network, Card(loss=HALF))
    probe = Probe(network, (x, y))
    steps = [
        *prune(
            network,
            find_units(network, x),
            probe,
            ranked("ablation", one_at_a_time()),
            units_at_most(4),
            retrain=FineTune((x, y), Recipe(2, lr=0.01)),
            evaluate=(x, y),
        )
    ]
    for step in steps:
        outputs = step.network()(x).detach()
        value = (outputs[:, 0] - y).square().mean().item() / 2
        assert step.measured.loss == pytest.approx(value, rel=1e-5)
        assert step.measured.metrics[R2] == pytest.approx(reference(outputs, y)[0], rel=1e-5)
        assert step.measured.accuracy is None
    assert len(steps) == 3
    words = str(steps[0].measured)
    assert words.startswith(f"R² {steps[0].measured.metrics[R2]:.4g}, mean absolute error ")
    assert "accuracy" not in words


def test_distillation_needs_a_softmax_whoever_names_the_loss():
    from sentei.training import Distillation

    network = nn.Sequential(nn.Linear(2, 3))
    set_card_(network, Card(loss=HALF))
    data = drawn(N, 2), few
    with pytest.raises(ValueError, match="has no softmax"):
        train(network, data, Recipe(1, distillation=Distillation(nn.Sequential(nn.Linear(2, 3)))))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_cross_entropy_takes_class_numbers_of_any_integer_type(dtype):
    assert torch.equal(cross_entropy(several, few.to(dtype)), cross_entropy(several, few))


# What does not count.


def test_a_sample_is_the_mean_over_its_own_positions():
    outputs, targets = sequence, without(classes(N, T), 2)
    found = cross_entropy(outputs, targets)
    for row in range(N):
        counts = targets[row] != IGNORED
        each = F.cross_entropy(outputs[row].T[counts], targets[row][counts], reduction="none")
        own = each.sum().item() / max(len(each), 1)  # 0 where nothing counts
        assert found[row].item() == pytest.approx(own, rel=1e-6)
    equal = classes(N, T)
    equal[:, 2:] = IGNORED
    together = F.cross_entropy(outputs, equal).item()
    assert cross_entropy(outputs, equal).mean().item() == pytest.approx(together, rel=1e-6)


def test_samples_that_are_left_out_are_counted_in_one_message(caplog):
    with caplog.at_level(logging.WARNING, logger="sentei"):
        probe = Probe(Same(), (several, without(few, 0, 3, 4)))
        probe.loss()
        probe.accuracy()
    assert [record.getMessage() for record in caplog.records] == [
        "3 of 12 samples have no class number but -100, so that nothing in them counts: they are "
        "left out"
    ]
    assert len(probe.samples) == N - 3
    caplog.clear()
    Probe(Same(), (sequence, without(classes(N, T))))
    assert not caplog.records
    with pytest.raises(DataError, match="none of these 12 has one"):
        Probe(Same(), (several, without(few, *range(N))))


def test_accuracy_is_over_positions_that_count():
    for outputs, targets in ((sequence, without(classes(N, T), 2)), (several, without(few, 1, 2))):
        counts = targets != IGNORED
        right = (outputs.argmax(1) == targets)[counts]
        value = right.double().mean().item()
        assert Probe(Same(), (outputs, targets)).accuracy() == value
        assert evaluate(Same(), (outputs, targets), batch_size=5).accuracy == value
        quality = Probe(Same(), (outputs, targets)).quality()[1]
        for number in range(C):
            own = right[targets[counts] == number]
            assert quality.by_class[number].tolist() == [int(own.sum()), len(own)]


class Tagger(nn.Module):
    """A class at every position: (N, T, 4) to (N, C, T)."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))).movedim(-1, 1)


@pytest.mark.parametrize("positions", [False, True])
def test_engines_agree_with_a_loop_where_targets_are_ignored(positions):
    """The chain and the softmax engine for one class a sample, gates for positions."""
    torch.manual_seed(3)
    if positions:
        network, x, y = Tagger().double(), drawn(N, T, 4).double(), without(classes(N, T), 2)
    else:
        network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, C)).double()
        x, y = drawn(N, 4).double(), without(few, 1, 5)
    (group,) = find_units(network, x)
    probe = Probe(network, (x, y))
    (name,) = (part.parameter for part in group.listeners)
    start = network.get_parameter(name).detach().clone()

    def loss_at(unit: int, gain: Tensor) -> Tensor:
        factors = torch.ones(group.size).double().index_fill(0, torch.tensor(unit), 0)
        factors = factors + (1 - factors) * gain
        out = torch.func.functional_call(network, {name: start * factors}, (x,))
        each = [
            F.cross_entropy(o.reshape(C, -1).T[t != IGNORED], t[t != IGNORED])
            for o, t in zip(out, y.reshape(N, -1), strict=True)
            if (t != IGNORED).any()
        ]
        return torch.stack(each).mean()

    gains = torch.tensor([0.0, 0.5, 2.0]).double()
    curves = torch.stack([torch.stack([loss_at(u, g) for g in gains]) for u in range(group.size)])
    base = loss_at(0, torch.ones(()).double())
    assert probe.loss() == pytest.approx(base.item(), rel=1e-12)
    assert torch.allclose(probe.losses_without(group), curves[:, 0].detach())
    assert torch.allclose(probe.rises_at(group, None, gains) + base.detach(), curves.detach())
    for unit in range(group.size):
        gate = torch.ones((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss_at(unit, gate), gate, create_graph=True)
        (second,) = torch.autograd.grad(slope, gate)
        assert probe.slopes(group)[unit].item() == pytest.approx(slope.item(), abs=1e-10)
        assert probe.curvatures(group)[unit].item() == pytest.approx(second.item(), abs=1e-10)


@pytest.mark.parametrize("loss", [HALF, ABS, BCE])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.bool])
def test_engines_agree_with_a_loop_for_targets_without_the_dimension_of_one_output(loss, dtype):
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    x, y = drawn(N, 4), classes(N, count=2).to(dtype)
    (group,) = find_units(network, x)
    probe = Probe(network, (x, y), loss)
    found, slopes = probe.losses_without(group), probe.slopes(group)
    assert type(probe._engines.chosen[group]) is Chain
    weight = network[2].weight.data.clone()
    for unit in range(group.size):
        at = []
        for gain in (0.0, 0.999, 1.001):
            network[2].weight.data = weight.clone()
            network[2].weight.data[:, unit] *= gain
            at.append(by_hand(loss, network(x).detach(), y)[0])
        assert found[unit].item() == pytest.approx(at[0], rel=1e-5)
        assert slopes[unit].item() == pytest.approx((at[2] - at[1]) / 0.002, abs=2e-3)


def test_skeletonization_is_for_one_class_a_sample():
    from sentei.criteria import skeletonization

    network, x = Tagger(), drawn(N, T, 4)
    (group,) = find_units(network, x)
    with pytest.raises(CriterionError, match="one class a sample"):
        skeletonization(Probe(network, (x, classes(N, T))), group)


# Values.


def reference(outputs: Tensor, targets: Tensor) -> tuple[float, float]:
    outputs, targets = outputs.double(), targets.double().reshape(outputs.shape)
    residual = (targets - outputs).square().sum()
    total = (targets - targets.mean(0)).square().sum()
    return (1 - residual / total).item(), (targets - outputs).abs().mean().item()


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (one, drawn(N)),
        (several, several + 0.3 * drawn(N, C).neg() + 1000),
        (drawn(N, 2, 2), drawn(N, 2, 2).neg()),
        (one, classes(N, count=9)),
    ],
)
def test_r2_and_mean_absolute_error(outputs, targets):
    r2, error = reference(outputs, targets)
    for measured in (
        Probe(Same(), (outputs, targets), HALF).quality()[1],
        evaluate(Same(), (outputs, targets), loss=ABS, batch_size=5),
    ):
        assert measured.accuracy is None
        assert list(measured.metrics) == [R2, MEAN_ABSOLUTE_ERROR]
        assert measured.metrics[R2] == pytest.approx(r2, abs=1e-6)
        assert measured.metrics[MEAN_ABSOLUTE_ERROR] == pytest.approx(error, rel=1e-6)


def test_r2_of_two_outputs_by_hand():
    outputs = torch.tensor([[1.0, 10.0], [3.0, 10.0]])
    targets = torch.tensor([[0.0, 8.0], [4.0, 16.0]])
    # SS_res = 1 + 4 + 1 + 36 = 42; the means are 2 and 12, so SS_tot = 4 + 16 + 4 + 16 = 40
    found = evaluate(Same(), (outputs, targets), loss=HALF)
    assert found.metrics == {R2: pytest.approx(1 - 42 / 40), MEAN_ABSOLUTE_ERROR: 2.5}
    assert found == (None, 10.5)


def test_targets_that_are_all_equal_have_no_r2():
    same = torch.full((N, 1), 0.1, dtype=torch.float64)
    assert same.sum() / N != same[0]  # so their rounded mean would give them a spread
    assert list(evaluate(Same(), (one, same), loss=HALF).metrics) == [MEAN_ABSOLUTE_ERROR]
    half = torch.cat([same, drawn(N, 1)], 1)
    r2 = evaluate(Same(), (drawn(N, 2), half), loss=HALF).metrics[R2]
    assert r2 == pytest.approx(reference(drawn(N, 2), half)[0], rel=1e-5)


def test_values_under_a_loss_of_logits_are_compared_with_probabilities():
    for loss, outputs, targets, said in (
        (BCE, several, drawn(N, C).sigmoid(), several.sigmoid()),
        (CE, several, shares, several.softmax(1)),
    ):
        found = evaluate(Same(), (outputs, targets), loss=loss).metrics
        r2, error = reference(said, targets)
        assert found == {R2: pytest.approx(r2), MEAN_ABSOLUTE_ERROR: pytest.approx(error)}


def test_labels_are_right_or_wrong_one_by_one():
    outputs = torch.tensor([[2.0, -1.0], [0.5, 0.5], [-3.0, 0.1]])
    targets = torch.tensor([[1, 0], [0, 1], [0, 0]])  # right, right; wrong, right; right, wrong
    for given in (targets, targets.float(), targets.bool()):
        found = evaluate(Same(), (outputs, given), loss=BCE)
        assert found.accuracy == 4 / 6
        assert found.metrics == {}
    quality = Probe(Same(), (outputs, targets), BCE).quality()[1]
    assert (quality.accuracy, quality.by_class, quality.metrics) == (4 / 6, None, {})
    binary = evaluate(Same(), (outputs[:, :1], targets[:, 0]), loss=BCE)
    assert binary.accuracy == 2 / 3


def test_a_function_leaves_open_what_whole_numbers_are():
    def loss(outputs, targets):
        return F.poisson_nll_loss(outputs, targets.reshape(outputs.shape), reduction="none").sum(1)

    counts = classes(N, 1, count=9)
    found = chosen(loss, one, counts)
    assert found.predicts is None
    assert metrics_for(found, counts).width == 0
    measured = evaluate(Same(), (one, counts), loss=loss)
    assert (measured.accuracy, measured.metrics) == (None, {})
    assert chosen(loss, one, counts.float()).predicts == "values"


def test_per_sample_losses_checks_every_batch():
    with pytest.raises(LossError, match="one number per sample"):
        per_sample_losses(lambda o, t: o, several, few)


def test_messages_say_what_there_is_and_what_fits():
    with pytest.raises(LossError) as refused:
        Probe(Same(), (sequence, classes(N, T).index_fill(0, torch.tensor(2), 9)))
    assert str(refused.value) == (
        "cross_entropy, taken where no loss is named, needs class numbers, whole numbers from 0 to "
        "2 (or -100: does not count), shape (N, 5). For outputs of shape (N, 3, 5), these targets "
        "are int64 of shape (N, 5), from 0 to 9; row 2, position 0 has 9. Number the classes from "
        "0, or give the network more outputs."
    )
    with pytest.raises(LossError) as refused:
        Probe(Same(), (one, torch.linspace(-1, 1, N)))
    assert str(refused.value) == (
        "cross_entropy, taken where no loss is named, needs outputs of shape (N, classes, ...), "
        "two classes at least, and class numbers. For outputs of shape (N, 1), these targets are "
        'float32 of shape (N,), from -1 to 1. These fit: loss="half_squared_error", '
        'loss="absolute_error" (on the command line: --loss), or a callable(outputs, targets) -> '
        "(N,)."
    )
