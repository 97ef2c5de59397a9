"""The sensitivity paper's experiments, small: rules of removal, its hack, and counts of units."""

from types import SimpleNamespace

import pytest
import torch

from hand import hidden, mlp
from sentei.criteria.trajectory import Trajectory
from sentei.errors import ScheduleError
from sentei.network.mask import Mask
from sentei.papers.claims import Report, paired
from sentei.papers.sensitivity import figures, hurting, judging, plan, reading, teachers, ways
from sentei.papers.sensitivity.checks import Check, Counting, Hack, Late, Same
from sentei.papers.sensitivity.restarts import rebuilt
from sentei.papers.sensitivity.runs import data_of, trained
from sentei.papers.sensitivity.timing import WAYS
from sentei.papers.sensitivity.watching import KINDS, RULE, watched
from sentei.probe.probe import Probe
from sentei.pruning.rules.proposals import Cut
from sentei.pruning.rules.schedules import Progress
from sentei.training.train import Course

PARTS = ("train", "validation", "test", "noise 0.25", "noise 0.5")
X, Y = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3


def asked(model, doomed=None):
    groups = hidden(model)
    probe = Probe(model, (X, Y), trajectory=Trajectory(model))
    return SimpleNamespace(
        groups=groups,
        probe=probe,
        mask=Mask.full(groups).without(doomed or {}),
        progress=Progress(1, 3, 10, 10, 0, {group: group.size for group in groups}),
    )


def call(proposal, at):
    return proposal(at.probe, at.groups, at.mask, at.progress)


def first(units):
    """Return a proposal that removes the first units of the first group."""
    return lambda probe, groups, mask, progress: Cut({groups[0]: torch.arange(units)})


def test_a_schedule_that_never_fires_is_said_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(Course, "epoch", lambda *_: pytest.fail("it trained"))
    with pytest.raises(ScheduleError, match=r"every 50 epochs never come in the first 70% of 50"):
        trained("16-8-26:sigmoid", 0, 50, check={"every": 50})


def test_a_late_rule_takes_a_tenth_of_each_layer_after_the_early_one():
    at = asked(mlp(4, 20, 10, 3))
    with torch.no_grad():
        at.probe.model[2].weight[:, 7] = 0  # nobody hears unit 7 of the first layer
    rule = Late(first(3), checks=2, criterion="magnitude")
    assert [call(rule, at).doomed[at.groups[0]].numel() for _ in range(2)] == [3, 3]
    later = Late(first(3), checks=0, criterion="ablation")
    doomed = call(later, at).doomed
    assert [doomed[group].numel() for group in at.groups] == [2, 1]
    assert call(Late(first(3), 0, "none"), at) is None
    mended = call(Late(first(3), 0, "distinctiveness", "affine"), at)
    assert {part.layer for part in mended.mix} == {"2", "4"}


def test_a_control_takes_as_many_at_the_same_moments():
    at = asked(mlp(4, 6, 5, 3))
    counting = Counting(first(2))
    call(counting, at)
    assert counting.removed == [{at.groups[0].name: 2}]
    assert counting.seen == {(at.groups[0].name, 0), (at.groups[0].name, 1)}
    same = Same("magnitude", counting.removed)
    doomed = call(same, at).doomed
    assert [(group.name, units.numel()) for group, units in doomed.items()] == [
        (at.groups[0].name, 2)
    ]
    assert call(same, at) is None
    watching = Counting(first(2), only_count=True)
    assert call(watching, at) is None
    assert watching.seen == counting.seen


def test_the_hack_silences_units_that_training_gives_a_voice_again():
    model = mlp(4, 6, 3)
    at = asked(model)
    hack = Hack(first(2))
    call(hack, at)
    assert hack.zeroed == {at.groups[0]: {0, 1}}
    assert model[2].weight[:, :2].abs().max() == 0
    assert hack.relearnt(model) == [0.0, 0.0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    torch.nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
    assert min(hack.relearnt(model)) > 0
    seen = []
    hack.propose = lambda probe, groups, mask, progress: seen.append(mask.count(groups[0]))
    call(hack, at)
    assert seen == [4]  # those that were zeroed are not there to be proposed again


def test_a_part_of_each_layer_goes_at_one_check_whatever_the_threshold():
    at = asked(mlp(4, 20, 8, 3))
    at.progress = Progress(1, 1, 28, 28, 0, at.progress.starts)
    doomed = call(Check(1, keep="75 %").propose(10), at).doomed
    assert [doomed[group].numel() for group in at.groups] == [5, 2]


def test_a_pruned_training_is_followed_by_controls_and_by_a_new_network_of_its_size():
    told = trained(
        "16-12-26:sigmoid", 0, 2, batch=2_000, controls=("random",), afresh=True,
        check={"every": 1, "threshold": 1e9, "cap": 0.5, "finish": 0.5},
    )  # fmt: skip
    assert told["removed"] == [{"fc1": 6}]
    assert told["units"] == told["random"]["units"] == told["afresh"]["units"] == [6]
    assert told["parameters"] == told["afresh"]["parameters"] == 16 * 6 + 6 + 6 * 26 + 26
    assert sum(map(sum, told["confusion"])) == 3_000
    assert [point[0] for point in told["curve"]] == [1, 2]


def test_what_is_watched_is_left_alone():
    told = watched("16-6-26:relu", 0, 2, 1)
    assert [check["units"] for check in told["checks"]] == [6, 6]
    for check in told["checks"]:
        assert check["silent flagged"] <= min(check["silent"], check["flagged"])
        assert check["dear"] <= check["flagged"] <= 6
        assert [*check["spearman"]] == [" ".join(kind) for kind in KINDS]
    assert told["checks"][0]["learning again"] == told["checks"][0]["woken"] == 0
    alone = trained("16-6-26:relu", 0, 2)
    assert told["accuracy"] == alone["accuracy"]


def test_version_two_goes_on_to_the_last_unit_it_may_lose():
    told = rebuilt(0, 3, 2, tolerance=1.0, every=1)
    sizes = [row["units"] for row in told["tried"]]
    assert sizes == list(range(3, 3 - len(sizes), -1))
    assert all(row["counted"] for row in told["tried"][:-1])
    assert told["smallest"]["units"] == sizes[-1]


def test_a_teachers_samples_are_there_first_as_they_are():
    plain = data_of("authors", 0)
    shaken = teachers._shaken(plain, 3, 0.3, 0)
    assert plain.train.rows == 16_000
    assert shaken.train.rows == 48_000
    assert torch.equal(shaken.train.inputs[:16_000], plain.train.inputs)
    apart = shaken.train.inputs[16_000:32_000] - plain.train.inputs
    # Deviations are uniform from 0 to 0.3: their mean square is 0.3 ** 2 / 3.
    assert float(apart.std()) == pytest.approx(0.3 / 3**0.5, rel=0.02)
    assert apart.std(1).min() < 0.02
    assert 0.3 < apart.std(1).max() < 0.7
    assert torch.equal(shaken.train.targets[32_000:], plain.train.targets)


def test_teachers_answer_with_the_mean_of_their_log_probabilities():
    networks = [mlp(4, 6, 3), mlp(4, 5, 3)]
    answer = teachers.Averaged(networks)(X)
    alone = [network(X).softmax(1) for network in networks]
    geometric = (alone[0] * alone[1]).sqrt()
    assert torch.allclose(answer.softmax(1), geometric / geometric.sum(1, keepdim=True), atol=1e-6)
    assert torch.allclose(teachers.Averaged(networks[:1])(X).softmax(1), alone[0], atol=1e-6)


def test_what_learns_from_teachers_ends_with_three_quarters_of_each_layer():
    told = teachers.taught(0, **plan._shortened(plan.TAUGHT))
    assert told["best"]["units"] == [45, 34, 22]
    assert sum(told["best"]["units"]) <= judging.UNITS
    assert 0.5 < told["best"]["accuracy"]["test"] < told["teacher"] < 1


def test_a_verdict_needs_more_than_a_pair_and_more_than_chance():
    assert reading.verdict(paired([1.0], [0.0])) == "cannot be judged"
    assert reading.verdict(paired([1.0, 1.1, 0.9], [0.0, 0.0, 0.0])) == "holds"
    assert reading.verdict(paired([0.0, 0.0, 0.0], [1.0, 1.1, 0.9])) == "does not hold"
    assert reading.verdict(paired([1.0, -1.0, 0.2], [0.0, 0.0, 0.0])) == "does not hold"
    curve = {"curve": [[1, 0.5, 2.0], [3, 0.8, 1.0]]}
    assert [reading.reached(curve, aim) for aim in (0.5, 0.6, 0.9)] == [1, 3, float("inf")]


def course(accuracy, units):
    return {
        "curve": [[1, accuracy / 2, 2.0], [2, accuracy, 1.0]], "loss": [2.0, 1.0], "seconds": 1.0,
        "units": units, "parameters": 100, "confusion": torch.eye(26).int().tolist(),
        "accuracy": dict.fromkeys(PARTS, accuracy),
    }  # fmt: skip


def invented(deleted):
    """Make up results of two seeds; `deleted` is the time of deletion relative to no pruning."""
    runs = {}
    for name in plan.NAMES:
        settings = plan.EXPERIMENTS.get(name, {})
        units = [40, 30, 20] if "16-60" in settings.get("widths", "") else [50]
        found = []
        for seed in range(2):
            run = course(0.9 + 0.01 * seed, units)
            for control in (*settings.get("controls", ()), "afresh"):
                run[control] = course(0.8 + 0.02 * seed, units)
            run.update({
                "removed": [{"0": 5}], "relearnt": [0.0, 0.5], "teacher": 0.98,
                "best": course(0.98, [101]), **dict.fromkeys(WAYS, [1.0] * 10),
                "delete": [deleted] * 10, "tried": [1], "smallest": {"units": 40, "test": 0.9},
                "checks": [{"units": 10, "flagged": 4, "relative": 2, "silent": 1, "dear": 2,
                            "silent flagged": 1, "learning again": 3, "woken": 0,
                            "spearman": {" ".join(kind): 0.1 for kind in KINDS}}] * 10,
            })  # fmt: skip
            found.append(run)
        runs[name] = found
    return runs


def test_verdicts_and_figures_follow_from_results():
    quick, slow = ({row.claim: row for row in judging.claims(invented(d))} for d in (0.5, 1.5))
    times = [claim for claim in quick if claim.startswith("a pruned training takes less time")]
    assert len(times) == 2
    for claim in times:
        assert quick[claim].verdict == "holds"
        assert slow[claim].verdict == "does not hold"
        assert quick[claim].measured == "0.50 ± 0.00 (2 seeds) of the time"
    assert quick["zeroing outgoing weights removes a unit"].measured.startswith(
        "50 ± 0 % (2 seeds)"
    )
    assert "aim of 97 % with 101 is reached" in quick["the best of a network of 135 units"].remark
    mistakes = quick["units are flagged by mistake (ReLU)"]
    assert mistakes.measured.startswith("50 ± 0 % (2 seeds) of those flagged")
    assert "100 ± 0 % (2 seeds) of those are flagged" in mistakes.remark
    assert all(make(invented(0.5)).axes for make in figures.DRAWN.values())
    assert Report("s", "S", "c", False, list(quick.values())).markdown()


def test_the_plan_names_every_job_once_and_shortens_all_of_them():
    whole, quick = (plan.jobs([0, 1], quick=short) for short in (False, True))
    assert [job.name for job in whole] == [job.name for job in quick]
    assert len({job.name for job in whole}) == len(whole) == 2 * len(plan.NAMES)
    for long, short in zip(whole, quick, strict=True):
        epochs = [job.settings.get("epochs", 0) for job in (long, short)]
        assert epochs[1] * 5 <= epochs[0] or "students" in short.settings
    assert RULE in KINDS
    assert len([n for n in range(1, 11) if n * 5 <= ways.FINISH * 50]) == hurting.EARLY


def test_a_seed_that_never_gets_there_is_counted_not_averaged():
    never = float("inf")
    assert reading.after([10, 20]) == "15 ± 7 (2 seeds)"
    assert reading.after([10, never, 20]) == "15 ± 7 (2 seeds), never in 1"
    assert reading.after([never]) == "never"
