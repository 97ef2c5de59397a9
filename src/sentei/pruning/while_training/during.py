"""`PruneWhileTraining`: prune in any training loop, through hooks on the user's own optimizer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sentei.arguments import check_entries, checked
from sentei.criteria.trajectory import Trajectory
from sentei.distributed import check_same, joined_batches, world
from sentei.errors import BudgetError, GroupError, StructureError
from sentei.losses import PerSample, per_sample
from sentei.network.example import guessed
from sentei.network.finished import refuse_finished
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink_
from sentei.network.tracing.inventory import no_groups
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe
from sentei.pruning.loop import apply_cut_, mask_cut_
from sentei.pruning.measuring import Measurement, Outline, measure
from sentei.pruning.rules.conditions import Condition, limit_of
from sentei.pruning.rules.proposals import Cut, Paced, Proposal
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.rules.states import restore_state_, state_of
from sentei.pruning.while_training.cadence import cadence
from sentei.pruning.while_training.companions import companions_of, cut_, hold_
from sentei.pruning.while_training.lazy_probe import LazyProbe
from sentei.pruning.while_training.optimizer_guard import (
    PrunedParameter,
    ZeroDeadGradients,
    check_optimizers,
    check_parallel,
    check_still_there,
    pruned_parameters,
)
from sentei.pruning.while_training.rounds import Rounds
from sentei.running import Example, Forward
from sentei.samples import fingerprint

log = logging.getLogger("sentei")

LONG = 1000  # backward passes without an update, after which the pruner says that it does nothing

_REMEDY = (
    "an optimizer's hook has none, so pass probe=, or call pruner.observe(inputs, targets) before "
    "each update"
)


@checked
class PruneWhileTraining:
    """Prune a model while your own training loop trains it, once every `every` optimizer updates.

    Attach the pruner to the optimizer and run the training loop unchanged:

        pruner = PruneWhileTraining(model, find_synapses(model), propose, every=50, total=5628)
        pruner.attach(optimizer)
        ...                       # the training loop, unchanged
        pruner.detach()

    Dead weights stay exactly zero after every update, in the weights and in the optimizer's state,
    with any optimizer except LBFGS, and with several. Their gradients are zeroed as soon as a
    backward pass computes them, before the loop clips or accumulates them, so that the masked
    network trains as the smaller network would.

    Args:
        model: the model that the loop trains. Dead weights become zero; with `delete` its tensors
            become smaller.
        groups: the units and synapses that may be cut, from `find_units` and `find_synapses`.
        propose: what to remove next, such as `ranked("magnitude", linear(by="0.5 %"))`.
        every: updates from one proposal to the next; also "2 epochs", with `steps_per_epoch`.
        total: number of updates in the whole training, for schedules that need it; also "12
            epochs", with `steps_per_epoch`.
        until: budget; nothing more is proposed once it is reached. A limit, or a function of the
            measurements (now, start) that returns whether it holds; a function needs `probe`.
        probe: data for criteria that measure, such as "ablation". Without a probe they use the
            batch given to `observe`.
        trajectory: a record of how training changes the weights, for criteria that need one. It is
            called after every update, its `check_` after every proposal, and it is cut together
            with the model.
        delete: whether to delete dead units, inputs and branches from the network at every cut.
        example: inputs that the model runs on, needed for `delete`; see `shrink`.
        steps_per_epoch: updates in an epoch.
        finish: the part of `total`, above 0 and at most 1, after which no more proposals are made.
        mask: units and synapses that are dead from the start, and stay dead unless a proposal
            regrows them; none if None.
        forward: how the model is run on `example` and on batches given to `observe`, as for
            `find_units`.
        companions: copies of the model's weights that the loop keeps, such as an `AveragedModel`: a
            module that holds a copy of the model, or a dict of tensors by parameter name. Their
            dead weights are zero too, and with `delete` modules are cut like the model.

    Attributes:
        mask: what is alive.
        updates: number of updates since the pruner was made.
        events: number of proposals that made a cut.

    Source: Barbu, She, Ding and Gramajo 2017 (feature selection with annealing) and Bartoldson's
    poster, which prunes the connections of a layer "every 50 updates" by magnitude. There pruned
    weights were masked; `delete` is the poster's future work.

    Raises:
        GroupError: the model does not have a group, there are no groups, or `probe`, `trajectory`
            or a companion belong to another model.
        ScheduleError: `every` or `total` is not a count, no update would have a proposal, or the
            schedule rises.
        BudgetError: `until` limits accuracy or loss, or is a plain function, and there is no probe.
        StructureError: units are deleted, and a companion is a dict.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        propose: Proposal,
        every: int | str = 50,
        total: int | str | None = None,
        until: Condition | None = None,
        probe: Probe | None = None,
        trajectory: Trajectory | None = None,
        delete: bool = False,
        example: Example | None = None,
        steps_per_epoch: int | None = None,
        finish: float = 1.0,
        mask: Mask | None = None,
        forward: Forward | None = None,
        companions: Sequence[nn.Module | Mapping[str, Tensor]] = (),
    ):
        refuse_finished(model)
        self.model, self.groups, self.propose = model, list(groups), propose
        self.cadence = cadence(every, total, steps_per_epoch, finish)
        self.until = limit_of(until)
        self.probe, self.trajectory = probe, trajectory
        self.delete = delete
        example = guessed(model) if delete and example is None else example
        self.forward = forward
        self.example = None if example is None else with_forward(model, example, forward)
        full = Mask.full([*self.groups, *self._swept()])
        self.mask = full if mask is None else full.joined(mask)
        self.mask.check(model)
        self._check()
        pruned = pruned_parameters(model, self.mask.groups)
        zeroed = [name for name, held in pruned.items() if held.zeroed]
        self.companions = companions_of(model, companions, zeroed, delete=delete)
        self.starts: dict[Group, int] = {group: self.mask.count(group) for group in self.groups}
        self.emptied: Counter[str] = Counter()
        self.updates = self.events = 0
        self.reached = False
        self._batch: tuple[Any, Tensor, str | PerSample | None] | None = None
        self._rounds: Rounds | None = None
        self._rewrap: Callable[[nn.Module], object] | None = None
        self._passes: Counter[str] = Counter()  # backward passes since the last update
        self._updates_before = 0  # when it was attached
        self._hooks: list[Any] = []
        self._parameters: dict[str, PrunedParameter] = {}
        self._start: Measurement | None = None
        self._probe_before: tuple[Mask, Any] | None = None

    def attach(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        rewrap: Callable[[nn.Module], object] | None = None,
    ) -> PruneWhileTraining:
        """Add the hooks that prune after updates of `optimizer`, and return the pruner itself.

        Of several optimizers each owns a part of the weights. An update is then a round in which
        every one has taken at least one step; dead weights are zero after each step. An optimizer
        that wraps another, such as SAM or Lookahead, is opened: a step of the inner one is counted.

        Args:
            optimizer: the optimizer of the loop, or all of them; none, `[]`, if the loop changes
                the weights by itself and calls `update` after every update.
            rewrap: called with the model after every deletion, to wrap it again in what remembers
                the sizes of its parameters, such as DistributedDataParallel.

        Raises:
            StructureError: no optimizer owns a parameter that may be cut, one is LBFGS or runs no
                hooks, another pruner holds a parameter, or units are deleted under
                DistributedDataParallel without `rewrap`.
            ValueError: this pruner is attached already.
        """
        if self._rounds is not None:
            raise ValueError("this pruner is attached already; detach() it first")
        if self.delete:
            check_parallel(self.model, rewraps=rewrap is not None)
        parameters = pruned_parameters(self.model, self.mask.groups)
        rounds = Rounds(optimizer, self._before_step, self._hold, self._after_update)
        check_optimizers(rounds, parameters, delete=self.delete)
        rounds.hook_()
        self._rounds, self._rewrap, self._parameters = rounds, rewrap, parameters
        self._passes.clear()
        self._updates_before = self.updates
        self._hooks = [
            held.parameter.register_post_accumulate_grad_hook(
                ZeroDeadGradients(self, name, self._saw)
            )
            for name, held in parameters.items()
            if held.zeroed and held.parameter.requires_grad
        ]
        if self.probe is not None:
            self._probe_before = self.probe.mask, self.probe.trajectory
        self.mask.apply_(self.model)
        self._hold()
        if self.until is not None:
            now = self._measured()
            self._start = self._start or now
            self.reached = self.until(now, self._start)
        return self

    def detach(self) -> None:
        """Remove all hooks from the optimizers and the model; the weights stay as they are.

        Two things are reported: backward passes without any update, so that nothing was pruned; and
        dead weights that something has set since the last update, which become zero again.
        """
        for hook in (*self._hooks, *([self._rounds] if self._rounds else [])):
            hook.remove()
        self._zero_what_was_set()
        if self._passes and self.updates == self._updates_before:
            self._say_no_update()
        self._hooks, self._parameters, self._rounds, self._batch = [], {}, None, None
        if self.probe is not None and self._probe_before is not None:
            mask, self.probe.trajectory = self._probe_before
            self.probe.update_(mask)
            self.probe.forget_()
        self._probe_before = None

    def update(self) -> None:
        """Count an update that no optimizer's `step` has made, and prune as after any update.

        Call it after every update of a loop that changes the weights by itself.

        Raises:
            ValueError: the pruner is not attached.
        """
        if self._rounds is None:
            raise ValueError("attach the pruner first; attach([]) if the loop has no optimizer")
        self._hold()
        self._after_update()

    def observe(self, inputs: Any, targets: Tensor, loss: str | PerSample | None = None) -> None:
        """Give the batch of the next update to criteria that measure.

        Call it before the update. Nothing is computed unless a criterion measures. In a
        torch.distributed group each rank gives its own part of the batch; criteria measure on all
        of them, so that every rank cuts the same.

        Args:
            inputs: inputs of the batch, as the model takes them.
            targets: targets of the batch.
            loss: name of the loss, or a callable(outputs, targets) -> (N,); as for `Probe` if None:
                cross entropy for targets that are class numbers.

        Raises:
            ValueError: the name of the loss is unknown.
        """
        if loss is not None:
            per_sample(loss)  # an unknown name is refused
        self._batch = inputs, targets, loss

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the pruner's state, to be saved with model, optimizer and trajectory."""
        named = self._named()
        return {
            "updates": self.updates,
            "events": self.events,
            "reached": self.reached,
            "sizes": {name: group.size for name, group in named.items()},
            "dead": {name: self.mask.dead(group) for name, group in named.items()},
            "starts": {name: self.starts.get(group) for name, group in named.items()},
            "emptied": dict(self.emptied),
            "start": None if self._start is None else self._start.numbers(),
            "propose": state_of(self.propose),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        The model must have the size that it had when the state was saved.

        Raises:
            ValueError: the state belongs to other groups; nothing is changed then.
        """
        check_entries(self, state, self.state_dict())
        named, sizes = self._named(), state["sizes"]
        for name in sorted(named.keys() | sizes.keys()):
            size = named[name].size if name in named else None
            if size != sizes.get(name):
                raise ValueError(
                    f"the state belongs to other groups: {name!r} has {sizes.get(name)} members "
                    f"there and {size} here; load it for the network that it was saved with"
                )
        dead = {named[name]: positions for name, positions in state["dead"].items()}
        self.mask = Mask.full(self.mask.groups).without(dead)
        self.starts = {named[name]: n for name, n in state["starts"].items() if n is not None}
        self.emptied = Counter(state["emptied"])
        self.updates, self.events = state["updates"], state["events"]
        self.reached = state["reached"]
        self._start = None if state["start"] is None else Measurement.read(state["start"])
        restore_state_(self.propose, state["propose"])
        self.mask.apply_(self.model)
        for companion in self.companions:
            hold_(companion, self.mask)

    def _named(self) -> dict[str, Group]:
        return {f"{group.kind}/{group.name}": group for group in self.mask.groups}

    # Called after each update of the optimizer.

    def _before_step(self) -> None:
        if self.cadence.falls_on(self.updates + 1):
            self._zero_what_was_set()

    @torch.no_grad()
    def _zero_what_was_set(self) -> None:
        """Zero dead weights that something has set since the last update, and say so."""
        for name, held in self._parameters.items():
            if tuple(held.parameter.shape) != held.shape:  # the next update says so
                continue
            dead = torch.ones_like(held.parameter)
            self.mask.zero_(name, dead)
            if ((dead == 0) & (held.parameter != 0)).any():
                log.warning(
                    "dead weights of %r were set between two updates, and are zero again. If an "
                    "optimizer around the attached one did this, attach the outer one; if the loop "
                    "loads weights, call pruner.mask.apply_(model) after that.",
                    name,
                )
                self.mask.zero_(name, held.parameter)

    @torch.no_grad()
    def _hold(self) -> None:
        check_still_there(self.model, self._parameters)
        self.mask.hold_(self.model, self._optimizers)
        for companion in self.companions:
            hold_(companion, self.mask)

    @torch.no_grad()
    def _after_update(self) -> None:
        self.updates += 1
        self._passes.clear()
        if self.trajectory is not None:
            self.trajectory()
        if self.cadence.falls_on(self.updates) and self.groups and not self.reached:
            self._propose()
        self._batch = None

    @property
    def _optimizers(self) -> Sequence[Optimizer]:
        return self._rounds.optimizers if self._rounds is not None else ()

    def _saw(self, name: str) -> None:
        self._passes[name] += 1
        if self._passes[name] == LONG:
            self._say_no_update()

    def _say_no_update(self) -> None:
        waiting = ", ".join(self._rounds.waiting if self._rounds else ()) or "the loop"
        log.warning(
            "PruneWhileTraining has seen %d backward passes since the last update, and has pruned "
            "nothing since: %s made no step. Attach the optimizers whose step() changes the "
            "weights; if something else changes them, call pruner.update() after every update.",
            *(max(self._passes.values()), waiting),
        )

    def _propose(self) -> None:
        cut = self.propose(self._probe(), self.groups, self.mask, self._progress())
        if self.trajectory is not None:
            self.trajectory.check_()
        if cut is None:
            return
        self.events += 1
        self._cut(cut)
        if self._start is not None and self.until is not None:
            self.reached = self.until(self._measured(), self._start)

    def _cut(self, cut: Cut) -> None:
        self._agree(cut)
        if self.delete and self.example is not None:
            self.mask = apply_cut_(self.model, self.mask, cut, self.example)
            self._hold()
            self._delete()
        else:
            self.mask = mask_cut_(self.model, self.mask, cut)
            self._hold()
        for name, held in self._parameters.items():
            if held.parameter.grad is not None:
                self.mask.zero_(name, held.parameter.grad)

    def _agree(self, cut: Cut) -> None:
        """Check that all ranks of a torch.distributed group cut the same of the same weights."""
        if world() > 1:
            named = {f"{group.kind}/{group.name}": units for group, units in cut.doomed.items()}
            held = [*self.model.parameters(), *(named[name] for name in sorted(named))]
            words = f"{sorted(named)} {fingerprint(held)}"
            what = (
                "the same weights and the same cut: gradients have to be averaged, as "
                "DistributedDataParallel does, and observe() called on every rank or on none"
            )
            check_same(words, what, StructureError)

    def _delete(self) -> None:
        if not self.mask.gone and not self.mask.stand_ins:
            return
        before, remaining = self.mask, self.mask.groups_left()
        self.mask = shrink_(self.model, before, self._optimizers, self.trajectory, self.example)
        for companion in self.companions:
            cut_(companion, before, self.model)
        smaller = dict(zip(remaining, self.mask.groups, strict=True))  # each group after shrinking
        for group in self.groups:
            if group not in smaller:
                self.emptied[group.kind] += self.starts[group]
        self.starts = {smaller[group]: n for group, n in self.starts.items() if group in smaller}
        self.groups = [smaller[group] for group in self.groups if group in smaller]
        self._parameters = pruned_parameters(self.model, self.mask.groups)
        if self._rewrap is not None:
            self._rewrap(self.model)

    def _progress(self) -> Progress:
        remaining = sum(self.mask.count(group) for group in self.groups)
        start = sum(self.starts.values()) + self.emptied.total()
        total = self.cadence.proposals
        return Progress(self.events + 1, total, start, remaining, 0, self.starts, self.emptied)

    def _probe(self) -> Probe:
        if self.probe is not None:
            probe = self.probe
            probe.forget_()
            probe.update_(self.mask)
            probe.trajectory = probe.trajectory or self.trajectory
            return probe
        return cast(
            "Probe", LazyProbe(self.model, self.mask, self.trajectory, self._own_probe(), _REMEDY)
        )

    def _own_probe(self) -> Callable[[], Probe] | None:
        if self._batch is None:
            return None
        inputs, targets, loss = self._batch
        batch, forward = (inputs, targets), self.forward
        return lambda: Probe(
            self.model, joined_batches(batch), loss, self.trajectory, forward=forward
        )

    def _measured(self) -> Measurement:
        if self.probe is not None:
            self.probe.forget_()
            return measure(self.model, self.mask, self.probe)
        unknown = Measurement(None, float("nan"))
        return unknown.of(Outline(self.model, self.example), self.mask)

    # Called by the constructor.

    def _swept(self) -> list[Neurons]:
        """Return units that the sweep may remove when only synapses are cut; for `delete` alone."""
        if not self.delete or self.example is None or any(g.kind != "synapse" for g in self.groups):
            return []
        return find_units(self.model, self.example, inputs=True)

    def _check(self) -> None:
        if not self.groups:
            known = self.example if self.probe is None else self.probe.example
            raise no_groups(self.model, known)
        for name, given in (("probe", self.probe), ("trajectory", self.trajectory)):
            if given is not None and getattr(given, "model", self.model) is not self.model:
                raise GroupError(f"{name}= belongs to another model; make it with this one")
        if self.probe is None and self.until is not None and not self.until.is_size:
            raise BudgetError(
                f"until={self.until.words} needs accuracy or loss, which an optimizer's hook "
                "cannot measure; pass probe="
            )
        if isinstance(self.propose, Paced):
            starts = {group: self.mask.count(group) for group in self.groups}
            self.propose.check(self.groups, starts, self.cadence.proposals)
