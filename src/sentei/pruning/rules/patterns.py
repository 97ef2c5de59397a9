"""`pattern`: a proposal that keeps n of every m synapses along the inputs of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sentei.arguments import checked
from sentei.criteria import Criterion, criterion, scores
from sentei.criteria.brain_surgeon import Compensating, refit
from sentei.criteria.repairs.compensation import highest
from sentei.errors import GroupError, ScheduleError
from sentei.network.layout import Layout
from sentei.network.mask import Mask
from sentei.network.units import Group, Synapses
from sentei.probe.probe import Probe
from sentei.probe.summaries import layout_of
from sentei.pruning.rules.proposals import Cut
from sentei.pruning.rules.schedules import Progress


@checked
@dataclass(frozen=True)
class pattern:  # noqa: N801 - used like a function: pattern(2, 4)
    """Keep the n synapses with the highest scores of every m along the inputs, in one step.

    The m are consecutive inputs of one output: of a linear layer, entries of a row of its weight;
    of a convolution, channels at one kernel position. What is dead already counts among those that
    go. Nothing is proposed where every m have n alive synapses or fewer.

    Sparse kernels need the pattern in the network that runs: delete units first (`shrink`), since
    deleted columns move those behind them into other sets of m.

    Args:
        n: how many of m synapses stay.
        m: how many consecutive synapses are compared.
        criterion: a name such as "magnitude", "wanda" or "obs", or a function (probe, group) ->
            scores. "obs" chooses while it sweeps over a layer's columns, and changes the synapses
            that stay.
        repair: "least_squares" gives the synapses that stay the weights with which the layer's
            outputs change least on the samples, damped as for "obs", whatever the criterion. It
            solves one system of equations for each row, which takes rows times columns cubed, and
            leaves less error than the sweep. None leaves weights to the criterion.

    Raises:
        ScheduleError: not 0 < n < m.
        ValueError: an unknown criterion, with the nearest known one, or another repair.
        GroupError: when it is used, before anything is measured: a group of units, a layer whose
            inputs are not a multiple of m, or one of whose inputs a dead unit computes.

    Source: 2:4 is what NVIDIA's sparse tensor cores compute (Mishra et al. 2021, Accelerating
    sparse deep neural networks, arXiv 2104.08378).
    """

    n: int
    m: int
    criterion: str | Criterion = "magnitude"
    repair: str | None = None

    def __post_init__(self) -> None:
        criterion(self.criterion)
        if self.repair not in (None, "least_squares"):
            raise ValueError(
                'repair= of a pattern is "least_squares" or None: it changes single synapses; got '
                f"{self.repair!r}"
            )
        if not 0 < self.n < self.m:
            raise ScheduleError(
                f"pattern(n, m) keeps n of m synapses, with 0 < n < m; got n={self.n}, m={self.m}"
            )

    def __call__(
        self,
        probe: Probe,
        groups: Sequence[Group],
        mask: Mask,
        progress: Progress,  # noqa: ARG002 - everything goes in one step
    ) -> Cut | None:
        """Return the cut that leaves the pattern; None if every layer has it."""
        layers = self._layers(groups)
        layouts = {group: self._layout(probe, group) for group in layers}
        for group, layout in layouts.items():
            self._check_dead_inputs(group, layout, mask)
        judged: dict[Group, Tensor] = {}
        doomed: dict[Group, Tensor] = {}
        updates: dict[str, Tensor] = {}
        for group, layout in layouts.items():
            alive = mask.alive(group).view(group.shape)
            if not self._excess(layout.matrices(alive)).any():
                continue
            judged[group], stay, weight = self._chosen(probe, group, layout, alive)
            doomed[group] = (alive & ~stay).flatten().nonzero().flatten()
            if self.repair is not None:
                weight = refit(probe, group, stay)
            if weight is not None:
                updates[group.parameter] = weight
        return Cut(doomed, scores=judged, updates=updates) if doomed else None

    def _chosen(
        self, probe: Probe, group: Synapses, layout: Layout, alive: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return scores, which synapses of a layer stay, and its new weight if that changes."""
        how = criterion(self.criterion)
        if isinstance(how, Compensating):
            found = how.compensated(probe, group, alive, (self.n, self.m))
            return found.scores, found.alive, found.weight
        judged = scores(self.criterion, probe, group)
        values, there = (
            layout.matrices(each.view(group.shape)).unflatten(2, (-1, self.m))
            for each in (judged, alive)
        )
        stay = layout.weight(highest(values, there, self.n).flatten(2))
        return judged, stay, None

    def check(
        self,
        groups: Sequence[Group],
        starts: Mapping[Group, int],  # noqa: ARG002 - counts do not matter
        total: int | None,  # noqa: ARG002
    ) -> None:
        """Check that the groups can have the pattern, as far as their shapes tell."""
        for group in self._layers(groups):
            if group.columns is not None:
                self._check_width(group, Layout(group.shape, group.columns))

    def _layers(self, groups: Sequence[Group]) -> list[Synapses]:
        layers = [group for group in groups if isinstance(group, Synapses)]
        if len(layers) < len(groups):
            other = next(group for group in groups if not isinstance(group, Synapses))
            raise GroupError(
                f"pattern({self.n}, {self.m}) removes single synapses; {other.name!r} is a group "
                f"of {other.kind}s. Pass the groups of find_synapses alone, or "
                f'only("synapse", pattern({self.n}, {self.m})).'
            )
        return layers

    def _layout(self, probe: Probe, group: Synapses) -> Layout:
        """Return how the weight is a matrix, checked; only unknown layers are run."""
        if group.columns is None:
            layout = layout_of(probe, group)
        else:
            layer = probe.model.get_submodule(group.parameter.rpartition(".")[0])
            layout = Layout(group.shape, group.columns, getattr(layer, "groups", 1))
        self._check_width(group, layout)
        return layout

    def _check_width(self, group: Synapses, layout: Layout) -> None:
        if layout.inputs % self.m:
            raise GroupError(
                f"pattern({self.n}, {self.m}) takes layers whose number of inputs is a multiple of "
                f"{self.m}; each output of {group.name!r} reads {layout.inputs}. Leave the layer "
                f"out: pick(groups, without=[{group.name!r}])."
            )

    def _check_dead_inputs(self, group: Synapses, layout: Layout, mask: Mask) -> None:
        gone = mask.gone.get((group.parameter, layout.columns))
        if gone is not None and len(gone):
            raise GroupError(
                f"pattern({self.n}, {self.m}) counts the inputs of the network that will run; "
                f"{len(gone)} inputs of {group.name!r} are dead, and shrink would delete them and "
                "move those behind them. Call shrink first, then prune what it returns."
            )

    def _excess(self, alive: Tensor) -> Tensor:
        """Return which sets of m have more than n alive synapses."""
        return alive.unflatten(2, (-1, self.m)).sum(3) > self.n
