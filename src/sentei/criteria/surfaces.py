"""Error surfaces: compute the loss as one unit's output is multiplied by a range of gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.errors import CriterionError
from sentei.network.belonging import positions_in
from sentei.network.units import Group, Neurons, members_word
from sentei.probe.probe import Probe

Units = Annotated[int | Sequence[int] | Tensor, "a position, or several in a list or a tensor"]
Gains = Annotated[float | Sequence[float] | Tensor, "numbers: a list or a tensor"]


@checked
def surface(probe: Probe, group: Group, unit: Units, gains: Gains) -> Tensor:
    """Compute the mean loss with one unit's output multiplied by each gain, all else unchanged.

    At gain 1 this is the network's loss, at gain 0 the loss without the unit. The engine of
    `ablation` computes all gains of all units together; whatever the gains cannot change is
    computed once.

    Args:
        probe: the network and its samples.
        group: the group of the unit.
        unit: its position, or several.
        gains: finite, of any shape.

    Returns:
        float64, shaped like `gains`; with a first dimension for the units if there are several.

    Raises:
        ValueError: a gain is not finite.
        CriterionError: the group is a group of synapses.
        GroupError: no such unit.

    Source: figures 5 to 7 and 10 to 12 of "The Incredible Shrinking Neural Network" (arXiv
    1701.04465). The paper's errors are sums over samples; these are means.
    """
    units, values = _checked(group, unit, gains)
    rises = probe.rises_at(group, units, values.flatten())
    return _shaped(probe.loss() + rises, unit, values)


@checked
def approximations(
    probe: Probe, group: Group, unit: Units, gains: Gains, curvature: str = "full"
) -> tuple[Tensor, Tensor]:
    """Compute the first- and second-order Taylor approximations of a `surface` at gain 1.

    Args:
        probe: the network and its samples.
        group: the group of the unit.
        unit: its position, or several.
        gains: finite, of any shape.
        curvature: of the second order: "full" or "diagonal"; see `Taylor2`.

    Returns:
        The tangent and the parabola, each shaped like the surface. At gain 0 they are the loss plus
        `taylor1` and the loss plus `taylor2`.

    Raises:
        ValueError, CriterionError, GroupError: as `surface`.
    """
    units, values = _checked(group, unit, gains)
    offsets = values.flatten() - 1
    tangents = probe.loss() + probe.slopes(group)[units, None] * offsets
    seconds = probe.curvatures(group, curvature)[units, None] / 2 * offsets.square()
    return _shaped(tangents, unit, values), _shaped(tangents + seconds, unit, values)


def _checked(group: Group, unit: Units, gains: Gains) -> tuple[Tensor, Tensor]:
    """The units as (k,) positions and the gains as a float64 tensor.

    Raises:
        ValueError, CriterionError: see `surface`.
    """
    if not isinstance(group, Neurons):
        raise CriterionError(
            f"a surface needs a group of whole units; {group.name!r} is a group of "
            f"{members_word(group)}. Choose a group from find_units"
        )
    values = torch.as_tensor(gains, dtype=torch.float64)
    if not values.isfinite().all():
        at = int((~values.flatten().isfinite()).nonzero()[0, 0])
        raise ValueError(
            f"gains must be finite; the gain at position {at} is {values.flatten()[at].item()}"
        )
    return positions_in(group, torch.as_tensor(unit)), values


def _shaped(values: Tensor, unit: Units, gains: Tensor) -> Tensor:
    """(k, g) values shaped like the gains, with a first dimension if there are several units."""
    one = torch.as_tensor(unit).ndim == 0
    return values.reshape(gains.shape if one else (len(values), *gains.shape))
