"""No wrong cut is certified and no right one refused, whatever weights hide it.

The short form takes every third network in one state; `make test-slow` takes all of both
and counts.
"""

from __future__ import annotations

import pytest

import wrong_cuts
from sentei.errors import CertificateError
from sentei.network.surgery.certificate import certify

NETWORKS = sorted(wrong_cuts.NETWORKS)


def is_certified(cut, state) -> bool | None:
    """Whether a cut passes in a state of the network; None if the cut network does not run."""
    model, example = wrong_cuts.built(cut.network, state)
    masked = cut.masked(model)
    try:
        small = cut.small(masked)
    except Exception:
        return None
    try:
        certify(masked, small, example, mask=cut.mask)
    except CertificateError:
        return False
    return True


def outcomes(name, states):
    """Yield (what, state, is it wrong, is it certified) for the cuts of a network."""
    for cut in wrong_cuts.cuts(name):
        wrong = cut.what != "right" and wrong_cuts.is_really_wrong(cut)
        if cut.what != "right" and not wrong:
            continue  # it does not run, or two equal units were swapped
        for state in states:
            certified = is_certified(cut, state)
            if certified is not None:
                yield cut.what, state, wrong, certified


@pytest.mark.parametrize("name", NETWORKS[::3])
def test_a_certificate_tells_wrong_cuts_from_right_ones(name):
    state = wrong_cuts.STATES[NETWORKS.index(name) % len(wrong_cuts.STATES)]
    found = list(outcomes(name, [state]))
    assert not [each for each in found if each[2] == each[3]]
    assert any(not wrong for _, _, wrong, _ in found)


@pytest.mark.slow
def test_no_wrong_cut_in_any_state_is_certified_and_no_right_one_refused():
    found = [each for name in NETWORKS for each in outcomes(name, wrong_cuts.STATES)]
    assert not [each for each in found if each[2] == each[3]]
    assert len(NETWORKS) >= 40
    assert sum(wrong for _, _, wrong, _ in found) >= 500
    assert sum(not wrong for _, _, wrong, _ in found) >= 200
