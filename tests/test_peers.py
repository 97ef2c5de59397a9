"""Comparison with torch-pruning, an independent implementation, on networks that both can cut."""

import copy
import warnings

import pytest
import torch
from torch import nn

import zoo
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.tracing import find_units

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning as tp

PRUNERS = {nn.Linear: tp.prune_linear_out_channels, nn.Conv2d: tp.prune_conv_out_channels}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mlp", "mlp_norm", "lenet", "residual", "dense"])
def test_the_same_cut_gives_the_same_network(name):
    model, x = zoo.build(name)
    model.eval()
    compared = 0
    for group in find_units(model, x):
        layer = group.producers[0].layer
        kind = type(model.get_submodule(layer))
        whole = group.producers[0].index.shape[1] == 1 and group.size > 2
        if kind not in PRUNERS or not whole:
            continue
        rows = group.producers[0].index[[0, group.size - 1], 0]
        if len(group.producers[0].index) != model.get_submodule(layer).weight.shape[0]:
            continue
        ours = shrink(model, Mask.full([group]).without({group: [0, group.size - 1]}), x)
        peer = copy.deepcopy(model)
        graph = tp.DependencyGraph().build_dependency(peer, example_inputs=x)
        graph.get_pruning_group(peer.get_submodule(layer), PRUNERS[kind], rows.tolist()).prune()
        with torch.no_grad():
            assert torch.allclose(ours.eval()(x), peer.eval()(x), atol=1e-6), layer
        shapes = [tuple(p.shape) for p in ours.parameters()]
        assert shapes == [tuple(p.shape) for p in peer.parameters()], layer
        compared += 1
    assert compared > 0
