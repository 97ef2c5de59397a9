"""Compute the loss without each unit by whole passes of the network with other weights.

This measures every network, one pass for each unit and gain. It is chosen where the calls of the
listeners cannot be replayed: where a network computes a listener's weight from others, or reads it
in a function that sentei does not know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sentei.errors import CriterionError, StructureError
from sentei.losses import PerSample, per_sample_losses
from sentei.network.calls import recorded_names
from sentei.network.units import Branches, Listener, tensor_of
from sentei.probe.engines.chain_derivatives import gradient, slope
from sentei.probe.engines.gate_derivatives import first_by_autograd
from sentei.probe.recording.recording import (
    Need,
    Pass,
    Recording,
    Slope,
    completed,
)


@dataclass(eq=False)
class _Passes(ABC):
    """Engine that runs the whole network once for each unit and gain.

    Attributes:
        recording: the recording of the network.
    """

    recording: Recording

    @abstractmethod
    def changed(self, unit: Tensor, gain: Tensor) -> dict[str, Tensor]:
        """Return the weights that differ with the gate of a unit at a gain, by recorded name."""

    @abstractmethod
    def reason(self) -> str:
        """Return why whole passes are needed."""

    @property
    def need(self) -> Need:
        """What a pass must record: the outputs of the network."""
        return "outputs"

    def rises(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of a block's summed loss with each unit removed alone, (k,) float64."""
        return self.rises_at_gains(block, units, torch.zeros(1))[:, 0]

    def rises_at_gains(self, block: Pass, units: Tensor, gains: Tensor) -> Tensor:
        """Return the rise of the summed loss with each unit's gate at each gain, (k, g) float64."""
        start = completed(block.losses).sum(dtype=torch.float64)
        found = [
            [self._losses(block, unit, gain).sum(dtype=torch.float64) - start for gain in gains]
            for unit in units
        ]
        return torch.tensor(found, dtype=torch.float64).reshape(len(units), len(gains))

    def rises_after(self, block: Pass, units: Tensor, mixes: Mapping[str, Tensor]) -> Tensor:
        """Refuse to measure repairs: what the listeners read is not known.

        Raises:
            StructureError: always.
        """
        del block, units, mixes
        raise StructureError(
            "a repair is measured where layers read the units themselves; "
            f"{self.reason()}. Measure without a repair."
        )

    def slopes(self, block: Pass, units: Tensor, asked: Slope) -> Tensor:
        """Return the derivative of the summed loss along each unit's gate, (k,) float64."""
        if asked.absolute:
            return self._by_sample(block, units, asked.loss).abs().sum(1, dtype=torch.float64)
        first = [self._derivative(block, unit, asked.loss) for unit in units]
        return torch.stack(first) if first else torch.zeros(0, dtype=torch.float64)

    def rises_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of each sample's loss with each unit removed alone, (k, n)."""
        each = [self._losses(block, unit, torch.zeros(())) for unit in units]
        return torch.stack(each) - completed(block.losses)

    def slopes_by_sample(self, block: Pass, units: Tensor) -> Tensor:
        """Return the derivative of each sample's loss along each unit's gate, (k, n)."""
        return self._by_sample(block, units, None)

    def curvatures(self, block: Pass, units: Tensor, kind: str) -> Tensor:
        """Return the second derivative of the summed loss along each unit's gate, (k,) float64.

        Raises:
            CriterionError: `kind` is "diagonal", which exists for plain chains only.
        """
        if kind == "diagonal":
            raise CriterionError(
                "the diagonal recursion needs a single linear layer that reads the units; "
                f'{self.reason()}. Use curvature="full", which is exact for any network.'
            )
        found = [self._second(block, unit) for unit in units]
        return torch.stack(found) if found else torch.zeros(0, dtype=torch.float64)

    @torch.enable_grad()
    def _derivative(self, block: Pass, unit: Tensor, loss: PerSample | None) -> Tensor:
        gate = torch.ones((), requires_grad=True)
        losses = self._losses(block, unit, gate, loss)
        return slope(losses.double().sum(), gate).double()

    def _by_sample(self, block: Pass, units: Tensor, loss: PerSample | None) -> Tensor:
        """(k, n) derivatives of each sample's loss along each unit's gate."""
        each = [
            first_by_autograd(lambda gain, unit=unit: self._losses(block, unit, gain, loss))(
                torch.ones(())
            )
            for unit in units
        ]
        return torch.stack(each) if each else torch.zeros(0, len(block.samples))

    @torch.enable_grad()
    def _second(self, block: Pass, unit: Tensor) -> Tensor:
        gate = torch.ones((), requires_grad=True)
        first = slope(self._losses(block, unit, gate).double().sum(), gate, create_graph=True)
        return gradient(first, gate).double()

    def _losses(
        self, block: Pass, unit: Tensor, gain: Tensor, loss: PerSample | None = None
    ) -> Tensor:
        """(n,) losses with the gate of a unit at a gain."""
        out = self.recording.output(block.samples, self.changed(unit, gain))
        return per_sample_losses(loss or self.recording.per_sample, out, block.samples.targets)


@dataclass(eq=False)
class WholePasses(_Passes):
    """Engine for units of any network: a gate multiplies the columns that read a unit.

    Attributes:
        listeners: the parts of the group that a gate multiplies, by the parameter names under which
            calls use them: its listeners, and of a stream all others too.
    """

    listeners: Mapping[str, Sequence[Listener]]

    def changed(self, unit: Tensor, gain: Tensor) -> dict[str, Tensor]:
        """Return the weights of the listeners with a unit's columns multiplied by a gain."""
        return {
            name: self._gated(name, parts, unit, gain) for name, parts in self.listeners.items()
        }

    def reason(self) -> str:
        """Return why whole passes are needed."""
        return (
            f"the weights that read them ({', '.join(sorted(self.listeners))}) are computed from "
            "others, or used by a function that sentei does not know"
        )

    def _gated(self, name: str, parts: Sequence[Listener], unit: Tensor, gain: Tensor) -> Tensor:
        weight = tensor_of(self.recording.model, name).detach()
        for part in parts:
            columns = part.index[unit].to(weight.device)
            own = weight.index_select(part.dim, columns) * gain.to(weight)
            weight = weight.index_copy(part.dim, columns, own)
        return weight


@dataclass(eq=False)
class BranchPasses(_Passes):
    """Engine for residual branches: a gate multiplies what a branch adds to its stream.

    Attributes:
        group: the branches.
    """

    group: Branches

    def changed(self, unit: Tensor, gain: Tensor) -> dict[str, Tensor]:
        """Return the parameters that a branch is proportional to, multiplied by a gain.

        Raises:
            CriterionError: it is proportional to none, and the gain is not 0.
        """
        branch = self.group.branches[int(unit)]
        model, removes = self.recording.model, not gain.requires_grad and float(gain) == 0
        names = branch.parameters if removes else branch.gates
        if not names:
            raise CriterionError(
                f"a gate is the factor of what a branch adds to its stream; branch {branch.name!r} "
                "ends in a norm without a scale that its result is proportional to, so that it has "
                'no gate between 0 and 1. Score branches with "ablation".'
            )
        recorded = recorded_names(model)
        tensors = {recorded[name]: tensor_of(model, name).detach() for name in names}
        if removes:
            return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        return {name: tensor * gain.to(tensor) for name, tensor in tensors.items()}

    def reason(self) -> str:
        """Return why whole passes are needed."""
        return f"{self.group.name!r} is a group of residual branches"
