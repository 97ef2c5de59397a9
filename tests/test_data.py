"""Data of any form: what a Probe measures does not depend on how the samples come in."""

import collections
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sentei import Probe, find_units, prune, ranked
from sentei.errors import BudgetError, DataError, LossError, StaleError
from sentei.probe.summaries import second_moments
from sentei.pruning.rules.limits import units_at_most
from sentei.pruning.rules.schedules import one_at_a_time
from sentei.pruning.tidying import tidy
from sentei.reading import first_pass
from sentei.reading.first_pass import _kept

ROWS = 300


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))


def pair(rows=ROWS):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 6, generator=random)
    return x, torch.randint(3, (rows,), generator=random)


@dataclasses.dataclass(frozen=True)
class Batch:
    input: torch.Tensor
    labels: torch.Tensor


Named = collections.namedtuple("Named", "x y")


class Rows(Dataset):
    def __init__(self, of):
        self.of = of

    def __len__(self):
        return ROWS

    def __getitem__(self, i):
        x, y = pair()
        return self.of(x[i], y[i])


class Flow(IterableDataset):
    def __iter__(self):
        return iter(TensorDataset(*pair()))


def batches(of, size=70):
    x, y = pair()
    return [of(*part) for part in zip(x.split(size), y.split(size), strict=True)]


class Again:
    """An iterable that is no sequence."""

    def __iter__(self):
        yield from batches(lambda x, y: (x, y))


FORMS = {
    "tensors": lambda: (pair(), {}),
    "arrays": lambda: (tuple(t.numpy() for t in pair()), {}),
    "float64 array": lambda: ((pair()[0].numpy().astype(np.float64), pair()[1].tolist()), {}),
    "read-only array": lambda: ((np.broadcast_to(pair()[0].numpy(), (ROWS, 6)), pair()[1]), {}),
    "named tuple": lambda: (Named(*pair()), {}),
    "keywords": lambda: (({"input": pair()[0]}, pair()[1]), {}),
    "Dataset": lambda: (TensorDataset(*pair()), {}),
    "Dataset of dicts": lambda: (Rows(lambda x, y: {"input": x, "labels": y}), {}),
    "IterableDataset": lambda: (Flow(), {}),
    "DataLoader": lambda: (DataLoader(TensorDataset(*pair()), batch_size=64), {}),
    "list of tuples": lambda: (batches(lambda x, y: (x, y)), {}),
    "two tuples": lambda: (batches(lambda x, y: (x, y), ROWS // 2), {}),
    "list of lists of arrays": lambda: (batches(lambda x, y: [x.numpy(), y.numpy()], 100), {}),
    "tuple of three batches": lambda: (tuple(batches(Named, 100)), {}),
    "dicts": lambda: (batches(lambda x, y: {"labels": y, "input": x}), {}),
    "user dicts": lambda: (batches(lambda x, y: collections.UserDict(input=x, labels=y)), {}),
    "dataclasses": lambda: (batches(Batch), {}),
    "iterable": lambda: (Again(), {}),
    "generator": lambda: (iter(batches(lambda x, y: (x, y))), {}),
    "target first": lambda: (batches(lambda x, y: (y, x)), {"batch": lambda b: (b[1], b[0])}),
    "other keys": lambda: (
        batches(lambda x, y: {"x": x, "y": y, "path": ["a"] * len(x)}),
        {"batch": lambda b: (b["x"], b["y"])},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_the_data_does_not_matter(name):
    model = mlp()
    group = find_units(model, pair()[0][:4])[0]
    expected = Probe(model, pair())
    data, options = FORMS[name]()
    probe = Probe(model, data, **options)
    assert len(probe.samples) == ROWS
    assert probe.loss() == expected.loss()
    assert probe.accuracy() == expected.accuracy()
    assert torch.equal(probe.losses_without(group), expected.losses_without(group))
    assert probe.fingerprint() == expected.fingerprint() or name == "keywords"


RE_READ = sorted(FORMS.keys() - {"generator"})


@pytest.mark.parametrize("name", RE_READ)
def test_samples_that_are_read_again_give_the_same_bits(name):
    model = mlp()
    groups = find_units(model, pair()[0][:4])
    expected = Probe(model, pair())
    data, options = FORMS[name]()
    probe = Probe(model, data, memory=1000, **options)
    given = data if isinstance(data, tuple) and len(data) == 2 else None
    assert probe.samples.in_memory == (given is not None)
    assert probe.quality()[0] == expected.quality()[0]
    assert torch.equal(probe.quality()[1].by_class, expected.quality()[1].by_class)
    for group in groups:
        assert torch.equal(probe.losses_without(group), expected.losses_without(group))
        assert torch.equal(probe.slopes(group), expected.slopes(group))
        assert torch.equal(probe.curvatures(group), expected.curvatures(group))
    assert probe.fingerprint() == expected.fingerprint()
    assert probe.on(pair()).loss() == expected.loss()


def test_blocks_are_cut_across_batches(monkeypatch):
    """Blocks of 16 samples, batches of 70: bounds fall inside batches and inside blocks."""
    monkeypatch.setattr("sentei.probe.recording.recording._BLOCK_ROWS", 16)
    model, data = mlp(), batches(lambda x, y: (x, y))
    expected, probe = Probe(model, pair()), Probe(model, data, memory=0)
    assert probe._engines is not None
    assert len(probe._engines.recording.starts) == 19
    group = find_units(model, pair()[0][:4])[0]
    assert torch.equal(probe.losses_without(group), expected.losses_without(group))
    found, whole = (second_moments(each, group) for each in (probe, expected))
    for part in whole:
        assert torch.allclose(found[part].covariance, whole[part].covariance, rtol=1e-12)


class Counted(Dataset):
    """Rows, of which it is known which were read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return ROWS

    def __getitem__(self, i):
        self.read.append(i)
        return pair()[0][i], pair()[1][i]


SOME = [[], [0], [18], [2, 5, 6, 17], [*range(0, 19, 2)], [*range(1, 19, 2)], [*range(19)]]


@pytest.mark.parametrize("only", SOME, ids=str)
@pytest.mark.parametrize("samples", [None, 295])
@pytest.mark.parametrize("name", ["DataLoader", "iterable", "kept", "tensors"])
def test_some_blocks_are_those_of_a_whole_pass(name, samples, only):
    data = FORMS["iterable" if name == "kept" else name]()[0]
    probe = Probe(mlp(), data, memory=0, samples=samples)
    if name == "kept":
        probe.samples.again, probe.samples.checksums = (
            partial(_kept, [*probe.samples.again()]),
            None,
        )
    starts = probe.samples.boundaries(16)
    whole, some = [*probe.samples.blocks(starts)], [*probe.samples.blocks(starts, only)]
    assert len(whole) == 19
    for at, block in zip(only, some, strict=True):
        assert torch.equal(block.inputs, whole[at].inputs)
        assert torch.equal(block.targets, whole[at].targets)


@pytest.mark.parametrize(
    ("loader", "read"),
    [
        # Blocks 3 and 9 of 16 rows are rows 48 to 63 and 144 to 159: of batches of 20, 2, 3 and 7.
        (lambda data: DataLoader(data, batch_size=20), [*range(40, 80), *range(140, 160)]),
        (lambda data: DataLoader(data, batch_size=20, sampler=range(ROWS)), [*range(160)]),
        (lambda data: [data[i : i + 20] for i in range(0, ROWS, 20)], []),
    ],
    ids=["in order", "in an order of its own", "no Dataset"],
)
def test_what_is_read_for_some_blocks(loader, read):
    data = Counted()
    probe = Probe(mlp(), loader(data), memory=0)
    data.read.clear()
    found = [*probe.samples.blocks(probe.samples.boundaries(16), [3, 9])]
    assert [len(block) for block in found] == [16, 16]
    assert data.read == read


def test_a_share_of_batches_that_differs_is_refused():
    for change, said in ((0.5, "batch 3 differs"), (None, "1 batches instead of 2")):
        data = batches(lambda x, y: [x.clone(), y])
        probe = Probe(mlp(), data, memory=0)
        if change is None:
            del data[3:]
        else:
            data[3][0] += change
        with pytest.raises(DataError, match=said):
            list(probe.samples.blocks(probe.samples.boundaries(70), [0, 3]))


def test_a_run_over_samples_that_are_read_again_is_the_same_run():
    def run(data, **options):
        model = mlp()
        probe = Probe(model, data, **options)
        groups = find_units(model, probe.example)
        propose = ranked("ablation", one_at_a_time(), repair="least_squares")
        steps = list(prune(model, groups, probe, propose, until=units_at_most(6)))
        return [(step.measured.loss, step.measured.accuracy) for step in steps]

    assert run(batches(lambda x, y: (x, y)), memory=500) == run(pair())


def test_only_blocks_are_in_memory():
    probe = Probe(mlp(), batches(lambda x, y: (x, y)), memory=0)
    probe.loss()
    assert probe._engines is not None
    assert all(not len(block.samples.inputs) for block in probe._engines.recording._passes.values())
    assert len(probe.samples.head) >= first_pass.HEAD


def test_at_most_so_many_samples_are_used():
    model, data = mlp(), batches(lambda x, y: (x, y))
    few = Probe(model, data, samples=130)
    assert few.loss() == Probe(model, tuple(t[:130] for t in pair())).loss()
    assert Probe(model, data, samples=130, memory=0).loss() == few.loss()
    assert Probe(model, pair(), samples=10**6).loss() == Probe(model, pair()).loss()
    with pytest.raises(ValueError, match=r"samples= .* 1 or more; got 0"):
        Probe(model, data, samples=0)


def test_a_loader_is_read_no_further_than_needed():
    read = []

    def flow():
        for batch in batches(lambda x, y: (x, y)):
            read.append(len(batch[0]))
            yield batch

    Probe(mlp(), flow(), samples=140)
    assert read == [70, 70]


# Passes that differ.


class Noisy(Dataset):
    def __init__(self, from_pass=0):
        self.reads, self.from_pass = 0, from_pass

    def __len__(self):
        return ROWS

    def __getitem__(self, i):
        self.reads += 1
        x, y = (t[i] for t in pair())
        late = self.reads > self.from_pass * ROWS
        return x + torch.rand(6) * late, y


def shuffled():
    return DataLoader(TensorDataset(*pair()), batch_size=64, shuffle=True)


def shuffled_by_its_own_generator():
    data, own = TensorDataset(*pair()), torch.Generator().manual_seed(0)
    return DataLoader(data, batch_size=64, shuffle=True, generator=own)


@pytest.mark.parametrize(
    "data", [shuffled, shuffled_by_its_own_generator, lambda: DataLoader(Noisy(), batch_size=64)]
)
def test_passes_that_differ_are_refused_where_they_are_read_again(data):
    Probe(mlp(), data())  # read once
    before = torch.get_rng_state()
    with pytest.raises(DataError, match="without shuffling and without random augmentation"):
        Probe(mlp(), data(), memory=100)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_later_pass_that_differs_is_refused():
    probe = Probe(mlp(), DataLoader(Noisy(from_pass=2.5), batch_size=64), memory=100)
    probe.loss()
    with pytest.raises(DataError, match=r"batch . differs from the first pass"):
        probe.loss()


def test_a_pass_of_fewer_batches_is_refused():
    data = batches(lambda x, y: (x, y))
    probe = Probe(mlp(), data, memory=0)
    data.pop()
    with pytest.raises(DataError, match="this one has 4 batches instead of 5"):
        probe.loss()


def test_an_iterator_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="an iterator can be read once"):
        Probe(mlp(), iter(batches(lambda x, y: (x, y))), memory=100)


# Batches of several shapes.


class PerStep(nn.Module):
    """A class at each step of a sequence of any length."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(self.first(x).relu()).movedim(-1, 1)


def sequences():
    random = torch.Generator().manual_seed(2)
    found = []
    for length in (4, 4, 7, 2, 4):
        y = torch.randint(3, (30, length), generator=random)
        y[:, length // 2 :][torch.rand(30, generator=random) < 0.4] = -100
        found.append((torch.randn(30, length, 6, generator=random), y))
    found[3][1][:9] = -100  # whole samples that do not count
    return found


@pytest.mark.parametrize("memory", ["1 MiB", 1000])
def test_batches_of_several_shapes(memory, caplog):
    torch.manual_seed(0)
    model, data = PerStep(), sequences()
    probe = Probe(model, data, memory=memory)
    assert "9 of 150 samples" in caplog.text
    assert len(probe.samples) == 141
    assert probe.samples.boundaries(40) == [0, 40, 60, 90, 111]

    def naive(network):
        each = [
            F.cross_entropy(network(x[None]), y[None])
            for inputs, targets in data
            for x, y in zip(inputs, targets, strict=True)
            if (y != -100).any()
        ]
        return float(torch.stack(each).double().mean())

    with torch.no_grad():
        assert probe.loss() == pytest.approx(naive(model), rel=1e-6)
        right = [(model(x).argmax(1) == y)[y != -100] for x, y in data]
        assert probe.accuracy() == pytest.approx(float(torch.cat(right).double().mean()))
        group = find_units(model, data[0][0])[0]
        found = probe.losses_without(group)
        for unit in range(3):
            without = PerStep()
            without.load_state_dict(model.state_dict())
            without.second.weight[:, unit] = 0
            assert found[unit] == pytest.approx(naive(without), rel=1e-5)


@pytest.mark.parametrize("memory", ["2 GiB", 0])
def test_the_first_samples_need_not_count(memory):
    """Not one of those that are always in memory has a class number."""
    x, y = pair()
    data = [(x[:150], torch.full((150,), -100)), (x[150:], y[150:])]
    probe = Probe(mlp(), data, memory=memory)
    assert len(probe.samples) == 150
    assert probe.loss() == Probe(mlp(), (x[150:], y[150:])).loss()
    assert torch.equal(probe.example, x[150:214])


def test_values_of_several_shapes_have_no_r2():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    data = [(torch.randn(8, n, 6), torch.randn(8, n, 1)) for n in (2, 3)]
    metrics = Probe(model, data, "half_squared_error").quality()[1].metrics
    error = torch.cat([(model(x) - y).abs().flatten() for x, y in data]).mean().detach()
    assert metrics == {"mean_absolute_error": pytest.approx(float(error), rel=1e-5)}


# Outputs and targets of any nest.


@dataclasses.dataclass
class Found:
    classes: torch.Tensor
    box: torch.Tensor


class TwoHeads(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.body, self.classes, self.box = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.form = form

    def forward(self, x):
        h = self.body(x).tanh()
        return self.form(self.classes(h), self.box(h))


class Opaque:
    def __init__(self, classes, box):
        self.found = (classes, box)


OUTPUTS = {
    "tuple": (lambda c, b: (c, b), lambda o: o),
    "dict": (lambda c, b: {"box": b, "classes": c}, lambda o: (o["classes"], o["box"])),
    "dataclass": (Found, lambda o: (o.classes, o.box)),
    "nested": (lambda c, b: [{"a": (c,)}, b, None], lambda o: (o[0]["a"][0], o[1])),
    "object": (Opaque, lambda o: o.found),
}
TARGETS = {
    "tuple": (lambda c, b: (c, b), lambda t: t),
    "dict": (lambda c, b: {"box": b, "classes": c}, lambda t: (t["classes"], t["box"])),
    "dataclass": (Found, lambda t: (t.classes, t.box)),
    "one tensor": (
        lambda c, b: torch.cat([c[:, None].float(), b], 1),
        lambda t: (t[:, 0].long(), t[:, 1:]),
    ),
}


@pytest.mark.parametrize("memory", ["2 GiB", 100])
@pytest.mark.parametrize(
    ("outputs", "targets"), [*((o, "tuple") for o in OUTPUTS), *(("dict", t) for t in TARGETS)]
)
def test_a_loss_of_all_outputs_and_targets_of_any_nest(outputs, targets, memory):
    (form, read), (targets_as, targets_of) = OUTPUTS[outputs], TARGETS[targets]
    torch.manual_seed(0)
    model, (x, y) = TwoHeads(form), pair(60)
    box = torch.randn(60, 2)

    def both(output, target):
        (classes, found), (labels, box) = read(output), targets_of(target)
        squares = (found - box).square().sum(1)
        return F.cross_entropy(classes, labels, reduction="none") + squares

    data = [
        (part, targets_as(*own))
        for part, *own in zip(x.split(25), y.split(25), box.split(25), strict=True)
    ]
    probe = Probe(model, data, both, memory=memory)
    with torch.no_grad():
        start = both(model(x), targets_as(y, box)).double().mean()
        assert probe.loss() == pytest.approx(float(start), rel=1e-6)
        group = next(g for g in find_units(TwoHeads(OUTPUTS["tuple"][0]), x[:4]) if g.size == 8)
        found = probe.losses_without(group)
        for unit in range(8):
            cut = TwoHeads(form)
            cut.load_state_dict(model.state_dict())
            cut.classes.weight[:, unit] = cut.box.weight[:, unit] = 0
            naive = both(cut(x), targets_as(y, box)).double().mean()
            assert found[unit] == pytest.approx(float(naive), rel=1e-5)
    slopes, curvatures = probe.slopes(group), probe.curvatures(group)
    gates = torch.ones(8, requires_grad=True)
    h = model.body(x).tanh() * gates
    value = both(form(model.classes(h), model.box(h)), targets_as(y, box)).mean()
    (first,) = torch.autograd.grad(value, gates, create_graph=True)
    assert torch.allclose(slopes.float(), first, atol=1e-5)
    second = [torch.autograd.grad(first[i], gates, retain_graph=True)[0][i] for i in range(8)]
    assert torch.allclose(curvatures.float(), torch.stack(second), atol=1e-4)


def test_what_goes_stale_in_any_output_is_noticed():
    model, (x, y) = TwoHeads(OUTPUTS["dict"][0]), pair(40)
    probe = Probe(model, (x, y), lambda o, t: F.cross_entropy(o["classes"], t, reduction="none"))
    probe.loss()
    with torch.no_grad():
        model.box.weight += 1
    with pytest.raises(StaleError, match="weights changed since this Probe recorded"):
        probe.loss()


@pytest.mark.parametrize(
    ("form", "words"),
    [("dict", r"a dict with 'box', 'classes'.*outputs\['box'\]"), ("tuple", "a tuple;")],
)
def test_a_loss_that_takes_one_tensor_of_several(form, words):
    model = TwoHeads(OUTPUTS[form][0])
    with pytest.raises(LossError, match=f"everything that the network returns, here {words}"):
        Probe(model, pair(20), lambda o, t: F.cross_entropy(o, t, reduction="none"))


def test_accuracy_is_that_of_the_first_tensor():
    model, (x, y) = TwoHeads(OUTPUTS["tuple"][0]), pair(40)
    own = Probe(model, (x, y), lambda o, t: F.cross_entropy(o[0], t, reduction="none"))
    named = Probe(model, (x, y))
    assert own.loss() == pytest.approx(named.loss())
    assert own.accuracy() == named.accuracy()


@pytest.mark.parametrize("loss", [None, "cross_entropy"])
def test_named_losses_take_one_tensor_of_targets(loss):
    x, y = pair(20)
    with pytest.raises(LossError, match=r"targets are of type dict\. Pass a loss of your own"):
        Probe(mlp(), (x, {"y": y}), loss)


def test_no_tensor_to_take_a_loss_of():
    with pytest.raises(LossError, match="the network gives no tensor"):
        Probe(TwoHeads(Opaque), pair(20))


# Data that cannot be read.

BAD = {
    "a tensor": (torch.zeros(4, 6), "data must be .inputs, targets., a Dataset"),
    "a dict": ({"x": 1}, "data must be .inputs, targets., a Dataset"),
    "no batches": ([], "the data has no batches"),
    "one input a batch": ([torch.zeros(4, 6)], "it yields a Tensor of 4. Pass batch="),
    "no labels": ([{"x": torch.zeros(4, 6)}], "targets under .labels.; it has 'x'. Pass batch="),
    "texts": ([(["a", "b"], torch.zeros(2))], "they hold a str. Leave it out: pass batch="),
    "objects": ((np.array([None, None]), torch.zeros(2)), "they hold a ndarray"),
    "lengths": ([(torch.zeros(4, 6), torch.zeros(3))], "one row per sample, the same number"),
    "lengths of targets": (
        (torch.zeros(4, 6), (torch.zeros(4), torch.zeros(3))),
        "one row per sample, the same number",
    ),
    "nan in a later batch": (
        [(torch.zeros(4, 6), torch.zeros(4).long()), (torch.ones(4, 6) / 0, torch.zeros(4).long())],
        "inputs must be finite; row 0, column 0 holds inf",
    ),
    "no rows": ([(torch.zeros(0, 6), torch.zeros(0).long())], "at least one sample"),
    "class in a later batch": (
        [(torch.zeros(4, 6), torch.zeros(4).long()), (torch.ones(4, 6), torch.full((4,), 7))],
        "row 0 has 7",
    ),
}


@pytest.mark.parametrize("memory", ["2 GiB", 0])
@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused(name, memory):
    data, words = BAD[name]
    with pytest.raises(DataError, match=words):
        Probe(mlp(), data, memory=memory)


def test_a_function_that_takes_batches_apart_wrongly():
    with pytest.raises(DataError, match=r"batch= must return .inputs, targets., two values"):
        Probe(mlp(), batches(lambda x, y: (x, y)), batch=lambda b: b[0])


@pytest.mark.parametrize(("size", "words"), [("much", "a size is a number"), (-1, "0 or more")])
def test_memory_is_a_size(size, words):
    with pytest.raises(BudgetError, match=words):
        Probe(mlp(), pair(), memory=size)


def test_tidy_takes_the_same_data():
    model = mlp()
    with torch.no_grad():
        model[2].weight[:, 4] = 0
    expected = tidy(model, pair())
    for data in (batches(Batch), DataLoader(TensorDataset(*pair()), batch_size=50)):
        small = tidy(model, data)
        assert small[0].out_features == expected[0].out_features == 8
