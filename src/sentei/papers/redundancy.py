"""How many directions the outputs of a layer fill."""

from __future__ import annotations

import torch

from sentei.network.units import Neurons
from sentei.probe.probe import Probe
from sentei.probe.summaries import second_moments


def effective_rank(probe: Probe, group: Neurons) -> float:
    """Return the effective rank of the centred outputs: e to the entropy of their spectrum.

    Source: Roy and Vetterli (2007), The effective rank.
    """
    (gram,) = second_moments(probe, group).values()
    spectrum = torch.linalg.eigvalsh(gram.covariance).clamp(min=0)
    shares = spectrum / spectrum.sum()
    return torch.special.entr(shares).sum().exp().item()
