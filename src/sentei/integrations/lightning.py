"""A Lightning callback that prunes during `fit`, as `sentei.PruneWhileTraining` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, inf
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sentei.arguments import checked
from sentei.errors import StructureError
from sentei.losses import PerSample, per_sample
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
    """A Lightning callback that prunes a module in `fit`; see `sentei.PruneWhileTraining`.

    Criteria that measure use the batch of each update, if it is an (inputs, targets) pair. A
    checkpoint stores the callback's state. A second `fit` of the same module continues where the
    first ended; for another module the callback starts again.

    Lightning loads a checkpoint only into a module of the same size. If `delete` has made the
    module smaller, save it beside the checkpoint with `sentei.save(module, file)`, and continue
    with `trainer.fit(sentei.load(file, into=a_new_module), ckpt_path=...)`.

    Args:
        propose: what to remove next.
        groups: the units and synapses that may be cut, or a function of the module that returns
            them, such as `lambda module: find_units(module, example)`. All synapses if None.
        every: updates from one proposal to the next, or epochs such as "2 epochs".
        total: number of updates in the whole training; the Trainer's estimate if None.
        loss: the loss that criteria measure: a name, or a callable(outputs, targets) -> (N,). If
            None, cross entropy for targets that are class numbers; other targets need this argument
            as soon as a criterion measures.
        settings: other arguments of `sentei.PruneWhileTraining`.

    Attributes:
        pruner: the `sentei.PruneWhileTraining` in use; None before training.
    """

    @checked
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
        self._loading_module: nn.Module | None = None
        self._loaded: dict[str, Any] | None = None
        self._hook: RemovableHandle | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the sizes of what is loaded into the module from now on, if units are deleted."""
        self.teardown(trainer, pl_module, stage)
        if self.settings.get("delete"):
            self._hook = pl_module.register_load_state_dict_pre_hook(_refuse_other_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pruner, or continue an earlier one, and attach it to the optimizer.

        Raises:
            ValueError: the number of optimizers is not one.
        """
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"pruning follows the updates of one optimizer, and there are "
                f"{len(trainer.optimizers)}. Attach sentei.PruneWhileTraining to the one that owns "
                "the weights instead."
            )
        before = self._state_before(pl_module)
        updates = before["updates"] if before else 0
        self.pruner = during.PruneWhileTraining(
            pl_module,
            self._groups(pl_module),
            self.propose,
            self.every,
            _total_updates(trainer, updates) if self.total is None else self.total,
            **{"steps_per_epoch": _steps_per_epoch(trainer), **self.settings},
        )
        if before:
            self.pruner.load_state_dict(before)
        self._loading_module = self._loaded = None
        self.pruner.attach(trainer.optimizers[0])

    def _state_before(self, module: nn.Module) -> dict[str, Any] | None:
        """Return the pruner's state from the module's checkpoint, or after an earlier `fit`."""
        if self._loaded is not None and self._loading_module in (None, module):
            return self._loaded
        same = self.pruner is not None and self.pruner.model is module
        return self.pruner.state_dict() if self.pruner is not None and same else None

    def _groups(self, module: nn.Module) -> Sequence[Group]:
        if self.pruner is not None and self.pruner.model is module:
            return self.pruner.groups
        groups = self.groups if self.groups is not None else find_synapses
        return groups(module) if callable(groups) else groups

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Give the batch to criteria that measure, if it is an (inputs, targets) pair."""
        del trainer, pl_module, batch_idx
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        if self.pruner is not None and pair and isinstance(batch[1], Tensor):
            inputs, targets = batch
            self.pruner.observe(inputs, targets, self.loss)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detach the pruner from the optimizer."""
        del trainer, pl_module
        if self.pruner is not None:
            self.pruner.detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Detach the pruner from the optimizer when an exception ends training."""
        del exception
        self.on_train_end(trainer, pl_module)
        self.teardown(trainer, pl_module, "exception")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the check on what is loaded into the module."""
        del trainer, pl_module, stage
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def state_dict(self) -> dict[str, Any]:
        """Return the pruner's state, which Lightning stores in the checkpoint."""
        return {} if self.pruner is None else self.pruner.state_dict()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the module that a state is loaded for, so that it is applied to no other module."""
        del trainer, checkpoint
        self._loading_module = pl_module

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint; it is applied when training starts."""
        self._loaded = state_dict or None


def _total_updates(trainer: Trainer, before: int) -> int | None:
    """Return `before` plus the updates still to come; None if Lightning has no estimate of them."""
    estimate = trainer.estimated_stepping_batches
    # The estimate is -1 for data without a length if max_steps is not set either.
    if not 0 <= estimate < inf:
        return None
    return before + max(int(estimate) - trainer.global_step, 0)


def _steps_per_epoch(trainer: Trainer) -> int | None:
    batches = trainer.num_training_batches
    return None if batches == inf else max(ceil(batches / trainer.accumulate_grad_batches), 1)


def _refuse_other_size(module: nn.Module, given: Mapping[str, Any], *_: Any) -> None:
    """Raise an error that names the remedy, before torch lists every tensor that does not fit."""
    own = module.state_dict()
    for name, tensor in given.items():
        shape, saved = getattr(own.get(name), "shape", None), getattr(tensor, "shape", None)
        if shape != saved and (name in own or name.endswith(".0.index")):
            raise StructureError(
                "Lightning loads a checkpoint only into a module of the same size, and delete=True "
                f"has changed it: {name!r} is {_size(saved)} in the checkpoint and {_size(shape)} "
                "in the module. Save the module beside its checkpoint with sentei.save(module, "
                "file), and pass sentei.load(file, into=...) of a new, full-size one; or leave "
                "out delete= and shrink after training."
            )


def _size(shape: Any) -> str:
    return "absent" if shape is None else str(tuple(shape))
