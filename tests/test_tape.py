"""Tapes against whole passes: networks that write in place, share storage, or hide what they do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import zoo
from sentei import Probe, find_units
from sentei.probe.choosing import listeners_of
from sentei.probe.engines.gates import Gates
from sentei.probe.engines.whole_passes import WholePasses

N, W = 7, 6


class Case(nn.Module):
    """Two layers of which the second reads the units of the first, and `between` and `after`."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, W), nn.Linear(W, W), nn.Linear(W, 4)
        self.skip, self.table = nn.Linear(5, W), torch.rand(W)
        self.register_buffer("scale", torch.rand(W))

    def forward(self, x):
        skip = self.skip(x)
        return self.fc3(self.rest(self.fc2(torch.tanh(self.fc1(x))), skip))

    def rest(self, y, skip):
        raise NotImplementedError


CASES = {}


def case(untaped=None):
    """Register a network, with the reason why its passes have no tape."""

    def register(rest):
        CASES[rest.__name__] = type(rest.__name__, (Case,), {"rest": rest}), untaped
        return rest

    return register


@case()
def residual_in_place(self, y, skip):
    skip += y
    return skip.relu_()


@case()
def read_before_and_after_it_is_overwritten(self, y, skip):
    first = y * skip
    skip.mul_(3).add_(y)
    return first + skip


@case()
def held_and_changed_later_by_a_call_that_does_not_depend(self, y, skip):
    first = y * skip
    skip.zero_()
    return first + skip + y


@case()
def written_into_zeros(self, y, skip):
    out = torch.zeros(len(y), W)
    out[:, : W // 2] = y[:, : W // 2]
    out[:, W // 2 :] = skip[:, W // 2 :]
    return out


@case()
def written_through_a_view(self, y, skip):
    y = y * 2
    y[:, 1:3].add_(skip[:, :2])
    y.view(-1)[::2] *= 0.5
    return y


@case()
def in_place_function(self, y, skip):
    return F.relu(F.dropout(y, 0.5, training=False), inplace=True) + skip


@case()
def an_output_argument(self, y, skip):
    out = torch.empty_like(skip)
    torch.add(y, skip, out=out)
    return out


@case()
def lists_and_dictionaries(self, y, skip):
    parts = torch.stack([y, skip, y.tanh()]).unbind(0)
    whole = torch.cat(tensors=[part[:, :2] for part in parts], dim=1)
    return whole * parts[2].amax(dim=1, keepdim=True)


@case()
def named_results(self, y, skip):
    values, indices = y.topk(3)
    return torch.cat([values, skip.gather(1, indices)], 1)


@case()
def shapes_are_asked(self, y, skip):
    rows, width = y.shape
    assert (y.dtype, y.dim(), len(y), y.is_contiguous()) == (skip.dtype, 2, rows, True)
    return y.new_ones(rows, width) * y.view(rows, width) + y.size(1) / y.numel()


@case()
def a_plain_attribute(self, y, skip):
    return y * self.table + skip * self.scale


@case()
def values_that_do_not_depend(self, y, skip):
    return y * skip.max().item() if skip.sum() > 0 else y * skip.min().item()


@case()
def a_unit_chosen_by_an_index(self, y, skip):
    return y[:, torch.arange(W).flip(0)] + skip[torch.arange(len(y)), y.argmax(1)][:, None]


@case()
def loops_over_a_tensor(self, y, skip):
    return torch.stack([row * (i + 1) for i, row in enumerate(y)]) + skip


@case()
def attributes_of_tensors(self, y, skip):
    return y.T.mT.data + skip.detach()


@case("reads values")
def control_flow(self, y, skip):
    return y if y.sum() > 0 else skip + y


@case("reads values")
def numbers(self, y, skip):
    return y * float(y.abs().max()) + skip


@case("shape of a result")
def chosen_rows(self, y, skip):
    some = y[y > 0]
    return skip + some.sum() / some.numel() + y


@case("no torch function|reads values")
def through_numpy(self, y, skip):
    return torch.from_numpy(y.detach().numpy() * 2) + skip


@case("no torch function|reads values")
def through_a_list(self, y, skip):
    return torch.Tensor(y.tolist()) + skip


@case("a view was changed")
def a_view_that_was_made_before(self, y, skip):
    view = skip.view(-1)
    skip += y
    return view.view_as(skip) * 2


@case("shares memory")
def written_into_a_view_of_what_does_not_depend(self, y, skip):
    first = y + skip
    view = skip.expand_as(y)
    view.add_(y)
    return first + view


@case("autocast")
def autocast_inside(self, y, skip):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = torch.mm(y, y.T)
    return z.float() @ skip


@case("inference mode")
def inference_mode_inside(self, y, skip):
    with torch.inference_mode():
        z = torch.sigmoid(y) * skip
    return z * 2


@pytest.mark.parametrize("name", CASES)
def test_a_tape_gives_what_whole_passes_give(name):
    torch.manual_seed(0)
    make, untaped = CASES[name]
    model = make().eval()
    x, y = torch.randn(N, 5), torch.randint(0, 4, (N,))
    taped, whole, reason = rises(model, x, y, units())
    assert torch.allclose(taped, whole, atol=1e-5)
    assert whole.abs().min() > 1e-4
    assert (
        (reason is None) if untaped is None else any(part in reason for part in untaped.split("|"))
    )


@cache
def units():
    """The units of the first layer, as tracing finds them where the second reads nothing else."""
    names = {"0": "fc1", "2": "fc2"}
    plain = nn.Sequential(nn.Linear(5, W), nn.Tanh(), nn.Linear(W, W))
    (group,) = find_units(plain, torch.randn(2, 5))
    return replace(
        group,
        name="fc1",
        producers=tuple(_renamed(part, names) for part in group.producers),
        listeners=tuple(_renamed(part, names) for part in group.listeners),
    )


def _renamed(part, names):
    module, _, kind = part.parameter.partition(".")
    return replace(part, parameter=f"{names[module]}.{kind}")


@torch.no_grad()
def rises(model, x, y, group):
    """The rises by a tape and by whole passes, and why there is no tape."""
    probe = Probe(model, (x, y), loss="cross_entropy")
    with probe.measuring() as recording:
        listeners, units = listeners_of(model, group), torch.arange(group.size)
        gates = Gates(recording, listeners)
        whole = WholePasses(recording, {name: (part,) for name, part in listeners.items()})
        (block,) = [block for _, block in recording.passes("kept")]
        return gates.rises(block, units), whole.rises(block, units), gates.untaped


@pytest.mark.parametrize("name", zoo.ZOO)
def test_networks_have_tapes(name):
    model, x = zoo.build(name)
    probe = Probe(model.eval(), (x, torch.zeros(len(x))), loss=lambda out, _: _summed(out, len(x)))
    with probe.measuring() as recording:
        # What a recurrent layer's weights read is not known; every network has other groups.
        plain = recording.survey.elsewhere.isdisjoint
        every = [listeners_of(model, group) for group in find_units(model, x)]
        known = [listeners for listeners in every if plain(listeners)]
        assert known
        for listeners in known:
            gates = Gates(recording, listeners)
            for _, block in recording.passes("kept"):
                gates.rises(block, torch.arange(2))
            assert gates.untaped is None


def _summed(out, count):
    own = [t for t in torch.utils._pytree.tree_leaves(out) if len(t) == count]
    return sum(t.flatten(1).tanh().sum(1) for t in own)


# Each takes two tensors of the same shape; returns one that may share their memory, or be one.
STEPS = {
    "add": torch.add,
    "product": lambda a, b: a * b.tanh(),
    "halves": lambda a, b: torch.cat([a.chunk(2, 1)[0], b.chunk(2, 1)[1]], 1),
    "flip": lambda a, b: a.flip(0) - b,
    "view": lambda a, b: a.view(-1).view_as(b),
    "slice": lambda a, b: a[: len(b)],
    "transposed": lambda a, b: a.mT.mT,
    "itself": lambda a, b: F.dropout(a, 0.1, training=False),
    "expanded": lambda a, b: a.expand_as(b),
    "broadcast": lambda a, b: torch.broadcast_tensors(a, b)[1],
    "add_": lambda a, b: a.add_(b),
    "tanh_": lambda a, b: a.tanh_(),
    "copy_": lambda a, b: a.copy_(b),
    "zero_": lambda a, b: a.zero_(),
    "columns +=": lambda a, b: (
        a[:, 1:3].add_(b[:, :2])
        if a is b
        else a.index_add_(1, torch.tensor([0, 2]), b[:, :2].clone())
    ),
    "rows =": lambda a, b: _assigned(a, b),
    "out=": lambda a, b: torch.sub(a, b, out=torch.empty_like(a)),
}


def _assigned(a, b):
    a[1::2] = b[1::2] * 0.5
    return a


def _runs(model, x):
    try:
        return model(x) is not None
    except RuntimeError:  # such as a write into memory that overlaps itself
        return False


class Program(Case):
    """A random program over tensors, of which some depend on the units and some do not."""

    def __init__(self, lines):
        super().__init__()
        self.lines = lines

    def rest(self, y, skip):
        pool = [y, skip, torch.zeros_like(skip)]
        for step, a, b in self.lines:
            found = STEPS[step](pool[a % len(pool)], pool[b % len(pool)])
            pool.append(found[:, :W] if found.shape[1] >= W else found.repeat(1, 3)[:, :W])
        return sum(each.tanh() for each in pool)


LINES = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9)), max_size=8
)


@settings(max_examples=150, deadline=None)
@given(LINES, st.integers(0, 3))
def test_random_programs(lines, seed):
    torch.manual_seed(seed)
    model = Program(lines).double().eval()
    x, y = torch.randn(N, 5).double(), torch.randint(0, 4, (N,))
    assume(_runs(model, x))
    taped, whole, reason = rises(model, x, y, units())
    event(f"taped: {reason or 'yes'}")
    assert torch.allclose(taped, whole, atol=1e-9)
