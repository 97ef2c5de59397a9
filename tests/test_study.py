"""The study: ranks by known tables, runs that keep what they say, questions on made-up results."""

import json
import math
import struct
from dataclasses import replace

import pytest
import torch

from sentei import Progress
from sentei.errors import DataError, IncompleteError
from sentei.papers import Order, reproduce, study
from sentei.papers.study import judging, ranks, reading, tables, tasks, ways
from sentei.papers.study.reading import Network, Study

POINTS = ways.MEMBERS["units"].points


def test_average_ranks_share_what_is_equal():
    qualities = torch.tensor([[0.9, 0.8, 0.7], [0.5, 0.5, 0.4]])
    assert ranks.average_ranks(qualities).tolist() == [1.25, 1.75, 3.0]


@pytest.mark.parametrize(("methods", "point"), [(2, 1.960), (3, 2.343), (4, 2.569), (10, 3.164)])
def test_critical_differences_are_those_of_nemenyis_table(methods, point):
    """Demsar (2006), table 5a: CD = q sqrt(k (k + 1) / (6 N))."""
    wanted = point * math.sqrt(methods * (methods + 1) / 6 / 14)
    assert ranks.critical_difference(methods, 14) == pytest.approx(wanted, rel=5e-4)


def test_friedmans_test_gives_the_example_of_its_source():
    """Demsar (2006), section 3.2.2: four methods on 14 data sets, chi square 9.28."""
    found = ranks.friedman(torch.tensor([3.143, 2.000, 2.893, 1.964]), 14)
    assert found == pytest.approx(0.0258, abs=3e-4)


def test_bars_join_the_longest_runs_that_are_not_told_apart():
    assert ranks.alike([1.0, 1.5, 2.4, 4.0, 4.2], 1.0) == [(0, 1), (1, 2), (3, 4)]
    assert ranks.alike([1.0, 2.0, 3.0], 5.0) == [(0, 2)]
    assert ranks.alike([1.0, 3.0, 5.0], 1.0) == []


def test_schedules_reach_every_share_and_leave_a_unit():
    shares = ways.Shares((75, 50, 10))
    assert [shares(Progress(step, None, 64, 64)) for step in (1, 2, 3, 9)] == [48, 32, 6, 6]
    assert ways.Shares((10,))(Progress(1, 1, 4, 4)) == 1
    slow = [ways.Gradually(20)(Progress(step, None, 50, 50)) for step in range(1, 11)]
    assert slow[-1] == 10
    assert slow == sorted(slow, reverse=True)
    assert 50 - slow[0] > slow[-2] - slow[-1]  # most go at first


@pytest.mark.parametrize("name", [*tasks.TASKS, *tasks.VARIANTS])
def test_the_groups_of_a_task_have_its_widths(name):
    """So that a new network of any sizes has the same groups as a pruned one."""
    task = tasks.task(name)
    learn, _ = replace(task, learnt=20, tested=20).samples(0)
    for widths in (task.widths, tuple(width // 2 for width in task.widths)):
        network = task.network(widths, 0).eval()
        assert [g.size for g in task.groups(network, learn.inputs[:8])] == [*widths]


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="mnist mlp"):
        tasks.task("mnist mpl")


@pytest.fixture(scope="module")
def quick_run():
    """Every way of one small network, by exact ablation."""
    return ways.after_training("friedman mlp", 0, "ablation", quick=True)


def test_a_run_has_every_way_and_every_size(quick_run):
    found = [(p["schedule"], p["repair"], p["retrained"]) for p in quick_run["paths"]]
    assert sorted(found) == sorted(reading.WAYS)
    assert {len(path["quality"]) for path in quick_run["paths"]} == {len(POINTS)}
    assert quick_run["agreement"] == pytest.approx(1)


def test_the_first_cut_is_the_same_for_one_shot_and_iterative(quick_run):
    """Both remove the same units of the unpruned network there."""
    paths = {(p["schedule"], p["repair"], p["retrained"]): p for p in quick_run["paths"]}
    for way in reading.WAYS:
        other = paths[ways.ITERATIVE, way.repair, way.retrained]
        assert paths[way]["loss"][0] == pytest.approx(other["loss"][0], rel=1e-4), way


def test_a_criterion_that_scores_no_units_is_left_out():
    found = ways.after_training("friedman mlp", 0, "wsf", quick=True)
    assert "synapse" in found["refused"]


@pytest.mark.parametrize("repair", [None, "least_squares"])
def test_units_that_go_while_training_leave_the_sizes(monkeypatch, repair):
    """A unit is dead where nothing reads it."""
    sizes = []
    evaluated = ways._evaluated

    def seen(base, network):
        alive = [int((network.get_parameter(f"fc{i}.weight") != 0).any(0).sum()) for i in (2, 3)]
        sizes.append(alive)
        return evaluated(base, network)

    monkeypatch.setattr(ways, "_evaluated", seen)
    found = ways.while_training("friedman mlp", 0, "magnitude", quick=True, repair=repair)
    shares = [ways.Shares((percent,)) for percent in POINTS]
    assert sizes == [[s(Progress(1, 1, n, n)) for n in (64, 32)] for s in shares]
    assert found["paths"][0]["repair"] == (repair or "none")


@pytest.mark.parametrize("run", ["from_scratch", "while_training"])
def test_single_weights_that_are_left_are_as_many_in_each_layer(monkeypatch, run):
    """Also in new networks; the biases stay."""
    sizes = []
    evaluated = ways._evaluated

    def seen(base, network):
        sizes.append([int(network.get_parameter(f"fc{i}.weight").count_nonzero()) for i in (1, 2)])
        return evaluated(base, network)

    monkeypatch.setattr(ways, "_evaluated", seen)
    criterion = ["magnitude"] if run == "while_training" else []
    getattr(ways, run)("friedman mlp", 0, *criterion, quick=True, members="weights")
    percents = ways.MEMBERS["weights"].points
    assert sizes == [[round(n * percent / 100) for n in (640, 2048)] for percent in percents]


def test_single_weights_go_by_every_schedule_and_are_not_repaired():
    found = ways.after_training("friedman mlp", 0, "wanda", quick=True, members="weights")
    ways_of = {(p["schedule"], p["repair"], p["retrained"]) for p in found["paths"]}
    assert ways_of == {way for way in reading.WAYS if way.repair == "none"}
    assert 0 < found["agreement"] < 1  # with magnitude
    whole = ways.from_scratch("friedman mlp", 0, quick=True, members="weights")
    weights = [count for count, _ in whole["sizes"]]
    assert weights[0] == 640 + 2048 + 32
    assert weights[-1] == 32 + 102 + 2  # 5 % of each layer
    assert whole["ranks"] == []
    refused = ways.after_training("friedman mlp", 0, "ablation", quick=True, members="weights")
    assert "whole units" in refused["refused"]


def made_up(**qualities):
    """Return a study of two tasks and two seeds from qualities by criterion: (plain, repaired)."""
    paths, networks, scoring = {}, {}, {}
    for number, network in enumerate(Network(t, s) for t in ("one", "two") for s in (0, 1)):
        networks[network] = {"whole": (0.9, 0.1), "sizes": [(100, 90), (10, 9)], "ranks": [0.5]}
        paths[reading.NEW, network, ""] = [(0.5, 1.0)] * 5
        for place, (name, pair) in enumerate(qualities.items()):
            scoring[network, name] = float(place + 1), 1.0 - place / 10
            for way, quality in zip((judging.PLAIN, judging.REPAIRED), pair, strict=True):
                shift = 0.001 * number * (1 + place)
                paths[way, network, name] = [(quality + shift, 1.0)] * 5
    return Study(paths, networks, scoring)


def test_questions_are_answered_on_all_networks_by_pairs():
    found = made_up(ablation=(0.6, 0.8), magnitude=(0.5, 0.7), random=(0.4, 0.79))
    claims = {claim.claim: claim for claim in judging.judged(found)}
    helps = claims["repair by least squares helps"]
    assert helps.verdict == "holds"
    assert helps.measured.startswith("+20.00")
    better = claims["exact ablation is better than magnitude"]
    assert better.measured.startswith("+9.")
    assert better.verdict == "holds"
    new = claims[f"a pruned network is better than a new one of its size: {judging.REPAIRED}"]
    assert new.verdict == "holds"
    assert not any("while training" in name for name in claims)  # nothing was measured


def test_the_best_criterion_is_chosen_on_other_tasks():
    study_of = made_up(ablation=(0.6, 0.8), magnitude=(0.5, 0.7), random=(0.4, 0.4))
    paths = dict(study_of.paths)
    for seed in (0, 1):  # on the first task alone magnitude is far better
        paths[judging.PLAIN, Network("one", seed), "magnitude"] = [(0.99, 1.0)] * 5
    study_of = replace(study_of, paths=paths)
    networks = [Network("one", 0), Network("two", 0)]
    one, two = study_of.transferred(judging.PLAIN, networks)
    assert one == pytest.approx(0.6)  # by ablation, the best on the second task
    assert two == pytest.approx(0.5, abs=0.01)  # by magnitude, the best on the first


def test_questions_about_single_weights_say_so():
    found = made_up(magnitude=(0.6, 0.8), obs=(0.7, 0.9), random=(0.4, 0.79))
    paths = {key: path for key, path in found.paths.items() if key[0] != judging.REPAIRED}
    claims = {c.claim: c for c in judging.judged(replace(found, paths=paths, members="weights"))}
    assert all(claim.startswith("single weights: ") for claim in claims)
    better = claims["single weights: a good criterion is better than magnitude: iterative"]
    assert better.measured.startswith("+10.")
    assert not any("repaired" in claim or "least squares" in claim for claim in claims)
    ways_of = tables.ways(replace(found, paths=paths, members="weights"))
    assert "| magnitude | random |" in ways_of.splitlines()[0]


def test_an_r2_below_zero_counts_as_zero():
    network = Network("one", 0)
    found = Study({(judging.PLAIN, network, "a"): [(-9.0, 1.0), (0.5, 1.0)]}, {}, {})
    assert found.quality(judging.PLAIN, network, "a") == 0.25
    assert "-9" in reading.as_csv(found)


def test_tables_have_a_line_for_each_criterion():
    found = made_up(ablation=(0.6, 0.8), magnitude=(0.5, 0.7), random=(0.4, 0.4))
    lines = tables.criteria(found).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["ablation", "magnitude", "random"]
    assert "60.1 (1.0)" in lines[2]  # 0.6 and the mean of 0, 0.001, 0.002, 0.003
    assert lines[3].endswith("| +0.90 | 2.00 |")


def test_jobs_are_of_all_criteria_and_fewer_with_quick(images):
    todo = study.jobs(2, quick=False)
    assert len({job.name for job in todo}) == len(todo)
    assert {job.settings.get("criterion") for job in todo} >= {"ablation", "random", "wsf", None}
    assert all(job.settings["quick"] for job in study.jobs(1, quick=True))
    with_images = study.jobs(1, quick=True, images=str(images))
    assert {f"images:{images}"} < {job.settings["task"] for job in with_images}


def test_a_folder_without_images_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(DataError, match="train-images"):
        reproduce("study", Order(tmp_path / "run", quick=True, images=tmp_path))
    assert not (tmp_path / "run").exists()


def invented(job, number):
    """Return a result of the form that a job's function returns."""
    numbers = {"quality": [0.5 + number / 100] * 5, "loss": [1.0] * 5}
    ways_of = {
        ways.from_scratch: [reading.NEW],
        ways.after_training: reading.WAYS,
        ways.while_training: [reading.Way(ways.DURING, job.settings.get("repair", "none"))],
    }[job.function]
    if job.settings.get("members") == "weights":
        ways_of = [way for way in ways_of if way.repair == "none"]
    paths = [{**way._asdict(), **numbers} for way in ways_of]
    if job.function is ways.from_scratch:
        return {"paths": paths, "whole": [0.9, 0.1], "sizes": [[9, 8]] * 6, "ranks": [0.5]}
    return {"paths": paths, "seconds": 1.0, "agreement": 0.5}


def test_what_is_stored_so_far_is_judged_where_it_is_whole(tmp_path):
    """A task and seed that a criterion has not pruned yet does not count."""
    todo = [j for j in study.jobs(1, quick=True) if j.settings["task"] == "friedman mlp"]
    missing = "during-friedman-mlp-random-0"
    (tmp_path / "quick").mkdir()
    for number, job in enumerate(each for each in todo if each.name != missing):
        kept = job.identity() | {"result": invented(job, number)}
        (tmp_path / "quick" / f"{job.name}.json").write_text(json.dumps(kept))
    report = reproduce("study", Order(tmp_path, quick=True, seeds=1, so_far=True))
    assert report.command == "sentei reproduce study --seeds 1 --quick --so-far"
    assert len(report.claims) > 10
    units = [claim for claim in report.claims if not claim.claim.startswith("single weights")]
    assert len(units) < len(report.claims)
    assert not any(
        "while training" in claim.remark and "least squares" not in claim.remark for claim in units
    )
    assert "mnist" not in (tmp_path / "tasks.md").read_text()
    with pytest.raises(IncompleteError, match="all criteria"):
        reproduce("study", Order(tmp_path / "new", quick=True, so_far=True))


@pytest.fixture
def images(tmp_path):
    """A folder of IDX files: 8 by 8 images, brighter at the left or at the right."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 400), ("t10k", 100)):
        labels = torch.randint(2, (count,), generator=generator)
        pixels = torch.randint(0, 100, (count, 8, 8), generator=generator)
        pixels[labels == 0, :, :4] += 120
        pixels[labels == 1, :, 4:] += 120
        heads = (b"\0\0\x08\x03" + struct.pack(">3I", count, 8, 8), b"\0\0\x08\x01")
        bodies = [values.to(torch.uint8).numpy().tobytes() for values in (pixels, labels)]
        (folder / f"{part}-images-idx3-ubyte").write_bytes(heads[0] + bodies[0])
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            heads[1] + struct.pack(">I", count) + bodies[1]
        )
    return folder


def test_a_users_images_are_a_task(images):
    made = tasks.task(f"images:{images}")
    assert made.recipe.epochs == round(6 * 12_000 / made.samples(0)[0].rows) > 100
    found = ways.from_scratch(f"images:{images}", 0, quick=True)
    assert found["whole"][0] > 0.9
    assert len(found["sizes"]) == 1 + len(POINTS)
    parameters = [each for each, _ in found["sizes"]]
    assert parameters == sorted(parameters, reverse=True)


@pytest.mark.slow
def test_a_quick_study_of_a_users_images_is_written_whole(tmp_path, images):
    report = reproduce("study", Order(tmp_path, quick=True, seeds=2, images=images))
    assert len(report.claims) > 10
    written = {file.name for file in tmp_path.iterdir()}
    assert {"results.csv", "criteria.md", "ways.md", "tasks.md", "claims.json"} <= written
    assert "images:" in (tmp_path / "tasks.md").read_text()
    assert report.command.endswith(f"--quick --images {images}")
    assert (tmp_path / "figures" / "sizes.png").stat().st_size > 10_000
