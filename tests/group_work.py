"""What the ranks of a torch.distributed group do in tests, in a module that they can import."""

import json
import os
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn

import hand
import sentei
from sentei import PruneWhileTraining, distributed
from sentei.samples import fingerprint


def ranks(work, world, folder, *given):
    """Let each rank call `work(folder, *given)`; return what each returns, or its error's text."""
    context = get_context("forkserver")  # which imports torch once for all ranks
    context.set_forkserver_preload(["group_work"])
    own = Path(folder, f"{work.__name__}{world}")
    own.mkdir()
    started = [
        context.Process(target=_rank, args=(work, rank, world, str(own), given))
        for rank in range(world)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    codes = [process.exitcode for process in started]
    found = [own / f"{rank}.json" for rank in range(world)]
    return [
        json.loads(file.read_text()) if file.exists() else f"exit code {code}"
        for file, code in zip(found, codes)
    ]


def _rank(work, rank, world, folder, given):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    try:
        answer = work(folder, *given)
    except sentei.PruningError as error:
        answer = f"{type(error).__name__}: {error}"
    Path(folder, f"{rank}.json").write_text(json.dumps(answer))
    if not isinstance(answer, str):
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    os._exit(0)  # what a broken group leaves may wait for others


def some(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 6, generator=generator),
        torch.randint(0, 3, (rows,), generator=generator),
    )


def scores(folder):
    """Scores by every engine, and of samples that are read again at each pass."""
    torch.manual_seed(0)
    model = hand.mlp(6, 8, 7, 3)
    deep = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten())
    deep = nn.Sequential(deep, nn.Linear(16, 3))
    rows = some(11_000)
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*rows), batch_size=500, shuffle=False
    )
    found = {}
    for name, network, data in (
        *(("chain", model, rows), ("any", deep, rows), ("streamed", model, batches)),
    ):
        probe = sentei.Probe(network, data, memory="100 KB" if name == "streamed" else "2 GiB")
        groups = sentei.find_units(network, probe.example)
        each = [probe.loss(), probe.accuracy()]
        for criterion in ("ablation", "taylor2", "magnitude"):
            of = [sentei.criteria.scores(criterion, probe, group) for group in groups]
            each.append(fingerprint(of))
        links = sentei.find_synapses(network)
        each.append(
            fingerprint(
                [sentei.criteria.scores(c, probe, g) for g in links for c in ("taylor1", "wanda")]
            )
        )
        found[name] = each
    return found


class Counted(torch.utils.data.TensorDataset):
    """Rows, of which it is counted how many were read."""

    read = 0

    def __getitem__(self, at):
        self.read += 1
        return super().__getitem__(at)


def rows_read(folder):
    """How many rows of 10,000, in two blocks, this rank reads for one pass."""
    data = Counted(*some(10_000))
    loader = torch.utils.data.DataLoader(data, batch_size=500)
    probe = sentei.Probe(hand.mlp(6, 8, 7, 3), loader, memory="1 KB")
    data.read = 0
    probe.loss()
    return data.read


def run_of(folder, die_after=None, resume=False):
    """A whole run: cuts, retraining, a floor, samples to evaluate on that are read again."""
    torch.manual_seed(0)
    model = hand.mlp(6, 8, 7, 3)
    data, held = some(800), torch.utils.data.TensorDataset(*some(2_000, 1))
    sentei.train(model, data, sentei.Recipe(epochs=1, lr=0.01))
    probe = sentei.Probe(model, data)
    retrain = sentei.FineTune(data, sentei.Recipe(epochs=1, seed=3))
    judge = sentei.Probe(model, held, memory="20 KB")
    steps = []
    for step in sentei.prune(
        *(model, sentei.find_units(model, data[0]), probe),
        sentei.ranked("ablation", sentei.linear(by="20 %"), repair="least_squares"),
        sentei.units_at_most(4),
        sentei.loss_within(5.0),
        retrain=retrain,
        evaluate=judge,
        journal=Path(folder, "run"),
        resume=resume,
    ):
        steps.append([step.number, str(step.measured)])
        if step.number == die_after and not distributed.is_main():
            os._exit(9)
    return [steps, fingerprint(model.state_dict().values())]


def trained(folder, delete=False, wrong=False):
    """Pruning inside a loop; each rank observes its part of the batch."""
    torch.manual_seed(0)
    model = hand.mlp(6, 12, 3)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    groups = sentei.find_units(model, some(4)[0])
    pruner = PruneWhileTraining(
        *(model, groups, sentei.ranked("taylor2", sentei.linear(by=2))),
        every=3, delete=delete, example=some(4)[0],
    )  # fmt: skip
    several = distributed.world() > 1
    parallel = [nn.parallel.DistributedDataParallel(model) if several else model]

    def rewrap(smaller):
        parallel[0] = nn.parallel.DistributedDataParallel(smaller) if several else smaller

    pruner.attach(optimizer, rewrap=rewrap)
    for update in range(12):
        inputs, targets = some(400, update)
        part = slice(*(400 * r // distributed.world() for r in (_number(), _number() + 1)))
        pruner.observe(inputs[part], targets[part])
        optimizer.zero_grad()
        # Every rank trains on the whole batch, so that sums of gradients have the same bits.
        nn.functional.cross_entropy(parallel[0](inputs), targets).backward()
        if wrong:
            model[0].weight.data[_number()] = 0
        optimizer.step()
    return [pruner.events, fingerprint(model.state_dict().values())]


def _number():
    return torch.distributed.get_rank() if distributed.world() > 1 else 0


def different(folder, what):
    """Ranks that do not have the same samples, or that train apart."""
    if what == "samples":
        rows = some(100, _number())
        return sentei.Probe(hand.mlp(6, 8, 3), rows).loss()
    if what == "cuts":
        return trained(folder, wrong=True)
    torch.manual_seed(0)
    model, data = hand.mlp(6, 8, 3), some(100)

    def retrain(model, mask):
        with torch.no_grad():
            model[0].bias += _number()

    run = sentei.prune(
        *(model, sentei.find_units(model, data[0]), sentei.Probe(model, data)),
        sentei.ranked("magnitude", sentei.one_at_a_time()),
        retrain=retrain,
        until=sentei.units_at_most(5),
    )
    return len([*run])
