"""`train`, `FineTune` and `evaluate` on data of every form, against plain loops and the Probe."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sentei import DataError, LossError, Mask, Probe
from sentei.losses import half_squared_error
from sentei.training import Distillation, FineTune, Recipe, evaluate, feeding, mlp, train

_random = torch.Generator().manual_seed(5)
A = torch.randn(30, 4, generator=_random, dtype=torch.float64)
B = torch.randn(30, 2, generator=_random, dtype=torch.float64)
Y = torch.stack([A[:, 0] * B[:, 0], A[:, 1] - B[:, 1]], 1)
CLASS = A[:, :3].argmax(1)
SIZE = 8


class TwoInputs(nn.Module):
    """A network of two inputs, with dropout if asked."""

    def __init__(self, seed=0, dropout=0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.drop = nn.Linear(4, 6), nn.Linear(2, 6), nn.Dropout(dropout)
        self.out = nn.Linear(6, 2)
        self.double()

    def forward(self, a, b):
        return self.out(self.drop((self.a(a) + self.b(b)).tanh()))


class Rows(Dataset):
    def __init__(self, form):
        self.form = form

    def __len__(self):
        return len(A)

    def __getitem__(self, i):
        return self.form(A[i], B[i], Y[i])


@dataclass
class Batch:
    a: torch.Tensor
    b: torch.Tensor
    labels: torch.Tensor


class Batches:
    """What can be iterated over again and again, and is nothing else."""

    def __init__(self, form):
        self.form = form

    def __iter__(self):
        return (self.form(A[i : i + SIZE], B[i : i + SIZE], Y[i : i + SIZE]) for i in STARTS)


STARTS = range(0, 30, SIZE)
FORMS = {
    "pair": lambda a, b, y: ((a, b), y),
    "row": lambda a, b, y: (a, b, y),
    "dict": lambda a, b, y: {"a": a, "b": b, "labels": y},
    "record": Batch,
    "odd": lambda a, b, y: [y, {"deep": (a, b)}],
}
LOADERS = {
    **{
        f"loader of {n}": DataLoader(Rows(f), batch_size=SIZE)
        for n, f in FORMS.items()
        if n != "record"
    },
    **{f"batches of {name}": Batches(form) for name, form in FORMS.items()},
    "list of batches": list(Batches(FORMS["pair"])),
    "stream": DataLoader(
        type("Stream", (IterableDataset,), {"__iter__": lambda _: iter(Rows(FORMS["row"]))})(),
        batch_size=SIZE,
    ),
}


def unpack(batch):
    return batch[1]["deep"], batch[0]


def options(name):
    return {"batch": unpack} if name.endswith("odd") else {}


def state(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def plain_loop(model, epochs, loss=half_squared_error, forward=lambda model, a, b: model(a, b)):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for i in STARTS:
            at = slice(i, i + SIZE)
            optimizer.zero_grad()
            loss(forward(model, A[at], B[at]), Y[at]).mean().backward()
            optimizer.step()
    return state(model)


SQUARED = Recipe(2, "sgd", lr=0.1, batch_size=SIZE, loss="half_squared_error")


@pytest.mark.parametrize("name", LOADERS)
def test_an_epoch_is_a_pass_over_the_batches_in_their_order(name):
    model = TwoInputs()
    history = train(model, LOADERS[name], SQUARED, **options(name))
    assert torch.allclose(state(model), plain_loop(TwoInputs(), 2), atol=1e-12, rtol=0)
    assert len(history.losses) == 2


def test_a_dataset_is_read_as_tensors_are_to_the_byte():
    found = {}
    for name, data in (
        ("tensors", ((A, B), Y)),
        ("arrays", ((A.numpy(), B.numpy()), Y.numpy())),
        ("names", ({"a": A, "b": B}, Y)),
        ("dataset", Rows(FORMS["pair"])),
        ("rows", TensorDataset(A, B, Y)),
    ):
        model = TwoInputs(dropout=0.3)
        train(model, data, SQUARED)
        found[name] = state(model)
    first = found.pop("tensors")
    assert all(torch.equal(first, other) for other in found.values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_a_loader_draws_depends_on_seed_and_epoch_alone(dropout):
    def trained(surroundings, seed=0):
        torch.manual_seed(surroundings)
        before = torch.get_rng_state()
        model = TwoInputs(dropout=dropout)
        torch.set_rng_state(before)
        loader = DataLoader(Rows(FORMS["pair"]), batch_size=SIZE, shuffle=True)
        history = train(model, loader, Recipe(2, "sgd", loss="half_squared_error", seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        return state(model), history.losses

    (first, losses), (again, _), (other, _) = trained(1), trained(2), trained(1, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert losses[0] != losses[1]


def test_epochs_of_a_shuffling_loader_differ_in_their_order():
    seen = []

    def loss(outputs, targets):
        seen.append(targets[:, 0].tolist())
        return half_squared_error(outputs, targets)

    loader = DataLoader(Rows(FORMS["pair"]), batch_size=30, shuffle=True)
    train(TwoInputs(), loader, Recipe(2, "sgd", lr=1e-9, loss=loss))
    *_, first, second = seen
    assert first != second
    assert sorted(first) == sorted(second) == sorted(Y[:, 0].tolist())


def test_a_network_is_run_by_a_function():
    def forward(model, inputs):
        return 2 * model(*inputs)

    model = TwoInputs()
    train(model, LOADERS["list of batches"], SQUARED, forward=forward)
    want = plain_loop(TwoInputs(), 2, forward=lambda model, a, b: 2 * model(a, b))
    assert torch.allclose(state(model), want, atol=1e-12, rtol=0)
    found = evaluate(model, ((A, B), Y), loss="half_squared_error", forward=forward)
    by_hand = (2 * model(A, B) - Y).square().sum(1).mean().item() / 2
    assert found.loss == pytest.approx(by_hand, rel=1e-12)


class Nested(nn.Module):
    """A network that takes names and gives them."""

    def __init__(self, seed=1):
        super().__init__()
        self.inner = TwoInputs(seed)

    def forward(self, a, b):
        return {"out": (self.inner(a, b), a.sum(1))}


def test_targets_and_outputs_of_any_nest_with_a_loss_of_ones_own():
    data = [((A[i : i + SIZE], B[i : i + SIZE]), {"y": (Y[i : i + SIZE],)}) for i in STARTS]
    loss = lambda outputs, targets: F.huber_loss(  # noqa: E731
        outputs["out"][0], targets["y"][0], reduction="none"
    ).mean(1)
    model, plain = Nested(), Nested()
    train(model, data, Recipe(2, "sgd", lr=0.1, loss=loss))
    huber = lambda o, t: F.huber_loss(o, t, reduction="none").mean(1)  # noqa: E731
    assert torch.allclose(state(model), plain_loop(plain.inner, 2, huber), atol=1e-12, rtol=0)
    assert evaluate(model, data, loss=loss).loss == pytest.approx(
        huber(model.inner(A, B), Y).mean().item(), rel=1e-12
    )


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("memory", [2**30, 100])
def test_evaluation_is_the_probes(name, memory, monkeypatch):
    monkeypatch.setattr(feeding, "_MEMORY", memory)
    model = TwoInputs()
    found = evaluate(model, LOADERS[name], loss="half_squared_error", **options(name))
    loss, quality = Probe(model, ((A, B), Y), "half_squared_error").quality()
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.metrics == pytest.approx(quality.metrics, rel=1e-12)
    assert found.metrics["r2"] != 0


def test_evaluation_leaves_the_users_tensors_as_they_are():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3).double())
    before = A.clone()
    evaluate(model, (A, CLASS))
    assert torch.equal(A, before)


def test_samples_that_do_not_count_are_left_out_of_every_batch():
    targets = CLASS.clone()
    targets[3:SIZE], targets[2 * SIZE : 3 * SIZE] = -100, -100  # a part of a batch, all of one
    loader = DataLoader(TensorDataset(A, targets), batch_size=SIZE)
    model, plain = mlp("4-5-3").double(), mlp("4-5-3").double()
    history = train(model, loader, Recipe(1, "sgd", lr=0.1))
    optimizer, total = torch.optim.SGD(plain.parameters(), lr=0.1), 0.0
    for i in (0, SIZE, 3 * SIZE):
        at = slice(i, i + SIZE)
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(A[at]), targets[at])  # the mean over those that count
        loss.backward()
        optimizer.step()
        total += loss.item() * int((targets[at] != -100).sum())
    assert torch.allclose(state(model), state(plain), atol=1e-12, rtol=0)
    assert history.losses[0] == pytest.approx(total / int((targets != -100).sum()), rel=1e-12)


def test_a_learning_rate_falls_by_the_batches_of_a_loader():
    made, seen = [], []

    def optimizer(parameters):
        made.append(torch.optim.SGD(parameters, lr=0.5))
        return made[0]

    recipe = Recipe(2, optimizer, loss="half_squared_error", decay="cosine")
    note = lambda: seen.append(made[0].param_groups[0]["lr"])  # noqa: E731
    train(TwoInputs(), LOADERS["loader of row"], recipe, after_update=[note])
    assert seen == pytest.approx([0.25 * (1 + math.cos(math.pi * u / 8)) for u in range(8)])


def test_retraining_goes_on_where_it_was_after_a_restart():
    def loader():
        return DataLoader(Rows(FORMS["dict"]), batch_size=SIZE, shuffle=True)

    recipe, mask = Recipe(1, "adam", lr=0.05, loss="half_squared_error"), Mask.full(())
    whole, model = FineTune(loader(), recipe), TwoInputs(dropout=0.2)
    whole(model, mask)
    halfway, kept = copy.deepcopy(model), whole.state_dict()
    whole(model, mask)
    again = FineTune(loader(), recipe)
    again.load_state_dict(kept)
    again(halfway, mask)
    assert torch.equal(state(halfway), state(model))


WORDS = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from sentei.training import FineTune
def batch(b): return b[0], b[1]
data = TensorDataset(torch.arange(12.).view(6, 2), torch.arange(6) % 2)
print(FineTune(DataLoader(data, batch_size=4, shuffle=True), batch=batch).words)
"""


def test_retraining_is_described_alike_in_every_process_and_by_its_data():
    runs = [
        subprocess.run([sys.executable, "-c", WORDS], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout != ""
    x, y = torch.arange(12.0).view(6, 2), torch.arange(6) % 2
    others = [
        FineTune(DataLoader(TensorDataset(x + i, y), batch_size=size)).words
        for i, size in ((0, 4), (1, 4), (0, 3))
    ]
    assert len({*others}) == 3
    assert FineTune((x, y)).words == FineTune((x.numpy(), y.numpy())).words
    assert FineTune((x, y)).words != FineTune((x, y), forward=lambda model, x: model(x)).words


# Distillation.


@pytest.mark.parametrize("compare", [None, "absolute_error", "own"])
def test_a_teacher_runs_on_the_same_batch(compare):
    teacher = mlp("4-7-3", seed=3).double()
    loss = half_squared_error if compare == "own" else compare
    recipe = Recipe(2, "sgd", lr=0.1, distillation=Distillation(teacher, 2.0, 0.25, loss))
    model, plain = mlp("4-5-3").double(), mlp("4-5-3").double()
    train(model, DataLoader(TensorDataset(A, CLASS), batch_size=SIZE), recipe)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for i in [*STARTS, *STARTS]:
        at = slice(i, i + SIZE)
        out, told = plain(A[at]), teacher(A[at]).detach()
        apart = {
            None: 4
            * F.kl_div((out / 2).log_softmax(1), (told / 2).softmax(1), reduction="none").sum(1),
            "absolute_error": (out - told).abs().sum(1),
            "own": (out - told).square().sum(1) / 2,
        }[compare]
        optimizer.zero_grad()
        losses = 0.75 * F.cross_entropy(out, CLASS[at], reduction="none") + 0.25 * apart
        losses.mean().backward()
        optimizer.step()
    assert torch.allclose(state(model), state(plain), atol=1e-12, rtol=0)


def test_a_regression_of_two_inputs_learns_from_a_teacher():
    teacher, model = TwoInputs(seed=4), TwoInputs(seed=5)
    learn = Distillation(teacher, weight=1.0, loss="half_squared_error")
    recipe = Recipe(150, "adam", lr=0.03, loss="half_squared_error", distillation=learn)
    apart = [(model(A, B) - teacher(A, B)).square().mean().item()]
    train(model, LOADERS["loader of dict"], recipe)
    apart.append((model(A, B) - teacher(A, B)).square().mean().item())
    assert apart[1] < apart[0] / 100


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_teacher_speaks_of_the_positions_that_count(in_memory):
    net, teacher = (nn.Conv1d(2, 3, 1, bias=False).double() for _ in range(2))
    x = torch.randn(4, 2, 5, dtype=torch.float64, generator=_random)
    y = torch.arange(20).view(4, 5) % 3
    y[0, 1:] = -100
    data = (x, y) if in_memory else [((x), y)]
    recipe = Recipe(1, "sgd", lr=1e-12, distillation=Distillation(teacher, 1.0, 1.0))
    logs = [model(x).log_softmax(1) for model in (net, teacher)]
    apart = (logs[1].exp() * (logs[1] - logs[0])).sum(1)
    want = torch.stack([apart[0, 0], *apart[1:].mean(1)]).mean().item()
    assert train(net, data, recipe).losses[0] == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [("half_squared_error", Y), (half_squared_error, Y), (lambda o, t: o[:, 0] - t["y"], {"y": Y})],
)
def test_softened_classes_are_refused_where_there_may_be_none(loss, targets):
    def learn():
        recipe = Recipe(1, loss=loss, distillation=Distillation(TwoInputs()))
        train(TwoInputs(), ((A, B), targets), recipe)

    with pytest.raises(ValueError, match=r"Distillation\(teacher, loss='half_squared_error'\)"):
        learn()


def test_a_teacher_is_compared_by_what_takes_outputs_as_targets():
    with pytest.raises(ValueError, match="cross_entropy takes no outputs as targets"):
        Distillation(TwoInputs(), loss="cross_entropy")
    with pytest.raises(ValueError, match="Did you mean 'absolute_error'"):
        Distillation(TwoInputs(), loss="absolut_error")


# What is refused.


def batches(**changes):
    """Return three batches, the last with other targets or inputs."""
    x, y = changes.get("x", A[16:24].clone()), changes.get("y", CLASS[16:24].clone())
    return [(A[:8], CLASS[:8]), (A[8:16], CLASS[8:16]), (x, y)]


BAD_X = A[16:24].clone()
BAD_X[2, 1] = math.nan
REFUSED = {
    "an iterator": (iter(batches()), {}, DataError, "iterator can be read once"),
    "nothing": ([], {}, DataError, "has no batches"),
    "a number": (3, {}, DataError, "data must be"),
    "a class too many": (batches(y=CLASS[16:24] + 3), {}, LossError, "0 to 2"),
    "NaN": (batches(x=BAD_X), {}, DataError, "row 2, column 1 holds nan"),
    "rows": (batches(y=CLASS[:5]), {}, DataError, "same number"),
    "another width": ([(A[:, :3], CLASS)], {}, DataError, r"inputs of shape \(N, 3\)"),
    "dicts": ([{"x": A, "y": CLASS}], {}, DataError, "Pass batch="),
    "decay": (
        LOADERS["batches of pair"],
        {"decay": "cosine", "loss": "half_squared_error"},
        DataError,
        "no length",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_a_network_cannot_learn_from_is_refused(case):
    data, more, error, message = case
    model = TwoInputs() if "decay" in more else mlp("4-5-3").double()
    with pytest.raises(error, match=message):
        train(model, data, Recipe(1, "sgd", **more))
    assert model.training


def test_retraining_refuses_data_before_anything_is_cut():
    for data, message in ((iter(batches()), "iterator can be read once"), ([], "no batches")):
        with pytest.raises(DataError, match=message):
            FineTune(data)


def test_a_function_that_runs_another_network_is_refused():
    other = mlp("4-5-3").double()
    with pytest.raises(LossError, match="run the network in its first argument"):
        train(mlp("4-5-3").double(), (A, CLASS), forward=lambda model, x: other(x))
    with pytest.raises(LossError, match="run the network in its first argument"):
        train(mlp("4-5-3").double(), (A, CLASS), forward=lambda model, x: model(x).detach())


def test_data_that_ends_after_the_first_pass_is_refused():
    class Once:
        def __init__(self):
            self.left = [batches(), batches(), []]

        def __iter__(self):
            return iter(self.left.pop(0))

    with pytest.raises(DataError, match="epoch 2 found none"):
        train(mlp("4-5-3").double(), Once(), Recipe(2))
