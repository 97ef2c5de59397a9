"""Masks: immutable values, and their effect on weights and optimizers."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

from hand import group, hidden, inputs, mlp
from sentei.errors import GroupError
from sentei.network.belonging import members_of
from sentei.network.mask import Mask
from sentei.network.units import Listener, Neurons, Synapses, find_synapses


def test_a_mask_is_a_value():
    one = group("0", 3, "2")
    full = Mask.full([one])
    cut = full.without({one: [1]})
    assert full.alive(one).tolist() == [True, True, True]
    assert cut.alive(one).tolist() == [True, False, True]
    assert (cut.count(one), cut.dead(one).tolist()) == (2, [1])
    assert cut.with_({one: torch.tensor([1])}) == full
    assert cut == full.without({group("0", 3, "2"): torch.tensor([1])})
    assert len({cut, full.without({one: [1]}), full}) == 2
    cut.alive(one).fill_(True)  # a copy: the mask does not change
    assert cut.count(one) == 2
    with pytest.raises(FrozenInstanceError):
        cut.unread = {}


def test_masks_are_equal_if_the_same_members_are_dead():
    one, two = group("0", 3, "2"), group("2", 4, "4")
    assert Mask.full([one]) == Mask.full([one, two]) == Mask.full([])
    assert Mask.full([one, two]).without({one: [0]}) == Mask.full([one]).without({one: [0]})
    assert Mask.full([one]).without({one: [0]}) != Mask.full([one])
    # As many dead members, but others; or in another group.
    assert Mask.full([one]).without({one: [0]}) != Mask.full([one]).without({one: [1]})
    both = Mask.full([one, two])
    assert both.without({one: [0]}) != both.without({two: [0]})
    assert both.without({one: [0]}) != both.without({one: [0], two: [0]})
    assert both.without({one: [0], two: [3]}) == Mask.full([two, one]).without({two: [3], one: [0]})
    assert Mask.full([one]) != "Mask()"
    assert hash(both.without({one: [0]})) == hash(Mask.full([one]).without({one: [0]}))
    assert len({both.without({one: [at]}) for at in (0, 1, 2)}) == 3


def test_joining_adds_what_is_dead_in_either():
    one, two, three = group("0", 3, "2"), group("2", 4, "4"), group("4", 5, "6")
    own = Mask.full([one, two]).without({one: [0]})
    other = Mask.full([two, one, three]).without({one: [0, 2], two: [3]})
    joined = own.joined(other)
    assert {g.name: joined.dead(g).tolist() for g in joined.groups} == {"0": [0, 2], "2": [3]}
    assert own.dead(two).tolist() == []  # the mask itself stays
    more = own.joined(other.without({three: [1, 4]}))
    assert [g.name for g in more.groups] == ["0", "2", "4"]
    assert more.dead(three).tolist() == [1, 4]
    assert own.joined(Mask.full([three])).groups == own.groups == (one, two)
    assert Mask.full([]).joined(own) == own


def test_what_died_since():
    one, two, three = group("0", 3, "2"), group("2", 4, "4"), group("4", 5, "6")
    before = Mask.full([one, two]).without({one: [0], two: [3]})
    now = Mask.full([two, one, three]).without({one: [0, 2], two: [1], three: [4, 0]})
    assert {g.name: p.tolist() for g, p in now.died_since(before).items()} == {
        "0": [2], "2": [1], "4": [0, 4],
    }  # fmt: skip
    assert {g.name: p.tolist() for g, p in before.died_since(now).items()} == {"2": [3]}
    assert now.died_since(now) == Mask.full([one]).died_since(now) == {}
    assert now.died_since(before)[two].dtype == torch.int64


def test_positions_of_a_models_members():
    model = mlp(4, 3, 2)
    (units,) = hidden(model)
    assert members_of(model, units).tolist() == [0, 1, 2]
    assert members_of(model, units, []).tolist() == []
    assert members_of(model, units, [2, 0]).tolist() == [2, 0]
    found = members_of(model, units, torch.tensor([[2], [1]], dtype=torch.int16))
    assert (found.tolist(), found.dtype) == ([2, 1], torch.int64)
    with pytest.raises(GroupError, match=r"run from 0 to 2; got \[3\]"):
        members_of(model, units, [0, 3])
    with pytest.raises(GroupError, match="not this model's"):
        members_of(mlp(4, 2, 2), units)


def test_members_at_both_ends_die_and_come_back():
    one = group("0", 3, "2")
    full = Mask.full([one])
    ends = full.without({one: torch.tensor([[2], [0]], dtype=torch.int32)})
    assert ends.alive(one).tolist() == [False, True, False]
    assert ends.dead(one).dtype == torch.int64
    assert ends.without({one: [1]}).count(one) == 0
    assert ends.with_({one: [2]}).dead(one).tolist() == [0]
    assert full.without({one: []}) == full.with_({one: torch.empty(0)}) == full


def test_an_equal_group_with_other_columns_is_the_masks_own():
    """Copies of a model have equal groups; the mask's columns count, not those of the copy."""
    one = group("0", 3, "2")
    turned = replace(
        one, listeners=(replace(one.listeners[0], index=torch.tensor([[2], [1], [0]])),)
    )
    mask = Mask.full([one]).without({turned: [0]})
    assert mask.groups[0] is one
    assert mask.unread["2.weight", 1].tolist() == [0]


def test_a_mask_in_words():
    one, synapses = group("0", 3, "2"), Synapses("2", 6000, "2.weight", (2, 3000))
    mask = Mask.full([one, synapses]).without({one: [1]})
    assert repr(mask) == "Mask(neuron '0': 2/3, synapse '2': 6000/6000)"
    page = mask._repr_html_()
    assert "neuron 0" in page
    assert "2 of 3" in page
    assert "6,000 of 6,000" in page


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([3], "run from 0 to 2; got \\[3\\]"),
        ([-1], "got \\[-1\\]"),
        (torch.tensor([True, False, True]), "nonzero"),
        (torch.tensor([0.5]), "integer positions"),
    ],
)
def test_positions_that_do_not_exist_are_refused(positions, message):
    one = group("0", 3, "2")
    with pytest.raises(GroupError, match=message):
        Mask.full([one]).without({one: positions})


def test_groups_the_mask_does_not_hold_are_refused():
    one = group("0", 3, "2")
    with pytest.raises(GroupError, match="does not hold neuron group '2' of size 4"):
        Mask.full([one]).without({group("2", 4, "4"): [0]})
    with pytest.raises(GroupError, match="pass each group once"):
        Mask.full([one, group("0", 3, "2")])


def test_who_is_asked_for_is_told_with_what_is_there():
    one = group("0", 3, "2")
    with pytest.raises(GroupError, match=r"it holds none\. Take groups"):
        Mask.full([]).count(one)
    with pytest.raises(GroupError, match=r"it holds neuron '2' \(4\), synapse '2' \(8\)"):
        Mask.full([group("2", 4, "4"), Synapses("2", 8, "2.weight", (2, 4))]).alive(one)
    with pytest.raises(GroupError, match=r"got \[3, 4, 5, 6, 7\]$"):  # five are enough
        Mask.full([one]).without({one: range(9)})
    with pytest.raises(GroupError, match=r"got \[-1, 3\]$"):
        Mask.full([one]).without({one: [0, -1, 2, 3]})


def many(name: str, columns: list[list[int]]) -> Neurons:
    """A group with parts in every role, at hand-made positions."""
    index = torch.tensor(columns)
    rows = Listener(name, f"{name}.weight", 0, torch.arange(len(columns)).reshape(-1, 1))
    norm = Listener("norm", "norm.weight", 0, index)
    return Neurons(
        name, "neuron", len(columns), (rows,), (norm,), (Listener("out", "out.weight", 1, index),)
    )


def test_positions_by_place():
    one, two = many("a", [[4, 5], [1, 0]]), many("b", [[7, 3], [2, 6], [8, 9]])
    links = Synapses("a", 4, "a.weight", (2, 2))
    mask = Mask.full([one, two, links]).without({one: [0, 1], two: [0], links: [0]})
    assert {place: where.tolist() for place, where in mask.unread.items()} == {
        ("out.weight", 1): [0, 1, 3, 4, 5, 7],  # of both groups, ascending
    }
    assert {place: where.tolist() for place, where in mask.gone.items()} == {
        ("a.weight", 0): [0, 1],
        ("b.weight", 0): [0],
        ("norm.weight", 0): [0, 1, 3, 4, 5, 7],
        ("out.weight", 1): [0, 1, 3, 4, 5, 7],
    }
    assert mask.touched == {"a", "b", "norm", "out"}
    assert Mask.full([one, two]).without({two: [0]}).touched == {"b", "norm", "out"}
    assert Mask.full([one, two, links]).without({links: [0]}).touched == frozenset()
    assert Mask.full([one, two]).gone == {}


def test_selects_are_needed_where_inputs_die_and_there_is_none():
    read, units = inputs(4, "0"), group("0", 3, "2")
    full = Mask.full([read, units])
    assert full.wrapped == frozenset()
    assert full.without({units: [0]}).wrapped == frozenset()
    dead = full.without({read: [1], units: [0]})
    assert dead.wrapped == {"0"}
    (again, _) = dead.shrunk().groups
    assert dead.shrunk().without({again: [0]}).wrapped == frozenset()  # the Select is there
    assert dead.without_kind("input").dead(read).tolist() == []
    assert dead.without_kind("input").dead(units).tolist() == [0]
    assert dead.without_kind("neuron").dead(read).tolist() == [1]


def test_applying_zeroes_what_listens_and_nothing_else():
    model = mlp(4, 3, 2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    one, synapses = hidden(model)[0], find_synapses(model)[0]
    Mask.full([one, synapses]).without({one: [1], synapses: [0, 5]}).apply_(model)
    want = before["2.weight"].clone()
    want[:, 1] = 0
    assert torch.equal(model[2].weight, want)
    want = before["0.weight"].clone()
    want[0, 0] = want[1, 1] = 0
    assert torch.equal(model[0].weight, want)
    assert torch.equal(model[0].bias, before["0.bias"])


def test_a_mask_of_another_model_changes_nothing():
    model, other = mlp(4, 3, 2), mlp(4, 5, 2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    mask = Mask.full(hidden(other)).without({hidden(other)[0]: [0]})
    with pytest.raises(GroupError, match="group '0' is not this model's"):
        mask.apply_(model)
    wrong = Synapses("0", 9, "0.weight", (3, 3))
    with pytest.raises(GroupError, match=r"shape \(3, 3\)"):
        Mask.full([wrong]).apply_(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


class Layers(nn.Module):
    """A layer with a buffer, and a shared weight under two names."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(3, 4)
        self.two.weight = self.one.weight
        self.register_buffer("select", torch.arange(3))
        self.register_buffer("none", torch.empty(0))


@pytest.mark.parametrize(
    ("parameter", "dim", "index", "fits"),
    [
        ("one.weight", 0, [[3]], True),
        ("one.weight", 0, [[4]], False),
        ("one.weight", 1, [[2]], True),
        ("one.weight", 1, [[0, 3]], False),
        ("one.weight", 2, [[0]], False),
        ("two.weight", 1, [[2]], True),  # the second name of a shared weight
        ("one.bias", 0, [[3]], True),
        ("one.bias", 1, [[0]], False),
        ("one.bias", 2, [[0]], False),
        ("select", 0, [[2]], True),
        ("select", 0, [[3]], False),
        ("three.weight", 0, [[0]], False),
        ("one.bias", 0, [[], []], True),  # no positions are needed
        ("none", 0, [[], []], True),
        ("none", 0, [[0]], False),
    ],
)
@pytest.mark.parametrize("role", ["producers", "followers", "listeners"])
def test_a_group_fits_a_model_up_to_its_last_position(parameter, dim, index, fits, role):
    part = Listener(parameter.rpartition(".")[0], parameter, dim, torch.tensor(index).long())
    mask = Mask.full([Neurons("one", "neuron", len(index), **{role: (part,)})])
    if fits:
        assert mask.check(Layers()) is None
        assert mask.apply_(Layers()) is None
    else:
        count = f"{part.index.numel()} positions along dimension {dim}"
        has = "no such parameter" if parameter == "three.weight" else "shape"
        with pytest.raises(
            GroupError, match=f"needs '{parameter}' with {count}, the model has {has}"
        ):
            mask.check(Layers())


def test_synapses_fit_a_weight_of_their_shape_only():
    for shape, fits in (((4, 3), True), ((3, 4), False), ((12,), False)):
        mask = Mask.full([Synapses("one", 12, "one.weight", shape)])
        if fits:
            assert mask.check(Layers()) is None
        else:
            with pytest.raises(GroupError, match=r"the model has shape \(4, 3\)"):
                mask.check(Layers())


def test_which_synapses_lie_between_living_units():
    model = mlp(4, 3, 2)
    units, first, second = hidden(model)[0], *find_synapses(model)
    mask = Mask.full([units, first, second]).without({units: [1], first: [0], second: [3]})
    assert mask.ends_alive(first).tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert mask.ends_alive(second).tolist() == [True, False, True] * 2
    assert mask.living("0.weight", (3, 4)).sum(1).tolist() == [3, 0, 4]
    assert mask.living("2.weight", (2, 3)).tolist() == [[True, False, True], [False, False, True]]
    assert mask.living("0.bias", (3,)).tolist() == [True, False, True]
    assert mask.living("elsewhere", (2, 2)).all()


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.float16, torch.int32, torch.float64]
)
def test_any_tensor_of_a_parameters_shape_is_zeroed_where_it_is_dead(dtype):
    model = mlp(4, 3, 2)
    units, links = hidden(model)[0], find_synapses(model)[1]
    mask = Mask.full([units, links]).without({units: [1], links: [3]})
    given = torch.full((2, 3), 3).to(dtype)
    mask.zero_("2.weight", given)
    assert given.tolist() == [[3, 0, 3], [0, 0, 3]]
    mask.zero_("0.weight", given)  # nothing of it is dead
    assert given.tolist() == [[3, 0, 3], [0, 0, 3]]
    grown = torch.full((2, 3), 3.0, requires_grad=True)
    mask.zero_("2.weight", grown)
    assert grown.tolist() == [[3, 0, 3], [0, 0, 3]]


def test_holding_without_an_optimizer_and_with_one_that_has_no_state():
    model = mlp(4, 3, 2)
    units = hidden(model)[0]
    mask = Mask.full([units]).without({units: [1]})
    for optimizer in (None, torch.optim.SGD(model.parameters(), lr=0.1)):
        before = model[2].weight.clone()
        mask.hold_(model, optimizer)
        assert not model[2].weight[:, 1].any()
        assert torch.equal(model[2].weight[:, [0, 2]], before[:, [0, 2]])


def test_state_of_another_shape_is_left_alone():
    model = mlp(4, 3, 2)
    units = hidden(model)[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = {"step": torch.tensor(3.0), "rows": torch.ones(2), "same": torch.ones(2, 3), "n": 1}
    optimizer.state[model[2].weight] = state
    Mask.full([units]).without({units: [1]}).hold_(model, optimizer)
    assert (state["step"].item(), state["rows"].tolist(), state["n"]) == (3.0, [1, 1], 1)
    assert state["same"].tolist() == [[1, 0, 1], [1, 0, 1]]


def test_a_dead_unit_takes_its_synapses_along():
    model = mlp(4, 3, 2)
    one = hidden(model)[0]
    first, second = find_synapses(model)
    mask = Mask.full([one, first, second]).without({one: [1], second: [0]})
    assert mask.living("0.weight", (3, 4)).sum(1).tolist() == [4, 0, 4]
    assert mask.living("2.weight", (2, 3)).tolist() == [[False, False, True], [True, False, True]]
    assert mask.living_in_shrunk(second).tolist() == [[False, True], [True, True]]


def test_the_shrunk_networks_mask_keeps_dead_synapses_dead():
    model = mlp(4, 3, 2)
    units, first, second = hidden(model)[0], *find_synapses(model)
    read = inputs(4, "0")
    mask = Mask.full([read, units, first, second])
    mask = mask.without({read: [2], units: [1], first: [0, 5, 11], second: [0]})
    small = mask.shrunk()
    by_name = {(g.kind, g.name): g for g in small.groups}
    assert {key: g.size for key, g in by_name.items()} == {
        ("input", "input"): 3,
        ("neuron", "0.1"): 2,
        ("synapse", "0.1"): 6,
        ("synapse", "2"): 4,
    }
    # Of 0.weight's dead, (0, 0) and (2, 3) lie between alive units; (1, 1) went with unit 1.
    assert small.dead(by_name["synapse", "0.1"]).tolist() == [0, 5]
    assert small.dead(by_name["synapse", "2"]).tolist() == [0]
    shrunk_input = by_name["input", "input"]
    assert isinstance(shrunk_input, Neurons)
    assert [p.parameter for p in shrunk_input.followers] == ["0.0.index"]
    assert [p.parameter for p in shrunk_input.listeners] == ["0.1.weight"]


def test_emptied_groups_leave_the_shrunk_mask():
    one = group("0", 3, "2")
    assert Mask.full([one]).without({one: [0, 1, 2]}).shrunk().groups == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
        lambda p: torch.optim.Adadelta(p, lr=1.0),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
)
def test_held_weights_and_their_state_stay_zero_for_a_hundred_updates(make):
    model = mlp(4, 3, 2, act=nn.Tanh)
    units, first = hidden(model)[0], find_synapses(model)[0]
    optimizer = make(model.parameters())
    x, y = torch.randn(32, 4), torch.randn(32, 2)

    def update() -> None:
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()

    for _ in range(5):  # warm buffers: the silent failure is a dead weight that moves again
        update()
    mask = Mask.full([units, first]).without({units: [1], first: [0, 7]})
    mask.apply_(model)
    mask.hold_(model, optimizer)
    for _ in range(100):
        update()
        mask.hold_(model, optimizer)
    dead = [model[2].weight[:, 1], model[0].weight.flatten()[[0, 7]]]
    assert all(not values.count_nonzero() for values in dead)
    for value in optimizer.state[model[2].weight].values():
        if value.shape == model[2].weight.shape:
            assert not value[:, 1].count_nonzero()
            assert value[:, 0].count_nonzero()


def test_synapses_are_weights_of_layers_that_mix():
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.MultiheadAttention(6, 2)
    )
    found = find_synapses(model)
    assert [(g.name, g.parameter, g.size) for g in found] == [
        ("1", "1.weight", 72),
        ("3", "3.in_proj_weight", 108),
        ("3.out_proj", "3.out_proj.weight", 36),
    ]
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert [g.name for g in find_synapses(tied)] == ["0"]
