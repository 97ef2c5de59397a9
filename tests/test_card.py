"""`Card`: what a network predicts goes where the network goes."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sentei
from sentei import Card, card_of, set_card_

KNOWN = Card("half_squared_error", "values", ("x", "y\n"), ("größe", "b"))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2))


def test_a_network_without_a_card_gives_the_same_bytes_as_before(tmp_path):
    net = network()
    sentei.save(net, tmp_path / "a.safetensors")
    set_card_(net, Card())
    sentei.save(net, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert card_of(sentei.load(tmp_path / "a.safetensors")) == Card()


def test_a_card_goes_through_files_cuts_and_copies(tmp_path):
    net, x = network(), torch.rand(8, 2)
    set_card_(net, KNOWN)
    group = sentei.find_units(net, x)[0]
    mask = sentei.Mask.full([group]).without({group: [1, 4]})
    small = sentei.shrink(net, mask, x)
    sentei.save(small, tmp_path / "net.safetensors")
    assert card_of(sentei.load(tmp_path / "net.safetensors")) == KNOWN
    assert card_of(sentei.load(tmp_path / "net.safetensors", into=network())) == KNOWN
    assert sentei.formats.inspect(tmp_path / "net.safetensors").card == KNOWN


def test_planned_bytes_count_the_card(tmp_path):
    net, x = network(), torch.rand(8, 2)
    set_card_(net, KNOWN)
    sentei.save(net, tmp_path / "net.safetensors")
    groups = sentei.find_units(net, x)
    measured = sentei.prune(
        net,
        groups,
        sentei.Probe(net, (x, torch.rand(8, 2)), "half_squared_error"),
        sentei.ranked("magnitude", sentei.one_at_a_time()),
        until=sentei.units_at_most(6),
    )
    assert next(measured).measured.bytes == (tmp_path / "net.safetensors").stat().st_size


@pytest.mark.parametrize(
    "given",
    [
        *({"loss": "no such"}, {"loss": 3}, {"loss": ["x"]}, {"predicts": "words"}),
        *({"classes": ["a"]}, {"classes": "ab"}, {"features": (1, 2)}, {"features": None}),
    ],
)
def test_what_is_no_card_is_refused(given):
    with pytest.raises(ValueError, match=r"card names a loss|networks predict|are texts"):
        Card(**given)


@pytest.mark.parametrize(
    "data",
    [[], "x", 3, None, {"loss": {}}, {"classes": [1]}, {"features": {}}, {"colour": "red"}],
)
def test_a_damaged_card_in_a_file_is_a_file_error(tmp_path, data):
    card = json.dumps({"format": 1, "card": data})
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"sentei": card})
    with pytest.raises(sentei.FileError, match="damaged"):
        sentei.formats.inspect(tmp_path / "a.safetensors")
