"""Pruning while Lightning trains: `PruneWhileTraining` as one of its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from sentei.network.units import Group, find_synapses
from sentei.pruning import during
from sentei.pruning.proposals import Proposal

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        "sentei.integrations.lightning needs Lightning: pip install 'sentei[lightning]'"
    ) from error


class PruneWhileTraining(Callback):
    """Prunes a LightningModule while a Trainer trains it; see `sentei.PruneWhileTraining`.

    The batch of every update is shown to criteria that measure, if it is an (inputs, targets) pair.
    A checkpoint holds what the callback needs to go on.

    Args:
        propose: what to remove next.
        groups: what may be cut; a function of the module where that has to be found in it, as
            `lambda module: find_units(module, example)`. All synapses if None.
        every: updates from one proposal to the next, or epochs such as "2 epochs".
        total: updates in all; the Trainer's own estimate if None.
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
        **settings: Any,
    ):
        self.propose, self.groups, self.every, self.total = propose, groups, every, total
        self.settings = settings
        self.pruner: during.PruneWhileTraining | None = None
        self._state: dict[str, Any] | None = None

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
        updates = int(trainer.estimated_stepping_batches)
        epochs = trainer.max_epochs or 1
        groups = self.groups if self.groups is not None else find_synapses
        self.pruner = during.PruneWhileTraining(
            pl_module,
            groups(pl_module) if callable(groups) else groups,
            self.propose,
            self.every,
            updates if self.total is None else self.total,
            **{"steps_per_epoch": max(updates // epochs, 1), **self.settings},
        )
        if self._state is not None:
            self.pruner.load_state_dict(self._state)
        self.pruner.attach(trainer.optimizers[0])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the batch."""
        del trainer, pl_module, batch_idx
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        if self.pruner is not None and pair and isinstance(batch[1], Tensor):
            self.pruner.observe(*batch)

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

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to hold."""
        return {} if self.pruner is None else self.pruner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint when training starts."""
        self._state = state_dict or None
