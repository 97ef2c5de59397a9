"""Every tensor is a place: tables, joined biases and computed weights follow their units.

And what must go together does.
"""

import copy
import functools

import pytest
import torch

import sentei
import zoo
from joined_networks import JOINED
from place_networks import PLACES

NETWORKS = {**PLACES, **JOINED}


@functools.cache
def groups_of(name):
    net, x = zoo.build(name) if name in zoo.ZOO else NETWORKS[name][0]()
    return sentei.find_units(net, x)


def doomed(groups):
    """A third of each group, at least one unit, not always the first."""
    return {g: list(range(g.size))[1::3][: max(g.size // 3, 1)] for g in groups if g.size > 1}


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_are_found_and_nothing_changes(name):
    build, expected = NETWORKS[name]
    net, x = build()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    groups = sentei.find_units(net, x)
    assert sorted(f"{g.kind} {g.size}" for g in groups) == sorted(expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("name", [name for name, (_, groups) in NETWORKS.items() if groups])
def test_what_is_offered_can_be_cut(name):
    net, x = NETWORKS[name][0]()
    groups = groups_of(name)
    net, x = net.double(), x.double()
    mask = sentei.Mask.full(groups).without(doomed(groups))
    masked = copy.deepcopy(net)
    mask.apply_(masked)
    small = sentei.shrink(net, mask, example=x)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    assert torch.allclose(small.eval()(x), masked.eval()(x), rtol=1e-9, atol=1e-11)
    certificate = sentei.certify(masked, small, x, mask=mask)
    assert certificate.moved > 0
    assert not certificate.uncompared
    for group in groups:  # and each alone
        alone = sentei.Mask.full(groups).without({group: doomed([group]).get(group, [])})
        sentei.shrink(net, alone, example=x)


@pytest.mark.parametrize("name", [name for name in PLACES if not name.endswith("TimeFirst")])
def test_every_unit_is_measured_exactly(name):
    """Against copies of the network in which the columns that read a unit are zero."""
    build, _ = PLACES[name]
    net, x = build()
    net, x = net.double().eval(), x.double()
    with torch.no_grad():
        targets = torch.randn_like(net(x))
    probe = sentei.Probe(net, (x, targets), "half_squared_error")
    for group in groups_of(name):
        units = sorted({0, group.size // 2, group.size - 1})
        measures = probe.losses_without(group, units).tolist()
        for unit, measured in zip(units, measures, strict=True):
            copied = copy.deepcopy(net)
            sentei.Mask.full([group]).without({group: [unit]}).apply_(copied)
            own = sentei.Probe(copied, (x, targets), "half_squared_error").loss()
            assert measured == pytest.approx(own, rel=1e-9)


def ranked_by_chance(groups, seed):
    """The half of all units that a random ranking over the network removes."""
    random = torch.Generator().manual_seed(seed)
    scores = {group: torch.rand(group.size, generator=random) for group in groups}
    most = {group: group.size - max(group.least, 1) for group in groups}
    counts = {g: min(int((scores[g] < 0.5).sum()), most[g]) for g in groups}
    return {g: scores[g].argsort()[: counts[g]] for g in groups}


def check_rankings(name, seeds):
    net, x = zoo.build(name) if name in zoo.ZOO else NETWORKS[name][0]()
    groups = groups_of(name)
    for seed in range(seeds):
        doomed = ranked_by_chance(groups, seed)
        small = sentei.shrink(net, sentei.Mask.full(groups).without(doomed), example=x)
        lost = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in small.parameters())
        assert (lost > 0) == any(map(len, doomed.values()))


@pytest.mark.parametrize("name", [*JOINED, "FewerKeys", "SharedBiases", "grouped"])
def test_no_ranking_over_the_network_ends_in_a_mask_that_cannot_be_shrunk(name):
    check_rankings(name, seeds=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*JOINED, *PLACES, *zoo.ZOO])
def test_no_ranking_ends_so_with_more_seeds(name):
    check_rankings(name, seeds=8)
