"""`sentei surface`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingFile

from sentei.errors import unknown

SHOWN = 10  # units drawn where none are named
LITERAL = 0.001  # the step between gains that the paper's text gives; its figures have 0.1


def surface(
    model: ExistingFile,
    *,
    data: str = "mnist",
    target: str = "-1",
    loss: str = "cross_entropy",
    group: str | None = None,
    units: Annotated[list[int] | None, Parameter(consume_multiple=True)] = None,
    to: float = 10.0,
    points: int = 101,
    literal_grid: bool = False,
    samples: int = 4500,
    seed: int = 0,
    threads: int = 1,
    out: Path = Path("surface"),
) -> None:
    """Draw the loss against the gain of single units: removed at 0, as they are at 1, and louder.

    Writes two figures, each as PNG and SVG: all units in one panel, and every unit with its tangent
    and its parabola at gain 1, which are what first- and second-order criteria see.

    Parameters
    ----------
    model
        A network that sentei saved.
    data
        As for train; training samples are looked at.
    target
        The column of a .csv to predict, by name or position.
    loss
        What the network was trained on: cross_entropy, half_squared_error, binary_cross_entropy.
    group
        Whose units; the last hidden layer's if not given.
    units
        Which; ten from the least to the most important, by exact ablation, if not given.
    to
        The largest gain.
    points
        How many gains from 0 on.
    literal_grid
        A gain every 0.001, as the paper has it in its text.
    samples
        How many training samples to look at.
    seed
        Of the data's split.
    threads
        How many torch may use.
    out
        Where the figures go; "-approximated" is added for the second.
    """
    if not (math.isfinite(to) and to > 0):
        raise ValueError(f"--to is a gain above 0, such as 10; not {to}")
    if points < 2:
        raise ValueError(f"--points must be at least 2, not {points}")

    import torch

    import sentei
    from sentei import datasets, formats, training
    from sentei.cli.screen import column, console, say
    from sentei.criteria import approximations
    from sentei.report import figures, tables

    torch.set_num_threads(threads)
    network = formats.load(model)
    flat = training.takes_flat(network)
    split = datasets.load(data, flat=flat, seed=seed, target=column(target))
    probe = sentei.Probe(network, split.train.first(samples), loss)
    groups = {each.name: each for each in sentei.find_units(network, split.train.inputs[:64])}
    if group is not None and group not in groups:
        raise ValueError(unknown("group", group, groups))
    chosen = groups[group] if group is not None else list(groups.values())[-1]
    rises = sentei.criteria.ablation(probe, chosen)
    if units is None:
        places = torch.linspace(0, chosen.size - 1, min(SHOWN, chosen.size)).round().long()
        units = rises.argsort(stable=True)[places].tolist()
    gains = torch.linspace(0, to, round(to / LITERAL) + 1 if literal_grid else points).double()
    curves = sentei.surface(probe, chosen, units, gains)
    tangents, parabolas = approximations(probe, chosen, units, gains)

    console.print(tables.surfaces(chosen.name, units, gains, curves, tangents, parabolas))
    labels = [f"unit {unit}" for unit in units]
    together = figures.blank(9, 4)
    figures.surfaces(together, gains, curves, labels, f"mean {loss.replace('_', ' ')}")
    apart = figures.blank(10, 2.1 * -(-len(units) // 5) + 0.4)
    figures.approximated(apart, gains, curves, tangents, parabolas, labels)
    second = out.with_name(out.name + "-approximated")
    written = [*figures.write(together, out), *figures.write(apart, second)]
    say("Figures: " + ", ".join(str(path) for path in written))
