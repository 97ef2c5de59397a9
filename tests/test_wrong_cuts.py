"""No wrong cut is certified and no right one refused, whatever weights hide it.

The short form takes every third network in one state; `make test-slow` takes all of both
and counts.
"""

from __future__ import annotations

import pytest

import wrong_cuts

NETWORKS = sorted(wrong_cuts.NETWORKS)


LONG = ("residual_inplace", "vit_separate", "transposed", "squeeze_excite")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in NETWORKS[::3]],
)
def test_a_certificate_tells_wrong_cuts_from_right_ones(name):
    state = wrong_cuts.STATES[NETWORKS.index(name) % len(wrong_cuts.STATES)]
    found = list(wrong_cuts.outcomes(name, [state]))
    assert not [each for each in found if each[2] == each[3]]
    assert any(not wrong for _, _, wrong, _ in found)


@pytest.mark.slow
def test_no_wrong_cut_in_any_state_is_certified_and_no_right_one_refused():
    found = [each for name in NETWORKS for each in wrong_cuts.outcomes(name, wrong_cuts.STATES)]
    assert not [each for each in found if each[2] == each[3]]
    assert len(NETWORKS) >= 40
    assert sum(wrong for _, _, wrong, _ in found) >= 500
    assert sum(not wrong for _, _, wrong, _ in found) >= 200
