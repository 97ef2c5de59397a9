"""Compute the loss without each unit for any network, by gates at the listeners of the units.

`torch.func.vmap` runs the model for many candidates in one pass. Calls that no gate can change are
replayed from the recording. The output of a listener whose other inputs are unchanged is its
recorded output minus the unit's contribution. Everything after it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional as F

from sentei.errors import CriterionError, StructureError
from sentei.network.calls import Call, Calls
from sentei.network.folding import FoldedCalls
from sentei.network.units import Listener
from sentei.probe.engines.chain_derivatives import slope
from sentei.probe.engines.gate_derivatives import (
    FIRST,
    SECOND,
    VALUE,
    BatchedOperator,
    GateOperator,
    hide_torch_warnings,
)
from sentei.probe.recording.recording import (
    Need,
    Pass,
    PassSurvey,
    PerSample,
    Slope,
    model_output,
    per_sample_losses,
)

_CHUNK_BYTES = 128 * 2**20  # of the largest output, for all candidates of a chunk together
_ONE_COLUMN_CONVS = (F.conv1d, F.conv2d, F.conv3d)

PerListener = dict[str, Tensor]


@dataclass(eq=False)
class Gates:
    """Engine for units of any network: runs it from the group's listeners on, once per unit.

    Attributes:
        model: the network.
        survey: the calls of its forward pass.
        listeners: the group's listeners by the parameter names under which calls use them.
        per_sample: the loss, one number per sample.
        batched: whether `torch.func.vmap` can run the model; False after the first failure.
        batched_derivatives: whether it can also compute derivatives; False after the first failure.
    """

    model: nn.Module
    survey: PassSurvey
    listeners: Mapping[str, Listener]
    per_sample: PerSample
    batched: bool = True
    batched_derivatives: bool = True

    def __post_init__(self) -> None:
        users = {name: self.survey.users(name) for name in self.listeners}
        if unused := [name for name, positions in users.items() if not positions]:
            raise StructureError(
                f"a listener must be a weight that a layer call uses; no call uses {unused[0]!r} "
                "in a forward pass over this data. Leave its group out."
            )
        self.first = min((at for positions in users.values() for at in positions), default=0)

    @property
    def need(self) -> Need:
        """What a pass must record: the outputs of all mixing calls."""
        return "kept"

    def rises(self, block: Pass, units: Tensor) -> Tensor:
        """Return the rise of a block's summed loss with each unit removed alone, (k,) float64."""
        return self.rises_at_gains(block, units, torch.zeros(1))[:, 0]

    def rises_at_gains(self, block: Pass, units: Tensor, gains: Tensor) -> Tensor:
        """Return the rise of the summed loss with each unit's gate at each gain, (k, g) float64."""
        assert block.losses is not None
        base = block.losses.sum(dtype=torch.float64)
        pairs = units.repeat_interleave(len(gains)), gains.repeat(len(units))
        losses = self._for_each(VALUE, block, *pairs)
        sums = [per_sample.sum(dtype=torch.float64) for per_sample in losses]
        rises = torch.stack(sums) - base if sums else base.new_zeros(0)
        return rises.view(len(units), len(gains))

    def rises_after(self, block: Pass, units: Tensor, mixes: Mapping[str, Tensor]) -> Tensor:
        """As `rises`, but after each unit is repaired by its row of the mix, (k,) float64."""
        assert block.losses is not None
        folds = FoldedCalls(self.model, self.listeners)
        sums = []

        def total(rows: PerListener, indicators: PerListener, wrapped: bool) -> Tensor:
            def answer(call: Call) -> Tensor:
                first = call.position <= self.first
                same = call.mixes and (first or (wrapped and not _depends(call)))
                if call.weight in rows:
                    return folds(call, indicators[call.weight], rows[call.weight])
                return block.call_outputs[call.position].clone() if same else call()

            with Calls(self.model, answer):
                out = model_output(self.model, block.samples)
            return per_sample_losses(self.per_sample, out, block.samples.targets).sum(
                dtype=torch.float64
            )

        for chunk in units.split(self._chunk(len(block.samples), passes=1)):
            rows = {
                name: mix[chunk].to(self.model.get_parameter(name)) for name, mix in mixes.items()
            }
            indicators, _ = self._indicators(chunk)
            if self.batched:
                try:
                    with hide_torch_warnings():
                        sums.append(
                            torch.func.vmap(lambda r, i: total(r, i, wrapped=True))(
                                rows, indicators
                            )
                        )
                    continue
                except (RuntimeError, ValueError):
                    self.batched = False
            for i in range(len(chunk)):
                one = [{name: v[i] for name, v in of.items()} for of in (rows, indicators)]
                sums.append(total(*one, wrapped=False)[None])
        return torch.cat(sums) - block.losses.sum(dtype=torch.float64)

    def slopes(self, block: Pass, units: Tensor, asked: Slope) -> Tensor:
        """Return the derivative of the summed loss along each unit's gate, (k,) float64."""
        if not asked.absolute:
            return self._gradient(block, asked.loss)[units.to(block.samples.targets.device)]
        first = self._for_each(FIRST, block, units, torch.ones(len(units)), asked.loss)
        return torch.stack([each.abs().sum(dtype=torch.float64) for each in first])

    def curvatures(self, block: Pass, units: Tensor, kind: str) -> Tensor:
        """Return the second derivative of the summed loss along each unit's gate, (k,) float64.

        Raises:
            CriterionError: `kind` is "diagonal", which exists for plain chains only.
        """
        if kind == "diagonal":
            raise CriterionError(
                "the diagonal recursion needs a single linear layer that reads the units, followed "
                "only by activations and linear layers; the network around "
                f"{', '.join(sorted(self.listeners))} is built differently. Use "
                'curvature="full", which is exact for any network.'
            )
        second = self._for_each(SECOND, block, units, torch.ones(len(units)))
        return torch.stack([each.sum(dtype=torch.float64) for each in second])

    def _gradient(self, block: Pass, loss: PerSample | None) -> Tensor:
        """(size,) float64 derivatives E' along all gates, by one backward pass."""
        first = next(iter(self.listeners.values()))
        gate = torch.ones(
            len(first.index), dtype=torch.float64, device=block.samples.targets.device
        )
        gate.requires_grad_()

        def spread(name: str) -> Tensor:
            part, weight = self.listeners[name], self.model.get_parameter(name)
            own = part.index.to(weight.device)
            each = gate.to(weight)[:, None].expand(own.shape).flatten()
            return weight.new_ones(weight.shape[part.dim]).scatter(0, own.flatten(), each)

        with torch.enable_grad():
            gates = {name: spread(name) for name in self.listeners}
            out = self._run(block, gates)
            total = (
                per_sample_losses(loss or self.per_sample, out, block.samples.targets)
                .double()
                .sum()
            )
            return slope(total, gate).detach()

    def _chunk(self, rows: int, passes: int) -> int:
        """How many candidates fit into one chunk of work."""
        largest = max(call.bytes_out for call in self.survey.calls[self.first :])
        return max(1, _CHUNK_BYTES // max(1, rows * largest * passes))

    def _for_each(
        self,
        operator: BatchedOperator,
        block: Pass,
        units: Tensor,
        gains: Tensor,
        loss: PerSample | None = None,
    ) -> Iterator[Tensor]:
        """Yield, for some units at a time, the losses or their derivatives along each unit's gate.

        Args:
            operator: `VALUE`, `FIRST` or `SECOND`.
            block: the recorded pass.
            units: (k,) positions.
            gains: (k,) the gate's value for each unit.
            loss: the loss; the engine's own if None.
        """
        batched, alone, flag = operator

        def apply(
            of: GateOperator,
            indicator: PerListener,
            columns: PerListener,
            at: Tensor,
            wrapped: bool,
        ) -> Tensor:
            def losses_at(gain: Tensor) -> Tensor:
                gates = {name: 1 + (gain.to(own) - 1) * own for name, own in indicator.items()}
                terms = {name: (own, gain) for name, own in columns.items()}
                out = self._run(block, gates, terms, wrapped, plain=operator is not VALUE)
                return per_sample_losses(loss or self.per_sample, out, block.samples.targets)

            return of(losses_at)(at)

        size = self._chunk(len(block.samples), passes=1 if operator is VALUE else 4)
        for chunk, chunk_gains in zip(units.split(size), gains.split(size), strict=True):
            indicators, columns = self._indicators(chunk)
            at = chunk_gains.to(next(iter(indicators.values())))
            if getattr(self, flag):
                try:
                    with hide_torch_warnings():
                        run = torch.func.vmap(lambda i, c, g: apply(batched, i, c, g, wrapped=True))
                        results = run(indicators, columns, at)
                    yield from results
                    continue
                except (RuntimeError, ValueError):
                    setattr(self, flag, False)
            for i in range(len(chunk)):
                indicator = {name: value[i] for name, value in indicators.items()}
                own = {name: value[i] for name, value in columns.items()}
                yield apply(alone, indicator, own, at[i], wrapped=False)

    def _indicators(self, units: Tensor) -> tuple[PerListener, PerListener]:
        """For each listener: (k, columns) 1 at each unit's columns, else 0; and those columns."""
        indicators, columns = {}, {}
        for name, listener in self.listeners.items():
            weight = self.model.get_parameter(name)
            own = listener.index[units].to(weight.device)
            zeros = weight.new_zeros(len(units), weight.shape[listener.dim])
            indicators[name], columns[name] = zeros.scatter(1, own, 1.0), own
        return indicators, columns

    def _run(
        self,
        block: Pass,
        gates: PerListener,
        terms: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        wrapped: bool = False,
        plain: bool = True,
    ) -> Tensor:
        """Run the model with gated columns and return its outputs.

        Args:
            block: the recorded pass.
            gates: for every listener, a factor for each of its columns.
            terms: for every listener, the only columns whose factor is not 1, and that factor.
            wrapped: whether tensors that depend on a gate are wrapped by `torch.func`, so that
                calls that do not depend on one can be recognized and replayed.
            plain: compute attention from its definition: fused kernels cannot be differentiated
                twice.
        """

        def answer(call: Call) -> Tensor:
            first = call.position <= self.first
            same = call.mixes and (first or (wrapped and not _depends(call)))
            listener = self.listeners.get(call.weight)
            if listener is None:
                return block.call_outputs[call.position].clone() if same else call()
            if not call.mixes or listener.dim != call.use.columns:
                return _reweighted(call, gates[call.weight], listener.dim)
            if same and terms is not None and _is_small(call):
                columns, gain = terms[call.weight]
                kept = block.call_outputs[call.position]
                return kept.addcmul(gain.to(kept) - 1, _contribution(call, columns))
            return call(call.input * _spread(gates[call.weight], call))

        with Calls(self.model, answer, plain=plain):
            return model_output(self.model, block.samples)


def _depends(call: Call) -> bool:
    """Whether an argument of the call depends on a gate: it is wrapped by `torch.func`."""
    given = (value for value in call.given.values() if isinstance(value, Tensor))
    return any(is_functorch_wrapped_tensor(value) for value in given)


def _is_small(call: Call) -> bool:
    """Whether the contribution of single columns to the call's output can be computed alone."""
    linear = call.function in (F.linear, torch.addmm)
    return linear or call.function in _ONE_COLUMN_CONVS


def _contribution(call: Call, columns: Tensor) -> Tensor:
    """Compute the contribution of some columns to the call's output: the call on them alone."""
    weight = call.given[call.use.weight]
    dim = call.use.columns
    assert dim is not None
    own = weight.index_select(dim, columns)
    inputs = call.input.index_select(call.axis, _channels(call, columns).flatten())
    if call.function is torch.addmm:
        return inputs @ own
    given = {**call.given, call.use.reads: inputs, call.use.weight: own, call.use.bias: None}
    return call.function(**given)


def _channels(call: Call, columns: Tensor) -> Tensor:
    """Input channels that columns read: in a grouped convolution, one in each of its groups."""
    assert call.use.columns is not None
    width = call.given[call.use.weight].shape[call.use.columns]
    steps = torch.arange(0, call.input.shape[call.axis], width, device=columns.device)
    return steps[:, None] + columns


def _spread(gate: Tensor, call: Call) -> Tensor:
    """Expand a gate over weight columns to a factor on the call's input."""
    times = call.input.shape[call.axis] // gate.shape[0]
    return gate.repeat(times).reshape(-1, *[1] * (-1 - call.axis))


def _reweighted(call: Call, gate: Tensor, dim: int) -> Tensor:
    """Run the call with its weight multiplied by a gate along `dim`; works for any use of it."""
    weight = call.given[call.use.weight]
    shape = [1] * weight.ndim
    shape[dim] = -1
    return call.function(**{**call.given, call.use.weight: weight * gate.reshape(shape)})
