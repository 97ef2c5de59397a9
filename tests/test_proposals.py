"""Proposals by hand: who goes, who is kept as the last, and when nothing is proposed."""

import logging
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from hand import group, inputs, mlp, part
from runs import X, Y
from sentei import (
    Cut,
    GroupError,
    Mask,
    Probe,
    Progress,
    ScheduleError,
    below,
    find_synapses,
    fixed,
    linear,
    one_at_a_time,
    one_shot,
    only,
    ranked,
)
from sentei.network.units import Neurons
from sentei.pruning.rules.proposals import lowest, mixed

ONE, TWO = group("0", 5, "2"), group("2", 4, "4")


def network():
    return mlp(4, 5, 4, 2)


def at(start=9, remaining=9, step=1, total=None, **more):
    return Progress(step, total, start, remaining, **more)


def cut(propose, mask=None, progress=None, groups=(ONE, TWO)):
    """The positions that a proposal removes, by the group's name; None if it proposes nothing."""
    mask = Mask.full(groups) if mask is None else mask
    found = propose(Probe(network(), (X, Y)), list(groups), mask, progress or at())
    return None if found is None else {g.name: p.tolist() for g, p in found.doomed.items()}


SCORES = {ONE: torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]), TWO: torch.tensor([2.5, 0.5, 9.0, 8.0])}


def test_cuts_are_equal_if_they_do_the_same():
    links = find_synapses(network())[0]
    listener = ONE.listeners[0]
    one, mix, back = torch.tensor([1]), torch.ones(1, 6), torch.tensor([3])
    whole = Cut({ONE: one}, {listener: mix}, {links: back}, {ONE: torch.rand(5)})
    assert whole == Cut({ONE: one.clone()}, {listener: mix.clone()}, {links: back.clone()})
    assert whole != Cut({ONE: torch.tensor([2])}, {listener: mix}, {links: back})
    assert whole != Cut({TWO: one}, {listener: mix}, {links: back})
    assert whole != Cut({ONE: one, TWO: one}, {listener: mix}, {links: back})
    assert whole != Cut({ONE: one}, {listener: 2 * mix}, {links: back})
    assert whole != Cut({ONE: one}, {}, {links: back})
    assert whole != Cut({ONE: one}, {listener: mix})
    assert Cut({ONE: one}) != {ONE: one}
    assert (Cut({}).mix, Cut({}).regrown, Cut({}).scores) == ({}, {}, {})
    with pytest.raises(TypeError, match="unhashable"):
        hash(whole)
    with pytest.raises(FrozenInstanceError):
        whole.doomed = {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("magnitud", one_at_a_time()), "Did you mean 'magnitude'"),
        (("magnitude", one_at_a_time(), "groups"), "scope within=.*group"),
        (("magnitude", one_at_a_time(), "group", "least_square"), "Did you mean 'least_squares'"),
    ],
)
def test_a_ranking_that_cannot_be_is_refused_when_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        ranked(*arguments)


def test_a_ranking_needs_a_schedule():
    with pytest.raises(TypeError, match=r"`schedule` must be a schedule, such as .*got 5"):
        ranked("magnitude", 5)


def test_a_ranking_over_the_network_and_one_for_each_group():
    assert cut(ranked(fixed(SCORES), linear(by=1))) == {"2": [1]}
    assert cut(ranked(fixed(SCORES), linear(by=4))) == {"0": [1, 3], "2": [0, 1]}
    assert cut(ranked(fixed(SCORES), linear(by=1), within="group")) == {"0": [1], "2": [1]}
    # Half of five and of four, rounded: 3 and 2 stay of 5 and 4; 1 of each is gone already.
    mask = Mask.full([ONE, TWO]).without({ONE: [1], TWO: [2]})
    halves = ranked(fixed(SCORES), one_shot("50 %"), within="group")
    assert cut(halves, mask) == {"0": [3], "2": [1]}
    assert cut(ranked(fixed(SCORES), one_shot(6)), mask) == {"2": [1]}


def test_who_is_dead_already_does_not_go_again():
    mask = Mask.full([ONE, TWO]).without({ONE: [1], TWO: [1]})
    assert cut(ranked(fixed(SCORES), one_at_a_time()), mask) == {"0": [3]}
    assert cut(ranked(fixed(SCORES), linear(0)), mask, at(step=1, total=1)) == {
        "0": [0, 2, 3, 4], "2": [0, 2, 3],
    }  # fmt: skip


def test_a_schedule_counts_from_what_was_alive_at_the_start():
    """Three of five were dead before the run, so that half of six members are kept, not of nine."""
    mask = Mask.full([ONE, TWO]).without({ONE: [0, 1, 2]})
    half = ranked(fixed(SCORES), one_shot("50 %"))
    assert cut(half, mask, at(6, 6, starts={ONE: 2, TWO: 4})) == {"0": [3], "2": [0, 1]}
    assert cut(half, mask, at(starts={ONE: 5})) == {"2": [1]}  # 5 of 9, rounded; TWO by its size
    in_groups = ranked(fixed(SCORES), one_shot("50 %"), within="group")
    assert cut(in_groups, mask, at(starts={ONE: 2, TWO: 4})) == {"0": [3], "2": [0, 1]}
    # A group of three neurons is gone since. Over the network it counts at the start: after two
    # steps of a quarter 6 of 12 are kept.
    emptied, full = {"neuron": 3, "channel": 7}, Mask.full([ONE, TWO])
    quarters = ranked(fixed(SCORES), linear(by="25 %"))
    assert cut(quarters, full, at(step=1, emptied=emptied)) == {}
    assert cut(quarters, full, at(step=2, emptied=emptied)) == {"0": [1, 3], "2": [1]}
    each = ranked(fixed(SCORES), linear(by="25 %"), within="group")
    assert cut(each, full, at(emptied=emptied)) == {"0": [1], "2": [1]}


def test_nothing_is_proposed_once_the_schedule_is_at_its_end():
    propose = ranked(fixed(SCORES), one_shot(9))
    assert cut(propose) is None
    assert cut(ranked(fixed(SCORES), one_shot(8))) == {"2": [1]}
    mask = Mask.full([ONE, TWO]).without({ONE: [1, 3]})
    assert cut(ranked(fixed(SCORES), linear(7, steps=2)), mask, at(step=2)) is None
    assert cut(ranked(fixed(SCORES), linear(7)), mask, at(step=5, total=5)) is None
    many = group("0", 700, "2")
    kept = ranked(fixed({many: torch.arange(700.0)}), one_shot(600))
    left = Mask.full([many]).without({many: range(100)})
    assert cut(kept, left, at(700, 600), (many,)) is None
    assert cut(kept, left.with_({many: [7]}), at(700, 601), (many,)) == {"0": [7]}
    # One group is at its end, the other is not.
    three = ranked(fixed(SCORES), one_shot(3), within="group")
    assert cut(three, mask) == {"2": [1]}
    assert cut(three, mask.without({TWO: [0]})) is None


def test_a_step_that_removes_none_yet_is_a_cut_without_members():
    """The schedule goes on later, so that the run goes on; nothing is scored for it."""

    def scored(probe, group):
        pytest.fail("nothing has to be scored")

    late = ranked(scored, linear(8, steps=100))
    assert cut(late, progress=at(step=1)) == {}
    assert cut(ranked(scored, linear(8, steps=10**9))) == {}  # however late
    assert cut(late, progress=at(step=1, total=100)) == {}
    assert cut(ranked(fixed(SCORES), linear(8, steps=100)), progress=at(step=51)) == {"2": [1]}
    with_total = ranked(fixed(SCORES), linear(8))
    assert cut(with_total, progress=at(step=51, total=100)) == {"2": [1]}
    assert cut(with_total, progress=at(step=50, total=100)) == {}


def test_scores_are_kept_for_all_groups_and_no_mix_is_made_without_a_repair():
    probe, mask = Probe(network(), (X, Y)), Mask.full([ONE, TWO])
    found = ranked(fixed(SCORES), one_at_a_time())(probe, [ONE, TWO], mask, at())
    assert {g.name: s.tolist() for g, s in found.scores.items()} == {
        "0": [5, 1, 4, 2, 3], "2": [2.5, 0.5, 9, 8],
    }  # fmt: skip
    assert (found.mix, found.regrown) == ({}, {})
    found = below(fixed(SCORES), 1.0)(probe, [ONE, TWO], mask, at())
    assert set(found.scores) == {ONE, TWO}
    assert (found.mix, found.regrown) == ({}, {})


def test_one_tensor_of_scores_ranks_one_group():
    bare = ranked(fixed(SCORES[ONE]), one_at_a_time())
    assert cut(bare, groups=(ONE,), progress=at(5, 5)) == {"0": [1]}
    with pytest.raises(GroupError, match="there are 2"):
        cut(bare)


def channels(size=4):
    """Convolutions keep one channel at least."""
    model = nn.Sequential(nn.Conv2d(1, size, 1), nn.ReLU(), nn.Conv2d(size, 2, 3, padding=1))
    rows = (part("0", "weight", 0, size), part("0", "bias", 0, size))
    return model, Neurons("0", "channel", size, rows, (), (part("2", "weight", 1, size),))


@pytest.mark.parametrize(
    ("scores", "stays"),
    [([3.0, 1.0, 2.0, 0.0], 0), ([0.0, 1.0, 2.0, 3.0], 3), ([0.0, 9.0, 2.0, 3.0], 1)],
)
def test_the_best_unit_is_kept_as_a_groups_last(scores, stays):
    _, units = channels()
    mask = Mask.full([units])
    rest = sorted({0, 1, 2, 3} - {stays})
    for count in (3, 4, 9):
        assert lowest({units: torch.tensor(scores)}, mask, [units], count)[units].tolist() == rest
    alive = mask.without({units: [stays]})  # the best of what is left
    second = max(rest, key=scores.__getitem__)
    going = lowest({units: torch.tensor(scores)}, alive, [units], 4)
    assert going[units].tolist() == [at for at in rest if at != second]
    # The last one does not go, and a group that may lose none is left out.
    assert lowest({units: torch.tensor(scores)}, mask.without({units: rest}), [units], 1) == {}


def test_of_equal_channels_the_last_position_stays():
    _, units = channels()
    assert lowest({units: torch.ones(4)}, Mask.full([units]), [units], 4)[units].tolist() == [
        0,
        1,
        2,
    ]


def test_groups_that_may_lose_none_end_the_proposals():
    model, units = channels(2)
    probe = Probe(
        model, (torch.rand(6, 1, 3, 3), torch.rand(6, 2, 3, 3)), lambda o, t: o.sum((1, 2, 3))
    )
    mask = Mask.full([units]).without({units: [0]})
    propose = ranked(fixed(torch.tensor([1.0, 2.0])), one_at_a_time())
    assert propose(probe, [units], mask, at(2, 1)) is None
    assert propose(probe, [units], Mask.full([units]), at(2, 2)).doomed[units].tolist() == [0]


def test_no_member_is_chosen_where_none_is_asked_for():
    assert lowest(SCORES, Mask.full([ONE, TWO]), [ONE, TWO], 0) == {}


def test_a_threshold_is_strict_and_leaves_one():
    def doomed(threshold, scores, mask=None, progress=None, **settings):
        given = {ONE: torch.tensor(scores)}
        propose = below(fixed(given), threshold, **{"cap": 1.0, **settings})
        return cut(propose, mask or Mask.full([ONE]), progress, (ONE,))

    assert doomed(2.0, [2.0, 1.0, 3.0, 1.5, 2.0]) == {"0": [1, 3]}
    assert doomed(1.0, [2.0, 1.0, 3.0, 1.5, 2.0]) is None
    assert doomed(9.0, [2.0, 1.0, 3.0, 1.5, 2.5]) == {"0": [0, 1, 3, 4]}
    assert doomed(-1.0, [-2.0, 1.0, -3.0, 1.5, 2.0]) == {"0": [0, 2]}
    # Of two alive one may go, of one none.
    two = Mask.full([ONE]).without({ONE: [0, 1, 2]})
    assert doomed(9.0, [0.0, 0.0, 0.0, 1.5, 2.5], two) == {"0": [3]}
    assert doomed(9.0, [0.0, 0.0, 0.0, 1.5, 2.5], two.without({ONE: [4]})) is None
    # At most a part of the size at the start, rounded down, and one in any case.
    low = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert doomed(9.0, low, cap=0.4) == {"0": [0, 1]}
    assert doomed(9.0, low, cap=0.59) == {"0": [0, 1]}
    assert doomed(9.0, low, cap=0.1) == {"0": [0]}
    assert doomed(9.0, low, progress=at(starts={ONE: 10}), cap=0.3) == {"0": [0, 1, 2]}
    assert doomed(9.0, low) == {"0": [0, 1, 2, 3]}
    # A multiple of the median of what is alive: 4 of 3, 4 and 5.
    living = Mask.full([ONE]).without({ONE: [0, 1]})
    assert doomed(1.0, low, living, relative=True) == {"0": [2]}
    assert doomed(1.2, low, living, relative=True) == {"0": [2, 3]}
    assert doomed(1.0, low, living) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "magnitud", "threshold": 1.0}, "Did you mean 'magnitude'"),
        ({"threshold": float("inf")}, "finite threshold.*got threshold=inf, cap=0.1"),
        ({"threshold": float("nan")}, "finite threshold"),
        ({"threshold": 1.0, "cap": 0.0}, "cap above 0, at most 1"),
        ({"threshold": 1.0, "cap": 1.001}, "cap above 0, at most 1"),
        ({"threshold": 1.0, "cap": -0.1}, "cap above 0, at most 1"),
        ({"threshold": 1.0, "repair": "least_square"}, "Did you mean 'least_squares'"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused_when_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        below(**{"criterion": "magnitude", **arguments})


def test_a_threshold_has_defaults():
    """A tenth of a group at a step, an absolute threshold, no repair."""
    given = {ONE: torch.zeros(5)}
    assert cut(below(fixed(given), 0.5), progress=at(starts={ONE: 30}), groups=(ONE,)) == {
        "0": [0, 1, 2],
    }  # fmt: skip
    assert below("magnitude", 1.0) == below("magnitude", 1.0, 0.1, False, None)


def test_a_repair_is_asked_for_every_group_of_units_and_told_what_lives_after_the_cut():
    model = network()
    links = find_synapses(model)[0]
    mask = Mask.full([ONE, TWO, links]).without({ONE: [4]})
    asked = []

    def repair(probe, group, units, after):
        asked.append(
            (group.name, units.tolist(), after.dead(ONE).tolist(), after.dead(TWO).tolist())
        )
        return {group.listeners[0]: torch.zeros(len(units), group.size + 1)}

    doomed = {links: torch.tensor([3]), ONE: torch.tensor([0, 1]), TWO: torch.tensor([2])}
    mix = mixed(repair, Probe(model, (X, Y)), doomed, mask)
    assert asked == [("0", [0, 1], [0, 1, 4], [2]), ("2", [2], [0, 1, 4], [2])]
    assert {p.parameter: rows.shape for p, rows in mix.items()} == {
        "2.weight": (2, 6), "4.weight": (1, 5),
    }  # fmt: skip
    assert mixed(None, Probe(model, (X, Y)), doomed, mask) == {}
    for propose in (
        ranked(fixed(SCORES), linear(by=4), repair=repair),
        below(fixed(SCORES), 1.5, repair=repair),
    ):
        asked.clear()
        found = propose(Probe(model, (X, Y)), [ONE, TWO], Mask.full([ONE, TWO]), at())
        assert [name for name, *_ in asked] == ["0", "2"]
        assert [p.parameter for p in found.mix] == ["2.weight", "4.weight"]


@pytest.mark.parametrize(("constant", "padding", "said"), [(1.0, 1, 1), (0.0, 1, 0), (1.0, 0, 0)])
def test_a_constant_behind_padding_is_said_to_be_inexact(caplog, constant, padding, said):
    model, units = channels()
    model[2].padding = (padding, padding)

    def repair(probe, group, doomed, after):
        rows = torch.zeros(len(doomed), group.size + 1)
        rows[-1, -1] = constant
        return {group.listeners[0]: rows}

    data = torch.rand(6, 1, 3, 3), torch.rand(6, 2, 3, 3)
    probe = Probe(model, data, lambda outputs, _: outputs.flatten(1).sum(1))
    with caplog.at_level(logging.INFO, logger="sentei"):
        mixed(repair, probe, {units: torch.tensor([0, 1])}, Mask.full([units]))
    assert caplog.text.count("'2' pads with zeros") == said


def test_only_a_kind_is_given_to_the_other_proposal():
    model = network()
    links = find_synapses(model)
    read = inputs(4, "0")
    seen = []

    def propose(probe, groups, mask, progress):
        seen.append([group.kind for group in groups])
        return Cut({groups[0]: torch.tensor([0])})

    groups = [ONE, *links, read, TWO]
    for kind, count in (("synapse", 3), ("neuron", 2), ("input", 1)):
        found = only(kind, propose)(Probe(model, (X, Y)), groups, Mask.full(groups), at())
        assert seen.pop() == [kind] * count
        assert [group.kind for group in found.doomed] == [kind]
    with pytest.raises(GroupError, match=r"only\('channel', ...\) was given no group of that kind"):
        only("channel", propose)(Probe(model, (X, Y)), groups, Mask.full(groups), at())
    with pytest.raises(ValueError, match="Did you mean 'synapse'"):
        only("synapses", propose)


def rising(progress):
    """Keep one fewer at each of three steps, and one more at the fourth."""
    return progress.start - (progress.step if progress.step < 4 else 2)


def test_a_schedule_is_checked_to_its_end():
    starts = {ONE: 5, TWO: 4}
    propose = ranked("magnitude", rising)
    assert propose.check([ONE, TWO], starts, 3) is None
    with pytest.raises(ScheduleError, match=r"keeps 7 of 6 at proposal 4; let it give 6 or fewer"):
        propose.check([ONE, TWO], starts, 4)
    with pytest.raises(ScheduleError, match="keeps 3 of 2 at proposal 4"):  # group by group
        ranked("magnitude", rising, within="group").check([ONE, TWO], starts, 4)
    assert propose.check([ONE, TWO], starts, None) is None  # only one step is known
    with pytest.raises(ScheduleError, match=r"steps="):
        ranked("magnitude", linear("50 %")).check([ONE, TWO], starts, None)
    with pytest.raises(ScheduleError, match="keeps 10 of 9 at proposal 1"):
        ranked("magnitude", lambda progress: progress.start + 1).check([ONE, TWO], starts, 1)
    assert ranked("magnitude", linear("50 %")).check([ONE, TWO], starts, 1) is None
    assert only("neuron", propose).check([ONE, TWO], starts, 3) is None
    with pytest.raises(ScheduleError, match="proposal 4"):
        only("neuron", propose).check([ONE, *find_synapses(network()), TWO], starts, 4)
    with pytest.raises(GroupError, match="no group of that kind"):
        only("head", propose).check([ONE], starts, 3)
    assert only("head", lambda *_: None).check([ONE], starts, 3) is None  # nothing to be checked


def test_of_a_long_schedule_about_a_thousand_steps_are_tried():
    tried = []

    def counted(progress):
        tried.append(progress.step)
        return max(progress.start - progress.step, 0)

    for total, steps in ((1_000, 1_000), (2_500, 1_250), (10_000, 1_000)):
        tried.clear()
        ranked("magnitude", counted).check([ONE, TWO], {ONE: 5, TWO: 4}, total)
        assert len(tried) == len(set(tried)) == steps
        assert tried[0] == 1
        assert total - max(tried) < 10


def test_proposals_are_values():
    first, second = (ranked("magnitude", linear(5), repair="mean") for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert ranked("magnitude", linear(5)) != first
    assert only("neuron", first) == only("neuron", second) != only("input", first)
    for value in (first, below("magnitude", 1.0), only("neuron", first)):
        with pytest.raises(FrozenInstanceError):
            value.repair = None
