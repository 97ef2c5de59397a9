"""Criteria that measure nothing: weight magnitude, random scores, and scores given in advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.errors import CriterionError, GroupError
from sentei.network.belonging import check_groups
from sentei.network.units import Branch, Branches, Group, Neurons, tensor_of
from sentei.probe.probe import Probe


@checked
@torch.no_grad()
def magnitude(probe: Probe, group: Group) -> Tensor:
    """Weight magnitude: |w| of a synapse, the Euclidean norm of a unit's incoming weights.

    Biases do not count. An input feature has no incoming weights; the weights that read it are
    used. Of a branch all its weights count.

    Returns:
        (size,) float64; lowest removed first.
    """
    check_groups(probe.model, [group])
    if isinstance(group, Branches):
        return torch.stack([_norm(probe.model, branch) for branch in group.branches])
    if not isinstance(group, Neurons):
        return probe.model.get_parameter(group.parameter).abs().double().flatten().cpu()
    squares = torch.zeros(group.size, dtype=torch.float64)
    for part in group.producers or group.listeners:
        weight = tensor_of(probe.model, part.parameter)
        if weight.ndim > 1:
            slices = weight.double().cpu().movedim(part.dim, 0)[part.index]
            squares += slices.square().flatten(1).sum(1)
    return squares.sqrt()


def _norm(model: nn.Module, branch: Branch) -> Tensor:
    """Return the Euclidean norm of a branch's weights, () float64."""
    weights = [tensor_of(model, name) for name in branch.parameters]
    squares = [w.double().square().sum().cpu() for w in weights if w.ndim > 1]
    return torch.stack([torch.zeros((), dtype=torch.float64), *squares]).sum().sqrt()


@checked
@dataclass(frozen=True)
class Random:
    """Uniform random scores as a baseline; the same scores on every call.

    Attributes:
        seed: determines the scores. The global random state is neither read nor changed.
    """

    seed: int = 0

    def __call__(self, probe: Probe, group: Group) -> Tensor:  # noqa: ARG002 - measures nothing
        """Return (size,) float64 in [0, 1), set by the seed and the group's kind and name."""
        # A 32-bit hash of all three: torch's generator uses only the lower 32 bits of a seed.
        seed = crc32(f"{self.seed} {group.kind} {group.name}".encode())
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(group.size, generator=generator, dtype=torch.float64)


random = Random()


@checked
@dataclass(frozen=True, eq=False)
class Fixed:
    """A criterion that returns scores computed in advance: one ranking for the whole run.

    Built by `fixed`.

    Attributes:
        scores: the scores by group, or a tensor for a single group.
    """

    scores: Mapping[Group, Tensor] | Tensor

    @property
    def bare(self) -> bool:
        """Whether the scores are one tensor, for a single group that is not named."""
        return isinstance(self.scores, Tensor)

    def __call__(self, probe: Probe, group: Group) -> Tensor:  # noqa: ARG002 - measures nothing
        """Return the scores given for this group, (size,).

        Raises:
            GroupError: no scores were given for the group, or not one for each member.
        """
        if isinstance(self.scores, Tensor):
            scores = self.scores
        elif group in self.scores:
            scores = self.scores[group]
        else:
            scored = ", ".join(f"{g.kind} {g.name!r}" for g in self.scores) or "none"
            raise GroupError(
                f"no fixed scores for {group.kind} group {group.name!r}; groups with scores: "
                f"{scored}. Give scores for every group to be cut."
            )
        _check_size(scores, group)
        return scores


@checked
def fixed(scores: Mapping[Group, Tensor | Sequence[float]] | Tensor | Sequence[float]) -> Fixed:
    """Make a criterion that returns given scores, so that a whole run uses one ranking.

    Args:
        scores: one score for each member, by group; or only the scores, for a single group.

    Raises:
        CriterionError: a score is NaN.
        GroupError: the number of scores is not the group's size.
    """
    if not isinstance(scores, Mapping):
        return Fixed(_numbers(scores, "the group"))
    checked = {group: _numbers(given, repr(group.name)) for group, given in scores.items()}
    for group, numbers in checked.items():
        _check_size(numbers, group)
    return Fixed(checked)


def _check_size(scores: Tensor, group: Group) -> None:
    if scores.shape != (group.size,):
        raise GroupError(
            f"fixed scores must hold one number for each member; {group.kind} group "
            f"{group.name!r} has {group.size} and was given {tuple(scores.shape)}"
        )


def _numbers(given: Tensor | Sequence[float], label: str) -> Tensor:
    """Scores as a float64 tensor on the CPU, without NaN."""
    scores = torch.as_tensor(given).detach().double().cpu().clone()
    if scores.isnan().any():
        at = int(scores.isnan().nonzero()[0, 0]) if scores.ndim else 0
        raise CriterionError(
            f"scores must be numbers; the score of member {at} of {label} is NaN. Use infinity for "
            "members that must stay."
        )
    return scores
