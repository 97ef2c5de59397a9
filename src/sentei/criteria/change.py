"""Score units by how far their weights changed since an earlier moment of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.criteria.trajectory import Trajectory, recorded
from sentei.errors import CriterionError, unknown
from sentei.network.belonging import check_groups
from sentei.network.units import Branches, Group, Neurons
from sentei.probe.probe import Probe


def _angle(past: Tensor, now: Tensor) -> Tensor:
    lengths = past.norm(dim=1) * now.norm(dim=1)
    cosine = (past * now).sum(1) / lengths.clamp(min=torch.finfo(torch.float64).tiny)
    # A zero row has no direction: its angle is 90 degrees if the row changed, else 0.
    cosine = torch.where(lengths > 0, cosine, (past == now).all(1).double())
    return cosine.clamp(-1, 1).arccos().rad2deg()


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


@checked
@dataclass(frozen=True)
class WeightChange:
    """Change of a unit's incoming weights and bias in training; 0 for a unit that no longer learns.

    Attributes:
        kind: how the unit's weight changes become one score. "mean_signed": the absolute value of
            their mean (the literal reading, in which changes cancel); "mean_abs": the mean of their
            absolute values; "l2": their Euclidean norm; "angle": the angle in degrees between the
            weights then and now.
        since: the earlier moment. "check": the Trajectory's last `check_` (call it at the end of
            each epoch to measure one epoch; `PruneWhileTraining` calls it at every proposal);
            "update": before the last update; "start": the start of the record.

    Source: Singh (2018), Sensitivity based pruning of hidden neurons, after Karnin as described by
    Gedeon and Harris (1991); its abstract breaks off where the formula should be. It names the
    angle as future work.

    Raises:
        ValueError: an unknown kind or moment.
    """

    kind: str = "mean_signed"
    since: str = "check"

    def __post_init__(self) -> None:
        for what, name, table in (("kind", self.kind, KINDS), ("moment", self.since, MOMENTS)):
            if name not in table:
                raise ValueError(unknown(what, name, table))

    @torch.no_grad()
    def __call__(self, probe: Probe, group: Group) -> Tensor:
        """Return the changes, (size,) float64; lowest removed first.

        Raises:
            CriterionError: no trajectory, kind "angle" for a group of synapses, or branches.
        """
        if self.kind == "angle" and not isinstance(group, Neurons):
            raise CriterionError(
                'kind="angle" needs whole units, since a single weight has no direction; '
                f"{group.name!r} is a group of synapses. Use another kind of change"
            )
        check_groups(probe.model, [group])
        trajectory = recorded(probe, "weight_change", group)
        past, now = [], []
        for name, dim, index in _owned(group):
            for rows, value in (
                (past, MOMENTS[self.since](trajectory, name)),
                (now, probe.model.get_parameter(name).detach()),
            ):
                slices = value.flatten() if dim is None else value.movedim(dim, 0)
                rows.append(slices.double().cpu()[index].reshape(group.size, -1))
        return KINDS[self.kind](torch.cat(past, 1), torch.cat(now, 1))


def _owned(group: Group) -> list[tuple[str, int | None, Tensor]]:
    """The weights of a group's members: parameter, dimension (None if flattened) and positions."""
    if isinstance(group, Neurons):
        return [(p.parameter, p.dim, p.index) for p in group.producers or group.listeners]
    if isinstance(group, Branches):
        raise CriterionError(
            f"a change of weights is measured for units and synapses; {group.name!r} is a group of "
            'branches. Score branches with "ablation"'
        )
    return [(group.parameter, None, torch.arange(group.size).reshape(-1, 1))]


weight_change = WeightChange()
