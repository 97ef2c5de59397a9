"""Measure what a first-order estimate leaves of the rise in loss without a unit, on some samples.

The rise differs far more between samples than between units. Most of it is the first-order Taylor
term, whose mean over all samples takes one backward pass. The residual, measured on a few samples,
therefore gives a close estimate of the rise: the Taylor term is a control variate. For branches it
is 0: some have no gate, and far from 1 it says little about them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sentei.distributed import sum_across
from sentei.errors import DataError
from sentei.network.example import undisturbed
from sentei.network.units import Branches, Group, Listener, Neurons, Synapses
from sentei.probe.choosing import Engines, UnitEngine, listeners_of
from sentei.probe.engines.candidate_losses import CandidateLosses
from sentei.probe.engines.sample_slopes import SampleSlopes
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import Pass, Recording
from sentei.reading.data import MemoryData

MOMENTS = 4  # sums of rises, of residuals and of their squares; how many residuals are not zero
_PIECE = 4096  # samples that are copied at a time
_ELEMENTS = 4_000_000  # rises that are held at a time


@dataclass(frozen=True, eq=False)
class _Job:
    """What is to be measured of one group, by its engine.

    Attributes:
        matter: (k,) bool, which of the units asked for can change the loss.
        units: (m,) their positions.
        engine: measures them.
    """

    group: Neurons | Branches
    matter: Tensor
    units: Tensor
    engine: UnitEngine


def first_order(probe: Probe, groups: Sequence[Group]) -> dict[Group, Tensor]:
    """Return the first-order estimate -E' of each unit's rise, by one backward pass for all groups.

    Returns:
        (size,) float64 for each group; 0 for dead units and for branches.

    Raises:
        CriterionError: the loss has no derivative.
        GroupError, LossError, StaleError: as `Probe.rises_without`.
    """
    with probe.measuring() as recording:
        probe.check_smooth(recording, 1)
        slopes = SampleSlopes(recording, [_listeners(probe, group) for group in groups])
        together = [group for group, known in zip(groups, slopes.known, strict=True) if known]

        def sums(block: Pass) -> Tensor:
            each = [found for found in slopes(block) if found is not None]
            return torch.cat([torch.zeros(0), *(part.sum(1, dtype=torch.float64) for part in each)])

        sizes = [group.size for group in together]
        means = recording.mean("kept", sums, sum(sizes)).split(sizes)
    found = {group: -mean for group, mean in zip(together, means, strict=True)}
    for group in groups:
        if group in found:
            found[group] = torch.where(probe.alive(group), found[group], 0.0)
        elif isinstance(group, Branches):
            found[group] = torch.zeros(group.size, dtype=torch.float64)
        else:
            found[group] = -probe.slopes(group)
    return {group: found[group] for group in groups}


def _listeners(probe: Probe, group: Group) -> dict[str, Listener]:
    """Return a group's listeners as `listeners_of`; none for branches."""
    probe.check_removable(group)
    assert not isinstance(group, Synapses)
    return {} if isinstance(group, Branches) else listeners_of(probe.model, group)


def residual_sums(probe: Probe, units: Mapping[Group, Tensor], rows: Tensor) -> dict[Group, Tensor]:
    """Sum rises and residuals, rise less first-order estimate, over some of a Probe's samples.

    Args:
        probe: the network and its samples.
        units: (k,) positions of alive units, for each group.
        rows: (n,) the numbers of the samples.

    Returns:
        (k, 4) float64 for each group: the sums of a unit's rises, of its residuals and of their
        squares, and how many residuals are not zero.

    Raises:
        DataError: the samples are not in memory.
    """

    def start(recording: Recording, jobs: Sequence[_Job]) -> Callable[[Pass], list[Tensor]]:
        slopes = SampleSlopes(recording, [_listeners(probe, job.group) for job in jobs])

        def of(block: Pass) -> list[Tensor]:
            together = slopes(block)
            return [_moments(job, block, found) for job, found in zip(jobs, together, strict=True)]

        return of

    return _summed(probe, units, rows, MOMENTS, start)


def rise_sums(probe: Probe, units: Mapping[Group, Tensor], rows: Tensor) -> dict[Group, Tensor]:
    """As `residual_sums`, but the sums of rises only, (k,) float64 for each group."""

    def start(recording: Recording, jobs: Sequence[_Job]) -> Callable[[Pass], list[Tensor]]:
        del recording
        return lambda block: [job.engine.rises(block, job.units)[:, None] for job in jobs]

    return {group: sums[:, 0] for group, sums in _summed(probe, units, rows, 1, start).items()}


def _summed(
    probe: Probe,
    units: Mapping[Group, Tensor],
    rows: Tensor,
    width: int,
    start: Callable[[Recording, Sequence[_Job]], Callable[[Pass], list[Tensor]]],
) -> dict[Group, Tensor]:
    """Return (k, width) sums over samples for each group; zeros for units that change nothing.

    `start` takes a recording of some samples, and returns what computes (m, width) sums over a
    block of it for each job.
    """
    samples = in_memory(probe)
    found = {group: torch.zeros(len(own), width).double() for group, own in units.items()}
    with undisturbed(probe.model):
        for piece in rows.split(_PIECE):
            recording = Recording(probe.model, samples.at(piece), probe.chosen, budget=0)
            jobs = _jobs(recording, probe, units)
            of, count = start(recording, jobs), len(recording.starts)
            slots = [torch.zeros(count, len(job.units), width).double() for job in jobs]
            for i, block in recording.passes("outputs"):
                for job in jobs:
                    recording.complete_(block, job.engine.need)
                for slot, sums in zip(slots, of(block), strict=True):
                    slot[i] = sums
            for job, slot in zip(jobs, slots, strict=True):
                found[job.group][job.matter] += sum_across(slot)
    return found


def in_memory(probe: Probe) -> MemoryData:
    """Return a Probe's samples.

    Raises:
        DataError: they are not in memory.
    """
    if isinstance(probe.samples, MemoryData):
        return probe.samples
    raise DataError(
        "samples that are drawn at random have to be in memory; these are read again, batch by "
        "batch, at each pass. Use more memory (memory=), fewer samples (samples=), or measure on "
        "all samples (racing=False)."
    )


def _jobs(recording: Recording, probe: Probe, units: Mapping[Group, Tensor]) -> list[_Job]:
    """Return what is to be measured of each group that has a unit that can change the loss."""
    engines = Engines(recording, CandidateLosses(probe.loss_name, probe.per_sample))
    jobs = []
    for group, own in units.items():
        matter, engine = engines.engine_for(group, own)
        if engine is not None:
            assert not isinstance(group, Synapses)
            jobs.append(_Job(group, matter, own[matter], cast("UnitEngine", engine)))
    return jobs


def _moments(job: _Job, block: Pass, slopes: Tensor | None) -> Tensor:
    """Return (m, 4) sums over a block; `slopes` are those of the whole group, if known."""
    if isinstance(job.group, Branches):
        slopes = torch.zeros(len(job.units), len(block.samples))
    elif slopes is None:
        slopes = job.engine.slopes_by_sample(block, job.units)
    else:
        slopes = slopes[job.units.to(slopes.device)]
    size = max(1, _ELEMENTS // slopes.shape[1])
    sums = []
    for units, slope in zip(job.units.split(size), slopes.split(size), strict=True):
        rises = job.engine.rises_by_sample(block, units).double()
        residuals = rises + slope.to(rises)
        parts = rises.sum(1), residuals.sum(1), residuals.square().sum(1)
        sums.append(torch.stack([*parts, residuals.count_nonzero(1)], 1))
    return torch.cat(sums)
