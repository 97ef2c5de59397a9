"""The distinctiveness paper's merges, as edits of weights, and the verdicts on its claims."""

import pytest
import torch
from torch import nn

from sentei import Cut, Mask, Probe, Progress, when_stalled
from sentei.papers import Order, distinctiveness, redundancy
from sentei.papers.distinctiveness import beyond, experiments, figures, judging, networks
from sentei.papers.distinctiveness.late import late
from sentei.papers.distinctiveness.merges import EDITS
from sentei.pruning.rules.twins import Pairing
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
    head = networks.Head(before, nn.Identity(), nn.Linear(4, 2), {"train": Samples(x, y)})
    assert redundancy.effective_rank(head.probe, head.group) == pytest.approx(4, rel=1e-5)
    with torch.no_grad():
        before.weight[2:] = before.weight[:1]
    head.probe.forget_()
    assert redundancy.effective_rank(head.probe, head.group) < 2


def test_a_curve_ends_with_one_unit_and_leaves_the_head_alone():
    torch.manual_seed(0)
    x, y = torch.randn(60, 5), torch.randint(0, 3, (60,))
    parts = {name: Samples(x, y) for name in ("train", "validation", "test")}
    head = networks.Head(nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 3), parts)
    before = head.accuracies("test")
    found = experiments.curve(head, "ablation-least-squares", "least_squares", 0)
    assert len(found["test"]) == 6
    assert found["test"][0] == before["test"]
    assert head.accuracies("test") == before
    gone = experiments.without(head, [0, 1], None)
    assert gone.after.weight[:, :2].count_nonzero() == 0
    assert head.after.weight[:, :2].count_nonzero() == 6


def test_a_stalled_error_is_waited_for():
    asked, told = [], iter([1.0, 0.9, 0.87, 0.9, 0.8, 0.8])

    class Told:
        __class__ = Probe  # pyright: ignore

        def loss(self):
            return next(told)

    propose = when_stalled(lambda *_: asked.append(1) or Cut({}), drop=0.05)
    looks = [propose(Told(), [], Mask.full([]), Progress(1, None, 1, 1)) for _ in range(6)]
    found = [look is not None for look in looks]
    # 10 % less, 3.3 % less: now; then a look that only notes, 11 % less, and nothing less: now.
    assert found == [False, False, True, False, False, True]
    for wrong in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            when_stalled(propose, wrong)


@pytest.fixture(scope="module")
def small():
    trained = experiments.trial("fnn", 0, 1, width=8, images=300, compared=True, quick=True)
    other = {**trained, "accuracy": {**trained["accuracy"], "test": 0.5}, "effective rank": 3.0}
    runs = {kind: [trained, other] for kind in ("cnn", "fnn")}
    names = {"cnn": ("as it is", "filters 5"), "fnn": ("as it is", "pixels 0 to 1")}
    changed = {kind: dict.fromkeys(names[kind], found) for kind, found in runs.items()}
    lates = {
        name: [late(name, seed, 6, 300, drop=1.0) for seed in range(2)]
        for name in ("nobody", "badness", "magnitude", "random")
    }
    curve = torch.linspace(0.97, 0.1, 100).tolist()
    wide = [dict.fromkeys(experiments.HUNDRED, curve)] * 2
    return judging.Found(runs, changed, wide, lates)


def test_every_claim_is_judged_and_every_figure_drawn(small, tmp_path):
    rows = [*judging.claims(small), *beyond.claims(small)]
    assert rows[0].measured == "26,474 and 50,890"
    assert rows[0].verdict == "holds"
    assert len({row.claim for row in rows}) == len(rows)
    assert not any("nan" in row.measured for row in rows)
    assert [len(run["gone"]) for run in small.late["badness"]] == [2, 2]
    assert not any(run["gone"] for run in small.late["nobody"])
    figures.draw(Order(tmp_path), small)
    drawn = sorted(path.stem for path in (tmp_path / "figures").glob("*.png"))
    assert drawn == ["areas", "compared", "curves", "hundred", "influence", "runs", "sweep"]


def test_the_table_of_ways_has_a_line_for_each_criterion(small):
    lines = beyond.table(small.runs).splitlines()
    assert [line.split(" | ")[0] for line in lines[:3]] == ["| CNN", "| ---", "| ablation"]
    assert sum(line.startswith("| magnitude |") for line in lines) == 2
    (row,) = [r for r in beyond.rows(beyond.curves(small.runs["cnn"])) if str(r.way) == "random"]
    assert f"| random | {100 * row.area:.2f} ± " in beyond.table(small.runs)


def test_the_cnn_is_repeated_twice_for_each_seed():
    todo = [job.name for job in distinctiveness.jobs(False, range(5))]
    assert len(set(todo)) == len(todo)
    assert [f"cnn-{n}" in todo for n in (0, 9, 10)] == [True, True, False]
    assert [f"fnn-{n}" in todo for n in (4, 5)] == [True, False]
    assert sum(name.startswith("hundred") for name in todo) == 5
