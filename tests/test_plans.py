"""Sizes that are planned from updated counts: against counts made anew, and against files."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sentei
from hand import hidden, mlp
from sentei.errors import StructureError
from sentei.network.encoding.format import FORMATS
from sentei.network.encoding.size import bytes_in, counts, ram_in, skeleton
from sentei.network.mask import Mask
from sentei.network.units import Neurons, Synapses

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.SiLU, nn.LeakyReLU]


@st.composite
def networks(draw):
    """A random row of layers in evaluation mode, and inputs."""
    torch.manual_seed(draw(st.integers(0, 999)))
    layers: list[nn.Module] = []
    if draw(st.booleans()):
        shape, width = (draw(st.integers(3, 30)),), 0
        width = shape[0]
        mean = torch.randn(shape) * draw(st.sampled_from([1.0, 900.0]))
    else:
        shape = (draw(st.integers(1, 3)), 8, 8)
        width = shape[0]
        mean = torch.randn(width, 1, 1)
    if draw(st.booleans()):
        layers.append(sentei.Standardise(mean, torch.rand(mean.shape) + 0.1))
    if len(shape) == 3:
        for out in draw(st.lists(st.integers(2, 9), min_size=1, max_size=2)):
            layers.append(nn.Conv2d(width, out, 3, padding=draw(st.integers(0, 1))))
            layers += [nn.BatchNorm2d(out).requires_grad_(False)] * draw(st.integers(0, 1))
            layers.append(draw(st.sampled_from(ACTIVATIONS))())
            width = out
        layers += [nn.MaxPool2d(2), nn.Flatten()]
        width = nn.Sequential(*layers).eval()(torch.zeros(2, *shape)).shape[1]
    for out in draw(st.lists(st.integers(2, 40), min_size=1, max_size=2)):
        layers += [nn.Linear(width, out), draw(st.sampled_from(ACTIVATIONS))()]
        width = out
    layers.append(nn.Linear(width, 3))
    return nn.Sequential(*layers).eval(), torch.randn(4, *shape)


@st.composite
def cuts(draw, group):
    """Positions of members that a group can lose: none, some, nearly all."""
    share = draw(st.sampled_from([0.0, 0.2, 0.7, 0.97]))
    chosen = np.random.default_rng(draw(st.integers(0, 999))).random(group.size) < share
    positions = np.flatnonzero(chosen)
    least = 1 if isinstance(group, Neurons) else 0
    return torch.from_numpy(positions[: group.size - least])


def anew(mask):
    """An equal mask that has counted nothing yet."""
    return Mask({group: mask.alive(group) for group in mask.groups})


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except StructureError as error:
        return str(error)


SOME = given(data=st.data())


def check_plans(data, folder):
    """Plan after each of several cuts; then write the file of the last network."""
    network, x = data.draw(networks())
    bones = skeleton(network)
    groups = [*sentei.find_units(network, x, inputs=True), *sentei.find_synapses(network)]
    mask = Mask.full(groups)
    for _ in range(2):
        some = data.draw(st.lists(st.sampled_from(groups), min_size=1, max_size=3, unique=True))
        doomed = {group: data.draw(cuts(group)) for group in some}
        grown = mask.without(doomed)
        mask = mask if any(not grown.count(g) for g in groups if g.kind != "synapse") else grown
        for name in FORMATS:
            planned = outcome(bytes_in, bones, mask, name, x)
            assert planned == outcome(bytes_in, network, anew(mask), name, x), name
        assert counts(bones, mask) == counts(network, anew(mask))
        for name, format in FORMATS.items():
            if format.numbers:
                found = outcome(ram_in, bones, mask, name, x)
                assert found == outcome(ram_in, network, anew(mask), name, x)
    masked = copy.deepcopy(network)
    mask.apply_(masked)
    small, left = sentei.shrink(masked, mask, x), mask.shrunk()
    for name, format in FORMATS.items():
        planned = outcome(bytes_in, bones, mask, name, x)
        path = folder / f"net{format.suffix}"
        if isinstance(planned, str) and format.numbers:
            with pytest.raises(StructureError):
                sentei.export(small, path, example=x, mask=left, format=name)
        elif isinstance(planned, int) and format.numbers:
            sentei.export(small, path, example=x, mask=left, format=name)
            assert f"NET_FLASH_BYTES {planned}L" in path.with_suffix(".h").read_text()
        elif isinstance(planned, int):
            sentei.export(small, path, example=x, mask=left, format=name)
            assert path.stat().st_size == planned


@settings(max_examples=12, deadline=None)
@SOME
def test_plans_are_those_of_counts_made_anew_and_of_files(tmp_path_factory, data):
    check_plans(data, tmp_path_factory.mktemp("plan"))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@SOME
def test_plans_of_many_networks(tmp_path_factory, data):
    check_plans(data, tmp_path_factory.mktemp("plan"))


# What a mask counts, after cuts of masks that have counted before.


def recounted(mask, weights):
    """By loops over the members: counts, places of dead units, and what is left of each weight."""
    found = {}
    for group in mask.groups:
        alive = mask.alive(group).tolist()
        found[group.kind, group.name] = sum(alive), [i for i, a in enumerate(alive) if not a]
    gone: dict[tuple[str, int], set[int]] = {}
    for group in mask.groups:
        if isinstance(group, Neurons):
            for part in (*group.producers, *group.followers, *group.listeners):
                rows = [part.index[unit].tolist() for unit in mask.dead(group).tolist()]
                gone.setdefault((part.parameter, part.dim), set()).update(*rows)
    for name, shape in weights.items():
        alive = np.ones(shape, dtype=bool)
        for group in mask.groups:
            if isinstance(group, Synapses) and group.parameter == name:
                alive &= np.array(mask.alive(group).tolist()).reshape(shape)
        for dim in range(len(shape)):
            stays = [i for i in range(shape[dim]) if i not in gone.get((name, dim), ())]
            alive = np.take(alive, np.array(stays, dtype=int), dim)
        rows = [int(row.sum()) for row in alive]
        found[name] = alive.shape, int(alive.sum()), max(rows, default=0), entries(alive, 15)
    return found, {place: sorted(positions) for place, positions in gone.items() if positions}


def entries(alive, jump):
    """The length of the list of gaps, written entry by entry."""
    length, gap = 0, 0
    for weight in alive.reshape(-1):
        gap += 1
        if weight:
            length, gap = length + (gap - 1) // jump + 1, 0
    return length + max(-(-gap // jump), 1)


def known(mask, weights):
    """The same as the mask itself gives it."""
    found = {(g.kind, g.name): (mask.count(g), mask.dead(g).tolist()) for g in mask.groups}
    for group in mask.groups:
        if isinstance(group, Synapses) and group.parameter in weights:
            left = mask.weights_left(group)
            found[group.parameter] = left.shape, left.count, left.fullest, left.steps(15)
            assert mask.living_in_shrunk(group).numpy().sum() == left.count
    return found, {place: positions.tolist() for place, positions in mask.gone.items()}


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_counts_are_updated_as_if_they_were_made_anew(data):
    """Also where units come back, where two groups share a weight, and where nothing changes."""
    network = mlp(5, 9, 7, 3)
    units, links = hidden(network), sentei.find_synapses(network)
    groups = [*units, *links]
    weights = {group.parameter: group.shape for group in links}
    mask = Mask.full(groups)
    masks = [mask]
    for _ in range(data.draw(st.integers(1, 5))):
        some = data.draw(st.lists(st.sampled_from(groups), max_size=2, unique=True))
        changed = {
            g: data.draw(st.lists(st.integers(0, g.size - 1), max_size=g.size)) for g in some
        }
        change = data.draw(st.sampled_from(["without", "with_", "with_alive", "without_kind"]))
        before = data.draw(st.sampled_from(masks))
        if change == "without_kind":
            mask = before.without_kind(data.draw(st.sampled_from(["neuron", "synapse"])))
        elif change == "with_alive":
            dead = {g: torch.tensor(m, dtype=torch.long) for g, m in changed.items()}
            alive = {g: torch.ones(g.size, dtype=torch.bool) for g in changed}
            mask = before.with_alive({g: alive[g].index_fill(0, dead[g], False) for g in changed})
        else:
            mask = getattr(before, change)(changed)
        masks.append(mask)
        assert known(mask, weights) == recounted(mask, weights)
    for mask in masks:  # the first ones too: no mask changes another
        assert known(mask, weights) == recounted(mask, weights)


def test_what_a_cut_does_not_touch_is_not_counted_again():
    network = mlp(5, 9, 7, 3)
    units, links = hidden(network), sentei.find_synapses(network)
    first = Mask.full([*units, *links]).without({links[0]: [3], units[1]: [0]})
    left = {link: first.weights_left(link) for link in links}
    by_synapse = first.without({links[0]: [4]})
    assert [by_synapse.weights_left(link) is left[link] for link in links] == [False, True, True]
    by_unit = first.without({units[1]: [1]})  # computed by the second layer, read by the third
    assert [by_unit.weights_left(link) is left[link] for link in links] == [True, False, False]


def test_an_outline_has_the_groups_and_counts_of_the_shrunk_mask():
    network = mlp(5, 9, 7, 3)
    network(torch.zeros(1, 5))
    groups = [*sentei.find_units(network, torch.zeros(2, 5), inputs=True)]
    groups += sentei.find_synapses(network)
    doomed = {group: range(0, group.size, 2) for group in groups[:2] + groups[-2:]}
    mask = Mask.full(groups).without(doomed)
    shrunk, outline = mask.shrunk(), mask.outline()
    assert outline.groups == shrunk.groups
    assert [outline.count(g) for g in outline.groups] == [shrunk.count(g) for g in shrunk.groups]
    assert outline.outlines
    assert not shrunk.outlines
    for before, after in pairwise([g for g in outline.groups if g.kind == "synapse"]):
        assert before.parameter != after.parameter
