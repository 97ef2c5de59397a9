"""Widths of groups under a ranking: what stays, multiples, equal widths, in every scope."""

import pytest
import torch

from hand import group, hidden, mlp
from runs import X, Y, trained
from sentei import (
    GroupError,
    Mask,
    Probe,
    Progress,
    PruneWhileTraining,
    ScheduleError,
    find_synapses,
    fixed,
    levels,
    linear,
    multiples_of,
    one_at_a_time,
    one_shot,
    only,
    prune,
    ranked,
    when_stalled,
)

WIDE = ONE, TWO, THREE = group("0", 16, "2"), group("2", 24, "4"), group("4", 16, "6")
PROBE = Probe(mlp(4, 16, 24, 16, 2), (X, Y))  # fixed scores ask it nothing


def rising(groups=WIDE):
    """Scores 0, 1, 2, ... through all groups: the first group is the worst."""
    ends = torch.arange(sum(g.size for g in groups)).float().split([g.size for g in groups])
    return fixed(dict(zip(groups, ends, strict=True)))


def walk(propose, groups=WIDE, mask=None, most=100):
    """The widths after each step of a run without a network, step 0 first."""
    mask = Mask.full(groups) if mask is None else mask
    starts = {g: mask.count(g) for g in groups}
    widths = [[mask.count(g) for g in groups]]
    for step in range(1, most):
        alive = sum(widths[-1])
        progress = Progress(step, None, sum(starts.values()), alive, starts=starts)
        cut = propose(PROBE, list(groups), mask, progress)
        if cut is None:
            return widths
        mask = mask.without(cut.doomed)
        widths.append([mask.count(g) for g in groups])
    raise AssertionError(f"no end after {most} steps: {widths[-3:]}")


def moves(widths):
    """The widths without steps that removed nothing."""
    return [now for before, now in zip([None, *widths], widths) if now != before]


def test_units_go_in_batches_of_one_group_one_at_a_time():
    found = walk(ranked(rising(), one_at_a_time(), multiples_of=8))
    assert found == [[16, 24, 16], [8, 24, 16], [8, 16, 16], [8, 8, 16], [8, 8, 8]]


def test_the_batch_of_the_lowest_mean_score_goes_first():
    scores = {ONE: torch.ones(16), TWO: torch.tensor([-9.0, *[2.0] * 23]), THREE: torch.ones(16)}
    # The eight lowest of TWO have the mean 5 / 8.
    propose = ranked(fixed(scores), one_at_a_time(), multiples_of=8)
    assert walk(propose)[:3] == [[16, 24, 16], [16, 16, 16], [8, 16, 16]]


def test_a_batch_waits_until_the_schedule_has_room_for_it():
    propose = ranked(rising(), linear(40, by=3), multiples_of=8)
    # 56 members; the schedule keeps 53, 50, 47, 44, 41, 40: room for 8 at step 3, for 16 at step 6.
    assert walk(propose) == [
        *[[16, 24, 16]] * 3, *[[8, 24, 16]] * 3, [8, 16, 16]
    ]  # fmt: skip
    assert moves(walk(ranked(rising(), linear(39, by=3), multiples_of=8)))[-1] == [8, 16, 16]
    assert walk(ranked(rising(), one_shot(49), multiples_of=8)) == [[16, 24, 16]]


def test_a_schedule_that_counts_down_takes_one_batch_where_it_removes_less():
    propose = ranked(rising(), levels(98), multiples_of=8)  # 2 % of what remains
    assert walk(propose) == [[16, 24, 16], [8, 24, 16], [8, 16, 16], [8, 8, 16], [8, 8, 8]]
    propose = ranked(rising(), levels(50), multiples_of=8)
    assert walk(propose) == [[16, 24, 16], [8, 8, 16], [8, 8, 8]]


@pytest.mark.parametrize("within", ["network", "group"])
@pytest.mark.parametrize("seed", range(5))
def test_every_width_is_a_multiple_and_never_fewer_stay_than_the_schedule_says(within, seed):
    random = torch.Generator().manual_seed(seed)
    groups = [group(str(i), n, str(i + 1)) for i, n in enumerate((30, 16, 7, 64))]
    scores = fixed({g: torch.randn(g.size, generator=random) for g in groups})
    schedule = linear("40 %", steps=6)
    options = {"at_least": 16} if seed % 2 else {}
    widths = walk(ranked(scores, schedule, within=within, multiples_of=8, **options), groups)
    for step, now in enumerate(widths):
        for i, (g, width) in enumerate(zip(groups, now, strict=True)):
            assert width == g.size or width % 8 == 0
            assert width >= min(g.size, 16 if seed % 2 else 8)
            if within == "group":
                assert width >= schedule(Progress(step, None, g.size, g.size))
            assert width <= widths[step - 1][i] or step == 0
        assert sum(now) >= schedule(Progress(step, None, 117, 117))
    if not options and within == "network":  # no batch of 8 would fit into the rest
        assert sum(widths[-1]) - schedule(Progress(9, None, 117, 117)) < 8
    assert widths[-1] == {"network": widths[-1], "group": [16, 16 if options else 8, 7, 32]}[within]


def test_a_width_that_is_no_multiple_becomes_one_first():
    mask = Mask.full(WIDE).without({ONE: [3], TWO: [0, 1, 2]})  # 15, 21, 16
    propose = ranked(rising(), one_at_a_time(), multiples_of=8)
    assert walk(propose, mask=mask)[1:4] == [[8, 21, 16], [8, 16, 16], [8, 8, 16]]
    small = group("0", 7, "2")
    assert walk(ranked(rising([small]), one_at_a_time(), multiples_of=8), [small]) == [[7]]


def test_a_part_of_a_group_stays():
    keep = {"0": "80 %", "[24]": 4}
    assert walk(ranked(rising(), one_at_a_time(), keep=keep))[-1] == [13, 4, 4]  # 12.8 of 16
    assert walk(ranked(rising(), one_at_a_time(), keep={"*": "50 %", "4": 3}))[-1] == [8, 12, 8]
    for within in ("network", "group"):
        found = walk(ranked(rising(), one_shot("25 %"), keep={"0": "80 %"}, within=within))
        assert found[-1] == ([13, 0, 1] if within == "network" else [13, 6, 4])
    assert walk(ranked(rising(), one_at_a_time(), keep={"2": "75 %"}, multiples_of=8))[-1] == [
        8, 24, 8
    ]  # fmt: skip


def test_some_of_each_group_stay_and_the_ranking_is_the_same_otherwise():
    found = walk(ranked(rising(), one_at_a_time(), at_least=14))
    assert found[1] == [15, 24, 16]
    assert found[-1] == [14, 14, 14]
    assert len(found) == 1 + 2 + 10 + 2
    assert walk(ranked(rising(), one_shot(0), at_least=20))[-1] == [16, 20, 16]


def test_groups_that_are_alike_keep_as_many_each():
    propose = ranked(rising(), one_at_a_time(), alike=("[04]",))
    found = walk(propose)
    assert all(first == last for first, _, last in found)
    # The lowest of "0" and of "4" together have the mean 20, so those of "2" from 16 to 19 are
    # lower; then each pair is one higher.
    assert found[1:4] == [[16, 23, 16], [16, 22, 16], [16, 21, 16]]
    assert found[-1] == [0, 0, 0]
    floors = ranked(rising(), one_at_a_time(), alike=("[04]",), keep={"4": 5}, multiples_of=2)
    assert walk(floors)[-1] == [6, 2, 6]
    for within in ("network", "group"):
        propose = ranked(
            rising(), linear("40 %", steps=3), alike=("[04]",), within=within, multiples_of=4
        )
        assert all(first == last for first, _, last in walk(propose))
        assert walk(propose)[-1] != [16, 24, 16]


def test_groups_that_came_apart_become_alike_again():
    mask = Mask.full(WIDE).without({ONE: [0, 1]})
    propose = ranked(rising(), one_at_a_time(), alike=("[04]",))
    apart = [w for w in walk(propose, mask=mask) if w[0] != w[2]]
    assert apart == [[14, 24 - n, 16] for n in range(len(apart))]
    assert walk(propose, mask=mask)[len(apart)][::2] == [14, 14]


def test_a_batch_that_is_larger_than_all_that_is_to_go_is_passed_over():
    groups = [group(str(i), 16, str(i + 1)) for i in range(4)]
    scores = fixed({g: torch.full((16,), float(i)) for i, g in enumerate(groups)})
    propose = ranked(scores, one_shot(64 - 12), alike=("[012]",), multiples_of=8)
    assert walk(propose, groups) == [[16] * 4, [16, 16, 16, 8]]


def test_in_a_run_of_prune_and_while_training():
    model = trained(4, 16, 24, 2)
    groups = hidden(model)
    propose = ranked("magnitude", one_at_a_time(), multiples_of=8)
    steps = list(prune(model, groups, Probe(model, (X, Y)), propose))
    widths = [[step.mask.count(g) for g in groups] for step in steps]
    assert sorted(map(sum, widths), reverse=True) == [40, 32, 24, 16]
    assert widths[-1] == [8, 8]

    model = mlp(4, 16, 24, 2)
    propose = ranked("magnitude", linear(by=4), multiples_of=8, keep={"2": "50 %"})
    pruner = PruneWhileTraining(model, hidden(model), propose, every=1, delete=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    for _ in range(8):
        torch.nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert [model[0].out_features, model[2].out_features] == [8, 16]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep": {"layer9.*": 3}}, GroupError, r"'layer9.\*' matches none of 3"),
        ({"alike": ("5",)}, GroupError, "'5' matches none of 3"),
        ({"keep": {"0": 17}}, GroupError, "'0' has only 16 members"),
        ({"alike": ("*",)}, GroupError, "'0' has 16 members and '2' has 24"),
        ({"alike": ("0", "[04]")}, GroupError, r"'0' matches two patterns of alike=: '0' and"),
        (
            {"schedule": multiples_of(8, one_shot(24))},
            ScheduleError,
            r"ranked\(..., multiples_of=8",
        ),
        ({"schedule": levels(50, then=multiples_of(8, one_shot(24)))}, ScheduleError, "any width"),
    ],
)
def test_what_the_groups_cannot_be_is_refused_before_anything_changes(options, error, message):
    model = mlp(4, 16, 24, 16, 2)
    before = [p.clone() for p in model.parameters()]
    propose = ranked(**{"criterion": "magnitude", "schedule": one_at_a_time(), **options})
    groups = hidden(model)
    for wrapped in (propose, only("neuron", propose), when_stalled(propose)):
        with pytest.raises(error, match=message):
            prune(model, groups, Probe(model, (X, Y)), wrapped)
    with pytest.raises(error, match=message):
        PruneWhileTraining(model, groups, propose, every=1)
    with pytest.raises(error, match=message):
        walk(ranked(**{"criterion": rising(), "schedule": one_at_a_time(), **options}))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"at_least": -1}, ScheduleError, "0 or more; got -1"),
        ({"multiples_of": 0}, ScheduleError, "1 or more; got multiples_of=0"),
        ({"keep": {"0": "120 %"}}, ScheduleError, "from 0 to 100; got '120 %'"),
        ({"keep": {"0": -3}}, ScheduleError, "0 or more; got -3"),
        ({"keep": "80 %"}, TypeError, "`keep` must be a dict"),
        ({"alike": "0"}, TypeError, "`alike` must be a tuple"),
        ({"multiples_of": 2.5}, TypeError, "`multiples_of` must be a whole number"),
    ],
)
def test_widths_that_cannot_be_are_refused_when_made(options, error, message):
    with pytest.raises(error, match=message):
        ranked("magnitude", one_at_a_time(), **options)


def test_the_old_schedule_still_rounds_one_group():
    schedule = multiples_of(8, linear("50 %", steps=2))
    assert walk(ranked(rising(), schedule, within="group"))[1:] == [[16, 24, 16], [8, 16, 8]]
    assert walk(ranked(rising([ONE]), schedule), [ONE])[-1] == [8]


def test_synapses_have_widths_too():
    model = mlp(4, 6, 2)
    propose = ranked("magnitude", one_shot(0), keep={"2": "50 %"}, at_least=5)
    *_, last = prune(model, find_synapses(model), Probe(model, (X, Y)), propose)
    assert [last.mask.count(g) for g in find_synapses(model)] == [5, 6]
