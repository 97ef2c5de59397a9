"""Compute derivatives of the loss along the gates of single synapses: w E' and w w E''."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sentei.errors import CriterionError
from sentei.losses import PerSample, per_sample_losses
from sentei.network.calls import Calls
from sentei.probe.engines.chain import Chain
from sentei.probe.engines.chain_derivatives import slope
from sentei.probe.engines.gate_derivatives import hide_torch_warnings, second_by_func
from sentei.probe.recording.recording import Need, Pass, Recording, Slope

_CANDIDATES = 32  # synapses per vmap over a general network


@dataclass(eq=False)
class SynapseGates:
    """Engine for synapses: derivatives of the loss along a gate at each entry of one weight.

    Attributes:
        recording: the recording of the network.
        parameter: the weight's name.
        chain: the plain chain from the weight's layer to the output; None if there is none.
    """

    recording: Recording
    parameter: str
    chain: Chain | None

    @property
    def need(self) -> Need:
        """What a pass must record: the input of the weight's layer if there is a chain."""
        return "outputs" if self.chain is None else self.chain.need

    def slopes(self, block: Pass, members: Tensor, asked: Slope) -> Tensor:
        """Return the derivative of the summed loss along each synapse's gate, (k,) float64.

        Raises:
            CriterionError: absolute per-sample derivatives are requested, and there is no chain.
        """
        weight = self._stored().double()
        if self.chain is not None:
            found: Any = 0.0
            for o, targets in self.chain.rows(block):
                back = self.chain.derivatives(o, targets, asked.loss).gradient
                parts = (back.abs(), o.abs()) if asked.absolute else (back, o)
                found = found + parts[0].double() @ parts[1].double().T
            found = found * (weight.abs() if asked.absolute else weight)
        elif asked.absolute:
            raise CriterionError(
                "each sample's own derivative along a synapse is available only for a linear layer "
                "followed only by activations and linear layers; "
                f'{self.parameter!r} is not the weight of one. Use form="signed".'
            )
        else:
            found = self._slope(block, asked.loss or self.recording.per_sample).double() * weight
        return found.flatten()[members.to(found.device)]

    def curvatures(self, block: Pass, members: Tensor, kind: str) -> Tensor:
        """Return the second derivative of the summed loss along each synapse's gate, (k,) float64.

        Raises:
            CriterionError: `kind` is "diagonal", and there is no chain.
        """
        if self.chain is None:
            if kind == "diagonal":
                raise CriterionError(
                    "the diagonal recursion needs a linear layer followed only by activations and "
                    f"linear layers; {self.parameter!r} is not the weight of one. Use "
                    'curvature="full", which is exact for any network.'
                )
            return self._second(block, members)
        weight = self._stored().double()
        found: Any = 0.0
        for o, targets in self.chain.rows(block):
            derivatives = self.chain.derivatives(o, targets)
            second = derivatives.diagonal() if kind == "diagonal" else derivatives.per_feature()
            found = found + second.double() @ o.double().square().T
        return (found * weight.square()).flatten()[members.to(found.device)]

    def _slope(self, block: Pass, loss: PerSample) -> Tensor:
        """Gradient of the summed loss by the weight."""
        with torch.enable_grad():
            leaf = self._stored().clone().requires_grad_()
            return slope(self._losses(block, leaf, loss).double().sum(), leaf)

    def _second(self, block: Pass, members: Tensor) -> Tensor:
        """(k,) float64 second derivatives of the summed loss along each gate, by autograd."""
        weight = self._stored()

        def second(member: Tensor) -> Tensor:
            # Not weight.flatten()[member]: torch 2.6 has no index by a batched number under vmap.
            flat = weight.flatten()
            step = torch.zeros_like(flat).scatter(0, member[None], flat.gather(0, member[None]))
            step = step.view_as(weight)

            def losses_at(gain: Tensor) -> Tensor:
                own = weight + (gain - 1) * step
                # Fused kernels of attention cannot be differentiated twice on every device.
                with Calls(self.recording.model, lambda call: call(), plain=True):
                    return self._losses(block, own, self.recording.per_sample)

            return second_by_func(losses_at)(weight.new_ones(())).double()

        with hide_torch_warnings():
            run = torch.func.vmap(second)
            return torch.cat([run(part) for part in members.to(weight.device).split(_CANDIDATES)])

    def _losses(self, block: Pass, weight: Tensor, loss: PerSample) -> Tensor:
        """(n,) losses with the parameter replaced by `weight`."""
        replaced = {self.parameter: weight}
        out = self.recording.output(block.samples, replaced)
        return per_sample_losses(loss, out, block.samples.targets)

    def _stored(self) -> Tensor:
        """The weight as the network holds it."""
        return self.recording.model.get_parameter(self.parameter).detach()
