"""The loss without a unit, for any network: gates at its listeners, all candidates in one pass.

`torch.func.vmap` runs the model over the candidates. What no gate can change is replayed from the
recording; a listener that hears nothing else new is its recorded output less the unit's own
contribution; everything after it is computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F

from sentei.criteria.recording import Need, Pass, PerSample, Survey, losses, outputs
from sentei.errors import StructureError
from sentei.network.calls import Call, Calls
from sentei.network.units import Listener

_CHUNK_BYTES = 128 * 2**20  # of the largest output, for all candidates of a chunk together
_ONE_COLUMN_CONVS = (F.conv1d, F.conv2d, F.conv3d)

Choice = dict[str, Tensor]


@dataclass(eq=False)
class Gates:
    """Runs a network on from a group's listeners, once for each unit left out.

    Attributes:
        listeners: the group's listeners by parameter, under the name the recording uses.
        batched: whether `torch.func.vmap` can run the model; found out by trying.
    """

    model: nn.Module
    survey: Survey
    listeners: Mapping[str, Listener]
    per_sample: PerSample
    batched: bool = True

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
        targets = block.samples.targets
        assert block.losses is not None
        base = block.losses.sum(dtype=torch.float64)
        sums = [
            losses(self.per_sample, without, targets).sum(dtype=torch.float64)
            for chunk in units.split(self._chunk(len(block.samples)))
            for without in self._outputs(block, chunk)
        ]
        return torch.stack(sums) - base if sums else base.new_zeros(0)

    def _chunk(self, rows: int) -> int:
        largest = max(seen.bytes_out for seen in self.survey.calls[self.first :])
        return max(1, _CHUNK_BYTES // max(1, rows * largest))

    def _outputs(self, block: Pass, units: Tensor) -> Iterator[Tensor]:
        gates, columns = self._choices(units)
        if self.batched:
            try:
                with warnings.catch_warnings():
                    # An operation without a batching rule is slower, not wrong.
                    warnings.filterwarnings("ignore", message=".*batching rule.*")
                    together = torch.func.vmap(lambda g, c: self._run(block, g, c))(gates, columns)
                yield from together
                return
            except (RuntimeError, ValueError):
                self.batched = False
        for i in range(len(units)):
            gate = {name: value[i] for name, value in gates.items()}
            yield self._run(block, gate, {name: value[i] for name, value in columns.items()})

    def _choices(self, units: Tensor) -> tuple[Choice, Choice]:
        """For each unit: gates over a listener's columns, and the columns that are the unit's."""
        gates, columns = {}, {}
        for name, listener in self.listeners.items():
            weight = self.model.get_parameter(name)
            own = listener.index[units].to(weight.device)
            gate = weight.new_ones(len(units), weight.shape[listener.dim])
            gates[name], columns[name] = gate.scatter(1, own, 0.0), own
        return gates, columns

    def _run(self, block: Pass, gates: Choice, columns: Choice) -> Tensor:
        def answer(call: Call) -> Tensor:
            same = call.mixes and (
                call.position <= self.first or (self.batched and not _depends(call))
            )
            listener = self.listeners.get(call.weight)
            if listener is None:
                return block.kept[call.position].clone() if same else call()
            if not call.mixes or listener.dim != call.use.columns:
                return _reweighted(call, gates[call.weight], listener.dim)
            if same and _is_small(call):
                return block.kept[call.position] - _contribution(call, columns[call.weight])
            return call(call.input * _spread(gates[call.weight], call))

        with Calls(self.model, answer):
            return outputs(self.model, block.samples)


def _depends(call: Call) -> bool:
    """Whether anything the call is given differs between the candidates of a vmap."""
    given = (value for value in call.given.values() if isinstance(value, Tensor))
    return any(is_batchedtensor(value) for value in given)


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
