"""Networks, losses and ordinary training."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sentei import losses
from sentei.errors import DataError, LossError
from sentei.training import (
    Distillation,
    FineTune,
    Recipe,
    annealing_cnn,
    build,
    distinctiveness_cnn,
    evaluate,
    mlp,
    takes_flat,
    train,
)
from sentei.training.recipe import OPTIMIZERS


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def state(network: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in network.state_dict().values()])


def data(count: int = 60, width: int = 6, classes: int = 3):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, width, generator=generator)
    return inputs, inputs[:, :classes].argmax(1)


# Losses.


def test_cross_entropy_by_hand():
    # softmax of (ln 1, ln 3) is (1/4, 3/4)
    outputs = torch.tensor([[0.0, math.log(3)]]).repeat(2, 1)
    found = losses.cross_entropy(outputs, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([math.log(4), math.log(4 / 3)])


def test_cross_entropy_at_several_positions_is_their_mean():
    outputs = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20).reshape(4, 5) % 3
    each = [losses.cross_entropy(outputs[..., p], targets[:, p]) for p in range(5)]
    assert torch.allclose(losses.cross_entropy(outputs, targets), torch.stack(each).mean(0))


def test_half_squared_error_by_hand():
    outputs = torch.tensor([[0.5, 1.0, -1.0]])
    # against (0, 1, 0): (0.25 + 0 + 1) / 2
    assert losses.half_squared_error(outputs, torch.tensor([1])).item() == 0.625
    # against (1, 1, 1): (0.25 + 0 + 4) / 2
    assert losses.half_squared_error(outputs, torch.ones(1, 3)).item() == 2.125
    assert losses.half_squared_error(torch.tensor([[3.0]]), torch.tensor([1.0])).item() == 2


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_losses_batch_under_vmap(name):
    outputs = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 1, 0])
    loss = losses.per_sample(name)
    batched = torch.func.vmap(loss, in_dims=(0, None))(outputs, targets)
    assert torch.allclose(batched, torch.stack([loss(one, targets) for one in outputs]))


def test_unknown_loss_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'cross_entropy'"):
        losses.per_sample("crossentropy")


# Networks.


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (annealing_cnn(), 600_810),
        (annealing_cnn("full"), 813_802),
        (annealing_cnn("same"), 703_210),
        (distinctiveness_cnn(), 26_474),
        (build("784-64-10"), 50_890),
        (build("784-20-10"), 15_880 + 30),
        (build("16-60-45-30-26:relu"), 16 * 60 + 60 * 45 + 45 * 30 + 30 * 26 + 161),
    ],
)
def test_networks_have_the_published_sizes_and_run(network, parameters):
    assert size(network) == parameters
    flat = takes_flat(network)
    width = network[0].in_features if flat else 784
    inputs = torch.zeros(2, width) if flat else torch.zeros(2, 1, 28, 28)
    assert network.eval()(inputs).shape == (2, 26 if width == 16 else 10)
    assert not any(type(layer).__module__.startswith("sentei") for layer in network)


def test_words_and_arguments_build_the_same_network():
    for words, network in (
        ("4-3-2:tanh:sigmoid", mlp((4, 3, 2), "tanh", "sigmoid", seed=5)),
        ("cnn-annealing:full", annealing_cnn("full", seed=5)),
        ("cnn-distinctiveness", distinctiveness_cnn(seed=5)),
    ):
        built = build(words, seed=5)
        assert repr(built) == repr(network)
        assert torch.equal(state(built), state(network))


def test_layers_have_names_and_the_output_no_activation_unless_asked():
    assert [name for name, _ in mlp("4-3-2").named_children()] == ["fc1", "act1", "fc2"]
    assert isinstance(mlp("4-3-2", output="sigmoid").act2, nn.Sigmoid)
    assert [n for n, _ in annealing_cnn(dropout=False).named_children() if "drop" in n] == []


def test_initial_weights_come_from_the_seed_and_disturb_nothing():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = (state(mlp("5-4-3", seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_inits():
    glorot, normal = build("300-200-10", init="glorot"), build("300-200-10", init="normal")
    bound = math.sqrt(6 / (300 + 200))
    assert glorot.fc1.bias.abs().max() == 0
    assert 0.99 * bound < glorot.fc1.weight.abs().max() <= bound
    assert normal.fc1.weight.std().item() == pytest.approx(1, abs=0.02)
    assert normal.fc1.bias.std().item() == pytest.approx(1, abs=0.2)
    assert annealing_cnn().conv1.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cnn-anealing", "Did you mean 'cnn-annealing'"),
        ("784-100-10:rleu", "Did you mean 'relu'"),
        ("784", "at least two whole numbers"),
        ("784-0-10", "at least two whole numbers"),
        ("784-x-10", "at least two whole numbers"),
        ("784-10:relu:tanh:relu", "has 3 options after its name; it may have 2 at most"),
        ("cnn-annealing:wide", "unknown padding 'wide'"),
    ],
)
def test_words_that_name_no_network(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec)
    with pytest.raises(ValueError, match="Did you mean 'glorot'"):
        build("4-2", init="gloro")


# Training.


def by_hand(network, samples, optimizer, orders, batch, loss):
    """Train with a plain loop and given orders of the samples: the reference for `train`."""
    inputs, targets = samples
    for order in orders:
        for start in range(0, len(inputs), batch):
            rows = order[start : start + batch]
            optimizer.zero_grad()
            loss(network(inputs[rows]), targets[rows]).backward()
            optimizer.step()


PLAIN = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr, weight_decay=0.01),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=0.01),
    "adam": lambda p, lr: torch.optim.Adam(p, lr, weight_decay=0.01),
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr, weight_decay=0.01),
    "adadelta": lambda p, lr: torch.optim.Adadelta(p, lr, rho=0.95, eps=1e-8, weight_decay=0.01),
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("batch", [60, 25])
def test_training_is_the_plain_loop(name, batch):
    # One sample repeated: the order cannot matter, so that the oracle needs no knowledge of it.
    inputs, targets = data(1)
    samples = inputs.repeat(60, 1), targets.repeat(60)
    network, plain = mlp("6-5-3").double(), mlp("6-5-3").double()
    samples = samples[0].double(), samples[1]
    optimizer = PLAIN[name](plain.parameters(), 0.02)
    by_hand(plain, samples, optimizer, [torch.arange(60)] * 4, batch, F.cross_entropy)
    recipe = Recipe(4, name, lr=0.02, batch_size=batch, weight_decay=0.01)
    train(network, samples, recipe)
    assert torch.allclose(state(network), state(plain), atol=1e-12, rtol=0)
    assert not torch.allclose(state(network), state(mlp("6-5-3").double()), atol=1e-6, rtol=0)


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own():
    seen = []

    def recording(outputs, targets):
        seen.append(targets.flatten().long().tolist())
        return losses.half_squared_error(outputs, targets)

    samples = torch.zeros(10, 2), torch.arange(10.0)[:, None]
    train(mlp("2-1"), samples, Recipe(2, "sgd", lr=1e-9, batch_size=4, loss=recording))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = (list(chain(*batches)) for batches in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_same_seed_gives_the_same_bytes_and_nothing_else_is_disturbed():
    def trained(seed: int, surroundings: int) -> torch.Tensor:
        torch.manual_seed(surroundings)
        network = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        network.load_state_dict(start)
        network[1].eval()
        before = torch.get_rng_state()
        train(network, data(), Recipe(2, seed=seed, batch_size=7))
        assert torch.equal(torch.get_rng_state(), before)
        assert [layer.training for layer in network.modules()] == [True, True, False, True]
        assert all(parameter.grad is None for parameter in network.parameters())
        return state(network)

    start = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).state_dict()
    first = trained(1, surroundings=10)
    assert torch.equal(first, trained(1, surroundings=20))
    assert not torch.equal(first, trained(2, surroundings=10))


def test_history_is_the_mean_over_samples_even_with_a_short_last_batch():
    samples, told = data(50), []
    network = mlp("6-3")
    start = evaluate(network, samples).loss
    recipe = Recipe(2, "sgd", lr=1e-12, batch_size=32)
    history = train(network, samples, recipe, progress=lambda *words: told.append(words))
    assert history.losses == pytest.approx([start, start], rel=1e-5)
    assert told == [(1, history.losses[0]), (2, history.losses[1])]


def test_after_update_runs_after_every_update_in_order():
    calls, network = [], mlp("6-3")
    weights = []
    train(
        network,
        data(10),
        Recipe(3, batch_size=4),
        after_update=[
            lambda: calls.append("a"),
            lambda: calls.append("b"),
            lambda: weights.append(network.fc1.weight.sum().item()),
        ],
    )
    assert calls == ["a", "b"] * 9
    assert len(set(weights)) == 9


def test_a_learning_rate_falls_as_torchs_own_scheduler_has_it():
    network, samples = mlp("3-4-2"), (torch.rand(10, 3), torch.arange(10) % 2)
    made = []

    def optimizer(parameters):
        made.append(torch.optim.SGD(parameters, lr=0.5))
        return made[0]

    seen = []
    recipe = Recipe(epochs=3, optimizer=optimizer, batch_size=4, decay="cosine")
    train(
        network, samples, recipe, after_update=[lambda: seen.append(made[0].param_groups[0]["lr"])]
    )
    theirs = torch.optim.SGD(network.parameters(), lr=0.5)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=9)
    wanted = []
    for _ in range(9):
        wanted.append(theirs.param_groups[0]["lr"])
        theirs.step()
        falling.step()
    assert seen == pytest.approx(wanted)


def test_half_squared_error_learns_through_a_sigmoid():
    samples = data(200)
    network = build("6-12-3:sigmoid:sigmoid")
    recipe = Recipe(60, "adam", lr=0.02, batch_size=20, loss="half_squared_error")
    history = train(network, samples, recipe)
    accuracy, loss = evaluate(network, samples, loss="half_squared_error")
    assert history.losses[-1] < history.losses[0] / 2
    assert accuracy is not None
    assert accuracy > 0.9
    assert loss == pytest.approx(history.losses[-1], rel=0.2)


def test_letter_is_learnt_for_real():
    from sentei.datasets import letter

    split = letter()
    network = build("16-50-26:relu")
    train(network, split.train.first(4000), Recipe(8, "rmsprop", lr=0.01, batch_size=100))
    accuracy = evaluate(network, split.validation).accuracy
    assert accuracy is not None
    assert 0.75 < accuracy < 0.95


# Evaluation.


def test_evaluation_by_hand_and_in_any_batches():
    network = nn.Sequential(nn.Identity(), nn.Dropout(0.9))
    outputs = torch.tensor([[0.0, math.log(3)]]).repeat(5, 1)
    targets = torch.tensor([1, 1, 0, 1, 1])
    for batch in (1, 2, 5, 9):
        accuracy, loss = evaluate(network, (outputs, targets), batch_size=batch)
        assert accuracy == 0.8
        assert loss == pytest.approx((4 * math.log(4 / 3) + math.log(4)) / 5)
    assert network[1].training
    values = evaluate(network, (outputs, outputs + 1), loss="half_squared_error")
    assert values.accuracy is None
    assert values.loss == pytest.approx(1)


# Distillation.


def test_distilled_loss_by_hand():
    teacher = nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.5))
    student = nn.Sequential(nn.Linear(1, 2))
    for network, bias in ((teacher, [2 * math.log(3), 0]), (student, [0.0, 0.0])):
        nn.init.zeros_(network[0].weight)
        network[0].bias.data = torch.tensor(bias)
    samples = torch.zeros(4, 1), torch.zeros(4, dtype=torch.long)
    recipe = Recipe(1, "sgd", lr=1e-9, distillation=Distillation(teacher, 2.0, 0.25))
    history = train(student, samples, recipe)
    # At temperature 2 the teacher says (3/4, 1/4), the student (1/2, 1/2).
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    wanted = 0.75 * math.log(2) + 0.25 * 4 * divergence
    assert history.losses[0] == pytest.approx(wanted, rel=1e-6)
    assert teacher[1].training


def test_a_student_without_targets_becomes_its_teacher():
    inputs, _ = data(200)
    teacher, student = mlp("6-3", seed=1), mlp("6-3", seed=2)
    wrong = torch.zeros(200, dtype=torch.long)
    recipe = Recipe(80, "adam", lr=0.05, distillation=Distillation(teacher, 2.0, 1.0))
    train(student, (inputs, wrong), recipe)
    apart = student(inputs).softmax(1) - teacher(inputs).softmax(1)
    assert apart.abs().max() < 1e-3


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adma"}, "Did you mean 'adam'"),
        ({"loss": "half_square_error"}, "Did you mean 'half_squared_error'"),
        ({"decay": "cosin"}, "Did you mean 'cosine'"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"weight_decay": math.inf}, "weight_decay must be 0 or more and finite"),
        ({"lr": math.inf}, "lr must be above 0 and finite"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": math.nan}, "lr must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"optimizer": torch.optim.Adam, "lr": 0.1}, "sets its own lr"),
    ],
)
def test_bad_recipes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", math.nan), ("epochs", 1.5), ("batch_size", math.inf), ("seed", math.nan)],
)
def test_recipes_count_in_whole_numbers(name, value):
    with pytest.raises(TypeError, match=f"Recipe: `{name}` must be a whole number; got {value}"):
        Recipe(**{name: value})


def test_bad_distillation_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1, not 2"):
        Distillation(mlp("6-3"), weight=2)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        Distillation(mlp("6-3"), temperature=0)
    with pytest.raises(ValueError, match="above 0 and finite"):
        Distillation(mlp("6-3"), temperature=math.inf)
    with pytest.raises(ValueError, match="softens logits"):
        Recipe(loss="half_squared_error", distillation=Distillation(mlp("6-3")))


def test_a_teacher_of_other_classes_is_refused():
    recipe = Recipe(distillation=Distillation(mlp("6-4")))
    with pytest.raises(DataError, match=r"\(2, 4\) for two samples and the network's \(2, 3\)"):
        train(mlp("6-3"), data(), recipe)


def test_whole_targets_of_a_loss_of_ones_own_are_no_classes():
    def counts(outputs, targets):
        return (outputs[:, 0] - targets).square()

    samples = torch.zeros(8, 2), torch.full((8,), 5)
    history = train(mlp("2-1"), samples, Recipe(40, "sgd", loss=counts))
    assert history.losses[-1] < 1e-3 < history.losses[0]


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.zeros(4, 5), torch.zeros(4).long(), r"cannot take inputs of shape \(N, 5\)"),
        (torch.zeros(4, 6), torch.tensor([0, 1, 3, 0]), "from 0 to 2 .* row 2 has 3"),
        (torch.full((4, 6), torch.nan), torch.zeros(4).long(), "row 0, column 0 holds nan"),
        (torch.zeros(4, 6), torch.zeros(3).long(), "one row per sample"),
        (torch.zeros(0, 6), torch.zeros(0).long(), "no rows"),
        (torch.zeros(4, 6).byte(), torch.zeros(4).long(), "type torch.uint8"),
    ],
)
def test_bad_data_is_refused_and_nothing_has_changed(inputs, targets, message):
    network = mlp("6-3")
    before = state(network)
    for act in (train, evaluate):
        with pytest.raises(DataError, match=message):
            act(network, (inputs, targets))
    assert torch.equal(state(network), before)


def test_a_loss_that_is_not_finite_stops_where_it_happens():
    # Half squared error with lr 100 multiplies the distance by more than a thousand an update.
    network = mlp("6-3")
    samples = data(40)[0] * 10, data(40)[1]
    recipe = Recipe(9, "sgd", lr=100.0, batch_size=10, loss="half_squared_error")
    with pytest.raises(
        LossError, match=r"inf at epoch 2, update \d+, with sgd and lr=100.0.*Lower"
    ):
        train(network, samples, recipe)


def test_a_loss_that_is_not_per_sample_is_refused():
    with pytest.raises(LossError, match=r"shape \(60,\); this one returns \(\)"):
        train(mlp("6-3"), data(), Recipe(loss=F.cross_entropy))


def test_a_network_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        train(mlp("6-3").requires_grad_(False), data())


# Going on, and going back.


class Half:
    """A mask for tests: the first column of the last layer is dead."""

    def __init__(self):
        self.held = 0

    def hold_(self, model, optimizer):
        self.held += 1
        weight = model.fc2.weight
        weight.data[:, 0] = 0
        for value in optimizer.state.get(weight, {}).values():
            if value.shape == weight.shape:
                value[:, 0] = 0


def fresh(optimizer: str, epochs: int = 1) -> tuple[nn.Sequential, FineTune]:
    return mlp("6-4-3"), FineTune(data(), Recipe(epochs, optimizer, batch_size=25))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_dead_stay_dead_and_the_rest_learns(name):
    network, tune = fresh(name, epochs=2)
    train(network, data(), Recipe(1, name))  # no mask yet: everything has moved
    mask, before = Half(), network.fc2.weight.detach().clone()
    tune(network, mask)
    assert mask.held == 1 + 2 * 3
    assert network.fc2.weight[:, 0].tolist() == [0, 0, 0]
    assert (network.fc2.weight[:, 1:] != before[:, 1:]).all()
    moments = tune.state_dict()["optimizer"].get("fc2.weight", {})
    shaped = [value for value in moments.values() if value.shape == (3, 4)]
    assert all((value[:, 0] == 0).all() for value in shaped)
    assert len(shaped) == {"sgd": 0, "momentum": 1, "rmsprop": 1}.get(name, 2)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_undo_rewinds_exactly(name):
    network, tune = fresh(name)
    tune(network, Half())
    weights, held = [tensor.clone() for tensor in network.parameters()], tune.state_dict()
    tune(network, Half())
    wanted = state(network).clone()
    assert tune.epoch == 2
    network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    tune.load_state_dict(held)
    assert tune.epoch == 1
    tune(network, Half())
    assert torch.equal(state(network), wanted)


@settings(deadline=None)
@given(st.integers(1, 3), st.sampled_from(sorted(OPTIMIZERS)))
def test_a_new_process_goes_on_to_the_same_bytes(calls, name):
    network, tune = fresh(name)
    for _ in range(calls):
        tune(network, Half())
    held, weights = tune.state_dict(), {k: t.clone() for k, t in network.state_dict().items()}
    tune(network, Half())
    other, resumed = fresh(name)
    other.load_state_dict(weights)
    resumed.load_state_dict(held)
    assert plain(resumed.state_dict()) == plain(held)  # even before the first call
    resumed(other, Half())
    assert torch.equal(state(other), state(network))
    assert plain(resumed.state_dict()) == plain(tune.state_dict())


def plain(value):
    """Convert a state to comparable data; fail on types other than tensors and plain data."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        return {key: plain(item) for key, item in value.items()}
    assert isinstance(value, (bool, int, float, str))
    return value


def test_going_back_to_before_the_first_call():
    network, tune = fresh("adam")
    start, held = {k: t.clone() for k, t in network.state_dict().items()}, tune.state_dict()
    tune(network, Half())
    wanted = state(network).clone()
    network.load_state_dict(start)
    tune.load_state_dict(held)
    tune(network, Half())
    assert torch.equal(state(network), wanted)


def test_another_network_or_a_foreign_state_is_refused():
    network, tune = fresh("adam")
    tune(network, Half())
    with pytest.raises(ValueError, match="one network"):
        tune(mlp("6-4-3"), Half())
    with pytest.raises(ValueError, match=r"no 'fc9\.weight'"):
        tune.load_state_dict({"epoch": 0, "optimizer": {"fc9.weight": {}}})


def test_words_tell_runs_apart_and_hold_no_addresses():
    samples = data()
    changed = samples[0].clone()
    changed[0, 0] += 1
    words = [
        FineTune(samples).words,
        FineTune((changed, samples[1])).words,
        FineTune(samples, Recipe(2)).words,
        FineTune(samples, Recipe(1, optimizer=lambda p: torch.optim.Adam(p))).words,
        FineTune(samples, Recipe(1, distillation=Distillation(mlp("6-3", seed=1)))).words,
        FineTune(samples, Recipe(1, distillation=Distillation(mlp("6-3", seed=2)))).words,
    ]
    assert len(set(words)) == 6
    assert FineTune((samples[0].clone(), samples[1])).words == words[0]
    assert "0x" not in "".join(words)
