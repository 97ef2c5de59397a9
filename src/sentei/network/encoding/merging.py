"""Join stages where one does the work of two: scales in weights, selections in standardisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sentei.network.encoding.stages import (
    Chosen,
    Recurrent,
    Scaled,
    Stage,
    Standardised,
    Weighted,
    size_of,
)


def uses(stages: Iterable[Stage]) -> Counter[int]:
    """Return how many stages read each value."""
    return Counter(value for stage in stages for value in stage.reads)


def merged(stages: Sequence[Stage]) -> list[Stage]:
    """Join each stage with the one whose value it reads, where no other stage reads that.

    A scale directly after a layer with weights is folded into that layer. Standardisation moves
    behind flattening, and a selection before or after it becomes a part of it. A recurrent layer
    of which only the last state is read gives no other.
    """
    used = uses(stages)
    found: list[Stage] = []
    for stage in stages:
        places = [n for n, each in enumerate(found) if each.value == stage.reads[0]]
        joined = None
        if places and len(stage.reads) == 1 and used[stage.reads[0]] == 1:
            joined = _joined(found[places[0]], stage)
        if joined is None:
            found.append(stage)
        else:
            found[places[0] : places[0] + 1] = _chained(joined, stage.value)
    return found


def _chained(parts: Sequence[Stage], value: int) -> list[Stage]:
    """Return stages that read each other; the last one gives `value`, others minus the numbers."""
    first = parts[0].reads
    numbers = [*(-value - n for n in range(1, len(parts))), value]
    reads = [first, *((number,) for number in numbers)]
    return [
        replace(stage, reads=read, value=number)
        for stage, read, number in zip(parts, reads, numbers, strict=False)
    ]


def _joined(last: Stage, stage: Stage) -> list[Stage] | None:
    """Return the stages that do the work of two after one another; None if these have to stay."""
    if isinstance(last, Standardised) and last.index is None and type(stage) is Stage:
        before = replace(stage, reads=last.reads)
        return [before, replace(last, entering=stage.leaving, leaving=stage.leaving)]
    if isinstance(last, Standardised) and isinstance(stage, Chosen):
        return [_chosen_of(last, stage)]
    if isinstance(last, Chosen) and isinstance(stage, Standardised):
        return [replace(stage, entering=last.entering, index=last.index, reads=last.reads)]
    if isinstance(stage, Scaled) and isinstance(last, Weighted):
        scale, shift = stage.scale.to(last.weight), stage.shift.to(last.weight)
        weight, bias = last.weight * scale[:, None], last.bias * scale + shift
        return [replace(last, weight=weight, bias=bias)]
    if isinstance(last, Recurrent) and isinstance(stage, Chosen):
        places = [] if stage.index.is_meta else stage.index.tolist()
        is_last = places == [last.leaving[0] - 1]
        return [replace(last, leaving=stage.leaving)] if is_last else None
    return None


def _chosen_of(stage: Standardised, chosen: Chosen) -> Standardised:
    """Return standardisation of the chosen positions alone."""
    index, positions = chosen.index, chosen.entering[0]
    mean, std = (
        values.repeat_interleave(max(positions // len(values), 1))
        .reshape(positions, -1)
        .to(index.device)[index]
        .flatten()
        for values in (stage.mean, stage.std)
    )
    index = index if stage.index is None else stage.index.to(index.device)[index]
    return replace(stage, leaving=chosen.leaving, mean=mean, std=std, index=index)


def folded(stages: Sequence[Stage]) -> list[Stage]:
    """Fold standardisation into the weights that read it, where that is exact enough.

    Then it takes no room and no time. It stays a step of its own before padding, which has to be
    zero after standardisation, before channels whose values have entries of their own, and where a
    mean is so large that the difference of weighted inputs and bias would lose digits.
    """
    used = uses(stages)
    given = {stage.value: stage for stage in stages}
    result: list[Stage] = []
    for stage in stages:
        before = given.get(stage.reads[0])
        parts = None
        if isinstance(before, Standardised) and isinstance(stage, Weighted) and before.folds:
            parts = _folded(before, stage) if used[before.value] == 1 else None
        if parts is None or before is None:
            result.append(stage)
            continue
        result = [each for each in result if each is not before]
        result += _chained([replace(parts[0], reads=before.reads), *parts[1:]], stage.value)
    return result


def _folded(before: Standardised, stage: Weighted) -> list[Stage] | None:
    """Return a layer with weights that reads raw values, after a selection; None if none can."""
    channels, area = stage.entering[0], 1
    if stage.window is not None:
        area = size_of(stage.window.kernel)
        if any(stage.window.padding) or len(before.mean) != channels:
            return None
    rows = len(stage.weight)
    device = stage.weight.device
    mean, std = (
        values.to(device)
        .repeat_interleave(channels // len(values))
        .reshape(stage.groups, -1)
        .repeat_interleave(area, 1)
        .repeat_interleave(rows // stage.groups, 0)
        for values in (before.mean, before.std)
    )  # (rows, columns) what each weight reads
    weight = stage.masked.double() / std
    bias = stage.bias.double() - (weight * mean).sum(1)
    raw = replace(stage, weight=weight.float(), bias=bias.float())
    if before.index is None:
        return [raw]
    return [Chosen(before.name, before.entering, before.leaving, before.index), raw]
