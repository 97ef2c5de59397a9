"""Scores read off the weights, drawn at random or given: nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from sentei.errors import CriterionError, GroupError
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe


@torch.no_grad()
def magnitude(probe: Probe, group: Group) -> Tensor:
    """Size of what was learnt: |w| of a synapse, the Euclidean norm of a unit's incoming weights.

    Biases do not count. An input feature, which nothing computes, is scored by the weights that
    read it.

    Returns:
        (size,) float64; lower goes first.
    """
    if not isinstance(group, Neurons):
        return probe.model.get_parameter(group.parameter).abs().double().flatten().cpu()
    squares = torch.zeros(group.size, dtype=torch.float64)
    for part in group.producers or group.listeners:
        weight = probe.model.get_parameter(part.parameter)
        if weight.ndim > 1:
            slices = weight.double().cpu().movedim(part.dim, 0)[part.index]
            squares += slices.square().flatten(1).sum(1)
    return squares.sqrt()


@dataclass(frozen=True)
class Random:
    """Scores that mean nothing, for comparison: uniform, and the same whenever they are asked for.

    Attributes:
        seed: another seed, another order. The global random state is neither read nor moved.
    """

    seed: int = 0

    def __call__(self, probe: Probe, group: Group) -> Tensor:  # noqa: ARG002 - measures nothing
        """(size,) float64 in [0, 1), fixed by the seed and the group's kind and name."""
        # A hash of both: of a longer seed torch's generator reads only the lower 32 bits.
        seed = crc32(f"{self.seed} {group.kind} {group.name}".encode())
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(group.size, generator=generator, dtype=torch.float64)


random = Random()


@dataclass(frozen=True, eq=False)
class Fixed:
    """Scores that were made beforehand: a single overall ranking. Built by `fixed`."""

    scores: Mapping[Group, Tensor] | Tensor

    @property
    def bare(self) -> bool:
        """Whether these are the scores of a single group that was not named."""
        return isinstance(self.scores, Tensor)

    def __call__(self, probe: Probe, group: Group) -> Tensor:  # noqa: ARG002 - measures nothing
        """(size,) the scores given for this group.

        Raises:
            GroupError: none were given, or their number is not the group's size.
        """
        if isinstance(self.scores, Tensor):
            scores = self.scores
        elif group in self.scores:
            scores = self.scores[group]
        else:
            known = ", ".join(f"{g.kind} {g.name!r}" for g in self.scores) or "none"
            raise GroupError(
                f"no fixed scores for {group.kind} group {group.name!r}; there are some for: "
                f"{known}. Score every group that is to be cut."
            )
        _check_size(scores, group)
        return scores


def fixed(scores: Mapping[Group, Tensor | Sequence[float]] | Tensor | Sequence[float]) -> Fixed:
    """A criterion that gives these scores: a mapping from groups, or a tensor for a single one.

    Raises:
        CriterionError: a score is NaN.
        GroupError: a group has another size than its scores.
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
            f"fixed scores must be one for each member; {group.kind} group {group.name!r} has "
            f"{group.size} and was given {tuple(scores.shape)}"
        )


def _numbers(given: Tensor | Sequence[float], whose: str) -> Tensor:
    scores = torch.as_tensor(given).detach().double().cpu().clone()
    if scores.isnan().any():
        at = int(scores.isnan().nonzero()[0, 0]) if scores.ndim else 0
        raise CriterionError(
            f"scores must be numbers; that of member {at} of {whose} is NaN. Use infinity for what "
            "must stay."
        )
    return scores
