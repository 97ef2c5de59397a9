"""Foretell what work on a network would cost, from two timed passes: estimates, no measurements.

The unit is the forward pass of one sample. How many of them a kind of work takes follows from the
network's shapes; `docs/how-cost-grows.md` says how, and how well it holds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn

from sentei.errors import StructureError
from sentei.nests import resized
from sentei.network.encoding.size import Counted, calls_counted, latency
from sentei.network.example import rows, smallest, undisturbed
from sentei.network.units import Branches, Neurons
from sentei.running import Example, on_threads


@dataclass(frozen=True)
class _Work:
    """What a kind of work takes: seconds, seconds for each call, passes, copies of the weights."""

    fixed: float
    call: float
    passes: float
    copies: int


# Seconds fitted to `benchmarks/growth.py`; passes of finding from `benchmarks/tracing.py`, those of
# shrinking the most that a certificate is meant to take; memory measured once.
FINDING = _Work(0.04, 0.007, 15, 3)
SHRINKING = _Work(0.014, 0.0053, 12, 5)
TAYLOR = 3  # a pass, and one back that multiplies twice as often
BLOCK = 16  # samples at a time, to time a pass without what each call costs whatever its size
MEMORY = 2 << 30  # what a Probe keeps at most


@dataclass(frozen=True)
class Estimate:
    """What one kind of work would cost on one thread.

    Attributes:
        work: "finding", "shrinking" (with its certificate), "magnitude", "taylor1" or "ablation".
        passes: how many forward passes of one sample it runs; 0 for what reads weights only.
        seconds: on this machine.
        memory: bytes at the highest, beside the network and its data.
    """

    work: str
    passes: float
    seconds: float
    memory: int


def downstream(
    calls: Sequence[Counted], groups: Sequence[Neurons | Branches]
) -> dict[Neurons | Branches, float]:
    """Return for each group the share of a pass's multiply-adds from its first listener on.

    That is what has to be computed again without one of its units. Calls are taken in the order in
    which the network makes them: a branch that does not read the units counts as well. The share is
    1 where nothing is counted, and for residual branches, which are measured by whole passes.

    Args:
        calls: of one pass; see `calls_counted`.
        groups: of the network.
    """
    left = [*accumulate(call.products for call in reversed(calls))][::-1]
    from_first: dict[str, int] = {}
    for call, after in zip(calls, left, strict=True):
        from_first.setdefault(call.weight, after)
    every = left[0] if left and left[0] else 1
    whole = {group: 1.0 for group in groups if isinstance(group, Branches)}
    return whole | {
        group: max(from_first.get(part.parameter, every) for part in group.listeners) / every
        for group in groups
        if isinstance(group, Neurons) and group.listeners
    }


def ablation_passes(shares: Mapping[Neurons | Branches, float], samples: int) -> float:
    """Return the passes of one sample that exact scores of all units take."""
    return samples * (1 + sum(group.size * share for group, share in shares.items()))


def estimates(
    model: nn.Module, example: Example, groups: Sequence[Neurons | Branches], samples: int
) -> list[Estimate]:
    """Foretell the cost of finding and shrinking, and of criteria on so many samples.

    Args:
        model: the network.
        example: inputs that it runs on.
        groups: its units.
        samples: how many samples a criterion is measured on.
    """
    calls: list[Counted] = []
    with undisturbed(model), on_threads(1):
        one = smallest(model, example)
        count = rows(one) or 1
        with suppress(StructureError):  # multiply-adds that are not known
            calls = calls_counted(model, one)
        alone = latency(model, one, 5) / count
        block = one if rows(one) is None else resized(one, lambda x: torch.cat([x] * BLOCK))
        among = latency(model, block, 5) / (rows(block) or 1)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    widest = max((parameter.numel() for parameter in model.parameters()), default=0)
    kept = min(samples * sum(call.bytes for call in calls) // count, MEMORY)
    passes = ablation_passes(downstream(calls, groups), samples)
    return [
        *(
            Estimate(name, work.passes, seconds, work.copies * weights)
            for name, work in (("finding", FINDING), ("shrinking", SHRINKING))
            for seconds in [work.fixed + work.call * len(calls) + work.passes * alone]
        ),
        # The criterion squares one weight at a time, as float64.
        Estimate("magnitude", 0, _seconds_to_read(model), 2 * 8 * widest),
        Estimate("taylor1", TAYLOR * samples, TAYLOR * samples * among, kept),
        Estimate("ablation", passes, passes * among, kept),
    ]


@torch.no_grad()
def _seconds_to_read(model: nn.Module) -> float:
    begin = time.perf_counter()
    for weight in model.parameters():
        weight.double().square().sum()
    return time.perf_counter() - begin
