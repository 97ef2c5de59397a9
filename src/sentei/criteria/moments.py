"""What is known of the units' outputs, kept until weights before them change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sentei.criteria.engines import listeners_of
from sentei.criteria.gram import Gram, Span, gather
from sentei.criteria.hearing import positions_of, pressed
from sentei.criteria.recording import Pass, Recording
from sentei.network.calls import names_of
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons

if TYPE_CHECKING:
    from sentei.criteria.probe import Probe


@dataclass
class Moments:
    """Gram matrices and spans by group and listener."""

    _grams: dict[tuple[Neurons, bool], dict[str, Gram]] = field(default_factory=dict)
    _spans: dict[tuple[Neurons, str], Span] = field(default_factory=dict)

    def grams(
        self, recording: Recording, group: Neurons, *, precise: bool = True
    ) -> dict[Listener, Gram]:
        """Second moments as each listener hears them."""
        Mask.full([group]).check(recording.model)
        if (group, precise) not in self._grams:
            listeners = listeners_of(recording.model, group)
            self._grams[group, precise] = gather(recording, listeners, precise=precise)
        known, names = self._grams[group, precise], _names(recording.model, group)
        return {part: known[name] for part, name in names.items() if name in known}

    def spans(self, recording: Recording, group: Neurons, alive: Tensor) -> dict[Listener, Span]:
        """What the alive units know of each other."""
        found, names = {}, _names(recording.model, group)
        for part, gram in self.grams(recording, group).items():
            known = self._spans.get((group, names[part]))
            if known is None or (alive & ~known.alive).any():
                known = Span.of(gram, alive, f"{group.kind} group {group.name!r}")
            else:
                known = known.without((known.alive & ~alive).nonzero().flatten())
            found[part] = self._spans[group, names[part]] = known
        return found

    def forget_(self, recording: Recording, position: int) -> None:
        """Drop what was heard after the call at `position`, whose weights have changed."""
        for group, precise in [*self._grams]:
            if max(positions_of(recording, listeners_of(recording.model, group))) > position:
                del self._grams[group, precise]
                self._spans = {k: span for k, span in self._spans.items() if k[0] != group}


def grams(probe: Probe, group: Group, *, precise: bool = True) -> dict[Listener, Gram]:
    """Second moments of a group's units, dead ones too, as each listener hears them.

    Args:
        probe: the network and its samples.
        group: of units.
        precise: multiply in float64; otherwise in the network's own type, which is faster.

    Raises:
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        return probe.moments.grams(recording, units, precise=precise)


def spans(probe: Probe, group: Group) -> dict[Listener, Span]:
    """What the alive units of a group know of each other, for each listener.

    Raises:
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        return probe.moments.spans(recording, units, probe.alive(group))


def pressure(probe: Probe, group: Group) -> Tensor:
    """(size,) float64 mean squared derivative of a sample's loss along a unit's output.

    Squares are added up over a unit's positions and columns. 0 for the dead.

    Raises:
        CriterionError: the loss has no derivative.
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        probe.check_smooth(recording, 1)
        listeners = listeners_of(recording.model, units)

        def of_block(block: Pass) -> Tensor:
            each = pressed(recording, block, listeners, probe.per_sample)
            return torch.stack([found.square().sum(1, dtype=torch.float64) for found in each]).sum(
                0
            )

        return probe.mean(of_block, group.size) * probe.alive(group)


def _names(model: nn.Module, group: Neurons) -> dict[Listener, str]:
    names = names_of(model)
    return {part: names[id(model.get_parameter(part.parameter))] for part in group.listeners}
