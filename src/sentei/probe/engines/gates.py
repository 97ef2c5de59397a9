"""The loss without a unit, for any network: gates at its listeners, all candidates in one pass.

`torch.func.vmap` runs the model over the candidates. What no gate can change is replayed from the
recording; a listener that hears nothing else new is its recorded output less the unit's own
contribution; everything after it is computed.
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
    """Runs a network on from a group's listeners, once for each unit left out.

    Attributes:
        listeners: the group's listeners by parameter, under the name the recording uses.
        batched: whether `torch.func.vmap` can run the model; found out by trying.
        derived: whether it can with derivatives as well.
    """

    model: nn.Module
    survey: PassSurvey
    listeners: Mapping[str, Listener]
    per_sample: PerSample
    batched: bool = True
    batched_derivatives: bool = True

    def __post_init__(self) -> None:
        users = {name: self.survey.users(name) for name in self.listeners}
        if deaf := [name for name, positions in users.items() if not positions]:
            raise StructureError(
                f"a listener must be a weight that a layer call uses; {deaf[0]!r} is not used so "
                "in a pass over this data"
            )
        self.first = min((at for positions in users.values() for at in positions), default=0)

    @property
    def need(self) -> Need:
        """What has to be recorded of a pass: all there is to replay."""
        return "kept"

    def rises(self, block: Pass, units: Tensor) -> Tensor:
        """(k,) float64: rise of the summed loss over a block, for each unit left out alone."""
        return self.rises_at_gains(block, units, torch.zeros(1))[:, 0]

    def rises_at_gains(self, block: Pass, units: Tensor, gains: Tensor) -> Tensor:
        """(k, g) float64: rise of the summed loss with each unit's gate at each gain."""
        assert block.losses is not None
        base = block.losses.sum(dtype=torch.float64)
        each = units.repeat_interleave(len(gains)), gains.repeat(len(units))
        found = self._for_each(VALUE, block, *each)
        sums = [per_sample.sum(dtype=torch.float64) for per_sample in found]
        rises = torch.stack(sums) - base if sums else base.new_zeros(0)
        return rises.view(len(units), len(gains))

    def rises_after(self, block: Pass, units: Tensor, mixes: Mapping[str, Tensor]) -> Tensor:
        """(k,) float64: as `rises`, after each unit was handed over by its row of the mix."""
        assert block.losses is not None
        folds = FoldedCalls(self.model, self.listeners)
        sums = []

        def total(rows: PerListener, hits: PerListener, seen: bool) -> Tensor:
            def answer(call: Call) -> Tensor:
                first = call.position <= self.first
                same = call.mixes and (first or (seen and not _depends(call)))
                if call.weight in rows:
                    return folds(call, hits[call.weight], rows[call.weight])
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
            hits, _ = self._choices(chunk)
            if self.batched:
                try:
                    with hide_torch_warnings():
                        sums.append(
                            torch.func.vmap(lambda r, h: total(r, h, seen=True))(rows, hits)
                        )
                    continue
                except (RuntimeError, ValueError):
                    self.batched = False
            for i in range(len(chunk)):
                one = [{name: value[i] for name, value in of.items()} for of in (rows, hits)]
                sums.append(total(*one, seen=False)[None])
        return torch.cat(sums) - block.losses.sum(dtype=torch.float64)

    def slopes(self, block: Pass, units: Tensor, asked: Slope) -> Tensor:
        """(k,) float64: derivative of the summed loss along each unit's gate."""
        if not asked.absolute:
            return self._gradient(block, asked.loss)[units.to(block.samples.targets.device)]
        once = self._for_each(FIRST, block, units, torch.ones(len(units)), asked.loss)
        return torch.stack([each.abs().sum(dtype=torch.float64) for each in once])

    def curvatures(self, block: Pass, units: Tensor, kind: str) -> Tensor:
        """(k,) float64: second derivative of the summed loss along each unit's gate.

        Raises:
            CriterionError: the diagonal recursion is asked for, and this is no plain chain.
        """
        if kind == "diagonal":
            raise CriterionError(
                "the diagonal recursion needs one linear layer that hears the units and a plain "
                "chain of activations and linear layers after it; what hears "
                f"{', '.join(sorted(self.listeners))} is something else. Ask for "
                'curvature="full", which is exact for any network.'
            )
        twice = self._for_each(SECOND, block, units, torch.ones(len(units)))
        return torch.stack([each.sum(dtype=torch.float64) for each in twice])

    def _gradient(self, block: Pass, loss: PerSample | None) -> Tensor:
        """(size,) float64: E' along all gates at once, by one pass back."""
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
        largest = max(seen.bytes_out for seen in self.survey.calls[self.first :])
        return max(1, _CHUNK_BYTES // max(1, rows * largest * passes))

    def _for_each(
        self,
        what: BatchedOperator,
        block: Pass,
        units: Tensor,
        gains: Tensor,
        loss: PerSample | None = None,
    ) -> Iterator[Tensor]:
        """What is asked of the per-sample losses along each unit's gate, at its gain."""
        together, alone, able = what

        def at(
            ask: GateOperator, hit: PerListener, columns: PerListener, gain: Tensor, seen: bool
        ) -> Tensor:
            def along(gain: Tensor) -> Tensor:
                gates = {name: 1 + (gain.to(mine) - 1) * mine for name, mine in hit.items()}
                terms = {name: (own, gain) for name, own in columns.items()}
                out = self._run(block, gates, terms, seen, plain=what is not VALUE)
                return per_sample_losses(loss or self.per_sample, out, block.samples.targets)

            return ask(along)(gain)

        size = self._chunk(len(block.samples), passes=1 if what is VALUE else 4)
        for chunk, at_gain in zip(units.split(size), gains.split(size), strict=True):
            hits, columns = self._choices(chunk)
            own = at_gain.to(next(iter(hits.values())))
            if getattr(self, able):
                try:
                    with hide_torch_warnings():
                        run = torch.func.vmap(lambda h, c, g: at(together, h, c, g, seen=True))
                        found = run(hits, columns, own)
                    yield from found
                    continue
                except (RuntimeError, ValueError):
                    setattr(self, able, False)
            for i in range(len(chunk)):
                hit = {name: value[i] for name, value in hits.items()}
                mine = {name: value[i] for name, value in columns.items()}
                yield at(alone, hit, mine, own[i], seen=False)

    def _choices(self, units: Tensor) -> tuple[PerListener, PerListener]:
        """For each unit: 1 at its columns of each listener and 0 elsewhere, and which they are."""
        hits, columns = {}, {}
        for name, listener in self.listeners.items():
            weight = self.model.get_parameter(name)
            own = listener.index[units].to(weight.device)
            hit = weight.new_zeros(len(units), weight.shape[listener.dim])
            hits[name], columns[name] = hit.scatter(1, own, 1.0), own
        return hits, columns

    def _run(
        self,
        block: Pass,
        gates: PerListener,
        terms: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        seen: bool = False,
        plain: bool = True,
    ) -> Tensor:
        """The outputs with gated columns.

        Args:
            block: what was recorded.
            gates: of every listener, a factor for each of its columns.
            terms: the only columns whose factor is not 1, and that factor.
            seen: whether tensors show that they depend on a gate, being wrapped.
            plain: attention from its definition: fused kernels cannot be differentiated twice.
        """

        def answer(call: Call) -> Tensor:
            first = call.position <= self.first
            same = call.mixes and (first or (seen and not _depends(call)))
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
    """Whether anything the call is given depends on a gate of a vmap, or of a derivative in it."""
    given = (value for value in call.given.values() if isinstance(value, Tensor))
    return any(is_functorch_wrapped_tensor(value) for value in given)


def _is_small(call: Call) -> bool:
    """Whether one unit's contribution can be computed by itself."""
    linear = call.function in (F.linear, torch.addmm)
    return linear or call.function in _ONE_COLUMN_CONVS


def _contribution(call: Call, columns: Tensor) -> Tensor:
    """What the columns add to the call's output: the same call on these columns alone."""
    weight = call.given[call.use.weight]
    dim = call.use.columns
    assert dim is not None
    own = weight.index_select(dim, columns)
    heard = call.input.index_select(call.axis, _channels(call, columns).flatten())
    if call.function is torch.addmm:
        return heard @ own
    given = {**call.given, call.use.reads: heard, call.use.weight: own, call.use.bias: None}
    return call.function(**given)


def _channels(call: Call, columns: Tensor) -> Tensor:
    """Input channels that columns hear: in a grouped convolution, one in each of its groups."""
    assert call.use.columns is not None
    width = call.given[call.use.weight].shape[call.use.columns]
    steps = torch.arange(0, call.input.shape[call.axis], width, device=columns.device)
    return steps[:, None] + columns


def _spread(gate: Tensor, call: Call) -> Tensor:
    """A gate over weight columns as one over the call's input."""
    times = call.input.shape[call.axis] // gate.shape[0]
    return gate.repeat(times).reshape(-1, *[1] * (-1 - call.axis))


def _reweighted(call: Call, gate: Tensor, dim: int) -> Tensor:
    """The call with the gated slices of its weight at zero: right for every use of a weight."""
    weight = call.given[call.use.weight]
    shape = [1] * weight.ndim
    shape[dim] = -1
    return call.function(**{**call.given, call.use.weight: weight * gate.reshape(shape)})
