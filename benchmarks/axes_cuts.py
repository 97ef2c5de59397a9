"""Cut a network along one axis to a number of parameters, in a way: which units, which repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from axes_networks import Network, first
from axes_results import (
    ALL,
    CHOSEN,
    DEPTH,
    EIGHTHS,
    HEADS,
    MAGNITUDE,
    PATTERN,
    RANDOM,
    REPAIRED,
    ROTATED,
    UNITS,
    WIDTH,
)
from sentei import (
    Cut,
    Mask,
    Probe,
    Progress,
    find_synapses,
    find_units,
    fixed,
    pattern,
    per_byte,
    pick,
    prune,
    rotated,
)
from sentei.criteria import CRITERIA, Random, scores
from sentei.network.copying import copied
from sentei.network.encoding.size import counts, skeleton
from sentei.network.units import Branches, Group
from sentei.pruning.loop import mask_cut_
from sentei.pruning.rules.proposals import lowest
from sentei.pruning.rules.proposals import repaired as repaired_cut

KINDS = {
    UNITS: ("neuron",),
    HEADS: ("head",),
    WIDTH: ("stream",),
    DEPTH: ("branch",),
    ALL: ("neuron", "head", "stream", "branch"),
}
REPAIRABLE = ("neuron", "head", "stream")
CRITERION = {"neuron": "contribution", "head": "ablation", "stream": "contribution"}
STAY = {7: (7, 8), 6: (3, 4), 4: (2, 4)}  # n of m synapses, by eighths


def chosen(probe: Probe, group: Group) -> Tensor:
    """Score units by what was found to fit their kind; a branch by its rise in loss per entry."""
    if not isinstance(group, Branches):
        return scores(CRITERION[group.kind], probe, group)
    sizes = [
        sum(probe.model.get_parameter(name).numel() for name in _parameters(probe.model, branch))
        for branch in group.names
    ]
    return scores("ablation", probe, group) / torch.tensor(sizes)


def _parameters(model: nn.Module, branch: str) -> Iterator[str]:
    return (name for name, _ in model.named_parameters() if name.startswith(f"{branch}."))


@dataclass(frozen=True)
class Made:
    """A network of full size with what was removed set to zero, its mask, and what is left."""

    model: nn.Module
    mask: Mask
    parameters: int


@dataclass(frozen=True, eq=False)
class Workshop:
    """A trained network, and what its cuts share: samples, groups and scores.

    Attributes:
        model: the trained network; it is not changed.
        network: where it comes from.
        seed: of random scores.
        known: masks that were found, by axis and way.
    """

    model: nn.Module
    network: Network
    seed: int
    known: dict[tuple[str, str], dict[int, Mask]] = field(default_factory=dict)

    @cached_property
    def samples(self) -> tuple[Tensor, Tensor]:
        """Training samples that criteria and repairs read."""
        return first(self.network.data().train, self.network.calibration)

    @cached_property
    def groups(self) -> list[Group]:
        """All units and branches."""
        example = self.samples[0][:2]
        return [*find_units(self.model, example, forward=self.network.forward, depth=True)]

    @cached_property
    def layers(self) -> list[Group]:
        """The synapses of the linear layers in blocks."""
        return pick(find_synapses(self.model), only=(self.network.blocks,))

    @cached_property
    def turned(self) -> Workshop:
        """The same for the network with its width rotated to principal directions."""
        (stream,) = [group for group in self.groups if group.kind == "stream"]
        return Workshop(rotated(self.probe(self.model), stream), self.network, self.seed)

    def probe(self, model: nn.Module) -> Probe:
        """Return a Probe on the samples."""
        return Probe(model, self.samples, forward=self.network.forward)

    def budget(self, eighths: int) -> int:
        """Return the parameters left if that part of the synapses in blocks stays."""
        return self.whole - sum(group.size for group in self.layers) * (8 - eighths) // 8

    @cached_property
    def whole(self) -> int:
        """Parameters of the whole network."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def made(self, axis: str, way: str, eighths: int) -> Made | None:
        """Return a copy of the network, cut; None if the axis does not reach the budget."""
        if axis == PATTERN:
            return self._patterned(way, eighths)
        if axis == ROTATED:
            return self.turned.made(WIDTH, way, eighths)
        wanted = self.masks(axis, way).get(eighths)
        if wanted is None:
            return None
        worker = copied(self.model)
        mask = self._removed(worker, wanted, repaired=way == REPAIRED)
        return Made(worker, mask, counts(skeleton(self.model), mask).parameters)

    # Which units go.

    def masks(self, axis: str, way: str) -> dict[int, Mask]:
        """Return `_found`, found once; a repair is of what was chosen."""
        key = axis, CHOSEN if way == REPAIRED else way
        if key not in self.known:
            self.known[key] = self._found(*key)
        return self.known[key]

    def _found(self, axis: str, way: str) -> dict[int, Mask]:
        """Return what is alive at each budget; a budget that the axis cannot reach is missing."""
        groups = [group for group in self.groups if group.kind in KINDS[axis]]
        if axis == ALL and way == CHOSEN:
            return self._by_bytes(groups)
        how = {CHOSEN: chosen, RANDOM: Random(self.seed), MAGNITUDE: CRITERIA["magnitude"]}[way]
        if axis == DEPTH and way == CHOSEN:
            return self._one_by_one(groups)
        probe = self.probe(self.model)
        judged = {group: scores(how, probe, group) for group in groups}
        found = {eighths: self._fewest(judged, self.budget(eighths)) for eighths in EIGHTHS}
        return {eighths: mask for eighths, mask in found.items() if mask is not None}

    def _fewest(self, judged: Mapping[Group, Tensor], most: int) -> Mask | None:
        """Remove the fewest units, by their scores, that leave at most so many parameters."""
        bones, full, groups = skeleton(self.model), Mask.full(self.groups), [*judged]

        def without(count: int) -> Mask:
            return full.without(lowest(judged, full, groups, count))

        fewer, more = 0, sum(group.size for group in groups)
        if counts(bones, without(more)).parameters > most:
            return None
        while more - fewer > 1:
            middle = (fewer + more) // 2
            fits = counts(bones, without(middle)).parameters <= most
            fewer, more = (fewer, middle) if fits else (middle, more)
        return without(more)

    def _one_by_one(self, groups: Sequence[Group]) -> dict[int, Mask]:
        """Remove one branch after the other, each time by new scores."""
        found: dict[int, Mask] = {}
        worker = copied(self.model)
        for step in prune(worker, groups, self.probe(worker), _lowest_one):
            for eighths in EIGHTHS:
                if step.measured.parameters <= self.budget(eighths):
                    found.setdefault(eighths, step.mask)
            if len(found) == len(EIGHTHS):
                break
        return found

    def _by_bytes(self, groups: Sequence[Group]) -> dict[int, Mask]:
        """Remove what costs the least loss per byte, down to each budget.

        Units of a group go in the order of their first scores; what a batch of them costs is
        measured anew at every step.
        """
        probe = self.probe(self.model)
        scored = fixed({group: chosen(probe, group) for group in groups})
        worker = copied(self.model)
        header = counts(skeleton(self.model), Mask.full(self.groups)).bytes - 4 * self.whole
        stops = {4 * self.budget(eighths) + header: eighths for eighths in EIGHTHS}
        propose = per_byte("safetensors", scored, share=0.12, stops=tuple(stops))
        found: dict[int, Mask] = {}
        for step in prune(worker, groups, self.probe(worker), propose):
            for stop, eighths in stops.items():
                if step.measured.bytes <= stop:
                    found.setdefault(eighths, step.mask)
            if len(found) == len(stops):
                break
        return found

    # How they go.

    def _removed(self, worker: nn.Module, wanted: Mask, *, repaired: bool) -> Mask:
        """Remove what a mask lacks; with a repair, units that have one go last, fitted then."""
        mask = Mask.full(self.groups)
        doomed = wanted.died_since(mask)
        last = {g: units for g, units in doomed.items() if repaired and g.kind in REPAIRABLE}
        others = {group: units for group, units in doomed.items() if group not in last}
        mask = mask_cut_(worker, mask, Cut(others))
        if not last:
            return mask
        how = "least_squares", "contribution"
        return mask_cut_(worker, mask, repaired_cut(Cut(last), *how, self.probe(worker), mask))

    def _patterned(self, way: str, eighths: int) -> Made:
        n, m = STAY[eighths]
        criterion: Callable[[Probe, Group], Tensor] | str = "magnitude"
        if way != MAGNITUDE:
            criterion = Random(self.seed) if way == RANDOM else "wanda"
        propose = pattern(n, m, criterion, "least_squares" if way == REPAIRED else None)
        worker = copied(self.model)
        *_, last = prune(worker, self.layers, self.probe(worker), propose)
        gone = sum(group.size - last.mask.count(group) for group in self.layers)
        return Made(worker, last.mask, self.whole - gone)


def _lowest_one(
    probe: Probe,
    groups: Sequence[Group],
    mask: Mask,
    progress: Progress,  # noqa: ARG001 - as many as it takes
) -> Cut | None:
    """Propose to remove the unit with the lowest score of all."""
    judged = {group: chosen(probe, group) for group in groups}
    found = lowest(judged, mask, groups, 1)
    return Cut(found, scores=judged) if found else None
