"""Train on Letter Recognition with Lightning, and prune four of five synapses during training.

After pip install 'sentei[lightning]': python examples/annealing_lightning.py.
"""

from __future__ import annotations

import sys

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sentei
from sentei import datasets, training
from sentei.integrations.lightning import PruneWhileTraining


class Letters(pl.LightningModule):
    """An ordinary LightningModule without any code for pruning."""

    def __init__(self):
        super().__init__()
        self.net = training.build("16-128-26:relu", seed=0)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the Adam optimizer."""
        return torch.optim.Adam(self.parameters(), lr=0.003)


def main(epochs: int = 30) -> tuple[sentei.Mask, float]:
    """Train the network; return its final mask and its test accuracy."""
    pl.seed_everything(0, verbose=False)
    data = datasets.load("letter")
    module = Letters()
    anneal = PruneWhileTraining(
        sentei.ranked("magnitude", sentei.cubic("20 %")), every=50, finish=0.8
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[anneal],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(*data.train), batch_size=64, shuffle=True))
    assert anneal.pruner is not None
    right = training.evaluate(module.net, data.test).accuracy or 0.0
    return anneal.pruner.mask, right


if __name__ == "__main__":
    torch.set_num_threads(1)
    mask, right = main(*map(int, sys.argv[1:]))
    print(mask)
    print(f"{right:.2%} of the test letters right")
