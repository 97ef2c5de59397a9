"""Networks that are no row of layers: what is followed, what is refused, where activations are."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import sentei
from c_networks import Steps
from sentei.errors import StructureError
from sentei.formats.c.compiled import Compiled, compiler
from sentei.network.encoding.blocks import Block, final
from sentei.network.encoding.converting import stages
from sentei.network.encoding.evaluating import evaluated
from sentei.network.encoding.memory import places
from sentei.network.encoding.size import ram_in
from sentei.network.encoding.stages import Recurrent, Sum
from sentei.network.mask import Mask

needs_cc = pytest.mark.skipif(compiler() is None, reason="no C compiler on this machine")


class Own(nn.Module):
    """A network whose code between two layers is given: `code(self, x)` on what `first` returns."""

    def __init__(self, code, last=48):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm(4)
        self.second, self.last = nn.Conv2d(4, 4, 1), nn.Linear(last, 2)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.code = code

    def forward(self, x):
        y = self.code(self, self.first(x))
        return self.last(y.flatten(1))


X = torch.randn(5, 3, 4, 3, generator=torch.Generator().manual_seed(0))

FOLLOWED = {
    "a function for a layer": (lambda m, y: F.leaky_relu(y, 0.2), 48),
    "a method": (lambda m, y: y.tanh(), 48),
    "a clamp": (lambda m, y: y.clamp(min=-0.5, max=0.25), 48),
    "pooling": (lambda m, y: F.max_pool2d(y, 2, stride=1), 24),
    "mean pooling": (lambda m, y: F.avg_pool2d(y, (2, 3)), 8),
    "adaptive pooling": (lambda m, y: F.adaptive_avg_pool2d(y, 1), 4),
    "a mean": (lambda m, y: y.mean([-1, -2]), 4),
    "a mean with dimensions kept": (lambda m, y: y.mean((2, 3), keepdim=True), 4),
    "a sum": (lambda m, y: y + m.second(y), 48),
    "a sum of one value": (lambda m, y: torch.add(y, y), 48),
    "a sum in place": (lambda m, y: m.second(y).add_(y), 48),
    "three branches": (lambda m, y: torch.cat([y, m.second(y), y.relu()], 1), 144),
    "from the end": (lambda m, y: torch.cat([y, y.sigmoid()], dim=-3), 96),
    "a layer that is used twice": (lambda m, y: m.second(m.second(y)), 48),
    "some channels": (lambda m, y: y[:, 1:3], 24),
    "one channel": (lambda m, y: y[:, -1], 12),
    "other shapes": (lambda m, y: y.view(-1, 4, 12)[:, None].squeeze(1).reshape(len(y), -1), 48),
    "dropout": (lambda m, y: F.dropout(y, 0.5, m.training), 48),
    "dead code": (lambda m, y: (m.norm(y.mean((2, 3))), y)[1], 48),
    "a signal, exchanged": (lambda m, y: y.flatten(2).transpose(1, 2).relu(), 48),
}


COMPILED = (
    *("a sum", "three branches", "some channels", "one channel", "a layer that is used twice"),
    *("a mean with dimensions kept", "a signal, exchanged"),
)


def followed(name):
    """The network, and its outputs for X; its stages compute the same."""
    code, last = FOLLOWED[name]
    torch.manual_seed(1)
    model = Own(code, last).eval()
    with torch.no_grad():
        wanted = model(X)
    torch.testing.assert_close(evaluated(stages(model, (3, 4, 3)), X), wanted)
    return model, wanted


@pytest.mark.parametrize("name", sorted(FOLLOWED.keys() - set(COMPILED)))
def test_what_a_networks_own_code_computes_is_followed(name):
    followed(name)


@needs_cc
@pytest.mark.parametrize("name", COMPILED)
def test_what_is_no_row_of_layers_is_the_same_in_c(name, tmp_path):
    model, wanted = followed(name)
    sentei.export(model, tmp_path / "net.c", X)
    compiled = Compiled(tmp_path / "net.c", "-O0")
    torch.testing.assert_close(compiled(X), wanted, atol=1e-5, rtol=0)


REFUSED = {
    "a product": (lambda m, y: y * m.second(y), "'mul'|'__mul__'"),
    "a parameter": (lambda m, y: y + m.scale, "'add'|'__add__'"),
    "a number": (lambda m, y: y + 1, "'add'|'__add__'"),
    "another norm": (lambda m, y: m.norm(y.flatten(2).transpose(1, 2)), "'norm' is a LayerNorm"),
    "values": (lambda m, y: y if y.sum() > 0 else -y, "'sum'"),
    "channels in another order": (lambda m, y: y[:, [1, 0, 2, 3]], "__getitem__"),
    "width before height": (lambda m, y: y.transpose(2, 3), "'transpose'"),
    "a sum that is broadcast": (lambda m, y: y + y.mean((2, 3), keepdim=True), "'__add__'|'add'"),
    "joined along the height": (lambda m, y: torch.cat([y, y], 2), "'cat'"),
    "a factor": (lambda m, y: torch.add(y, m.second(y), alpha=2), "'add'"),
    "other samples": (lambda m, y: y.flatten(0, 1), "'flatten'"),
    "changed through a view": (lambda m, y: (y.flatten(1).mul_(1), y)[1], "'mul_'"),
    "changed through another": (lambda m, y: (y.flatten(1).relu_(), m.second(y))[1], "in place"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_with_its_name(name, tmp_path):
    code, words = REFUSED[name]
    with pytest.raises(StructureError, match=words):
        sentei.export(Own(code).eval(), tmp_path / "net.c", X)
    assert not [*tmp_path.iterdir()]


def test_code_that_depends_on_the_number_of_samples_is_found_out(tmp_path):
    model = Own(lambda m, y: y.relu() if len(y) == 7 else y.sigmoid()).eval()
    with pytest.raises(StructureError, match="do not compute what the network computes"):
        sentei.export(model, tmp_path / "net.c", X)


class Last(nn.Module):
    def __init__(self, layer, code):
        super().__init__()
        self.steps, self.code, self.out = layer, code, nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.code(self.steps(x)))


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        (nn.GRU(5, 6, batch_first=True), lambda found: found[0][:, -1]),
        (nn.GRU(5, 6, batch_first=True), lambda found: found[1][0]),
        (nn.GRU(5, 6, 2, batch_first=True, bias=False), lambda found: found[1][-1]),
        (nn.LSTM(5, 6, batch_first=True), lambda found: found[1][0].squeeze(0)),
        (nn.LSTM(5, 6, 3, batch_first=True), lambda found: found[0].mean(1)),
        (nn.RNN(5, 6, batch_first=True), lambda found: found[0][:, 2]),
        (nn.RNN(5, 6, 1, "relu", batch_first=True), lambda found: found[1].reshape(-1, 6)),
    ],
)
@needs_cc
def test_recurrent_layers(layer, code, tmp_path):
    torch.manual_seed(2)
    model, x = Last(layer, code).eval(), torch.randn(20, 9, 5)
    sentei.export(model, tmp_path / "net.c", x)
    with torch.no_grad():
        wanted = model(x)
    got = Compiled(tmp_path / "net.c", "-O0")(x)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("layer", "code", "words"),
    [
        (nn.GRU(5, 3, batch_first=True, bidirectional=True), lambda f: f[0][:, -1], "both direc"),
        (nn.GRU(5, 6), lambda f: f[0][:, -1], "batch_first=False"),
        (nn.LSTM(5, 9, batch_first=True, proj_size=6), lambda f: f[0][:, -1], "projects"),
        (nn.LSTM(5, 6, batch_first=True), lambda f: f[1][1][0], "not what a layer returned|calls"),
        (nn.LSTM(5, 6, 2, batch_first=True), lambda f: f[1][0][0], "'__getitem__'"),
    ],
)
def test_other_recurrent_layers_are_refused(layer, code, words, tmp_path):
    with pytest.raises(StructureError, match=words):
        sentei.export(Last(layer, code).eval(), tmp_path / "net.c", torch.randn(4, 9, 5))


def test_only_the_last_state_is_kept_where_no_other_is_read():
    """16 of the convolution's outputs for each of 11 steps, and 16 states, or 16 for each step."""
    every, last = (Steps(nn.GRU, layers) for layers in (2, 1))
    x = torch.randn(1, 3, 25)
    (found,) = [s for s in stages(last, (3, 25)) if isinstance(s, Recurrent)]
    assert found.leaving == (1, 1, 6)
    assert found.gates == 18
    # Signal, exchanged signal: 2 x 55; state, and both products of 18 gates: 6 + 2 x 18.
    assert ram_in(last, Mask.full([]), "c", x) == 4 * (2 * 55 + 6 + 36)
    # The first layer's states, 11 x 6, are where the signal was, beside the exchanged signal.
    assert ram_in(every, Mask.full([]), "c", x) == 4 * (55 + 66 + 6 + 36)


# Where activations are.


@st.composite
def graphs(draw):
    """Blocks that each read one or two earlier ones, all of them needed, of random sizes."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    blocks = []
    for index, size in enumerate(sizes):
        earlier = st.integers(-1, index - 1)
        sources = (index - 1, *draw(st.lists(earlier, max_size=1)))
        blocks.append(Block(Sum("s", (size,), (size,)), sources=sources))
    return blocks


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_what_is_needed_at_one_time_does_not_overlap(blocks):
    begins, length = places(blocks)
    count = final(blocks)
    assert len(begins) == count == len(blocks) - 1
    memory = {}
    for index, block in enumerate(blocks):
        for source in block.sources:
            if source >= 0:
                begin = begins[source]
                assert all(memory[begin + k] == source for k in range(blocks[source].out))
        if index < count:
            assert begins[index] + block.out <= length
            memory |= {begins[index] + k: index for k in range(block.out)}
    # It is no longer than all together, and holds each block with the one that reads it.
    assert length <= sum(block.out for block in blocks[:count])
    assert length >= max((a.out + b.out for a, b in pairwise(blocks[:count])), default=0)


def test_a_row_takes_its_two_largest_neighbours():
    widths = (30, 10, 20, 40, 5, 9)
    blocks = [Block(Sum("s", (n,), (n,)), sources=(k - 1,)) for k, n in enumerate(widths)]
    assert places(blocks)[1] == 20 + 40
