"""Groups declared by hand are as good as found ones, and every wrong declaration is refused."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hand
import opaque
import sentei
from sentei import CertificateError, DataError, GroupError, Mask, declare, find_units
from sentei.network.units import Listener

ROLES = ("producers", "followers", "listeners")


def declared(name):
    model, x, given = opaque.build(name)
    return model, x, declare(model, x, **given)


def zeroed(model, group, units):
    """A copy without some units, by a plain loop over the columns that read them."""
    masked = copy.deepcopy(model)
    for part in group.listeners:
        weight = masked.get_parameter(part.parameter).data.movedim(part.dim, 0)
        for unit in units:
            for position in part.index[unit].tolist():
                weight[position] = 0
    return masked


# Right ones.


def test_what_cannot_be_followed_is_said_with_the_remedy():
    for name, says in {"operator": "no use of a weight", "checked": "must be finite"}.items():
        model, x, _ = opaque.build(name)
        with pytest.raises(sentei.StructureError, match=rf"{says}.*sentei\.declare"):
            find_units(model, x)
    model, x, _ = opaque.build("function")
    assert find_units(model, x) == []
    (hidden, _) = sentei.not_offered(model, x)
    assert hidden.parameter == "fc1.weight"
    assert "sentei.declare" in hidden.reason


@pytest.mark.parametrize("name", opaque.OPAQUE)
def test_a_declared_group_is_cut_exactly(name):
    model, x, group = declared(name)
    model = model.double()
    units = [unit for unit in (0, 2) if group.size - 2 >= group.least]
    masked = zeroed(model, group, units)
    small = sentei.shrink(model, Mask.full([group]).without({group: units}), x.double())
    more = torch.randn(50, *x.shape[1:], dtype=torch.float64)
    for part in (*group.producers, *group.followers):
        lost = part.index[units].numel()
        size = dict(small.state_dict())[part.parameter].shape[part.dim]
        assert size == dict(model.state_dict())[part.parameter].shape[part.dim] - lost
    assert units
    torch.testing.assert_close(small(more), masked(more), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(model(more), masked(more), rtol=1e-3, atol=1e-3)


def test_positions_of_a_unit_are_found_by_trying():
    rows = {
        "round_trip": torch.arange(20).reshape(5, 4),
        "channels_last": torch.arange(20).reshape(4, 5).T,
    }
    for name, index in rows.items():
        _, _, group = declared(name)
        assert torch.equal(group.listeners[0].index, index)
        assert (group.name, group.kind, group.size) == ("conv", "channel", 5)
    _, _, gated = declared("gated")
    assert [part.index.tolist()[0] for part in gated.producers] == [[0, 6], [0, 6]]
    assert gated.size == 6


@pytest.mark.parametrize(
    "name", ["function", "checked", "operator", "channels_last", "heads", "inputs"]
)
def test_a_declared_group_is_measured_exactly(name):
    model, x, group = declared(name)
    wanted = torch.randn(model(x).shape)
    probe = sentei.Probe(model, (x, wanted), "half_squared_error")

    def loss(network):
        return 0.5 * (network(x) - wanted).square().flatten(1).sum(1).mean().item()

    with torch.no_grad():
        naive = [loss(zeroed(model, group, [unit])) - loss(model) for unit in range(group.size)]
    measured = sentei.criteria.ablation(probe, group)
    torch.testing.assert_close(measured, torch.tensor(naive).double(), rtol=1e-3, atol=1e-5)
    assert measured.abs().max() > 1e-3


def test_what_an_unknown_operator_reads_is_not_repaired():
    model, x, group = declared("operator")
    probe = sentei.Probe(model, (x, torch.arange(4) % 3))
    with pytest.raises(sentei.StructureError, match=r"'fc2.weight'.*without a repair"):
        list(sentei.prune(model, [group], probe, sentei.ranked("magnitude", HALF, repair="mean")))


HALF = sentei.one_shot("50 %")


@pytest.mark.parametrize("name", ["function", "round_trip", "heads", "inputs"])
def test_a_declared_group_is_pruned_stored_and_resumed(name, tmp_path):
    model, x, group = declared(name)
    again, data = copy.deepcopy(model), (x, torch.randn(model(x).shape))

    def last(network, schedule, **options):
        probe = sentei.Probe(network, data, "half_squared_error")
        found = declare(network, x, **opaque.OPAQUE[name][2])
        propose = sentei.ranked("ablation", sentei.one_at_a_time())
        run = sentei.prune(network, [found], probe, propose, journal=tmp_path, **options)
        return [*itertools.islice(run, schedule)][-1]

    assert last(model, 2).mask.count(group) == group.size - 1
    step = last(again, 3, resume=True)
    assert step.mask.count(group) == group.size - 2
    small = sentei.shrink(step.network(), step.mask, x)
    torch.testing.assert_close(small(x), again(x), rtol=1e-4, atol=1e-5)


def test_a_declared_group_is_deleted_while_training():
    model, x, group = declared("function")
    before = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters())
    pruner = sentei.PruneWhileTraining(
        *(model, [group], sentei.ranked("magnitude", sentei.linear(by=2))),
        every=1,
        total=2,
        delete=True,
        example=x,
    )
    pruner.attach(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.arange(4) % 3).backward()
        optimizer.step()
    pruner.detach()
    assert model.fc1.out_features == model.fc2.in_features == 2
    assert before.fc1.out_features == 6


def test_forward_runs_the_part_that_counts():
    model, x, given = opaque.build("function")
    whole = nn.ModuleDict({"net": model, "other": nn.Linear(3, 3)})
    places = {role: {f"net.{n}": at for n, at in given[role].items()} for role in given}
    group = declare(whole, x, **places, forward=lambda m, inputs: m["net"](inputs))
    assert (group.name, group.size) == ("net.fc1", 6)
    mask = Mask.full([group]).without({group: [3]})
    small = sentei.shrink(whole, mask, x, forward=lambda m, inputs: m["net"](inputs))
    assert small["net"].fc1.out_features == 5


def test_nothing_of_the_model_changes():
    model, x, given = opaque.build("round_trip")
    model.train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    declare(model, x, **given)
    assert model.training
    assert all(
        torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
    )
    assert torch.equal(random, torch.get_rng_state())


def test_a_declared_group_is_the_one_that_is_found():
    """Where tracing can follow, both agree: the same group, and the same parameters."""
    model, x = hand.mlp(4, 6, 5, 3), torch.rand(8, 4)
    for found, other in zip(find_units(model, x), ("2", "4"), strict=True):
        places = {f"{found.name}.weight": 0, f"{found.name}.bias": 0}
        mine = declare(model, x, producers=places, listeners={f"{other}.weight": 1})
        assert mine == found
        assert [getattr(mine, role) for role in ROLES] == [getattr(found, role) for role in ROLES]


# Wrong ones.


def explicit(group):
    """The declaration of a group with an index for each place, to be changed."""
    return {
        role: {part.parameter: (part.dim, part.index.clone()) for part in getattr(group, role)}
        for role in ROLES
    }


def wrong_ones(group):
    """Yield wrong declarations of a group: one thing in each is not as it should be."""
    right = explicit(group)
    places = [(role, name) for role in ROLES for name in right[role]]
    for role, name in places:
        dim, index = right[role][name]

        def changed(*place, role=role, name=name):
            return {**right, role: {**right[role], name: place}}

        yield (
            f"without {name}",
            {**right, role: {n: p for n, p in right[role].items() if n != name}},
        )
        yield f"dimension of {name}", changed(1 - dim, index)
        twice, beyond = index.clone(), index.clone()
        twice[0], beyond[0] = index[1], index.max() + 1
        yield f"a position of two units in {name}", changed(dim, twice)
        yield f"a position beyond the end in {name}", changed(dim, beyond)
        if len(places) > 1:
            yield f"fewer units in {name}", changed(dim, index[1:])
        for first, second in itertools.combinations(range(group.size), 2):
            swapped = index.clone()
            swapped[[first, second]] = index[[second, first]]
            if len(places) > 1:  # one place alone may hold the units in any order
                yield f"{first} for {second} in {name}", changed(dim, swapped)
        if index.shape[1] > 1:
            mixed = index.clone()
            mixed[0, 0], mixed[1, 0] = index[1, 0], index[0, 0]
            yield f"a position of another unit in {name}", changed(dim, mixed)
            yield f"a position too few in {name}", changed(dim, index[:, 1:])


def refused(model, x, given):
    """Why a declaration is refused; empty if it is not."""
    try:
        declare(model, x, **given)
    except (GroupError, CertificateError) as error:
        return str(error)
    return ""


SWEEPS = [
    *((name, 5) for name in ("function", "heads", "auxiliary")),
    *(pytest.param(name, 1, marks=pytest.mark.slow) for name in opaque.OPAQUE),
]


@pytest.mark.parametrize(("name", "every"), SWEEPS)
def test_wrong_declarations_are_refused(name, every):
    model, x, group = declared(name)
    assert declare(model, x, **explicit(group), kind=group.kind) == group
    wrong = [*wrong_ones(group)][::every]
    whys = {what: refused(model, x, {**given, "kind": group.kind}) for what, given in wrong}
    assert [what for what, why in whys.items() if len(why) < 40] == []
    assert len(whys) >= 3


def test_the_message_names_what_differs():
    model, x, given = opaque.build("auxiliary")
    with pytest.raises(CertificateError, match=r"training mode.*does not run|does not run.*shapes"):
        declare(model, x, producers=given["producers"], listeners={"fc2.weight": 1})
    model, x, given = opaque.build("round_trip")
    with pytest.raises(
        CertificateError, match=r"'conv' cannot be cut: .*does not run: running_mean"
    ):
        declare(
            model, x, producers=given["producers"], listeners=given["listeners"], kind="channel"
        )
    model, x, given = opaque.build("function")
    swapped = torch.tensor([2, 1, 0, 3, 4, 5])
    with pytest.raises(CertificateError, match=r"output differs|differ"):
        declare(model, x, producers=given["producers"], listeners={"fc2.weight": (1, swapped)})


RIGHT = {"producers": {"fc1.weight": 0, "fc1.bias": 0}, "listeners": {"fc2.weight": 1}}
BAD = {
    "a name": (
        {"listeners": {"fc2.wieght": 1}},
        r"listeners.*no 'fc2.wieght'. Did you mean 'fc2.weight'",
    ),
    "a dimension": (
        {"listeners": {"fc2.weight": 2}},
        r"shape \(3, 6\), is declared with .* 0 to 1.*got 2",
    ),
    "a dimension from the end": ({"producers": {"fc1.bias": -2}}, r"got -2"),
    "no dimension": ({"producers": {"fc1.bias": None}}, r"got None"),
    "a dimension that is true": ({"producers": {"fc1.bias": True}}, r"got True"),
    "an empty index": ({"listeners": {"fc2.weight": (1, [])}}, r"whole numbers, \(units,\) or"),
    "an index of numbers": (
        {"listeners": {"fc2.weight": (1, [0.5] * 6)}},
        r"whole numbers.*float32",
    ),
    "an index of bools": ({"listeners": {"fc2.weight": (1, [True] * 6)}}, r"whole numbers.*bool"),
    "a deep index": (
        {"listeners": {"fc2.weight": (1, torch.zeros(6, 1, 1).long())}},
        r"\(6, 1, 1\)",
    ),
    "an index of words": ({"listeners": {"fc2.weight": (1, ["a"] * 6)}}, r"table of positions"),
    "a ragged index": ({"listeners": {"fc2.weight": (1, [[0], [1, 2]])}}, r"table of positions"),
    "an index too high": (
        {"listeners": {"fc2.weight": (1, [0, 1, 2, 3, 4, 6])}},
        r"0 to 5; it has 6",
    ),
    "a negative index": (
        {"listeners": {"fc2.weight": (1, [0, 1, 2, 3, 4, -1])}},
        r"0 to 5; it has -1",
    ),
    "a position twice": (
        {"listeners": {"fc2.weight": (1, [0, 1, 2, 3, 4, 4])}},
        r"position 4 twice",
    ),
    "too few rows": (
        {"listeners": {"fc2.weight": (1, [0, 1, 2, 3])}},
        r"with 4 units, .* has 6 positions",
    ),
    "no listener": ({"listeners": {}}, r"listeners= is empty"),
    "no producer": ({"producers": {}}, r"producers= has to name"),
    "an unknown kind": ({"kind": "chanel"}, r"unknown kind 'chanel'.*'channel'"),
    "computed inputs": ({"kind": "input"}, r"nothing computes the network's inputs"),
    "units that do not divide": (
        {"units": 4},
        r"with 4 units, dimension 0 of 'fc1.weight'.*6 positions",
    ),
    "no units": ({"units": 0}, r"with 0 units"),
    "less than no units": ({"units": -6}, r"with -6 units"),
    "more units": ({"units": 12}, r"with 12 units"),
    "one unit of those that need one": (
        {"units": 1, "kind": "channel"},
        r"has 1, and 1 may remain",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_the_model_does_not_have_is_refused(what):
    model, x, _ = opaque.build("function")
    given, says = BAD[what]
    with pytest.raises(GroupError, match=says):
        declare(model, x, **{**RIGHT, **given})


def test_buffers_pass_units_on_and_do_nothing_else():
    model, x, given = opaque.build("round_trip")
    for role in ("producers", "listeners"):
        with pytest.raises(
            GroupError, match=rf"{role} are parameters; 'norm.running_mean' is a buffer"
        ):
            declare(model, x, **{**given, role: {"norm.running_mean": 0}})


def test_one_tensor_with_two_names_is_declared_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    places = {"0.weight": 0, "2.weight": 0, "0.bias": 0, "2.bias": 0}
    with pytest.raises(GroupError, match=r"'0.weight' and '2.weight' are the same tensor"):
        declare(model, torch.rand(2, 4), places, {"4.weight": 1})


def test_an_example_that_does_not_run_is_refused():
    model, _, given = opaque.build("function")
    with pytest.raises(DataError, match="must run through the model"):
        declare(model, torch.rand(2, 5), **given)


def test_layouts_are_not_tried_without_end():
    torch.manual_seed(0)
    widths = (2, 4, 6, 8, 10, 12)
    model = nn.ModuleList(nn.Linear(width, 1) for width in widths)
    places = {f"{n}.weight": 1 for n in range(len(widths))}
    with pytest.raises(GroupError, match=r"dimensions of \[4, 6, 8, 10, 12\] positions"):
        declare(model, torch.rand(1, 2), {"0.weight": 1}, places, forward=lambda m, x: m[0](x))


# Beside other groups.


def test_a_group_that_shares_a_row_or_a_column_with_another_is_refused():
    model, x = hand.mlp(4, 6, 5, 3), torch.rand(8, 4)
    found = find_units(model, x)
    mine = declare(model, x, {"0.weight": 0, "0.bias": 0}, {"2.weight": 1}, name="mine")
    probe = sentei.Probe(model, (x, torch.arange(8) % 3))
    shared = r"neuron '0' and neuron 'mine' both hold position 0 along dimension 0 of '0.weight'"
    with pytest.raises(GroupError, match=shared):
        Mask.full([*found, mine])
    with pytest.raises(GroupError, match=shared):
        sentei.prune(model, [*found, mine], probe, sentei.ranked("magnitude", HALF))
    with pytest.raises(GroupError, match="both hold position"):
        Mask.full(found).joined(Mask.full([mine]).without({mine: [2]}))
    assert len(Mask.full([found[1], mine]).groups) == 2
    last = [*sentei.prune(model, [found[1], mine], probe, sentei.ranked("magnitude", HALF))][-1]
    small = sentei.shrink(model, last.mask, x)
    torch.testing.assert_close(small(x), model(x))


def test_groups_may_share_a_tensor_if_not_a_position():
    part = Listener("a", "a.weight", 0, torch.tensor([[0], [1]]))
    rest = Listener("a", "a.weight", 0, torch.tensor([[2], [3]]))
    reads = Listener("b", "b.weight", 1, torch.tensor([[0], [1]]))
    groups = [
        sentei.Neurons("x", "neuron", 2, (part,), (), (reads,)),
        sentei.Neurons("y", "neuron", 2, (rest,)),
    ]
    assert Mask.full(groups).groups == tuple(groups)
    clash = sentei.Neurons("z", "neuron", 2, (rest,), (reads,))
    with pytest.raises(
        GroupError, match=r"'x' and neuron 'z' both hold position 0 along dimension 1"
    ):
        Mask.full([groups[0], clash])
