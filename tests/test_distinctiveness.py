"""The paper's merges, as edits of the weights, and how its claims are judged."""

import pytest
import torch
from torch import nn

from sentei.papers.distinctiveness import experiments, judging
from sentei.papers.distinctiveness.merges import EDITS
from sentei.pruning.twins import Pairing
from sentei.samples import Samples


def layers(act):
    torch.manual_seed(1)
    return nn.Linear(5, 6).double(), act, nn.Linear(6, 3).double()


def repeat(before, of, to, scale=1.0):
    with torch.no_grad():
        before.weight[to], before.bias[to] = scale * before.weight[of], scale * before.bias[of]


def changed(edit, pairing, prepare, act):
    before, act, after = layers(act)
    prepare(before, after)
    x = torch.randn(50, 5).double()
    want = after(act(before(x)))
    EDITS[edit](before, after, pairing)
    return (after(act(before(x))) - want).abs().max().item()


TWINS = Pairing(alike=((4, 1),), opposite=())
OPPOSITES = Pairing(alike=(), opposite=((4, 1), (1, 4)))


def duplicates(before, after):
    repeat(before, 1, 4)


def complements_of_one_voice(before, after):
    repeat(before, 1, 4, -1)
    with torch.no_grad():
        after.weight[:, 4] = after.weight[:, 1]


def test_adding_outgoing_weights_is_exact_for_duplicates_and_incoming_is_not():
    assert changed("outgoing", TWINS, duplicates, nn.Sigmoid()) < 1e-12
    for literal in ("incoming", "both sides", "nobody"):
        assert changed(literal, TWINS, duplicates, nn.Sigmoid()) > 1e-2


def test_incoming_is_exact_for_relus_of_one_voice():
    def prepare(before, after):
        duplicates(before, after)
        with torch.no_grad():
            after.weight[:, 4] = after.weight[:, 1]

    assert changed("incoming", TWINS, prepare, nn.ReLU()) < 1e-12
    assert changed("incoming", TWINS, duplicates, nn.ReLU()) > 1e-2


def test_an_opposite_pair_leaves_a_constant():
    for edit in ("outgoing, constant folded", "incoming"):
        assert changed(edit, OPPOSITES, complements_of_one_voice, nn.Sigmoid()) < 1e-12
    assert changed("outgoing", OPPOSITES, complements_of_one_voice, nn.Sigmoid()) > 1e-2


def test_the_paired_test_is_exact():
    assert judging.paired([1.0, 1.0, 1.0, 1.0, 1.0]) == (1.0, 2 / 32)
    mean, p = judging.paired([1.0, -1.0])
    assert (mean, p) == (0.0, 1.0)


def test_removable_stops_at_the_first_loss():
    held = [0.9, 0.9, 0.8995, 0.8985, 0.9]
    assert judging.removable({"curves": {"m": {"validation": held}}}, "m") == 2
    assert judging.removable({"curves": {"m": {"validation": [0.9, 0.9]}}}, "m") == 1


def test_effective_rank_counts_directions():
    before = nn.Linear(4, 4, bias=False)
    nn.init.eye_(before.weight)
    x = torch.cat([torch.eye(4), -torch.eye(4)])
    y = torch.zeros(8, dtype=torch.long)
    head = experiments.Head(before, nn.Identity(), nn.Linear(4, 2), {"train": Samples(x, y)})
    assert experiments.effective_rank(head.probe, head.group) == pytest.approx(4, rel=1e-5)
    with torch.no_grad():
        before.weight[2:] = before.weight[:1]
    head.probe.forget_()
    assert experiments.effective_rank(head.probe, head.group) < 2


def test_a_curve_ends_with_one_unit_and_leaves_the_head_alone():
    torch.manual_seed(0)
    x, y = torch.randn(60, 5), torch.randint(0, 3, (60,))
    parts = {name: Samples(x, y) for name in ("train", "validation", "test")}
    head = experiments.Head(nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 3), parts)
    before = head.accuracies("test")
    found = experiments.curve(head, "ablation + least squares", 0)
    assert len(found["test"]) == 6
    assert found["test"][0] == before["test"]
    assert head.accuracies("test") == before
    gone = experiments.without(head, [0, 1], None)
    assert gone.after.weight[:, :2].count_nonzero() == 0
    assert head.after.weight[:, :2].count_nonzero() == 6
