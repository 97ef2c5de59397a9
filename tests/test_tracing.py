"""find_units against small networks by hand and against tracing one unit at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sentei
import zoo
from sentei.errors import DataError, StructureError
from sentei.network.example import tensors
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.decoding import Tracer
from sentei.network.tracing.grouping import groups
from sentei.network.tracing.replay import OUTPUT
from sentei.network.tracing.tracing import find_units, record, undisturbed
from sentei.network.units import Neurons

Node = tuple[str, int, int]  # parameter, dimension, position


def units_of(groups: Iterable[Neurons]) -> set[frozenset[Node]]:
    """Return each unit as the set of its rows, norm entries and columns."""
    return {
        frozenset(
            (part.parameter, part.dim, int(position))
            for part in (*group.producers, *group.followers, *group.listeners)
            for position in part.index[unit]
        )
        for group in groups
        for unit in range(group.size)
    }


def traced(model: nn.Module, example: Tensor, *, inputs: bool = False) -> list[Neurons]:
    """Return all groups of units, whether they can be cut or not."""
    with undisturbed(model):
        tracer = Tracer(record(model, example, inputs=inputs)[0])
        tracer.trace()
    return groups(tracer)


def components(hears: dict[Node, set[Node]]) -> list[set[Node]]:
    found: list[set[Node]] = []
    for row, columns in hears.items():
        new = {row} | columns
        touching = [part for part in found if part & new]
        found = [part for part in found if not part & new] + [new.union(*touching)]
    return found


Places = set[tuple[str, int]]


def offered(parts: list[set[Node]], rows: Places, columns: Places, banned: set[Node]) -> set:
    """Return the units to be offered: apply the rules to the parts (connected components)."""
    alive = []
    for part in parts:
        places = {node[:2] for node in part}
        if places & rows and places & columns and not part & banned:
            alive.append(frozenset(part))
    alike = defaultdict(list)
    for part in alive:
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for name, dim, _ in part:
            counts[name, dim] += 1
        alike[tuple(sorted(counts.items()))].append(part)
    return {
        part
        for counts, group in alike.items()
        if len(group) > 1 or all(n == 1 for place, n in counts if place in rows)
        for part in group
    }


# One row at a time, by hooks on modules: nothing here knows of codes, calls or torch functions.


class Hooked:
    """A network whose layers return recorded outputs, with NaN in one row of one weight."""

    def __init__(self, model: nn.Module, example: Tensor):
        self.model, self.example = model.eval(), example[:2]
        self.names: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.names.setdefault(id(parameter), name)
        self.hot: Node | None = None
        self.recorded: list[Tensor] = []
        self.heard: set[Node] = set()
        self.in_step: dict[Node, set[Node]] = defaultdict(set)
        self.rows: dict[tuple[str, int], int] = {}
        self.columns: Places = set()
        for layer in model.modules():
            mixing = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)
            depthwise = getattr(layer, "groups", 1) > 1 and layer.weight.shape[1] == 1
            if isinstance(layer, mixing) and not depthwise:
                layer.register_forward_hook(self.answer)
            if isinstance(layer, nn.LayerNorm):
                layer.register_forward_hook(self.pass_on)
        self.moments: list[tuple[Tensor, Tensor]] = []
        self.recording = True
        model(self.example)
        self.recording = False

    def answer(self, layer: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
        weight = self.names[id(layer.weight)]
        conv, turned = (
            isinstance(layer, (nn.Conv1d, nn.Conv2d)),
            isinstance(layer, nn.ConvTranspose2d),
        )
        axis = 1 if conv or turned else out.ndim - 1
        dim = 1 if turned or isinstance(layer, nn.Embedding) else 0
        rows, columns = layer.weight.shape[dim], layer.weight.shape[1 - dim]
        groups = getattr(layer, "groups", 1)
        if self.recording:
            self.recorded.append(out.clone())
            self.rows[weight, dim] = rows
            if not isinstance(layer, nn.Embedding):
                self.columns.add((weight, 1 - dim))
            step, d = (rows // groups, dim) if conv else (columns // groups, 1 - dim)
            for n in range(step * groups if groups > 1 else 0):
                self.in_step[weight, d, n] |= {(weight, d, n % step)}
            return out
        if not isinstance(layer, nn.Embedding):
            bad = args[0].isnan().transpose(0, axis).flatten(1).any(1)
            self.heard |= {(weight, 1 - dim, int(c) % columns) for c in bad.nonzero()}
        out = self.recorded[self.at].clone()
        self.at += 1
        if self.hot and self.hot[:2] == (weight, dim):
            out.transpose(0, axis)[self.hot[2] :: rows] = torch.nan
        return out

    def pass_on(self, norm: nn.LayerNorm, args: tuple[Tensor], out: Tensor) -> Tensor:
        """Answer a layer norm with its recorded mean and deviation: a stream passes one by one."""
        if self.recording:
            spread = args[0].var(-1, correction=0, keepdim=True)
            self.moments.append((args[0].mean(-1, keepdim=True), (spread + norm.eps).sqrt()))
            return out
        mean, deviation = self.moments[self.norms]
        self.norms += 1
        return (args[0] - mean) / deviation * norm.weight + norm.bias

    @torch.no_grad()
    def hears(self, hot: Node | None) -> set[Node]:
        self.hot, self.at, self.norms, self.heard = hot, 0, 0, set()
        example = self.example if hot else self.example * torch.nan
        out = tensors(self.model(example))
        if any(bool(t.isnan().any()) for t in out):
            self.heard.add(("out", 0, 0))
        return self.heard


# The others have attention or recurrent layers, which hide theirs from hooks.
MODULAR = [n for n in zoo.ZOO if not n.startswith(("torch_", "recurrent"))]


@pytest.mark.parametrize("name", MODULAR)
def test_units_are_those_of_poisoning_one_row_at_a_time(name: str):
    model, x = zoo.build(name)
    found = traced(model, x)
    hooked = Hooked(model, x)
    hears: dict[Node, set[Node]] = {
        (weight, dim, row): hooked.hears((weight, dim, row))
        for (weight, dim), count in hooked.rows.items()
        for row in range(count)
    }
    banned = hooked.hears(None) if x.is_floating_point() else set()
    parts = components(
        {n: hears.get(n, set()) | hooked.in_step[n] for n in {*hears, *hooked.in_step}}
    )
    expected = offered(parts, set(hooked.rows), hooked.columns, banned | {("out", 0, 0)})
    weights = {weight for weight, _ in hooked.rows}
    units = units_of(found)
    bare = {frozenset(n for n in unit if n[0] in weights) for unit in units}
    assert bare == expected
    assert sum(group.size for group in found) == len(expected)


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_codes_find_what_single_rows_find(name: str, inputs: bool):
    """Tracing one row at a time gives the same result as tracing with fewer passes."""
    model, x = zoo.build(name)
    found = units_of(traced(model, x, inputs=inputs))
    hears: dict[Node, set[Node]] = defaultdict(set)
    with undisturbed(model):
        replay, _ = record(model, x, inputs=inputs)
        for (weight, dim), source in replay.sources.items():
            for row in range(len(source.codes)):
                heard = replay.nan_columns({(weight, dim): np.arange(len(source.codes)) == row})
                for place, part in replay.readers.items():
                    for column in np.flatnonzero(heard[part]):
                        node = (*OUTPUT, 0) if place == OUTPUT else (*place, int(column))
                        hears[weight, dim, row] |= {node}
    own = {node for unit in found for node in unit}
    for part in components(hears):
        columns = {n for n in part if n[:2] in replay.listeners}
        if part & own:
            whole = [unit for unit in found if unit & part]
            assert len(whole) == 1, f"{name}: split {part}"
            assert columns <= whole[0]
    for unit in found:  # nothing is joined without a reason: rows of a unit are linked by columns
        touching = [part for part in components(hears) if part & unit]
        stepped = any(place in replay.in_step for place in {n[:2] for n in unit})
        assert len(touching) == 1 or stepped


# Hand-sized networks.


def test_an_mlp_has_its_rows_biases_norms_and_columns():
    model, x = zoo.build("mlp_norm")
    first, second = find_units(model, x)
    assert (first.name, first.kind, first.size) == ("0", "neuron", 6)
    assert [p.parameter for p in first.producers] == ["0.weight", "0.bias"]
    assert {p.parameter for p in first.followers} == {
        "1.weight", "1.bias", "1.running_mean", "1.running_var",
    }  # fmt: skip
    assert [(p.layer, p.parameter, p.dim) for p in first.listeners] == [("4", "4.weight", 1)]
    assert first.listeners[0].index.tolist() == [[0], [1], [2], [3], [4], [5]]
    assert first.listeners[0].index.dtype == torch.int64
    assert [p.parameter for p in second.followers] == ["5.weight"]


def test_a_flattened_channel_owns_a_block_of_columns_and_a_permuted_one_a_stride():
    model, x = zoo.build("lenet")
    assert find_units(model, x)[1].listeners[0].index[2].tolist() == [8, 9, 10, 11]
    model, x = zoo.build("permuted_flatten")
    assert find_units(model, x)[0].listeners[0].index[2].tolist() == [2, 7, 12, 17]


def test_a_head_has_its_rows_of_query_key_and_value():
    model, x = zoo.build("vit")
    head = next(group for group in find_units(model, x) if group.kind == "head")
    assert (head.name, head.kind, head.size) == ("attend.0.qkv", "head", 3)
    assert head.producers[0].index[1].tolist() == [4, 5, 6, 7, 16, 17, 18, 19, 28, 29, 30, 31]
    assert head.listeners[0].index[1].tolist() == [4, 5, 6, 7]
    model, x = zoo.build("torch_transformer")
    found = [(g.name, g.kind, g.size) for g in find_units(model, x)]
    assert found[:3] == [
        ("embed", "stream", 8),
        ("encoder.layers.0.self_attn", "head", 2),
        ("encoder.layers.0.linear1", "neuron", 10),
    ]


def test_a_head_of_torch_attention_on_another_width_has_its_biases():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, kdim=5, vdim=3, batch_first=True)

        def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self.attend(x, keys, values)[0]

    example = torch.randn(2, 3, 8), torch.randn(2, 4, 5), torch.randn(2, 4, 3)
    (heads,) = find_units(Cross(), example)
    assert (heads.name, heads.kind, heads.size) == ("attend", "head", 2)
    (bias,) = (p for p in heads.followers if p.parameter == "attend.in_proj_bias")
    assert bias.index[1].tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]


def test_gates_from_one_layer_are_one_neuron_not_a_head():
    model, x = zoo.build("chunk")
    (group,) = find_units(model, x)
    assert (group.kind, group.size) == ("neuron", 7)
    assert group.producers[0].index[:2].tolist() == [[0, 7], [1, 8]]


def test_a_residual_stream_is_one_group_with_all_its_producers():
    model, x = zoo.build("residual")
    stream = find_units(model, x)[0]
    assert (stream.name, stream.kind, stream.size) == ("0", "channel", 4)
    assert [p.parameter for p in stream.producers] == ["0.weight", "3.conv2.weight"]


def test_depthwise_rows_follow_their_channel():
    model, x = zoo.build("separable")
    first, second = find_units(model, x)
    assert ("3.weight", 0) in {(p.parameter, p.dim) for p in first.followers}
    (wide,) = (p for p in second.followers if p.parameter == "8.weight")
    assert wide.index.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert second.listeners[0].index.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_channels_of_a_normalisation_group_go_together():
    model, x = zoo.build("group_norm")
    group = find_units(model, x)[0]
    assert (group.kind, group.size) == ("channel", 4)
    assert group.producers[0].index.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_one_layer_that_feeds_two_places_has_two_groups():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.a, self.b = nn.Linear(3, 6), nn.Linear(2, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x).relu()
            return self.a(x[:, :2]) + self.b(x[:, 2:])

    found = find_units(Halves(), torch.randn(3, 3))
    assert [(g.name, g.size) for g in found] == [("fc:2", 4)]  # the other's end is a constant
    assert found[0].producers[0].index.tolist() == [[2], [3], [4], [5]]


def test_a_layer_of_one_unit_is_offered_and_a_layer_mixed_into_one_is_not():
    one = nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 3))
    assert [(g.name, g.size) for g in find_units(one, torch.randn(2, 4))] == [("0", 1)]
    mixed = nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1), nn.Linear(5, 3))
    assert find_units(mixed, torch.randn(2, 4)) == []


def test_a_unit_that_is_an_output_is_not_offered():
    model, x = zoo.build("two_outputs")
    features = find_units(model, x)[1]
    assert features.producers[0].index.tolist() == [[2], [3], [4]]

    @dataclass
    class Answer:
        logits: Tensor
        state: Tensor

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Answer:
            state = self.a(x).relu()
            return Answer(self.b(state), state)

    assert find_units(Wrapped(), torch.randn(2, 3)) == []


def test_a_unit_added_to_the_input_is_not_offered():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.g(x + self.f(x).relu())

    assert find_units(Skip(), torch.randn(2, 4)) == []


def test_a_mask_that_all_units_read_alike_binds_none_of_them():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.fc = nn.Embedding(9, 5), nn.Linear(5, 2)

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            return self.fc((self.words(tokens) * mask[..., None]).sum(1) / mask.sum(1, True))

    example = torch.randint(0, 9, (3, 4)), torch.ones(3, 4)
    assert [(g.name, g.size) for g in find_units(Masked(), example)] == [("words", 5)]


# Inputs.


def test_input_features_are_a_group_when_asked_for():
    model, x = zoo.build("mlp")
    group = find_units(model, x, inputs=True)[0]
    assert (group.name, group.kind, group.size, group.producers) == ("input", "input", 4, ())
    assert group.listeners[0].index.tolist() == [[0], [1], [2], [3]]


def test_an_input_image_is_removed_by_channel():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    group = find_units(model, torch.randn(2, 3, 40, 40), inputs=True)[0]
    assert (group.kind, group.size) == ("input", 3)
    assert group.listeners[0].index.tolist() == [[0], [1], [2]]


def test_selected_inputs_follow_the_input():
    class Select(nn.Module):
        index: Tensor

        def __init__(self, index: list[int]):
            super().__init__()
            self.register_buffer("index", torch.tensor(index))

        def forward(self, x: Tensor) -> Tensor:
            return torch.index_select(x, -1, self.index)

    model = nn.Sequential(
        nn.Sequential(Select([3, 1, 4]), nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2)
    )
    inputs, hidden = find_units(model, torch.randn(2, 6), inputs=True)
    assert inputs.size == 3
    assert inputs.followers[0].parameter == "0.0.index"
    # Units are in the order of the input's elements: 1, 3, 4.
    assert inputs.followers[0].index.tolist() == [[1], [0], [2]]
    assert inputs.listeners[0].index.tolist() == [[1], [0], [2]]
    assert hidden.name == "0.1"


def test_arguments_are_called_by_their_names():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.c(torch.relu(self.a(left) + self.b(right)))

    model, left, right = Two(), torch.randn(3, 3), torch.randn(3, 2)
    for example in ((left, right), {"right": right, "left": left}):
        found = find_units(model, example, inputs=True)
        assert {(g.name, g.kind, g.size) for g in found} == {
            ("left", "input", 3), ("right", "input", 2), ("a", "neuron", 4),
        }  # fmt: skip


# Types, state and refusals.


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["lenet", "vit", "group_norm"])
def test_other_dtypes_have_the_same_units(name: str, dtype: torch.dtype):
    model, x = zoo.build(name)
    expected = units_of(find_units(model, x))
    assert units_of(find_units(model.to(dtype), x.to(dtype))) == expected


def heads_of(heads: int):
    torch.manual_seed(0)
    model = nn.Sequential(zoo.Attention(60, heads, fused=False), nn.Linear(60, 2))
    return [g for g in find_units(model, torch.randn(2, 3, 60)) if g.kind == "head"]


def test_a_single_head_is_no_group():
    assert heads_of(1) == []


@pytest.mark.parametrize("heads", [4, 5, 6, 10])
def test_heads_of_any_width_are_found(heads: int):
    found = heads_of(heads)
    assert [(g.name, g.size) for g in found] == [("0.q", heads)]
    wanted = torch.arange(60).reshape(heads, -1)
    for part in (*found[0].producers, *found[0].listeners):
        assert torch.equal(part.index, wanted)


def test_everything_about_the_model_is_left_as_it_was():
    model, x = zoo.build("mlp_norm")
    model.train()
    model[1].eval()
    model(x).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    kept = x.clone()
    find_units(model, x, inputs=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))
    assert torch.equal(x, kept)
    with pytest.raises(DataError):
        find_units(model, torch.randn(2, 5))
    assert [m.training for m in model.modules()] == modes


SWALLOWING = {
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "nan_to_num": torch.nan_to_num,
    "a comparison": lambda x: (x > 0).to(x.dtype),
    "an order": lambda x: x.argsort(-1).to(x.dtype),
    "the largest": lambda x: F.one_hot(x.argmax(-1), x.shape[-1]).to(x.dtype),
}


@pytest.mark.parametrize("name", SWALLOWING)
def test_units_behind_an_operation_that_swallows_nan_are_not_offered(name):
    class Swallowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = SWALLOWING[name](self.a(x))
            return self.c(F.silu(self.b(x)))

    torch.manual_seed(0)
    net, x = Swallowing(), torch.randn(3, 4)
    (group,) = find_units(net, x)
    assert (group.name, group.size) == ("b", 6)
    reasons = {entry.parameter: entry.reason for entry in sentei.not_offered(net, x)}
    assert reasons.keys() == {"a.weight", "c.weight"}
    assert "does not propagate NaN" in reasons["a.weight"]


class Experts(nn.Module):
    """Each token is given to one of several experts, whose matrices lie in one tensor."""

    def __init__(self):
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(5, 16), nn.Linear(16, 4), nn.Linear(16, 3)
        self.up = nn.Parameter(torch.randn(4, 24, 16) / 4)
        self.down = nn.Parameter(torch.randn(4, 16, 24) / 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x)).reshape(-1, self.stem.out_features)
        weight, expert = self.router(x).softmax(-1).max(-1)
        order = expert.argsort(stable=True)
        ends = torch.bincount(expert, minlength=4).cumsum(0).to(torch.int32)
        y = F.grouped_mm(x[order], self.up.mT, offs=ends)
        y = F.grouped_mm(F.silu(y), self.down.mT, offs=ends)
        return self.head((y * weight[order, None])[order.argsort()])


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="torch is too old for grouped products")
@pytest.mark.parametrize("tokens", [3, 40])  # three tokens leave experts without any
def test_experts_of_one_tensor_are_cut_together(tokens):
    torch.manual_seed(0)
    net, x = Experts(), torch.randn(tokens, 5)
    groups = find_units(net, x)
    assert [(g.name, g.size) for g in groups] == [("stem", 16), ("up", 24), ("down", 16)]
    parts = [*groups[1].producers, *groups[1].listeners]
    assert [(part.parameter, part.dim) for part in parts] == [("up", 1), ("down", 2)]
    # torch's grouped products take widths that are multiples of 16 bytes
    mask = Mask.full(groups).without({g: [1, 4, 6, g.size - 1] for g in groups})
    small = shrink(net, mask, x)
    assert small.up.shape == (4, 20, 12)
    assert small.down.shape == (4, 12, 20)
    mask.apply_(net)
    assert torch.allclose(small(x), net(x), atol=1e-5)
    reasons = {entry.parameter: entry.reason for entry in sentei.not_offered(net, x)}
    assert "router" in reasons["router.weight"]


def test_weights_used_by_a_plain_matrix_product_are_followed():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6, 2))
            self.shift = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.matmul(torch.tanh(x @ self.a + self.shift), self.b)

    (group,) = find_units(Product(), torch.randn(3, 4))
    assert (group.name, group.kind, group.size) == ("a", "neuron", 6)
    assert [(p.parameter, p.dim) for p in group.producers] == [("a", 1)]
    assert [(p.parameter, p.dim) for p in group.followers] == [("shift", 0)]
    assert [(p.parameter, p.dim) for p in group.listeners] == [("b", 0)]


def test_a_network_whose_calls_depend_on_values_is_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(self.b(x) if bool(x.sum() == x.sum()) else x)

    with pytest.raises(StructureError, match="same calls"):
        find_units(Fickle(), torch.randn(3, 4))


def test_models_that_cannot_be_followed_are_refused():
    with pytest.raises(DataError, match="must run through the model"):
        find_units(nn.Linear(3, 2), torch.randn(2, 4))
    with pytest.raises(StructureError, match="lazy"):
        find_units(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), torch.randn(2, 3))
    with pytest.raises(StructureError, match="no use of a weight"):
        find_units(nn.Sequential(nn.Flatten(), nn.ReLU()), torch.randn(2, 3))


@pytest.mark.parametrize(
    "activation",
    [F.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.gelu, F.softplus, F.softshrink,
     F.hardshrink, F.threshold, F.leaky_relu, F.selu, F.logsigmoid, torch.abs, torch.sign],
)  # fmt: skip
def test_activations_carry_poison_or_are_refused(activation):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 20), nn.Linear(20, 2)

        def forward(self, x: Tensor) -> Tensor:
            arguments = (0.0, 0.0) if activation is F.threshold else ()
            return self.b(activation(self.a(x), *arguments))

    torch.manual_seed(0)
    try:
        found = find_units(Net(), torch.randn(3, 4))
    except StructureError:
        found = []  # see test_units_behind_an_operation_that_swallows_nan_are_refused
    refused = activation is torch.sign
    assert [(g.name, g.size) for g in found] == ([] if refused else [("a", 20)])


def test_an_emptied_layer_is_followed_and_offers_nothing():
    model, x = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid(), nn.Linear(1, 2)), torch.randn(3, 4)
    (unit,) = find_units(model, x)
    empty = shrink(model, Mask.full([unit]).without({unit: [0]}), example=x)
    assert find_units(empty, x) == []
    (pixels,) = find_units(empty, x, inputs=True)
    assert pixels.size == 4
