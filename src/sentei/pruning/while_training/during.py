"""Pruning while a network trains: the parts of `prune`, attached to somebody's own optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sentei.errors import BudgetError, GroupError
from sentei.losses import PerSample
from sentei.network.encoding.size import counts
from sentei.network.example import Example, guessed
from sentei.network.mask import Mask
from sentei.network.surgery.surgery import shrink_
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Group, Neurons, Synapses
from sentei.probe.probe import Probe
from sentei.pruning.loop import apply_cut_, mask_cut_
from sentei.pruning.measuring import Measurement, measure
from sentei.pruning.rules.limits import Limit
from sentei.pruning.rules.proposals import Cut, Paced, Proposal
from sentei.pruning.rules.schedules import Progress
from sentei.pruning.while_training.cadence import cadence
from sentei.pruning.while_training.lazy_probe import LazyProbe
from sentei.pruning.while_training.optimizer_guard import (
    PrunedParameter,
    ZeroDeadGradients,
    check_optimizer,
    check_still_there,
    pruned_parameters,
)

_REMEDY = (
    "an optimizer's hook sees none, so pass probe=, or call pruner.observe(inputs, targets) before "
    "each update"
)


class PruneWhileTraining:
    """Prunes after every so many updates of an optimizer, in any training loop.

    What is dead stays exactly zero, in the weights and in the optimizer's state, after every update
    of the optimizer that it is attached to, be it any but LBFGS. Its gradients are zeroed as soon
    as they are there, before a loop clips them or adds them up, so that masked training is the
    training of the smaller network.

        pruner = PruneWhileTraining(model, find_synapses(model), propose, every=50, total=5628)
        pruner.attach(optimizer)
        ...                       # the loop, as it was
        pruner.detach()

    Args:
        model: trained by somebody else; masked in place, or made smaller if `delete`.
        groups: what may be cut, from `find_units` and `find_synapses`.
        propose: what to remove next, such as `ranked("magnitude", linear(by="0.5 %"))`.
        every: updates from one proposal to the next; also "2 epochs" of `steps_per_epoch`.
        total: updates in all, for schedules that want to know; also "12 epochs".
        until: budget; nothing more is proposed once it is reached.
        probe: evidence for criteria that measure. Without one, `observe` gives a batch.
        trajectory: called after every update, told of every proposal as of a check, and cut along;
            for criteria that ask for it.
        delete: remove what has died, units and inputs, from the tensors at once.
        example: inputs that the model runs on, for deletion; see `shrink`.
        steps_per_epoch: updates in an epoch.
        finish: proposals are made in this first part of `total` only.
        mask: what is dead to begin with, and stays dead; nothing if None.

    Attributes:
        mask: what is alive.
        updates: how many were seen.
        events: how many proposals were made.

    Source: Barbu, She, Ding and Gramajo 2017 (feature selection with annealing) and Bartoldson's
    poster, which prunes the connections of a layer "every 50 updates" by magnitude. There pruned
    weights were masked; `delete` is the poster's future work.

    Raises:
        GroupError: a group is not the model's, there is none, or probe or trajectory look at
            another model.
        ScheduleError: `every` or `total` is no count, nothing would ever be proposed, or a schedule
            rises.
        BudgetError: `until` looks at accuracy or loss, and there is no probe.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        propose: Proposal,
        every: int | str = 50,
        total: int | str | None = None,
        until: Limit | None = None,
        probe: Probe | None = None,
        trajectory: Any = None,
        delete: bool = False,
        example: Example | None = None,
        steps_per_epoch: int | None = None,
        finish: float = 1.0,
        mask: Mask | None = None,
    ):
        self.model, self.groups, self.propose = model, list(groups), propose
        self.cadence = cadence(every, total, steps_per_epoch, finish)
        self.until, self.probe, self.trajectory = until, probe, trajectory
        self.delete = delete
        self.example = guessed(model) if delete and example is None else example
        full = Mask.full([*self.groups, *self._swept()])
        self.mask = full if mask is None else full.joined(mask)
        self.mask.check(model)
        self._check()
        self.starts: dict[Group, int] = {group: self.mask.count(group) for group in self.groups}
        self.emptied: Counter[str] = Counter()
        self.updates = self.events = 0
        self.reached = False
        self._batch: tuple[Any, Tensor, str | PerSample] | None = None
        self._optimizer: Optimizer | None = None
        self._hooks: list[Any] = []
        self._parameters: dict[str, PrunedParameter] = {}
        self._start: Measurement | None = None
        self._lent: tuple[Mask, Any] | None = None

    def attach(self, optimizer: Optimizer) -> PruneWhileTraining:
        """Go along with every update of `optimizer` from now on.

        Raises:
            StructureError: it does not own a weight that may be cut, is LBFGS, or another pruner
                holds a weight.
            ValueError: it is no optimizer, or this pruner is attached already.
        """
        if self._optimizer is not None:
            raise ValueError("this pruner is attached already; detach() it first")
        holds = pruned_parameters(self.model, self.mask.groups)
        check_optimizer(optimizer, holds, delete=self.delete)
        self._optimizer, self._parameters = optimizer, holds
        self._hooks = [
            it.parameter.register_post_accumulate_grad_hook(ZeroDeadGradients(self, name))
            for name, it in holds.items()
            if it.zeroed and it.parameter.requires_grad
        ]
        self._hooks.append(optimizer.register_step_post_hook(lambda *_: self._after_update()))
        if self.probe is not None:
            self._lent = self.probe.mask, self.probe.trajectory
        self.mask.apply_(self.model)
        self.mask.hold_(self.model, optimizer)
        if self.until is not None:
            now = self._measured()
            self._start = self._start or now
            self.reached = self.until(now, self._start)
        return self

    def detach(self) -> None:
        """Leave the loop; nothing stays behind but the weights as they are."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._parameters, self._optimizer, self._batch = [], {}, None, None
        if self.probe is not None and self._lent is not None:
            self.probe.mask, self.probe.trajectory = self._lent
            self.probe.forget_()
        self._lent = None

    def observe(
        self, inputs: Any, targets: Tensor, loss: str | PerSample = "cross_entropy"
    ) -> None:
        """Show the batch of the coming update to criteria that measure; free unless one asks."""
        self._batch = inputs, targets, loss

    def state_dict(self) -> dict[str, Any]:
        """What the next updates depend on besides model, optimizer and trajectory, copied."""
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
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the model has the size it had then.

        Raises:
            ValueError: the state is that of other groups; nothing has changed then.
        """
        named, sizes = self._named(), state["sizes"]
        for name in sorted(named.keys() | sizes.keys()):
            mine = named[name].size if name in named else None
            if mine != sizes.get(name):
                raise ValueError(
                    f"the state is that of other groups: {name!r} has {sizes.get(name)} members "
                    f"there and {mine} here; load it for the network that it was saved with"
                )
        dead = {named[name]: positions for name, positions in state["dead"].items()}
        self.mask = Mask.full(self.mask.groups).without(dead)
        self.starts = {named[name]: n for name, n in state["starts"].items() if n is not None}
        self.emptied = Counter(state["emptied"])
        self.updates, self.events = state["updates"], state["events"]
        self.reached = state["reached"]
        self._start = None if state["start"] is None else Measurement(**state["start"])
        self.mask.apply_(self.model)

    def _named(self) -> dict[str, Group]:
        return {f"{group.kind}/{group.name}": group for group in self.mask.groups}

    # After an update.

    @torch.no_grad()
    def _after_update(self) -> None:
        optimizer = self._optimizer
        if optimizer is None or _was_skipped(optimizer):
            return
        check_still_there(self.model, self._parameters)
        self.updates += 1
        self.mask.hold_(self.model, optimizer)
        if self.trajectory is not None:
            self.trajectory()
        if self.cadence.falls_on(self.updates) and self.groups and not self.reached:
            self._propose(optimizer)
        self._batch = None

    def _propose(self, optimizer: Optimizer) -> None:
        cut = self.propose(self._probe(), self.groups, self.mask, self._progress())
        if self.trajectory is not None:
            self.trajectory.check_()
        if cut is None:
            return
        self.events += 1
        self._cut(cut, optimizer)
        if self._start is not None and self.until is not None:
            self.reached = self.until(self._measured(), self._start)

    def _cut(self, cut: Cut, optimizer: Optimizer) -> None:
        if self.delete and self.example is not None:
            self.mask = apply_cut_(self.model, self.mask, cut, self.example)
            self.mask.hold_(self.model, optimizer)
            self._delete(optimizer)
        else:
            self.mask = mask_cut_(self.model, self.mask, cut)
            self.mask.hold_(self.model, optimizer)
        for name, it in self._parameters.items():
            ZeroDeadGradients(self, name)(it.parameter)

    def _delete(self, optimizer: Optimizer) -> None:
        if not self.mask.gone:
            return
        left = [group for group in self.mask.groups if _is_left(self.mask, group)]
        self.mask = shrink_(self.model, self.mask, optimizer, self.trajectory, self.example)
        now = dict(zip(left, self.mask.groups, strict=True))
        for group in self.groups:
            if group not in now:
                self.emptied[group.kind] += self.starts[group]
        self.starts = {now[group]: n for group, n in self.starts.items() if group in now}
        self.groups = [now[group] for group in self.groups if group in now]
        self._parameters = pruned_parameters(self.model, self.mask.groups)

    def _progress(self) -> Progress:
        remaining = sum(self.mask.count(group) for group in self.groups)
        start = sum(self.starts.values()) + self.emptied.total()
        total = self.cadence.proposals
        return Progress(self.events + 1, total, start, remaining, 0, self.starts, self.emptied)

    def _probe(self) -> Probe:
        if self.probe is not None:
            probe = self.probe
            probe.forget_()
            probe.mask = self.mask
            probe.trajectory = probe.trajectory or self.trajectory
            return probe
        return cast(
            "Probe", LazyProbe(self.model, self.mask, self.trajectory, self._own_probe(), _REMEDY)
        )

    def _own_probe(self) -> Callable[[], Probe] | None:
        if self._batch is None:
            return None
        inputs, targets, loss = self._batch
        return lambda: Probe(self.model, (inputs, targets), loss, self.trajectory)

    def _measured(self) -> Measurement:
        if self.probe is not None:
            self.probe.forget_()
            return measure(self.model, self.mask, self.probe)
        size = counts(self.model, self.mask)
        measured = Measurement(None, float("nan"), **vars(size))
        return measured.of(self.model, self.mask, self.example)

    # What is held.

    def _swept(self) -> list[Neurons]:
        """Units that may die when all their synapses have; they are only looked at to delete."""
        if not self.delete or self.example is None or any(g.kind != "synapse" for g in self.groups):
            return []
        return find_units(self.model, self.example, inputs=True)

    def _check(self) -> None:
        if not self.groups:
            raise GroupError("there is nothing to prune: pass groups of find_units, find_synapses")
        for name, at in (("probe", self.probe), ("trajectory", self.trajectory)):
            if at is not None and getattr(at, "model", self.model) is not self.model:
                raise GroupError(f"{name}= looks at another model; make it of this one")
        if self.probe is None and isinstance(self.until, Limit) and not self.until.is_size:
            raise BudgetError(
                f"until={self.until.words} asks for accuracy or loss, which an optimizer's hook "
                "does not see; pass probe="
            )
        if isinstance(self.propose, Paced):
            starts = {group: self.mask.count(group) for group in self.groups}
            self.propose.check(self.groups, starts, self.cadence.proposals)


def _was_skipped(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler told a fused optimizer, which steps all the same, to do nothing."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.item())


def _is_left(mask: Mask, group: Group) -> bool:
    return isinstance(group, Synapses) or mask.count(group) > 0
