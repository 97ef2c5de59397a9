"""What is not offered is listed with a reason; groups are picked by name."""

import pytest
import torch
from torch import nn

import sentei
from place_networks import PLACES
from sentei.network.picking import pick
from sentei.network.tracing.tracing import not_offered


def reasons(name):
    net, x = PLACES[name][0]()
    return {(each.parameter, each.dim): each.reason for each in not_offered(net, x)}


def test_outputs_ties_and_computed_weights_are_named():
    assert reasons("TimesWeight") == {
        ("head.weight", 0): "they are part of an output of the network"
    }
    assert "remove_parametrizations" in reasons("WeightNorm")["stem.weight", 0]
    assert "remove_parametrizations" in reasons("SpectralNorm")["stem.weight", 0]
    tied = nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1), nn.Linear(5, 3))
    (first, last) = not_offered(tied, torch.randn(2, 4))
    assert (first.parameter, last.parameter) == ("0.weight", "2.weight")
    assert "ties them together" in first.reason


def test_weights_computed_from_all_their_entries_are_named_even_where_all_are():
    normed = nn.utils.parametrizations.spectral_norm
    net = nn.Sequential(normed(nn.Linear(4, 6)), nn.ReLU(), normed(nn.Linear(6, 2)))
    named = {entry.parameter: entry.reason for entry in sentei.not_offered(net, torch.randn(3, 4))}
    assert sentei.find_units(net, torch.randn(3, 4)) == []
    assert [*named] == [f"{at}.parametrizations.weight.original" for at in (0, 2)]
    assert all("from all entries of another at once" in reason for reason in named.values())


def test_units_added_to_inputs_and_unread_ones_are_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x):
            self.c(x)
            return self.b(x + self.a(x))

    found = {each.parameter: each.reason for each in not_offered(Net(), torch.randn(2, 4))}
    assert "added to single elements of the network's input" in found["a.weight"]
    assert found["c.weight"] == "no layer and no output reads them"


def test_a_part_of_a_layer_that_cannot_be_cut_is_named():
    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.a, self.b = nn.Linear(3, 6), nn.Linear(2, 2), nn.Linear(4, 2)

        def forward(self, x):
            x = self.fc(x).relu()
            return self.a(x[:, :2]) + self.b(x[:, 2:])

    net, x = Ends(), torch.randn(3, 3)
    assert [group.name for group in sentei.find_units(net, x)] == ["fc:2"]
    found = {each.parameter: each.reason for each in not_offered(net, x)}
    assert "computes something else" in found["fc.weight"]


GROUPS = [
    sentei.Neurons(name, "channel", 4) for name in ("stem", "layer1.0", "layer1.0:2", "layer2.0")
]


@pytest.mark.parametrize(
    ("only", "without", "names"),
    [
        (("*",), (), ["stem", "layer1.0", "layer1.0:2", "layer2.0"]),
        (("layer?.0",), (), ["layer1.0", "layer2.0"]),
        (("layer2*", "stem"), (), ["stem", "layer2.0"]),
        (("layer*",), ("*:2",), ["layer1.0", "layer2.0"]),
        (("*",), ("layer[12]*",), ["stem"]),
    ],
)
def test_groups_are_picked_by_name_in_their_order(only, without, names):
    assert [group.name for group in pick(GROUPS, only, without)] == names


@pytest.mark.parametrize("patterns", [{"only": ("layer3*",)}, {"without": ("Stem",)}])
def test_a_pattern_that_matches_nothing_is_refused(patterns):
    with pytest.raises(sentei.GroupError, match=r"layer3\*.*'layer|Stem.*'stem'"):
        pick(GROUPS, **patterns)
    assert pick([], **patterns) == []
