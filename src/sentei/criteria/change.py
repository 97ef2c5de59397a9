"""Units that have stopped learning: how far their weights went since some moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.criteria.trajectory import Trajectory, recorded
from sentei.errors import CriterionError, unknown
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe


def _angle(past: Tensor, now: Tensor) -> Tensor:
    lengths = past.norm(dim=1) * now.norm(dim=1)
    cosine = (past * now).sum(1) / lengths.clamp(min=torch.finfo(torch.float64).tiny)
    # A row that was or became zero points nowhere: it has turned by a right angle if it moved.
    turned = torch.where(lengths > 0, cosine, (past == now).all(1).double())
    return turned.clamp(-1, 1).arccos().rad2deg()


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_signed": lambda past, now: (now - past).mean(1).abs(),
    "mean_abs": lambda past, now: (now - past).abs().mean(1),
    "l2": lambda past, now: (now - past).norm(dim=1),
    "angle": _angle,
}
MOMENTS: dict[str, Callable[[Trajectory, str], Tensor]] = {
    "update": Trajectory.before,
    "check": Trajectory.checked,
    "start": Trajectory.start,
}


@dataclass(frozen=True)
class WeightChange:
    """How far a unit's incoming weights and bias have moved; a unit that learns no more scores 0.

    Attributes:
        kind: of all the unit's changes, "mean_signed" takes the size of their mean (the literal
            reading, in which changes cancel), "mean_abs" the mean of their sizes, "l2" their
            Euclidean norm, "angle" the angle in degrees between the weights then and now.
        since: "check", the Trajectory's last `check_` (one at each epoch's end makes it an epoch;
            `PruneWhileTraining` makes one at every proposal); "update", the last update; "start".

    Source: Singh (2018), Sensitivity based pruning of hidden neurons, after Karnin as told by
    Gedeon and Harris (1991); its abstract breaks off where the formula should be. The angle is its
    future work.

    Raises:
        ValueError: an unknown kind or moment.
    """

    kind: str = "mean_signed"
    since: str = "check"

    def __post_init__(self) -> None:
        for what, given, known in (("kind", self.kind, KINDS), ("moment", self.since, MOMENTS)):
            if given not in known:
                raise ValueError(unknown(what, given, known))

    @torch.no_grad()
    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """(size,) float64; lower goes first.

        Raises:
            CriterionError: no trajectory, or the angle of single synapses.
        """
        if self.kind == "angle" and not isinstance(group, Neurons):
            raise CriterionError(
                f"a single weight has no direction that could turn; score the synapses of "
                f"{group.name!r} by another kind of change than the angle"
            )
        trajectory = recorded(probe, "weight_change", group)
        past, now = [], []
        for name, dim, index in _owned(group):
            for found, value in (
                (past, MOMENTS[self.since](trajectory, name)),
                (now, probe.model.get_parameter(name).detach()),
            ):
                lined = value.flatten() if dim is None else value.movedim(dim, 0)
                found.append(lined.double().cpu()[index].reshape(group.size, -1))
        return KINDS[self.kind](torch.cat(past, 1), torch.cat(now, 1))


def _owned(group: Group) -> list[tuple[str, int | None, Tensor]]:
    """A group's own weights: parameter, dimension (None where it is laid flat) and positions."""
    if isinstance(group, Neurons):
        return [(p.parameter, p.dim, p.index) for p in group.producers or group.listeners]
    return [(group.parameter, None, torch.arange(group.size).reshape(-1, 1))]


weight_change = WeightChange()
