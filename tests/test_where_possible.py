"""The usual repair and criterion of `sentei prune`: what has no repair is pruned without one."""

import pytest
import torch

import zoo
from place_networks import PLACES
from sentei import Probe, find_units, one_shot, prune, ranked
from sentei.criteria import Ablation, scores
from sentei.criteria.repairs.where_possible import WherePossible
from sentei.errors import CriterionError, GroupError, StructureError
from sentei.nests import tensors
from stream_networks import made

USUAL = WherePossible("least_squares")
BUILT = {
    **{f"zoo {name}": lambda name=name: zoo.build(name) for name in zoo.ZOO},
    **{
        f"place {name}": PLACES[name][0]
        for name in ("Einsum", "Tied", "BatchedExperts", "MaskedWeight", "GRUBoth", "LSTMCell")
    },
    **{f"stream {name}": lambda name=name: made(name) for name in ("before", "pictures")},
}
REFUSED = {
    "zoo transposed",
    "zoo recurrent",
    *(name for name in BUILT if name.startswith("place ")),
}


def probed(name):
    """Return a network, its inputs, and a Probe with a loss that any output has."""
    torch.manual_seed(0)
    model, x = BUILT[name]()
    model.eval()
    targets = torch.zeros(len(tensors(x)[0]))
    first = lambda out: next(t for t in tensors(out) if t.is_floating_point())  # noqa: E731
    probe = Probe(model, (x, targets), lambda out, t: first(out).flatten(1).square().mean(1))
    return model, x, probe


def pruned(name, repair):
    """Return all weights after a cut, or the refusal."""
    model, x, probe = probed(name)
    propose = ranked("magnitude", one_shot("60 %"), repair=repair)
    *_, last = prune(model, find_units(model, x), probe, propose)
    assert last.removed
    return [weight.detach().clone() for weight in model.parameters()]


@pytest.mark.parametrize("name", BUILT)
def test_any_unit_is_scored_after_a_repair_where_that_is_possible(name, caplog):
    model, x, probe = probed(name)
    for group in find_units(model, x, depth=True):
        caplog.clear()
        usual = scores("ablation-affine", probe, group)
        said = "are scored without a repair" in caplog.text
        refused = None
        try:
            wanted = scores(Ablation("affine"), probe, group)
        except (StructureError, CriterionError, GroupError) as error:
            wanted, refused = scores("ablation", probe, group), error
        assert said == isinstance(refused, StructureError)  # branches and streams never have one
        assert torch.equal(usual, wanted), group.name


@pytest.mark.parametrize("name", BUILT)
def test_any_network_is_pruned_and_repaired_where_that_is_possible(name, caplog):
    usual = pruned(name, USUAL)
    assert ("are removed without a repair" in caplog.text) == (name in REFUSED)
    if name in REFUSED:
        with pytest.raises(StructureError):
            pruned(name, "least_squares")
    else:
        wanted = pruned(name, "least_squares")
        assert all(map(torch.equal, usual, wanted))
