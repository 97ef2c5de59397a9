"""The Probe: what the loss of a network on some samples is, and would be without a unit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sentei import losses
from sentei.distributed import gathered, sum_across
from sentei.errors import GroupError, LossError
from sentei.network.example import Example, resized, run, tensors, undisturbed
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons
from sentei.probe.choosing import (
    Engine,
    can_matter,
    check_recording,
    engine_for,
    listeners_of,
    mixes_by_name,
    parameters_read,
)
from sentei.probe.engines.candidate_losses import CandidateLosses
from sentei.probe.engines.chain_derivatives import check_smooth
from sentei.probe.engines.gates import Gates
from sentei.probe.recording.data import read
from sentei.probe.recording.hearing import input_gradients
from sentei.probe.recording.recording import (
    Need,
    Pass,
    Recording,
    Slope,
    completed,
    count_correct,
    sum_losses,
)
from sentei.probe.recording.recording import per_sample_losses as losses_of
from sentei.probe.second_moments import InverseCovariance, MomentCache, SecondMoments
from sentei.samples import fingerprint

RECORDED_BYTES = 2**30
_ROWS = 2500  # samples in a pass over a masked copy
EXAMPLE = 64  # inputs in a Probe's example


class _CutLike(Protocol):
    @property
    def doomed(self) -> Mapping[Any, Tensor]: ...

    @property
    def regrown(self) -> Mapping[Any, Tensor]: ...


class Probe:
    """Measures a network on fixed samples, without disturbing it and without repeating work.

    Everything is measured in evaluation mode; mode, buffers, gradients and random state are left as
    they were found. Outputs of the network's layers are recorded (up to 1 GiB of them; blocks of
    samples beyond that are computed again each time) and replayed up to where weights have changed.
    Whoever changes weights says so: `cut_` after a cut, `forget_` after anything else. Before each
    answer the record is compared with the network itself on a few hundred samples.

    Args:
        model: any module; the first tensor it puts out is what the loss sees.
        data: `(inputs, targets)`, a Dataset or a DataLoader, read once into memory. Inputs are a
            tensor (N, ...), or a tuple of them for a model with several arguments.
        loss: the name of a loss, or a callable(outputs, targets) that gives one loss per sample.
        trajectory: what training did to the weights, for criteria that ask.

    Attributes:
        loss_name: the loss, where it was named; None for a callable.
        samples: what it measures on, in memory.
        mask: what is alive, as far as this Probe was told of cuts.
        one_at_a_time: how many answers took a pass of their own, since `torch.func.vmap` could not
            run the model for many units at once.

    Raises:
        DataError: no rows, other lengths, NaN, or inputs that the model cannot take.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        trajectory: Any = None,
    ):
        self.model = model
        self.trajectory = trajectory
        self._loss = loss
        self.loss_name = loss if isinstance(loss, str) else None
        self.per_sample = losses.per_sample(loss)
        self.mask = Mask.full(())
        self.one_at_a_time = 0
        self._candidate_losses = CandidateLosses(self.loss_name, self.per_sample)
        self.samples = read(data)
        self.forget_()
        with undisturbed(model):
            self._recording = self._fresh()

    def on(self, data: Any) -> Probe:
        """A Probe of the same network and loss on other samples."""
        return Probe(self.model, data, self._loss, self.trajectory)

    @property
    def example(self) -> Example:
        """A few of the inputs, for whoever needs the network to run."""
        return resized(self.samples.inputs, lambda tensor: tensor[:EXAMPLE])

    def fingerprint(self) -> str:
        """Sixteen hex digits that tell these samples from any others."""
        return fingerprint((*tensors(self.samples.inputs), self.samples.targets))

    # What is.

    def loss(self) -> float:
        """Mean loss per sample.

        Raises:
            LossError: it is not finite, or not one number per sample.
            StaleError: weights changed unannounced.
        """
        return self.mean(sum_losses, 1).item()

    def accuracy(self) -> float | None:
        """Part of the samples whose largest output is their target; None without class targets."""
        targets = self.samples.targets
        if targets.is_floating_point() or targets.ndim != 1:
            return None
        return self.mean(count_correct, 1).item()

    def alive(self, group: Group) -> Tensor:
        """(size,) bool: which members were not cut."""
        if group in self.mask.groups:
            return self.mask.alive(group)
        return torch.ones(group.size, dtype=torch.bool)

    # What would be.

    def losses_without(self, group: Group, units: Tensor | Sequence[int] | None = None) -> Tensor:
        """Mean loss with a unit removed, (k,) float64: `loss()` plus `rises_without`."""
        return self.loss() + self.rises_without(group, units)

    def rises_without(
        self,
        group: Group,
        units: Tensor | Sequence[int] | None = None,
        mix: Mapping[Listener, Tensor] | None = None,
    ) -> Tensor:
        """Rise in mean loss with a unit removed: that unit alone, its columns zero everywhere.

        Units that are dead, or that nobody listens to, change nothing and cost nothing.

        Args:
            group: whose units.
            units: (k,) positions; all of the group if None.
            mix: for each listener (size, size + 1): who takes over from each unit first, as
                `network.folding.fold_` would do it; nobody if None.

        Returns:
            (k,) float64.

        Raises:
            GroupError: the group is not of units, or not this model's.
            LossError: a loss is not finite.
            StaleError: weights changed unannounced.
        """
        self.check_units(group)
        if mix is None:
            return self._per_member(group, units, lambda e, block, own: e.rises(block, own))
        mixes = mixes_by_name(self.model, mix)
        return self._per_member(group, units, lambda e, b, own: e.rises_after(b, own, mixes))

    # What would be, little by little.

    def rises_at(self, group: Group, units: Tensor | Sequence[int] | None, gains: Tensor) -> Tensor:
        """Rise in mean loss with a unit's gate at each of some gains: 1 as it is, 0 removed.

        Args:
            group: whose units.
            units: (k,) positions; all of the group if None.
            gains: (g,) finite.

        Returns:
            (k, g) float64.

        Raises:
            GroupError, LossError, StaleError: as `rises_without`.
        """
        self.check_units(group)
        width = (len(gains),)
        return self._per_member(group, units, lambda e, b, o: e.rises_at_gains(b, o, gains), width)

    def slopes(self, group: Group, asked: Slope | None = None) -> Tensor:
        """Derivative of the mean loss along each member's gate, where all gates are 1.

        Units are observed where they are heard, at every listener, and the derivatives added.

        Args:
            group: of units or of synapses.
            asked: each sample's by its size, or of another loss; plain if None.

        Returns:
            (size,) float64; 0 for the dead.

        Raises:
            CriterionError: the loss has no derivative.
            GroupError, LossError, StaleError: as `rises_without`.
        """
        how = asked or Slope()
        ask = lambda e, block, own: e.slopes(block, own, how)  # noqa: E731
        return self._per_member(group, None, ask, smooth=1)

    def curvatures(self, group: Group, kind: str = "full") -> Tensor:
        """Second derivative of the mean loss along each member's own gate, where all are 1.

        Args:
            group: of units or of synapses.
            kind: "full", which is exact; "diagonal", the recursion that drops cross terms.

        Returns:
            (size,) float64; 0 for the dead.

        Raises:
            CriterionError: the loss has no second derivative, or the recursion does not apply.
            GroupError, LossError, StaleError: as `rises_without`.
        """
        ask = lambda e, block, own: e.curvatures(block, own, kind)  # noqa: E731
        return self._per_member(group, None, ask, smooth=2)

    def mean(self, of: Callable[[Pass], Tensor], count: int) -> Tensor:
        """(count,) float64 mean per sample of what `of` sums up over each recorded block."""
        with self.measuring() as recording:
            return self._mean(recording, "outputs", of, count)

    # What happened.

    def update_(self, cut: _CutLike) -> None:
        """Take note of a cut whose weights have been changed already: drop what it made stale."""
        groups_cut = (*cut.doomed, *cut.regrown)
        groups = dict.fromkeys([*self.mask.groups, *groups_cut])
        dead = {group: self.mask.dead(group) for group in self.mask.groups}
        self.mask = Mask.full(groups).without(dead).without(cut.doomed).with_(cut.regrown)
        if self._recording is not None:
            names = {name for g in groups_cut for name in parameters_read(self.model, g)}
            users = [at for name in names for at in self._recording.survey.users(name)]
            changed = min(users, default=0)
            self.moments.forget_(self._recording, changed)
            self._recording.forget_(changed)

    cut_ = update_  # its name in the first release

    def forget_(self) -> None:
        """Drop everything recorded: after training, an undo, or any other change of weights."""
        self._recording: Recording | None = None
        self._engines: dict[Group, Engine] = {}
        self.moments = MomentCache()

    @contextmanager
    def measuring(self) -> Iterator[Recording]:
        """The record, borne out by the network; in evaluation mode meanwhile."""
        with undisturbed(self.model):
            if self._recording is None:
                self._recording = self._fresh()
            check_recording(self._recording)
            yield self._recording

    def _fresh(self) -> Recording:
        return Recording(self.model, self.samples, self.per_sample, RECORDED_BYTES)

    def _mean(
        self, recording: Recording, need: Need, of: Callable[[Pass], Tensor], count: int = 1
    ) -> Tensor:
        """(count,) float64: sums over blocks, added in block order on any number of ranks."""
        slots = torch.zeros(len(recording.starts), count, dtype=torch.float64)
        for i, block in recording.passes(need):
            slots[i] = of(block)
        total = sum_across(slots)
        if not total.isfinite().all():
            finite = gathered(slots).isfinite().all(1)
            start = recording.starts[int((~finite).nonzero()[0])]
            stop = min(start + recording.starts.step, len(self.samples))
            raise LossError(
                f"a loss must be finite; it is not on samples {start} to {stop - 1}. Look for NaN "
                "or infinity in the weights, and for logarithms of 0 in the loss."
            )
        return total / len(self.samples)

    def check_units(self, group: Group) -> Neurons:
        """The group, if it is of units."""
        if not isinstance(group, Neurons):
            raise GroupError(
                f"the loss without a member is measured for units; {group.name!r} is a group of "
                "synapses. Use a criterion for synapses, such as magnitude."
            )
        return group

    def check_smooth(self, recording: Recording, order: int) -> None:
        """Refuse a loss that cannot be differentiated so often."""
        sample = recording.check_pass
        check_smooth(self.per_sample, completed(sample.outputs), sample.samples.targets, order)

    def _per_member(
        self,
        group: Group,
        members: Tensor | Sequence[int] | None,
        ask: Callable[[Any, Pass, Tensor], Tensor],
        each: tuple[int, ...] = (),
        smooth: int = 0,
    ) -> Tensor:
        """(k, *each) float64 means over all samples of what an engine answers about members.

        Args:
            group: of units or of synapses.
            members: (k,) positions; all if None.
            ask: (engine, block, members) -> sums over a block.
            each: the shape of one answer.
            smooth: how often the loss has to be differentiable.
        """
        chosen = torch.arange(group.size) if members is None else torch.as_tensor(members)
        chosen = chosen if chosen.numel() else chosen.long()
        Mask.full([group]).without({group: chosen}).check(self.model)
        found = torch.zeros(len(chosen), *each, dtype=torch.float64)
        live = (self.alive(group) & can_matter(self.model, group))[chosen]
        with self.measuring() as recording:
            if smooth:
                self.check_smooth(recording, smooth)
            if live.any():
                found[live] = self._asked(recording, group, chosen[live], ask, each)
        return found

    def _asked(
        self,
        recording: Recording,
        group: Group,
        members: Tensor,
        ask: Callable[[Any, Pass, Tensor], Tensor],
        each: tuple[int, ...],
    ) -> Tensor:
        engine, shape = self._engine(recording, group, members), (len(members), *each)
        of_block = lambda block: ask(engine, block, members).flatten()  # noqa: E731
        means = self._mean(recording, engine.need, of_block, math.prod(shape))
        if isinstance(engine, Gates) and not engine.batched:
            self.one_at_a_time += means.numel()
        return means.view(shape)

    def _engine(self, recording: Recording, group: Group, members: Tensor) -> Engine:
        if group not in self._engines:
            self._engines[group] = engine_for(recording, group, members, self._candidate_losses)
        return self._engines[group]


def second_moments(
    probe: Probe, group: Group, *, precise: bool = True
) -> dict[Listener, SecondMoments]:
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
        return probe.moments.second_moments(recording, units, precise=precise)


def inverse_covariances(probe: Probe, group: Group) -> dict[Listener, InverseCovariance]:
    """What the alive units of a group know of each other, for each listener.

    Raises:
        GroupError, StaleError: as `Probe.rises_without`.
    """
    units = probe.check_units(group)
    with probe.measuring() as recording:
        return probe.moments.inverse_covariances(recording, units, probe.alive(group))


def mean_squared_gradient(probe: Probe, group: Group) -> Tensor:
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
            each = input_gradients(recording, block, listeners, probe.per_sample)
            return torch.stack([found.square().sum(1, dtype=torch.float64) for found in each]).sum(
                0
            )

        return probe.mean(of_block, group.size) * probe.alive(group)


def loss_with_mask(probe: Probe, mask: Mask) -> float:
    """Mean loss on a Probe's samples with all that is dead in a mask removed, by a pass of its own.

    Raises:
        GroupError: the mask is not the model's.
        LossError: the loss is not one number per sample.
    """
    trial = copy.deepcopy(probe.model)
    mask.apply_(trial)
    samples, total = probe.samples, 0.0
    with undisturbed(trial):
        for first in range(0, len(samples.targets), _ROWS):
            rows = slice(first, first + _ROWS)
            block = resized(samples.inputs, lambda tensor, own=rows: tensor[own])
            targets = samples.targets[rows]
            found = losses_of(probe.per_sample, tensors(run(trial, block))[0], targets)
            total += float(found.double().sum())
    return total / len(samples.targets)
