"""Streams rotated to their principal directions: the same outputs, and last units say little."""

import copy

import pytest
import torch
from torch import nn

import hugging_face
import sentei
from sentei import Probe, formats
from sentei.errors import GroupError, StructureError
from sentei.integrations.transformers import from_pretrained, save_pretrained
from sentei.network.copying import copied
from stream_networks import (
    HAND,
    Blocks,
    D,
    Tied,
    apart,
    cut,
    made,
    masked_by,
    shaken,
    streams,
    words,
)

ROTATED = ("before", "without shifts", "rms", "root by hand", "root less one")
COUNT = 40


def on_samples(name):
    """A network, a Probe of it on some samples, and their inputs."""
    model, x = made(name)
    inputs = torch.randint(0, 9, (COUNT, *x.shape[1:]))
    return model, Probe(model, (inputs, torch.arange(COUNT) % 4)), inputs


def turned(name):
    model, probe, x = on_samples(name)
    (group,) = streams(model, x[:2])
    return model, sentei.rotated(probe, group), x


@pytest.mark.parametrize("name", ROTATED)
def test_outputs_stay_and_the_new_units_go_as_any_others(name):
    model, new, x = turned(name)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        assert apart(model(x), new(x)) < 1e-13
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    (group,) = streams(new, x[:2])
    mask = cut([group])
    small = sentei.shrink(new, mask, x[:2])
    with torch.no_grad():
        assert apart(masked_by(new, mask)(x), small(x)) < 1e-12
        assert apart(new(x), small(x)) > 1e-3
    assert not [p.shape for p in small.parameters() if D in p.shape]
    assert not [module for module in new.modules() if type(module) is nn.LayerNorm]
    assert sum(p.numel() for p in new.parameters()) <= sum(p.numel() for p in model.parameters())


def products_read(model, x):
    """Mean products of what the three layers read of the stream, summed over the layers."""
    read = []
    for layer in (*model.up, model.head):
        layer.register_forward_pre_hook(lambda _, args: read.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        model(x)
    return sum(each.T @ each / len(each) for each in read)


def test_units_are_the_directions_in_which_norms_return_most():
    _, new, x = turned("rms")
    products = products_read(new, x)
    squares = products.diagonal()
    assert (products - squares.diag()).abs().max() < 1e-10 * squares.max()
    assert (squares.diff() < 0).all()


def test_a_stream_without_its_mean_has_a_direction_less():
    model, new, x = turned("without shifts")
    assert products_read(new, x)[-1, -1] < 1e-20
    assert products_read(model, x).diagonal().min() > 0.1


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma", "vit"])
def test_networks_of_transformers(name, tmp_path):
    model, x = hugging_face.build(name)
    for layer in model.modules():  # untied
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.detach().clone())
    model.config.tie_word_embeddings = False
    shaken(model)
    x = {key: v.double() if v.is_floating_point() else v for key, v in x.items()}
    logits = hugging_face.logits
    targets = torch.zeros(logits(model, x).shape[:-1]).long()

    def run(model, example):
        return model(**example).logits

    probe = Probe(model, (x, targets), loss=lambda out, _: out.flatten(1).mean(1), forward=run)
    groups = [g for g in sentei.find_units(model, x, forward=run) if g.kind == "stream"]
    new = sentei.rotated(probe, groups[0])
    assert apart(logits(model, x), logits(new, x)) < 1e-6  # some cast their norms to float32
    group = next(g for g in sentei.find_units(new, x, forward=run) if g.kind == "stream")
    mask = sentei.Mask.full([group]).without({group: range(16, group.size)})
    small = sentei.shrink(new, mask, x, forward=run)
    assert apart(logits(masked_by(new, mask), x), logits(small, x)) < 1e-6
    plain = hugging_face.NETWORKS[name][4]
    save_pretrained(small.float(), tmp_path / "small", plain)
    again = from_pretrained(tmp_path / "small")
    assert torch.equal(logits(again, plain), logits(small, plain))


@pytest.mark.parametrize("name", ["before", "rms"])
def test_files_keep_a_rotated_network(name, tmp_path):
    model, new, x = turned(name)
    small = sentei.shrink(new, cut(streams(new, x[:2])), x[:2])
    formats.save(small, tmp_path / "small.safetensors")
    again = formats.load(tmp_path / "small.safetensors", into=copied(model))
    with torch.no_grad():
        assert torch.equal(small(x), again(x))


@pytest.mark.slow
def test_onnxruntime_computes_a_rotated_network(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    _, new, x = turned("before")
    small = sentei.shrink(new, cut(streams(new, x[:2])), x[:2]).float()
    sentei.export(small, tmp_path / "small.onnx", x[:3])
    session = runtime.InferenceSession(tmp_path / "small.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x[:3].numpy()})
    with torch.no_grad():
        assert torch.allclose(small(x[:3]), torch.from_numpy(got), atol=1e-5)


def test_less_is_lost_than_by_units_as_they_are():
    model, probe, x = on_samples("before")
    (group,) = streams(model, x[:2])
    lost = {}
    for name, network in (("own", model), ("rotated", sentei.rotated(probe, group))):
        (units,) = streams(network, x[:2])
        own = Probe(network, (x, torch.arange(COUNT) % 4))
        order = sentei.criteria.contribution(own, units).argsort()
        mask = sentei.Mask.full([units]).without({units: order[:4]})
        with torch.no_grad():
            lost[name] = (masked_by(network, mask)(x) - model(x)).square().mean()
    assert lost["rotated"] < lost["own"]


@pytest.mark.parametrize("shared", [False, True])
def test_tiny_scales_of_branches_hide_nothing(shared):
    model, x = made("rms")
    model = model.float()  # whose outputs are compared to 1e-4
    for gain in model.gains:
        gain.data.mul_(1e-7)
    if shared:  # one scale of two layers: no layer is its own
        model.gains[1] = model.gains[0]
    probe = Probe(model, (x.repeat(8, 1), torch.arange(8 * len(x)) % 4))
    (group,) = streams(model, x)
    if shared:
        with pytest.raises(StructureError, match="would not stay the same"):
            sentei.rotated(probe, group)
    else:
        new = sentei.rotated(probe, group)
        with torch.no_grad():
            assert apart(model(x), new(x)) < 1e-5
        assert all(
            torch.equal(gain, torch.ones_like(gain))
            for gain in new.get_submodule("gains").parameters()
        )
        assert new.down[0].weight.abs().max() < 1e-5


def cut_before():
    model = shaken(Blocks(lambda: nn.LayerNorm(D)))
    return sentei.shrink(model, cut(streams(model, words())), words())


REFUSED = {
    "tied": (lambda: shaken(Tied()), "tied to other weights. Untie"),
    "behind": (lambda: made("behind")[0], "go on in"),
    "rms behind": (lambda: made("rms behind")[0], "go on in"),
    "torch behind": (lambda: made("torch behind")[0], "go on in"),
    "the head reads a layer norm's stream": (lambda: made("torch before")[0], "would not stay"),
    "cut before": (cut_before, "before the first cut"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rotated_is_refused(name):
    torch.manual_seed(0)
    make, why = REFUSED[name]
    model = make()
    x = torch.randint(0, 9, (COUNT, 5))
    (group,) = streams(model, x[:2])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(StructureError, match=why):
        sentei.rotated(Probe(model, (x, torch.arange(COUNT) % 4)), group)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_depthwise_convolution_passes_units_on_one_by_one():
    model, x = made("pictures")
    (group,) = streams(model, x)
    probe = Probe(model, (torch.randn(8, *x.shape[1:]).double(), torch.arange(8) % 4))
    with pytest.raises(StructureError, match="Prune the stream as it is"):
        sentei.rotated(probe, group)


def test_groups_of_another_kind_and_dead_units_are_refused():
    model, probe, x = on_samples("before")
    inner = next(g for g in sentei.find_units(model, x[:2]) if g.kind == "neuron")
    with pytest.raises(GroupError, match="of kind 'stream'"):
        sentei.rotated(probe, inner)
    (group,) = streams(model, x[:2])
    mask = sentei.Mask.full([group]).without({group: [1]})
    mask.apply_(model)
    probe.update_(mask)
    with pytest.raises(GroupError, match="before any of them is removed"):
        sentei.rotated(probe, group)


@pytest.mark.parametrize("name", [name for name in HAND if name not in ROTATED])
def test_all_other_networks_of_the_zoo_are_refused(name):
    model, x = made(name)
    probe = Probe(model, (torch.cat([x] * 4), torch.arange(4 * len(x)) % 4))
    with pytest.raises(StructureError, match=r"rune .*as it is"):
        sentei.rotated(probe, *streams(model, x))
