"""Networks as plain data: every supported layer is described and rebuilt, others are refused."""

import json

import pytest
import torch
from torch import nn

from sentei.errors import StructureError
from sentei.network.counted_norm import CountedLayerNorm
from sentei.network.encoding import architecture
from sentei.network.encoding.architecture import build, describe, tensors_of
from sentei.network.holders import public_numbers
from sentei.network.layers import Select, Standardise
from sentei.network.surgery.sparse import SparseLinear

# One of each type, every argument other than torch's default where that is possible.
LAYERS = [
    nn.Linear(3, 2, bias=False),
    nn.Embedding(5, 3, padding_idx=1, max_norm=2.0, norm_type=1.0),
    nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False),
    nn.Conv2d(2, 3, (3, 2), padding="same", padding_mode="reflect"),
    nn.Conv3d(1, 2, (1, 2, 3)),
    nn.ConvTranspose1d(4, 2, 3, stride=2, output_padding=1, groups=2),
    nn.ConvTranspose2d(2, 4, (2, 3), bias=False, dilation=2),
    nn.ConvTranspose3d(1, 1, 2),
    nn.BatchNorm1d(3, eps=1e-3, momentum=None),
    nn.BatchNorm2d(3, affine=False),
    nn.BatchNorm3d(2, track_running_stats=False),
    nn.InstanceNorm1d(2),
    nn.InstanceNorm2d(2, affine=True),
    nn.InstanceNorm3d(2, track_running_stats=True),
    nn.GroupNorm(2, 4, affine=False),
    nn.LayerNorm((2, 3), bias=False),
    CountedLayerNorm(3, 5, bias=False),
    nn.RMSNorm(3, eps=1e-4),
    nn.LocalResponseNorm(2, alpha=1e-3),
    nn.PReLU(3),
    *(nn.Identity(), nn.Sigmoid(), nn.LogSigmoid(), nn.Tanh(), nn.Tanhshrink(), nn.Softsign()),
    *(nn.Softmax2d(), nn.ReLU(True), nn.ReLU6(), nn.SELU(), nn.SiLU(), nn.Mish()),
    *(nn.Hardswish(), nn.Hardsigmoid(), nn.ELU(0.5), nn.CELU(2.0), nn.Softmax(1)),
    *(nn.LogSoftmax(-1), nn.Softmin(0), nn.GLU(1), nn.Hardshrink(0.2), nn.Softshrink(0.3)),
    *(nn.GELU("tanh"), nn.LeakyReLU(0.2), nn.RReLU(0.2, 0.3), nn.Hardtanh(-2.0, 3.0)),
    *(nn.Softplus(2.0, 10.0), nn.Threshold(0.1, 0.2)),
    *(nn.Dropout(0.1), nn.Dropout1d(0.2), nn.Dropout2d(0.3), nn.Dropout3d(0.4)),
    *(nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.2)),
    nn.MaxPool1d(2, padding=1),
    nn.MaxPool2d((2, 3), stride=1, ceil_mode=True),
    nn.MaxPool3d(2, dilation=2),
    nn.AvgPool1d(2, count_include_pad=False),
    nn.AvgPool2d(2, divisor_override=3),
    nn.AvgPool3d(2, ceil_mode=True),
    *(nn.AdaptiveAvgPool1d(2), nn.AdaptiveAvgPool2d((None, 3)), nn.AdaptiveAvgPool3d(1)),
    *(nn.AdaptiveMaxPool1d(2), nn.AdaptiveMaxPool2d((1, 2)), nn.AdaptiveMaxPool3d(1)),
    *(nn.Flatten(2, -2), nn.Unflatten(1, (2, 3))),
    *(nn.ZeroPad1d(1), nn.ZeroPad2d((1, 2, 3, 4)), nn.ZeroPad3d(1)),
    *(nn.ReflectionPad1d(1), nn.ReflectionPad2d(1), nn.ReflectionPad3d(1)),
    *(nn.ReplicationPad1d(1), nn.ReplicationPad2d(2)),
    *(nn.ConstantPad1d(1, 2.0), nn.ConstantPad2d(1, 3.0), nn.ConstantPad3d(1, 4.0)),
    *(nn.PixelShuffle(2), nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True)),
    Select(torch.tensor([0, 3, 4]), dim=-3),
    Standardise(torch.arange(3.0), torch.arange(1.0, 4.0)),
    SparseLinear(5, 3, 4, bias=False),
]


def there_and_back(module):
    return build(json.loads(json.dumps(describe(module))))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_layers_there_and_back(layer):
    made = there_and_back(layer)
    assert type(made) is type(layer)
    assert repr(made) == repr(layer)
    assert describe(made) == describe(layer)
    assert {k: v.shape for k, v in made.state_dict().items()} == {
        k: v.shape for k, v in layer.state_dict().items()
    }
    assert all(tensor.is_meta for tensor in tensors_of(made).values())


def test_every_layer_of_the_table_is_tried():
    assert {type(layer) for layer in LAYERS} == set(architecture._ARGUMENTS)


def test_order_names_and_nesting():
    model = nn.Sequential()
    for name in ("10", "2", "b", "a"):
        model.add_module(name, nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    made = there_and_back(model)
    assert [name for name, _ in made.named_modules()] == [name for name, _ in model.named_modules()]
    assert repr(made) == repr(model)


def test_a_layer_used_again_is_the_same_layer():
    layer, act = nn.Linear(3, 3), nn.Tanh()
    made = there_and_back(nn.Sequential(layer, act, nn.Sequential(layer, act)))
    assert made[2][0] is made[0]
    assert made[2][1] is made[1]
    assert len(list(made.parameters())) == 2


def test_layers_without_entries_build_without_a_warning():
    made = there_and_back(nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 3)))
    assert [tuple(p.shape) for p in made.parameters()] == [(1, 2), (1,), (3, 1), (3,)]
    empty = describe(nn.Linear(1, 3)) | {"in_features": 0}
    assert build(empty).weight.shape == (3, 0)


def test_building_draws_nothing_random():
    described = describe(nn.Sequential(nn.Linear(6, 5), nn.Embedding(3, 2)))
    before = torch.get_rng_state()
    build(described)
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_are_those_of_the_tensors():
    layer = nn.Linear(4, 3)
    layer.weight.data = torch.zeros(3, 2)  # cut through a layer it is tied to
    assert describe(layer)["in_features"] == 2
    assert layer.in_features == 4


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.inner, self._hidden, self.bias, self.rate = 3, 48, 5, True, 0.5
        self.fc = nn.Linear(2, 2)


class Renamed(nn.Linear):
    pass


def with_buffer() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.register_buffer("seen", torch.zeros(1))
    return layer


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Sequential(nn.Tanh(), Own()), "module '1' is a Own"),
        (lambda: Renamed(2, 2), "is a Renamed"),
        (with_buffer, "not those of its class"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "ParametrizedLinear"),
        (lambda: nn.Sequential(*(nn.Tanh() for _ in range(10_001))), "at most 10,000"),
    ],
)
def test_what_is_not_built_in_is_refused(make, says):
    with pytest.raises(StructureError, match=says):
        describe(make())


def row(*children):
    return {"type": "Sequential", "children": [list(child) for child in children]}


def nested(depth):
    description = {"type": "Tanh"}
    for _ in range(depth):
        description = row(("0", description))
    return description


TANH = {"type": "Tanh"}
LINEAR = {"type": "Linear", "in_features": 2, "out_features": 2, "bias": True}


@pytest.mark.parametrize(
    ("description", "says"),
    [
        (None, "not described"),
        ([], "not described"),
        ({}, "unknown layer None"),
        ({"type": "Linaer"}, "Did you mean 'Linear'"),
        ({"type": "os.system"}, "unknown layer"),
        ({"type": ["Linear"]}, "unknown layer"),
        ({"type": "Linear"}, "is described by"),
        ({**LINEAR, "device": "cpu"}, "is described by"),
        ({**LINEAR, "in_features": -1}, "no Linear has these arguments"),
        ({**LINEAR, "in_features": "2"}, "no Linear has these arguments"),
        ({**LINEAR, "in_features": 10**30}, "no Linear has these arguments"),
        ({**LINEAR, "in_features": 2**40, "out_features": 2**40}, "no Linear has these arguments"),
        ({"type": "Dropout", "p": 9.3, "inplace": False}, "no Dropout has these arguments"),
        ({"type": "Select", "kept": -1, "dim": -1}, "no Select has these arguments"),
        ({"type": "Sequential"}, "children of module ''"),
        ({"type": "Sequential", "children": 3}, "children of module ''"),
        (row(("a.b", TANH)), "children of module ''"),
        (row(("a", TANH), ("a", TANH)), "described twice"),
        (row(("a", {"type": "same", "as": "b"})), "no layer"),
        (row(("a", row(("b", TANH))), ("c", {"type": "same", "as": "a"})), "no layer"),
        (row(("a", {"type": "same", "as": ""})), "no layer"),
        (nested(70), "nested more than 64 deep"),
        (row(*((str(i), TANH) for i in range(10_001))), "more than 10,000 modules"),
    ],
)
def test_descriptions_that_no_network_has_are_refused(description, says):
    with pytest.raises(StructureError, match=says):
        build(description)


def test_public_numbers_of_ones_own_modules():
    model = nn.Sequential(nn.Linear(2, 2), Own(), nn.Sequential(Select(torch.arange(2))))
    assert public_numbers(model) == {"1": {"heads": 3, "inner": 48}, "2.0": {"dim": -1}}
    assert public_numbers(nn.Sequential(nn.Linear(2, 2))) == {}


def test_all_names_of_a_shared_tensor():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    model[1].weight = model[0].weight
    model.register_buffer("passing", torch.zeros(1), persistent=False)
    assert sorted(tensors_of(model)) == sorted(model.state_dict())
    assert tensors_of(model)["1.weight"] is model[0].weight
