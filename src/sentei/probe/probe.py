"""The Probe: measure a network's loss on fixed samples, and its change when units are removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from sentei import losses
from sentei.arguments import checked
from sentei.card import card_of
from sentei.devices import check_float64, device_of, room
from sentei.distributed import check_same, world
from sentei.errors import BudgetError, DataError, GroupError, unknown
from sentei.metrics import Quality, metrics_for
from sentei.nests import tensors
from sentei.network.belonging import check_groups, members_of
from sentei.network.example import undisturbed
from sentei.network.finished import refuse_finished
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.network.surgery.cutting import WeightRecord
from sentei.network.units import Branches, Group, Listener, Neurons, Synapses
from sentei.probe.choosing import (
    Engine,
    Engines,
    UnitEngine,
    check_recording,
    mixes_by_name,
    zeroed_in,
)
from sentei.probe.engines.candidate_losses import CandidateLosses
from sentei.probe.engines.chain_derivatives import check_smooth
from sentei.probe.engines.gates import Gates
from sentei.probe.recording.recording import (
    SURVEY_ROWS,
    Pass,
    PassSurvey,
    Recording,
    Slope,
    completed,
    sum_losses,
    survey,
)
from sentei.probe.second_moments import MomentCache
from sentei.quantities import parse_bytes
from sentei.reading.batches import Unpack
from sentei.reading.first_pass import Reading
from sentei.running import Example, Forward

_TRIED = 4  # samples on which forward= is tried
CURVATURES = ("full", "diagonal")
EXAMPLE = 64  # inputs in `Probe.example`


def _memory(size: int | str) -> int:
    found = parse_bytes(size)
    if found < 0:
        raise BudgetError(f'memory= is a size of 0 or more, such as "512 MiB"; got {size!r}')
    return found


class _CutLike(Protocol):
    @property
    def doomed(self) -> Mapping[Any, Tensor]: ...

    @property
    def regrown(self) -> Mapping[Any, Tensor]: ...


@checked
class Probe:
    """Measure a network's loss on fixed samples, and how removing units would change it.

    All measurements run in evaluation mode; the model's mode, buffers, gradients and the random
    state do not change. The Probe records the outputs of the network's layers (up to half of
    `memory`; blocks of samples beyond that are computed again each time) and replays those that
    come before changed weights. After changing weights, call `update_` for a cut and `forget_` for
    any other change. Before each measurement, the Probe compares the recorded outputs with the
    network's own outputs on 32 to 128 samples and raises StaleError if they differ.

    In a torch.distributed group every rank makes the Probe of all samples and asks the same; each
    computes a part of the blocks of samples, and all get the same bits as one process.

    Args:
        model: any module. Of several outputs, a named loss and accuracy take the first tensor.
        data: `(inputs, targets)`, a Dataset, a DataLoader, or any iterable of batches. Inputs are a
            tensor (N, ...), a tuple of them for a model with several arguments, or a dict of them
            for keyword arguments. Targets are a tensor (N, ...) or, for a loss of your own, any
            nest of tensors. Arrays are converted; floating-point arrays get the model's dtype. A
            batch is a tuple whose last item is the targets, or a dict or dataclass with "labels".
        loss: the name of a loss, or a callable(outputs, targets) that returns one loss per sample.
            A callable gets the tensor that the model returns, or else everything it returns. If
            None, the loss of the network's `Card`, else cross entropy where targets are class
            numbers; other targets need this argument. See `sentei.losses.chosen`. Samples whose
            class numbers are all -100 are left out.
        trajectory: the record of the weights during training, for criteria that need one.
        batch: takes a batch apart: callable(batch) -> (inputs, targets). Needed only for batches of
            other forms than those above.
        samples: how many samples are used at most, the first ones; all if None.
        memory: how much memory samples and recorded outputs may take, such as "512 MiB"; half is
            for each. If None, 2 GiB; on a GPU, recorded outputs then take half of what is free
            there. Samples that do not fit are read again, batch by batch, at each pass; so are
            batches of different shapes. `(inputs, targets)` are in memory anyway, and not counted.
        forward: how the network is run on inputs, as for `find_units`.

    Attributes:
        chosen: the loss: its name, its function, and what it says that the network predicts.
        loss_name: the name of the loss; None for a callable.
        samples: the samples that count, in memory or read again at each pass.
        forward: how the network is run; None if it is called.
        mask: which members are alive, as last passed to `update_`; all at first.
        one_at_a_time: how many values each took a forward pass of their own, because
            `torch.func.vmap` could not run the model for many units at once.
        forgotten: how many times `forget_` was called; the first time when the Probe was made.

    Raises:
        BudgetError: `memory` is no size.
        DataError: no rows, inputs and targets of different length, NaN, batches of another form, or
            inputs that the model does not accept. Also where samples that do not fit in memory
            differ between two passes (a loader that shuffles or augments); later passes raise it
            too.
        ValueError: `samples` is less than 1.
        StructureError: the network is quantised, exported or in shards, or its device has no
            float64.
        LossError: the loss does not fit outputs and targets, or targets are not class numbers and
            no loss is named.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: str | losses.PerSample | None = None,
        trajectory: WeightRecord | None = None,
        *,
        batch: Unpack | None = None,
        samples: int | None = None,
        memory: int | str | None = None,
        forward: Forward | None = None,
    ):
        refuse_finished(model)
        check_float64(model)
        if loss is not None:
            losses.per_sample(loss)
        if samples is not None and samples < 1:
            raise ValueError(f"samples= is how many are used at most, 1 or more; got {samples}")
        self.model = model
        self.trajectory = trajectory
        self._options: dict[str, Any] = {"batch": batch, "memory": memory, "forward": forward}
        self._half = _memory("2 GiB" if memory is None else memory) // 2
        free = room(device_of(model), self._half, 0.5)
        self._recorded = free if memory is None else min(self._half, free)
        self._loss = loss
        self.forward = forward
        self._mask = Mask.full(())
        self._agreed = world() == 1  # with the other ranks, on the samples
        self.one_at_a_time = self.forgotten = 0
        self.forget_()
        dtype = next((p.dtype for p in model.parameters()), torch.get_default_dtype())
        reading = Reading(data, batch, samples, self._half, dtype)
        if forward is not None:
            tried = reading.head.rows(0, _TRIED, device_of(model)).inputs
            with_forward(model, tried, forward)
        with undisturbed(model):
            calls = survey(model, reading.head.run_by(forward))
            known = card_of(model).loss
            if callable(loss):
                losses.check_takes(loss, calls.output, reading.head.rows(0, SURVEY_ROWS).targets)
            outputs_for = lambda batch: survey(model, batch.run_by(forward)).output  # noqa: E731
            parts = reading.against(calls.output, outputs_for)
            self.chosen = losses.chosen_for(loss, parts, known)
            self.loss_name, self.per_sample = self.chosen.name, self.chosen.per_sample
            self.samples = reading.finished(self.chosen, forward)
            self._engines = self._new_engines(calls)

    def on(self, data: Any) -> Probe:
        """Return a Probe of the same network and loss on other samples."""
        return Probe(self.model, data, self._loss, self.trajectory, **self._options)

    @property
    def example(self) -> Example:
        """The first 64 inputs (all, if there are fewer), to run the network on."""
        return self.samples.head.rows(0, EXAMPLE).inputs

    def fingerprint(self) -> str:
        """Return sixteen hex digits that identify the samples."""
        return self.samples.fingerprint()

    # The network as it is.

    def loss(self) -> float:
        """Return the mean loss per sample.

        Raises:
            LossError: the loss is not finite, or not one number per sample.
            StaleError: weights changed without `update_` or `forget_`.
        """
        return self.mean(sum_losses, 1).item()

    def accuracy(self) -> float | None:
        """Return the part of the class numbers that count, or of 0/1 labels, that are right.

        None if the network predicts neither; see `sentei.metrics.Quality`.
        """
        return self.quality()[1].accuracy

    def quality(self) -> tuple[float, Quality]:
        """Return the mean loss, and accuracy or R² and mean absolute error, from one pass.

        Raises:
            LossError, StaleError: as `loss`.
        """
        metrics = metrics_for(self.chosen, self.samples.summary)

        def sums(block: Pass) -> Tensor:
            first = [*tensors(completed(block.outputs)), torch.zeros(0)][0]
            more = metrics.sums(first, block.samples.targets)
            return torch.cat([sum_losses(block)[None].cpu(), more])

        means = self.mean(sums, 1 + metrics.width)
        return means[0].item(), metrics.quality(means[1:] * len(self.samples))

    @property
    def mask(self) -> Mask:
        """Which members are alive; set it with `update_`."""
        return self._mask

    def alive(self, group: Group) -> Tensor:
        """Return which members of a group are alive in `mask`, (size,) bool."""
        if group in self._mask.groups:
            return self._mask.alive(group)
        return torch.ones(group.size, dtype=torch.bool)

    # The network without a unit.

    def losses_without(self, group: Group, units: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return the mean loss with each unit removed alone: `loss()` + `rises_without`, (k,)."""
        return self.loss() + self.rises_without(group, units)

    def rises_without(
        self,
        group: Group,
        units: Tensor | Sequence[int] | None = None,
        mix: Mapping[Listener, Tensor] | None = None,
    ) -> Tensor:
        """Measure the rise in mean loss when each unit is removed alone.

        Removing a unit sets the columns that read it to zero in all its listeners; of a stream,
        also what computes it and what norms make of it. The rise is 0 for a dead unit and for one
        whose columns are all zero; neither is computed.

        Args:
            group: the group of the units.
            units: (k,) positions; all of the group if None.
            mix: for each listener (size, size + 1): the repair applied before each removal, a row
                for each unit, as `network.folding.fold_` applies it; no repair if None.

        Returns:
            (k,) float64.

        Raises:
            GroupError: the group is not of units, or not of this model.
            LossError: a loss is not finite.
            StaleError: weights changed without `update_` or `forget_`.
        """
        mixes = None if mix is None else mixes_by_name(self.model, mix)

        def rises(engine: UnitEngine, block: Pass, own: Tensor) -> Tensor:
            return (
                engine.rises(block, own) if mixes is None else engine.rises_after(block, own, mixes)
            )

        return self._per_unit(group, units, rises)

    # The loss along a member's gate.

    def rises_at(self, group: Group, units: Tensor | Sequence[int] | None, gains: Tensor) -> Tensor:
        """Measure the rise in mean loss with each unit's output multiplied by each gain.

        The gain is the value of the unit's gate: 1 leaves the unit unchanged, 0 removes it.

        Args:
            group: the group of the units.
            units: (k,) positions; all of the group if None.
            gains: (g,) finite.

        Returns:
            (k, g) float64.

        Raises:
            ValueError: gains of another shape.
            GroupError, LossError, StaleError: as `rises_without`.
        """
        if gains.ndim != 1 or not len(gains):
            raise ValueError(f"gains= is a row of one or more; its shape is {tuple(gains.shape)}")
        width = (len(gains),)
        return self._per_unit(group, units, lambda e, b, o: e.rises_at_gains(b, o, gains), width)

    def slopes(self, group: Group, asked: Slope | None = None) -> Tensor:
        """Compute the derivative of the mean loss along each member's gate, all gates at 1.

        A unit's gate multiplies its output at each of its listeners; the derivatives at all
        listeners are added.

        Args:
            group: a group of units or of synapses.
            asked: options: absolute per-sample derivatives, or another loss; neither if None.

        Returns:
            (size,) float64; 0 for the dead.

        Raises:
            CriterionError: the loss has no derivative.
            GroupError, LossError, StaleError: as `rises_without`.
        """
        options = asked or Slope()
        measure = lambda e, block, own: e.slopes(block, own, options)  # noqa: E731
        return self._per_member(group, None, measure, derivatives=1)

    def curvatures(self, group: Group, kind: str = "full") -> Tensor:
        """Compute the second derivative of the mean loss along each member's gate, all gates at 1.

        Args:
            group: a group of units or of synapses.
            kind: "full", exact; "diagonal", the recursion that drops cross terms between the
                features of a layer.

        Returns:
            (size,) float64; 0 for the dead.

        Raises:
            ValueError: an unknown kind.
            CriterionError: the loss has no second derivative, or the recursion does not apply.
            GroupError, LossError, StaleError: as `rises_without`.
        """
        if kind not in CURVATURES:
            raise ValueError(unknown("curvature kind=", kind, CURVATURES))
        measure = lambda e, block, own: e.curvatures(block, own, kind)  # noqa: E731
        return self._per_member(group, None, measure, derivatives=2)

    def mean(self, of: Callable[[Pass], Tensor], count: int) -> Tensor:
        """Return the mean per sample of a quantity that `of` sums over a block, (count,) float64.

        Args:
            of: takes a recorded block, returns the (count,) sums over its samples.
            count: how many numbers `of` returns.

        Raises:
            ValueError: `of` returns another number of them.
        """
        with self.measuring() as recording:
            return recording.mean("outputs", of, count)

    # Changes of weights.

    def update_(self, mask: Mask) -> None:
        """Set which members are alive, after their weights have changed accordingly.

        What was recorded behind the first changed weight is dropped. Call `forget_` too if other
        weights have changed, for example by retraining.

        Args:
            mask: what is alive now, such as the mask of a step. A group that it does not hold
                counts as alive.

        Raises:
            GroupError: the mask has groups that are not the model's; nothing has changed then.
        """
        changed = {**mask.died_since(self._mask), **self._mask.died_since(mask)}
        check_groups(self.model, changed)
        self._mask = mask
        if self._engines is None or not changed:
            return
        recording = self._engines.recording
        names = {name for group in changed for name in zeroed_in(self.model, group)}
        survey = recording.survey
        first = min((at for name in names for at in survey.users(name)), default=0)
        streams = any(group.kind == "stream" for group in changed)
        first = first if survey.elsewhere.isdisjoint(names) and not streams else 0
        self.moments.forget_(recording, first)
        recording.forget_(first)

    def cut_(self, cut: _CutLike) -> None:
        """Update the mask by a cut that was applied to the weights: `update_` of the first release.

        Args:
            cut: what was removed, and which synapses were regrown.
        """
        groups = Mask.full(dict.fromkeys([*self._mask.groups, *cut.doomed, *cut.regrown]))
        self.update_(groups.joined(self._mask).without(cut.doomed).with_(cut.regrown))

    def forget_(self) -> None:
        """Drop all recordings; call after training, an undo or any other change of weights."""
        self._engines: Engines | None = None
        self.moments = MomentCache()
        self.forgotten += 1

    @contextmanager
    def measuring(self) -> Iterator[Recording]:
        """Yield the recording, checked against the network, with the model in evaluation mode.

        Raises:
            StaleError: weights changed without `update_` or `forget_`.
        """
        with self._measuring() as engines:
            yield engines.recording

    @contextmanager
    def _measuring(self) -> Iterator[Engines]:
        with undisturbed(self.model):
            if self._engines is None:
                self._engines = self._new_engines()
            if not self._agreed:
                what = "all samples of a Probe, which splits them itself"
                check_same(self.samples.fingerprint(), what, DataError)
                self._agreed = True
            check_recording(self._engines.recording)
            yield self._engines

    def _new_engines(self, calls: PassSurvey | None = None) -> Engines:
        recording = Recording(self.model, self.samples, self.chosen, self._recorded, calls)
        return Engines(recording, CandidateLosses(self.loss_name, self.per_sample))

    def check_units(self, group: Group) -> Neurons:
        """Return the group; raise GroupError if it is no group of units, or of another model."""
        self.check_removable(group)
        if isinstance(group, Branches):
            raise GroupError(
                f"outputs are measured of units that layers read; {group.name!r} is a group of "
                "branches. Use a criterion for branches, such as ablation."
            )
        assert isinstance(group, Neurons)
        return group

    def check_removable(self, group: Group) -> None:
        """Raise GroupError for a group of synapses, or of another model."""
        if isinstance(group, Synapses):
            raise GroupError(
                f"removal is measured for whole units only; {group.name!r} is a group of "
                "synapses. Use a criterion for synapses, such as magnitude."
            )
        check_groups(self.model, [group])

    def check_smooth(self, recording: Recording, order: int) -> None:
        """Raise CriterionError if the loss cannot be differentiated `order` times (1 or 2)."""
        sample = recording.check_pass
        check_smooth(self.per_sample, completed(sample.outputs), sample.samples.targets, order)

    def _per_unit(
        self,
        group: Group,
        units: Tensor | Sequence[int] | None,
        measure: Callable[[UnitEngine, Pass, Tensor], Tensor],
        shape: tuple[int, ...] = (),
    ) -> Tensor:
        """As `_per_member`, for what is defined for units only."""
        self.check_removable(group)
        any_engine = cast("Callable[[Engine, Pass, Tensor], Tensor]", measure)
        return self._per_member(group, units, any_engine, shape)

    def _per_member(
        self,
        group: Group,
        members: Tensor | Sequence[int] | None,
        measure: Callable[[Engine, Pass, Tensor], Tensor],
        shape: tuple[int, ...] = (),
        derivatives: int = 0,
    ) -> Tensor:
        """(k, *shape) float64 mean over all samples of what an engine measures for each member.

        Args:
            group: a group of units or of synapses.
            members: (k,) positions; all if None.
            measure: (engine, block, members) -> (k, *shape) sums over a block. A group of units
                has a `UnitEngine`.
            shape: of the values of one member.
            derivatives: how many times the loss has to be differentiable.
        """
        alive = self.alive(group)
        chosen = members_of(self.model, group, members)
        values = torch.zeros(len(chosen), *shape, dtype=torch.float64)
        at = alive[chosen].nonzero().flatten()
        with self._measuring() as engines:
            if derivatives:
                self.check_smooth(engines.recording, derivatives)
            matter, engine = engines.engine_for(group, chosen[at])
            if engine is None:
                return values
            at = at[matter]
            of_block = lambda block: measure(engine, block, chosen[at]).flatten()  # noqa: E731
            means = engines.recording.mean(engine.need, of_block, values[at].numel())
            if isinstance(engine, Gates) and not engine.batched:
                self.one_at_a_time += means.numel()
        values[at] = means.view(values[at].shape)
        return values
