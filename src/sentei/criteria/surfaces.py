"""Error surfaces: the loss along one unit's gate, from removed through as it is to far louder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sentei.errors import CriterionError
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe

Units = int | Sequence[int] | Tensor
Gains = Sequence[float] | Tensor


def surface(probe: Probe, group: Group, unit: Units, gains: Gains) -> Tensor:
    """Mean loss with one unit's output times each gain, everything else as it is.

    At gain 1 it is the loss, at 0 the loss without the unit. All gains of all units are one problem
    for the engine that `ablation` uses: nothing that a gate cannot change is computed twice.

    Args:
        probe: the network and its samples.
        group: whose unit.
        unit: its position, or several.
        gains: finite, of any shape.

    Returns:
        float64, shaped like `gains`; with a first dimension for the units if there are several.

    Raises:
        ValueError: a gain is not finite.
        CriterionError: the group is one of synapses.
        GroupError: no such unit.

    Source: figures 5 to 7 and 10 to 12 of "The Incredible Shrinking Neural Network" (arXiv
    1701.04465), whose errors are sums over samples.
    """
    units, wanted = _asked(group, unit, gains)
    rises = probe.rises_at(group, units, wanted.flatten())
    return _shaped(probe.loss() + rises, unit, wanted)


def approximations(
    probe: Probe, group: Group, unit: Units, gains: Gains, curvature: str = "full"
) -> tuple[Tensor, Tensor]:
    """What first and second order make of a `surface`: its tangent and its parabola at gain 1.

    Args:
        probe: the network and its samples.
        group: whose unit.
        unit: its position, or several.
        gains: finite, of any shape.
        curvature: of the parabola; see `Taylor2`.

    Returns:
        Two tensors shaped like the surface. At gain 0 they are the loss plus `taylor1`, `taylor2`.

    Raises:
        ValueError, CriterionError, GroupError: as `surface`.
    """
    units, wanted = _asked(group, unit, gains)
    away = wanted.flatten() - 1
    tangents = probe.loss() + probe.slopes(group)[units, None] * away
    bends = probe.curvatures(group, curvature)[units, None] / 2 * away.square()
    return _shaped(tangents, unit, wanted), _shaped(tangents + bends, unit, wanted)


def _asked(group: Group, unit: Units, gains: Gains) -> tuple[Tensor, Tensor]:
    """(k,) units and the gains as float64.

    Raises:
        ValueError, CriterionError: see `surface`.
    """
    if not isinstance(group, Neurons):
        raise CriterionError(
            f"a surface is drawn along a whole unit's gate, and {group.name!r} is a group of "
            "synapses; choose a group from find_units"
        )
    wanted = torch.as_tensor(gains, dtype=torch.float64)
    if not wanted.isfinite().all():
        at = int((~wanted.flatten().isfinite()).nonzero()[0, 0])
        raise ValueError(
            f"gains must be finite numbers; that at position {at} is {wanted.flatten()[at].item()}"
        )
    return torch.as_tensor(unit).reshape(-1), wanted


def _shaped(values: Tensor, unit: Units, gains: Tensor) -> Tensor:
    one = torch.as_tensor(unit).ndim == 0
    return values.reshape(gains.shape if one else (-1, *gains.shape))
