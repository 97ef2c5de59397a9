"""Measure the sizes, times and quality of a network, before or after pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from sentei.losses import PerSample
from sentei.nests import resized
from sentei.network.encoding.size import counts, latency, multiply_adds
from sentei.network.mask import Mask
from sentei.network.tracing.tracing import find_units
from sentei.network.units import find_synapses
from sentei.pruning.judging import MetricFunction, own_metrics
from sentei.training import evaluate

AT_ONCE = 256  # samples of the batch that is timed
PASSES = 10  # of this batch, whose median is taken


@dataclass(frozen=True)
class Facts:
    """Sizes, times and accuracy of a saved network.

    Attributes:
        units: number of hidden units; inputs and outputs do not count.
        synapses: number of alive weights, biases excluded.
        parameters: number of parameters, biases included.
        bytes: size of the file on disk.
        multiply_adds: multiply-adds for one sample.
        latency: median seconds for one sample, with the present number of threads.
        batch_latency: median seconds for 256 samples.
        accuracy, loss, metrics: measured on the given samples; see `training.evaluate`.
    """

    units: int
    synapses: int
    parameters: int
    bytes: int
    multiply_adds: int
    latency: float
    batch_latency: float
    accuracy: float | None
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


def facts(
    network: nn.Module,
    file: Path | int,
    samples: Any,
    mask: Mask | None = None,
    loss: PerSample | None = None,
    metric: MetricFunction | None = None,
) -> Facts:
    """Measure a network, also with a function of it that returns more metrics, if there is one.

    `file` is its file, or the number of bytes that its file would take.
    """
    two = resized(samples.inputs, lambda t: t[:2])
    groups = [*find_units(network, two), *find_synapses(network)]
    full = Mask.full(groups)
    if mask is not None:
        full = full.without({g: mask.dead(g) for g in mask.groups if g.kind == "synapse"})
    size = counts(network, full)
    measured = evaluate(network, samples, loss=loss)
    adds, one, many = times(network, samples.inputs)
    return Facts(
        units=size.units,
        synapses=size.synapses,
        parameters=size.parameters,
        bytes=file if isinstance(file, int) else Path(file).stat().st_size,
        multiply_adds=adds,
        latency=one,
        batch_latency=many,
        accuracy=measured.accuracy,
        loss=measured.loss,
        metrics={**measured.metrics, **({} if metric is None else own_metrics(metric, network))},
    )


def times(network: nn.Module, inputs: Any) -> tuple[int, float, float]:
    """Return the multiply-adds for one sample, and the median seconds for one and for 256.

    The median of 30 passes of one sample, and of 10 of 256.
    """
    one, many = (resized(inputs, lambda t, n=n: t[:n]) for n in (1, AT_ONCE))
    return multiply_adds(network, one), latency(network, one), latency(network, many, PASSES)
