"""Calls of torch functions that use a weight: which are recognised, and under which names."""

import pytest

import zoo
from sentei.network.calls import recorded_name


def test_a_shared_parameter_is_recorded_under_its_first_name():
    model, _ = zoo.build("tied")
    assert recorded_name(model, "out.weight") == "words.weight"
    assert recorded_name(model, "words.weight") == "words.weight"
    assert recorded_name(model, "hidden.bias") == "hidden.bias"
    with pytest.raises(AttributeError, match="wieght"):
        recorded_name(model, "hidden.wieght")
