"""Tracing by a tape and a reduced example, against tracing by running the model on all of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sentei
from joined_networks import JOINED
from more_networks import MORE
from place_networks import PLACES
from sentei.network.example import smallest, undisturbed
from sentei.network.forward import with_forward
from sentei.network.tracing.reducing import reduced
from sentei.network.tracing.replay import Replay
from sentei.network.tracing.tracing import record, traced
from zoo import ZOO

BUILDERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    **{name: lambda e=entry: (e[0](), e[1]()) for name, entry in {**ZOO, **MORE}.items()},
    **{name: entry[0] for name, entry in {**PLACES, **JOINED}.items()},
}
# Packed sequences: how many samples each step has is read from a tensor.
UNTAPED = {"LSTMPacked", "GRUPacked", "RNNPacked"}


def built(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = BUILDERS[name]()
    return model.eval(), x


def described(model: nn.Module, x: Tensor, *, fast: bool) -> list[str]:
    """Return everything that tracing finds, in its order."""
    found = traced(model, x, inputs=False, fast=fast)
    parts = [
        f"{g.name} {g.kind} {role} {part.parameter} {part.dim} {part.index.tolist()}"
        for g in found.groups
        for role in ("producers", "followers", "listeners")
        for part in getattr(g, role)
    ]
    return parts + [f"{each.parameter} {each.dim} {each.reason}" for each in found.left_out]


LONG = (
    *("LSTMBoth", "GRUBoth", "LSTMPacked", "GRUPacked", "LSTMCell", "LSTMTimeFirst", "StateSpace"),
    *("BatchedExperts", "EinsumExperts", "SlicedExperts", "OneKey", "TwiceOnePackedKey"),
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in sorted(BUILDERS)],
)
def test_the_fast_way_finds_what_the_slow_way_finds(name: str):
    model, x = built(name)
    assert described(model, x, fast=True) == described(model, x, fast=False)


def hot_rows(replay: Replay, seed: int) -> dict:
    """Return random rows of sources, and of other tensors."""
    random = np.random.default_rng(seed)
    sizes = {place: len(source.codes) for place, source in replay.sources.items()}
    some = [place for place in {**sizes, **replay.slices} if random.random() < 0.7]
    share = random.choice([0.1, 0.5, 0.9])
    return {p: random.random({**replay.slices, **sizes}[p]) < share for p in some}


def same_replays(model: nn.Module, x: Tensor, *, inputs: bool = False) -> bool:
    """Return whether a tape, which has to be there, replays as the model does."""
    with undisturbed(model):
        replay, _ = record(model, x, inputs=inputs)
        assert replay.tape is not None
        slow = replay.untaped()
        for seed in range(4):
            hot = hot_rows(replay, seed)
            own = {p: rows for p, rows in hot.items() if p in replay.sources}
            weights = {p: rows for p, rows in hot.items() if p in replay.slices}
            fast_weights, slow_weights = (r.nan_weights(weights) for r in (replay, slow))
            assert [*fast_weights] == [*slow_weights]
            pairs = [
                (replay.nan_columns(hot), slow.nan_columns(hot)),
                (replay.changed_columns(own, seed), slow.changed_columns(own, seed)),
                *((fast_weights[p], slow_weights[p]) for p in slow_weights),
            ]
            if not all((a == b).all() for a, b in pairs):
                return False
    return True


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("name", sorted({*BUILDERS} - UNTAPED))
def test_a_tape_replays_as_the_model_does(name: str, inputs: bool):
    assert same_replays(*built(name), inputs=inputs)


class InPlace(nn.Module):
    """Two layers around a function that writes into tensors."""

    def __init__(self, between: Callable[[Tensor], Tensor]):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm, self.between = nn.BatchNorm1d(6), between

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        return self.c(self.between(x) + self.b(x))


def _through_a_view(x: Tensor) -> Tensor:
    half = x[:, :3]
    before = x * 2
    half.relu_()
    return x + before


def _read_between_writes(x: Tensor) -> Tensor:
    y = x.clone()
    first = y.tanh()
    y[:, 1] = 0
    second = y.tanh()
    y.mul_(2)
    return first + second + y


def _into_a_buffer(x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 6)
    out[:, 0::2] = x[:, 0::2]
    out[:, 1::2] = x[:, 1::2].exp()
    return out


def _by_a_mask(x: Tensor) -> Tensor:
    mask = torch.ones(6)
    mask[2] = 0
    return (x * mask).relu_()


def _unpacked(x: Tensor) -> Tensor:
    first, second = x.unflatten(-1, (2, 3)).transpose(0, 1)
    return torch.cat([first, second], -1)


def _swapped(x: Tensor) -> Tensor:
    y = x.clone()
    left, right = y[:, :3], y[:, 3:]
    left.add_(right)
    right.copy_(left * 0.5)
    return y


def _twice(x: Tensor) -> Tensor:
    x.relu_()
    x += x.flip(0) * 0
    return x.sigmoid_()


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.relu()


def _own_function(x: Tensor) -> Tensor:
    return Own.apply(x)  # type: ignore[no-any-return]


WRITERS = [
    _own_function,
    _through_a_view,
    _read_between_writes,
    _into_a_buffer,
    _by_a_mask,
    _unpacked,
]
WRITERS += [_swapped, _twice]


@pytest.mark.parametrize("between", WRITERS, ids=lambda f: f.__name__)
def test_a_tape_replays_what_is_written_in_place(between: Callable[[Tensor], Tensor]):
    torch.manual_seed(0)
    model, x = InPlace(between).eval(), torch.randn(4, 5)
    assert same_replays(model, x)
    assert described(model, x, fast=True) == described(model, x, fast=False)


class Between(nn.Module):
    """Two layers around something that a tape cannot hold."""

    counter: Tensor

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(5, 6), nn.Linear(6, 3), between
        self.register_buffer("counter", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x)))


def _counted(model: nn.Module, x: Tensor) -> Tensor:
    model.counter.mul_(1)
    return x * model.counter


def _autocast(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu"):
        return (x @ x.t() @ x).to(x.dtype)


TABLE = torch.ones(6)
ESCAPES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "branch": lambda _, x: x.relu() if x.sum() > -1e9 else x,
    "item": lambda _, x: x * float(x.abs().max().item() > 0),
    "list": lambda _, x: x + 0 * x.mean(1).tolist()[0],
    "numpy": lambda _, x: x + torch.tensor(x.numpy().shape[0] * 0.0),
    "dropout": lambda _, x: F.dropout(x, 0.5),
    "noise": lambda _, x: x + torch.randn(6),
    "generator": lambda _, x: x + torch.randn(6, generator=torch.Generator().manual_seed(0)),
    "constant of a closure": lambda _, x: x + TABLE,
    "writes a weight": _counted,
    "autocast": _autocast,
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_pass_that_functions_do_not_determine_has_no_tape(name: str):
    torch.manual_seed(0)
    model, x = Between(ESCAPES[name]).eval(), torch.randn(4, 5)
    state = torch.get_rng_state()
    with undisturbed(model):
        replay, _ = record(model, x, inputs=False)
    assert replay.tape is None
    assert described(model, x, fast=True) == described(model, x, fast=False)
    assert torch.equal(state, torch.get_rng_state())


class Runner:
    """An object whose method runs a network, with tensors in what it holds."""

    def __init__(self, shift: Tensor):
        self.held = ({"shift": shift},)

    def forward(self, model: nn.Module, x: Tensor) -> Tensor:
        return model(x + self.held[0]["shift"])

    def adding(self, model: nn.Module, x: Tensor) -> Tensor:
        self.held[0]["shift"].add_(0)
        return self.forward(model, x)


def _shifted(model: nn.Module, x: Tensor, shift: Tensor) -> Tensor:
    return model(x + shift)


@pytest.mark.parametrize("how", ["closure", "partial", "method", "written"])
def test_tensors_that_forward_keeps_are_the_same_in_every_pass(how: str):
    torch.manual_seed(0)
    model, x, shift = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), *torch.randn(2, 5)
    x = x.repeat(4, 1)
    forward = {
        "closure": lambda model, x: model(x + shift),
        "partial": partial(_shifted, shift=shift),
        "method": Runner(shift).forward,
        "written": Runner(shift).adding,
    }[how]
    with undisturbed(model):
        replay, _ = record(model, with_forward(model, x, forward), inputs=False)
    assert (replay.tape is not None) == (how != "written")
    groups = [sentei.find_units(model, x, forward=forward), sentei.find_units(model, x)]
    assert groups[0] == groups[1]


def test_a_network_that_differs_at_each_pass_is_refused_as_before():
    draws = iter(range(10**6))
    model = Between(lambda _, x: x + next(draws))
    with pytest.raises(sentei.StructureError, match="reads other numbers each time"):
        sentei.find_units(model, torch.randn(4, 5))
    with pytest.raises(sentei.StructureError, match="NaN on the unmodified example"):
        sentei.find_units(Between(lambda _, x: x * torch.nan), torch.randn(4, 5))


def test_a_wrong_tape_is_found_out(monkeypatch: pytest.MonkeyPatch):
    """A tape that leaves functions out is not believed: the model is run in its place."""
    model, x = built("lenet")
    expected = described(model, x, fast=False)
    init = Replay.__init__

    def forgetful(self: Replay, *args: object, **kwargs: object) -> None:
        init(self, *args, **kwargs)  # type: ignore[arg-type]
        assert self.tape is not None
        self.tape.steps = [step for step in self.tape.steps if step.function is not F.max_pool2d]
        self.tape.steps = self.tape.steps[:-2]

    monkeypatch.setattr(Replay, "__init__", forgetful)
    assert described(model, x, fast=True) == expected


# Examples with fewer pixels or steps.


def pictures(*after: nn.Module) -> nn.Sequential:
    convolutions = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1)
    return nn.Sequential(*convolutions, nn.ReLU(), *after).eval()


class Positions(nn.Module):
    """A table of positions of a fixed size, or resampled to the size that is needed."""

    def __init__(self, *, resampled: bool):
        super().__init__()
        self.table, self.resampled = nn.Parameter(torch.randn(1, 8, 32, 32)), resampled

    def forward(self, x: Tensor) -> Tensor:
        table = F.interpolate(self.table, x.shape[-2:]) if self.resampled else self.table
        return x + table


class BySize(nn.Module):
    """A layer that is used for large pictures only."""

    def __init__(self, layer: nn.Module, *, training: bool):
        super().__init__()
        self.layer, self.in_training = layer, training

    def forward(self, x: Tensor) -> Tensor:
        use = self.training if self.in_training else True
        return self.layer(x) if use and x.shape[-1] >= 32 else x


class FirstSize(nn.Module):
    """A table that is made for the first size that is seen."""

    def __init__(self):
        super().__init__()
        self.table = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, x.shape[-1])
        return x + self.table


class Tokens(nn.Module):
    """A layer over the positions of a picture."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(32 * 32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.flatten(2)).mean(-1)


def _end() -> Iterator[nn.Module]:
    yield from (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


SMALLER: dict[str, Callable[[], nn.Module]] = {
    "pooled": lambda: pictures(*_end()),
    "picture to picture": lambda: pictures(nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 1)),
    "positions": lambda: pictures(Positions(resampled=True), *_end()),
    "first size": lambda: pictures(FirstSize(), *_end()),
}
WHOLE: dict[str, Callable[[], nn.Module]] = {
    "flattened": lambda: pictures(nn.Flatten(), nn.Linear(8 * 32 * 32, 4)),
    "positions": lambda: pictures(Positions(resampled=False), *_end()),
    "over positions": lambda: pictures(Tokens()),
    "by size": lambda: pictures(BySize(nn.Conv2d(8, 8, 1), training=False), *_end()),
    "by size in training": lambda: pictures(BySize(nn.Conv2d(8, 8, 1), training=True), *_end()),
    "one pixel": lambda: pictures(nn.MaxPool2d(16), nn.Conv2d(8, 8, 1), *_end()),
    "padded to a size": lambda: pictures(nn.ZeroPad2d(-12), nn.Conv2d(8, 8, 1), *_end()),
}


@pytest.mark.parametrize("name", [*SMALLER, *(f"whole {name}" for name in WHOLE)])
def test_pictures_are_reduced_where_the_network_does_the_same(name: str):
    torch.manual_seed(0)
    make = WHOLE[name[6:]] if name.startswith("whole ") else SMALLER[name]
    model, x = make().eval(), torch.randn(2, 3, 128, 128)
    before = copy.deepcopy(model)
    with undisturbed(model):
        less = reduced(model, x)
    assert tuple(less.shape) == ((2, 3, 128, 128) if name.startswith("whole ") else (2, 3, 64, 64))
    assert described(model, x, fast=True) == described(before, x, fast=False)
    for module, own in zip(before.modules(), model.modules(), strict=True):
        assert vars(module).keys() == vars(own).keys()
        assert getattr(own, "table", None) is None or not isinstance(own, FirstSize)
    for a, b in zip(before.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_sequence_is_reduced_with_its_mask():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.fc, self.out = nn.Embedding(9, 5), nn.Linear(5, 7), nn.Linear(7, 2)

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            x = self.fc(self.words(tokens)).relu() * mask[..., None]
            return self.out(x.sum(1) / mask.sum(1, True))

    torch.manual_seed(0)
    model, example = Masked().eval(), (torch.randint(0, 9, (3, 512)), torch.ones(3, 512))
    with undisturbed(model):
        assert [tuple(each.shape) for each in reduced(model, example)] == [(3, 64), (3, 64)]
        assert len(smallest(model, reduced(model, example))[0]) == 1
    assert [g.size for g in sentei.find_units(model, example)] == [5, 7]


class Steps(nn.Module):
    """A layer for each of a number of steps of the input."""

    def forward(self, x: Tensor) -> Tensor:
        total = x[:, 0]
        for step in range(1, x.shape[1]):
            total = total + x[:, step]
        return total


def test_a_loop_over_steps_is_not_cut_short():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(5, 6), Steps(), nn.Linear(6, 3)).eval(),
        torch.ones(1, 128, 5),
    )
    with undisturbed(model):
        assert reduced(model, x) is x


def test_samples_that_mix_and_fixed_numbers_of_samples_are_found_as_they_were():
    class Mixes(nn.Module):
        def __init__(self, count: int):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
            self.count = count

        def forward(self, x: Tensor) -> Tensor:
            assert len(x) == self.count
            x = self.a(x).reshape(self.count, -1)
            return self.b(F.batch_norm(x, None, None, training=True) + x.roll(1, 0))

    torch.manual_seed(0)
    model, x = Mixes(4).eval(), torch.randn(4, 5)
    assert described(model, x, fast=True) == described(model, x, fast=False)
    assert [g.size for g in sentei.find_units(model, x)] == [6]


def test_handles_of_hooks_remove_them_after_tracing():
    model, x = built("mlp")
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    seen: list[int] = []
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    sentei.find_units(model, x)
    handle.remove()
    seen.clear()
    model(x)
    assert not seen
