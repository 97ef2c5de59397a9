"""Pruning while Lightning trains: `PruneWhileTraining` as one of its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, inf
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sentei.errors import DataError, StructureError
from sentei.losses import LOSSES, PerSample, per_sample
from sentei.network.units import Group, find_synapses
from sentei.pruning.rules.proposals import Proposal
from sentei.pruning.while_training import during

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        "sentei.integrations.lightning needs Lightning: pip install 'sentei[lightning]'"
    ) from error


class PruneWhileTraining(Callback):
    """Prunes a LightningModule while a Trainer trains it; see `sentei.PruneWhileTraining`.

    The batch of every update is shown to criteria that measure, if it is an (inputs, targets) pair.
    A checkpoint holds what the callback needs to go on, and so does the callback itself: a second
    `fit` of the same module goes on where the first has ended, and another module starts anew.

    Lightning loads a checkpoint only into a module of the same size. Where `delete` has made it
    smaller, save it beside the checkpoint with `sentei.save(module, file)`, and go on with
    `trainer.fit(sentei.load(file, into=a_new_module), ckpt_path=...)`.

    Args:
        propose: what to remove next.
        groups: what may be cut; a function of the module where that has to be found in it, as
            `lambda module: find_units(module, example)`. All synapses if None.
        every: updates from one proposal to the next, or epochs such as "2 epochs".
        total: updates in all; the Trainer's own estimate if None.
        loss: what criteria measure, by name or as a callable(outputs, targets) -> (N,). None is
            cross entropy, for targets that are class numbers; others need it said.
        settings: the rest of what `sentei.PruneWhileTraining` takes.

    Attributes:
        pruner: the `sentei.PruneWhileTraining` at work; None before training.
    """

    def __init__(
        self,
        propose: Proposal,
        groups: Sequence[Group] | Callable[[nn.Module], Sequence[Group]] | None = None,
        every: int | str = 50,
        total: int | str | None = None,
        loss: str | PerSample | None = None,
        **settings: Any,
    ):
        if loss is not None:
            per_sample(loss)
        self.propose, self.groups, self.every, self.total = propose, groups, every, total
        self.loss, self.settings = loss, settings
        self.pruner: during.PruneWhileTraining | None = None
        self._reader: nn.Module | None = None
        self._read: dict[str, Any] | None = None
        self._hook: RemovableHandle | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at what is loaded into the module from now on, if units are deleted."""
        self.teardown(trainer, pl_module, stage)
        if self.settings.get("delete"):
            self._hook = pl_module.register_load_state_dict_pre_hook(_refuse_other_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the optimizer.

        Raises:
            ValueError: there are several optimizers.
        """
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"pruning goes along with one optimizer, and there are {len(trainer.optimizers)}. "
                "Attach sentei.PruneWhileTraining to the one that owns the weights instead."
            )
        before = self._before(pl_module)
        seen = before["updates"] if before else 0
        self.pruner = during.PruneWhileTraining(
            pl_module,
            self._groups(pl_module),
            self.propose,
            self.every,
            _updates(trainer, seen) if self.total is None else self.total,
            **{"steps_per_epoch": _steps_per_epoch(trainer), **self.settings},
        )
        if before:
            self.pruner.load_state_dict(before)
        self._reader = self._read = None
        self.pruner.attach(trainer.optimizers[0])

    def _before(self, module: nn.Module) -> dict[str, Any] | None:
        """Where the pruning of this module stands: in its checkpoint, or after an earlier fit."""
        if self._read is not None and self._reader in (None, module):
            return self._read
        held = self.pruner is not None and self.pruner.model is module
        return self.pruner.state_dict() if self.pruner is not None and held else None

    def _groups(self, module: nn.Module) -> Sequence[Group]:
        if self.pruner is not None and self.pruner.model is module:
            return self.pruner.groups
        groups = self.groups if self.groups is not None else find_synapses
        return groups(module) if callable(groups) else groups

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the batch."""
        del trainer, pl_module, batch_idx
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        if self.pruner is not None and pair and isinstance(batch[1], Tensor):
            inputs, targets = batch
            self.pruner.observe(inputs, targets, self._loss_for(targets))

    def _loss_for(self, targets: Tensor) -> str | PerSample:
        if self.loss is not None:
            return self.loss
        return _no_loss if targets.is_floating_point() else "cross_entropy"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the optimizer."""
        del trainer, pl_module
        if self.pruner is not None:
            self.pruner.detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the optimizer, whatever has ended training."""
        del exception
        self.on_train_end(trainer, pl_module)
        self.teardown(trainer, pl_module, "exception")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at nothing any more."""
        del trainer, pl_module, stage
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to hold."""
        return {} if self.pruner is None else self.pruner.state_dict()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember whose state is about to be loaded: another module must not be cut by it."""
        del trainer, checkpoint
        self._reader = pl_module

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint when training starts."""
        self._read = state_dict or None


def _updates(trainer: Trainer, seen: int) -> int | None:
    """Updates in all, of which the pruner has seen some; None if Lightning does not know them."""
    estimate = trainer.estimated_stepping_batches
    # It is -1 for data without a length, where no number of updates was given either.
    if not 0 <= estimate < inf:
        return None
    return seen + max(int(estimate) - trainer.global_step, 0)


def _steps_per_epoch(trainer: Trainer) -> int | None:
    batches = trainer.num_training_batches
    return None if batches == inf else max(ceil(batches / trainer.accumulate_grad_batches), 1)


def _refuse_other_size(module: nn.Module, given: Mapping[str, Any], *_: Any) -> None:
    """Say it in words that name the remedy, before torch lists every tensor that does not fit."""
    own = module.state_dict()
    for name, tensor in given.items():
        here, there = getattr(own.get(name), "shape", None), getattr(tensor, "shape", None)
        if here != there and (name in own or name.endswith(".0.index")):
            raise StructureError(
                "Lightning loads a checkpoint only into a module of the same size, and delete=True "
                f"has changed it: {name!r} is {_size(there)} in the checkpoint and {_size(here)} "
                "in the module. Save the module beside its checkpoint with sentei.save(module, "
                "file), and pass sentei.load(file, into=...) of a new, full-size one; or leave "
                "out delete= and shrink after training."
            )


def _size(shape: Any) -> str:
    return "absent" if shape is None else str(tuple(shape))


def _no_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Stands for the loss of targets that are no classes until a criterion asks for it."""
    del outputs
    raise DataError(
        "this criterion measures the loss, which is cross entropy unless said otherwise, for "
        f"targets that are class numbers; these are {targets.dtype}, shape "
        f"{tuple(targets.shape)}. Give the callback the loss that you train on: "
        'loss="half_squared_error" for a regression, another of '
        f"{', '.join(LOSSES)}, or a callable(outputs, targets) -> (N,)."
    )
