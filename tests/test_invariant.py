"""masked(x) == shrunk(x), for every network of the zoo, random masks, and both modes."""

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_leaves

import hand
import zoo
from sentei.errors import CertificateError
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink, shrink_
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Neurons, find_synapses
from sentei.running import run


def outputs(model, x, training=False):
    """Return all output tensors, with dropout off in both modes."""
    model = copy.deepcopy(model).train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    torch.manual_seed(0)
    with torch.no_grad():
        return [t for t in tree_leaves(run(model, x)) if isinstance(t, torch.Tensor)]


def in_float64(name):
    model, x = zoo.build(name)
    return model.double(), x.double() if x.is_floating_point() else x


@functools.cache
def groups_of(name):
    model, x = in_float64(name)
    return find_units(model, x, inputs=x.is_floating_point())


def cases(name):
    """Return the network, its example in float64, and the groups that can be cut."""
    return *in_float64(name), groups_of(name)


def draw_mask(data, groups, synapses):
    doomed = {}
    for group in [*groups, *synapses]:
        least = group.least if isinstance(group, Neurons) else 0
        most = group.size - least if isinstance(group, Neurons) else 5
        position = st.integers(0, group.size - 1)
        doomed[group] = data.draw(st.lists(position, max_size=most, unique=True))
    return Mask.full([*groups, *synapses]).without(doomed)


def check_masked_is_shrunk(name, data):
    model, x, groups = cases(name)
    assert groups
    mask = draw_mask(data, groups, find_synapses(model))
    masked = copy.deepcopy(model)
    mask.apply_(masked)
    small = shrink(model, mask, x)
    more = torch.cat([x, x.flip(0)]) if name != "torch_attention" else x
    for training in (False, True):
        want, got = outputs(masked, more, training), outputs(small, more, training)
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(want, got, strict=True))
    # The mask of the shrunk network is what tracing would find there, and changes nothing in it.
    again = copy.deepcopy(small)
    mask.shrunk().apply_(again)
    pairs = zip(outputs(small, x), outputs(again, x), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", zoo.ZOO)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_masked_is_shrunk(name, data):
    check_masked_is_shrunk(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_masked_is_shrunk_for_many_masks(name, data):
    check_masked_is_shrunk(name, data)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_shrunk_masks_groups_are_those_tracing_finds(name):
    model, x, groups = cases(name)
    mask = Mask.full(groups).without({g: [0] for g in groups if g.size > 2})
    small = shrink(model, mask, x)
    found = find_units(small, x, inputs=x.is_floating_point())
    expected = {group: group for group in mask.shrunk().groups if group.size > 1}
    for group in found:
        if group.size > 1:
            assert set(group.listeners) == set(expected[group].listeners)
            assert set(group.producers) == set(expected[group].producers)
            assert set(group.followers) == set(expected[group].followers)
    assert {g for g in found if g.size > 1} == set(expected)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_network_shrinks_twice(name):
    """The second cut is made with the mask that the first one returned, without tracing again."""
    model, x, groups = cases(name)
    small, mask = model, Mask.full(groups)
    for _ in range(2):
        mask = mask.without({g: [0] for g in mask.groups if g.size > 1})
        masked = copy.deepcopy(small)
        mask.apply_(masked)
        small = shrink(small, mask, x)
        pairs = zip(outputs(masked, x), outputs(small, x), strict=True)
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in pairs)
        mask = mask.shrunk()


def test_what_cannot_be_cut_is_not_offered_and_is_refused_by_name():
    """Its forward() pads by a constant number of channels, beside which these units stand."""
    model, x, groups = cases("padded_shortcut")
    assert "wide" not in [group.name for group in groups]
    before = copy.deepcopy(model.state_dict())
    wide = hand.group("wide", 8, "head", "channel")
    with pytest.raises(CertificateError, match="group 'wide'"):
        shrink_(model, Mask.full([wide]).without({wide: [0]}), example=x)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_in_place_is_the_same_as_anew(name):
    model, x, groups = cases(name)
    mask = Mask.full(groups).without({g: [g.size - 1] for g in groups if g.size > 1})
    small = shrink(model, mask, x)
    parameters = {id(p) for p in model.parameters()}
    shrunk = shrink_(model, mask, example=x)
    assert shrunk == mask.shrunk()
    assert {id(p) for p in model.parameters()} == parameters
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in small.state_dict().items()
    }
    pairs = zip(outputs(model, x), outputs(small, x), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
