"""The command `sentei surface`: draw error surfaces, the loss against a unit's gain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from sentei.cli.bounds import Above0, CountOrNone
from sentei.cli.options import Data, Loss, Model, OutFigure, RunOnDevice, Samples, Weights
from sentei.cli.screen import Result
from sentei.errors import unknown

SHOWN = 10  # units to draw if --units is left out
LITERAL = 0.001  # spacing of gains in the paper's text; its figures use 0.1
Points = Annotated[int, Parameter(validator=Number(gte=2, lte=100_001))]
DRAWN = Parameter(group=Group("What is drawn", sort_key=1))


def surface(
    model: Model,
    *,
    weights: Weights = None,
    loss: Loss = None,
    group: Annotated[str | None, DRAWN] = None,
    units: Annotated[list[CountOrNone] | None, DRAWN, Parameter(consume_multiple=True)] = None,
    to: Annotated[Above0, DRAWN] = 10.0,
    points: Annotated[Points, DRAWN] = 101,
    literal_grid: Annotated[bool, DRAWN] = False,
    data: Data = Data(),
    samples: Samples = 4500,
    out: OutFigure = Path("surface"),
    run: RunOnDevice = RunOnDevice(),
) -> Result:
    """Draw how the loss changes when the output of one unit is multiplied by a gain.

    Gain 0 removes the unit, and gain 1 leaves it unchanged. The loss is measured on training
    samples. Writes two figures, each as PNG and SVG: all units in one panel, and every unit with
    the tangent and the parabola at gain 1, which first- and second-order criteria use to estimate
    the loss at gain 0.

    Parameters
    ----------
    group
        Name of the group whose units are drawn; the last group in the network if left out.
    units
        Indices of the units to draw; ten, spread from the least to the most important by exact
        ablation, if left out.
    to
        Largest gain to draw.
    points
        Number of gains, evenly spaced from 0 to the largest.
    literal_grid
        Use a gain every 0.001 in place of --points, as the text of the paper states.
    out
        Name of the figures without a suffix; "-approximated" is added for the second.
    """
    import torch

    import sentei
    from sentei.cli.loading import loaded, own_loss
    from sentei.criteria import approximations
    from sentei.network.tracing.inventory import some_units
    from sentei.reporting import figures, tables

    run.start()
    network, _, split = loaded(model, data, loss, weights, run.place())
    probe = sentei.Probe(network, split.train.first(samples), own_loss(loss))
    groups = {each.name: each for each in some_units(network, split.train.first(64).inputs)}
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

    table = tables.surfaces(chosen.name, units, gains, curves, tangents, parabolas)
    labels, name = [f"unit {unit}" for unit in units], str(probe.loss_name).replace("_", " ")
    together = figures.blank(9, 4)
    figures.surfaces(together, gains, curves, labels, f"mean {name}")
    apart = figures.blank(10, 2.1 * -(-len(units) // 5) + 0.4)
    figures.approximated(apart, gains, curves, tangents, parabolas, labels)
    second = out.with_name(out.name + "-approximated")
    written = [*figures.write(together, out), *figures.write(apart, second)]
    numbers = {"gains": gains, "losses": curves, "tangents": tangents, "parabolas": parabolas}
    return Result(
        {
            "group": chosen.name,
            "units": units,
            **{name: values.tolist() for name, values in numbers.items()},
            "figures": written,
        },
        (table, "Figures: " + ", ".join(map(str, written))),
    )
