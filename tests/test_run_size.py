"""What a run folder keeps of scores, its size, and how long it takes to read."""

import itertools
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from hand import mlp
from sentei import Cut, Probe, find_synapses, fixed, prune, ranked, report, synapses_at_most
from sentei.criteria import CriterionError
from sentei.pruning.journal import Journal
from sentei.pruning.run_reader import read_run
from sentei.pruning.step_files import has_ranks
from sentei.reporting.page import of_journal
from sentei.reporting.page.document import document


def by(count: int):
    """A schedule that removes so many at each step."""
    return lambda progress: max(progress.remaining - count, 0)


def synapses(folder, *widths: int, each: int, steps: int, resume: bool = False, **changed):
    """Remove synapses by magnitude; return the steps."""
    model = mlp(*widths, act=nn.ReLU)
    torch.manual_seed(1)
    data = torch.rand(16, widths[0]), torch.randint(0, widths[-1], (16,))
    groups = find_synapses(model)
    left = sum(group.size for group in groups) - each * steps
    propose = changed.pop("propose", ranked("magnitude", by(each)))
    run = prune(model, groups, Probe(model, data), propose, until=synapses_at_most(left),
                journal=folder, resume=resume)  # fmt: skip
    return model, list(run)


def test_scores_are_exact_for_what_went_and_ranks_for_some_of_the_rest(tmp_path):
    model = mlp(12, 20, 4, act=nn.ReLU)
    magnitudes = {g: model.get_parameter(g.parameter).detach().abs() for g in find_synapses(model)}
    synapses(tmp_path / "run", 12, 20, 4, each=2, steps=105)
    records = read_run(tmp_path / "run").records
    assert len(records) == 106
    for before, record in itertools.pairwise(records):
        assert record.scores.keys() == record.removed.keys()
        for group, gone in record.removed.items():
            exact = magnitudes[group].flatten()[gone].double()
            assert torch.equal(record.scores[group], exact)
            assert before.mask.alive(group)[gone].all()
        assert bool(record.ranks) == (record.number in {*range(10, 101, 10)})
        for group, ranks in record.ranks.items():
            stayed = magnitudes[group].flatten()[record.mask.alive(group)]
            assert ranks.dtype == torch.uint8
            assert torch.equal(stayed.argsort(), ranks.long().argsort())
        assert bool(record.all_scores) == (record.number == 1)
    for group, values in records[1].all_scores.items():
        assert torch.equal(values, magnitudes[group].flatten().double())
    assert [n for n in range(1, 1001) if has_ranks(n)] == [*range(10, 100, 10),
                                                           *range(100, 1001, 100)]  # fmt: skip


@pytest.mark.parametrize(("levels", "dtype"), [(256, "uint8"), (257, "int16"), (32769, "int32")])
def test_ranks_take_the_smallest_type_and_are_equal_for_equal_scores(tmp_path, levels, dtype):
    model = mlp(200, 200, 2)
    group = find_synapses(model)[0]
    values = torch.arange(group.size) % levels
    values[:10] = -1
    data = torch.rand(4, 200), torch.zeros(4).long()
    scores = fixed({group: values.double()})
    run = prune(model, [group], Probe(model, data), ranked(scores, by(1)), journal=tmp_path / "run")
    *_, last = itertools.islice(run, 11)
    ranks = read_run(tmp_path / "run").records[10].ranks[group]
    assert str(ranks.dtype) == f"torch.{dtype}"
    assert torch.equal(ranks.long(), values[last.mask.alive(group)])


def test_a_page_shows_the_scores_of_what_went_and_of_the_first_step(tmp_path):
    from random_runs import pruned

    _, steps = pruned(tmp_path / "run")
    story = of_journal(tmp_path / "run")
    shown = document(story)
    assert [row["unit"] for row in shown["removed"]] == [
        unit for step in steps[1:] for gone in step.removed.values() for unit in gone.tolist()
    ]
    assert all(isinstance(row["score"], float) for row in shown["removed"])
    (rows,) = (found["criteria"] for found in shown["agreements"].values())
    assert rows[0]["name"] == "criterion of the run"


def test_scores_that_are_not_one_for_each_member_are_refused(tmp_path):
    def wrong(probe, groups, mask, progress):
        return Cut({groups[0]: torch.tensor([0])}, scores={groups[0]: torch.zeros(3)})

    with pytest.raises(CriterionError, match=r"each of the 240 members of '0'.*\(3,\)"):
        synapses(tmp_path / "run", 12, 20, 4, each=2, steps=3, propose=wrong)


def test_a_page_reads_the_weights_of_few_steps(tmp_path, monkeypatch):
    synapses(tmp_path / "run", 12, 20, 4, each=2, steps=60)
    real, read = Journal.network, []
    monkeypatch.setattr(Journal, "network", lambda self, n: read.append(n) or real(self, n))
    report(tmp_path / "run", tmp_path / "page.html")
    assert len(read) < 10


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "steps").iterdir())


def test_a_step_takes_a_bit_for_each_member_and_a_few_numbers(tmp_path):
    synapses(tmp_path / "run", 100, 60, 10, each=5, steps=9)
    (tmp_path / "run" / "steps" / "00001.safetensors").unlink()  # with all scores
    assert size(tmp_path / "run") / 9 < 6600 / 8 + 2000


@pytest.mark.slow
def test_two_thousand_steps_of_79_400_synapses(tmp_path):
    """Under 100 MB for 5,000 steps; opened, resumed and reported within seconds (of this CPU)."""
    given = {"each": 20, "steps": 2000}
    synapses(tmp_path / "run", 784, 100, 10, **given)
    assert size(tmp_path / "run") * 5000 / 2000 < 90e6
    seconds = {}
    for name, call in {
        "opened": lambda: read_run(tmp_path / "run"),
        "resumed": lambda: synapses(tmp_path / "run", 784, 100, 10, **given, resume=True),
        "reported": lambda: report(tmp_path / "run", tmp_path / "page.html"),
    }.items():
        begin = time.process_time()
        call()
        seconds[name] = time.process_time() - begin
    assert max(seconds.values()) < 15, seconds
