"""Path strengths and classes of the synapses in a network that is small enough to be drawn.

Each synapse into a hidden unit gets one class: that of the output that reads the unit with the
largest |weight|. The signed path strength P[c, d] is the sum over alive paths of the product of
their weights. Both are our reading of the paper's figure 3, which defines neither.
"""

from __future__ import annotations

from collections.abc import Sequence

Edges = dict[tuple[int, int], float]  # from (to, from) to the weight


def network_of(edges: Sequence[Sequence[Sequence[float]]]) -> tuple[Edges, Edges]:
    """Return both layers' synapses, without those on no path from an input to an output."""
    first, second = ({(int(to), int(of)): w for to, of, w in part} for part in edges)
    units_read, units_with_input = {of for _, of in second}, {to for to, _ in first}
    return (
        {edge: w for edge, w in first.items() if edge[0] in units_read},
        {edge: w for edge, w in second.items() if edge[1] in units_with_input},
    )


def speaks_for(first: Edges, second: Edges) -> dict[tuple[int, int], int]:
    """Return the class of each first-layer synapse: that of its unit's strongest output weight."""
    found: dict[tuple[int, int], int] = {}
    for unit, pixel in first:
        outgoing = {label: abs(w) for (label, of), w in second.items() if of == unit}
        found[unit, pixel] = max(outgoing, key=lambda label: outgoing[label])
    return found


def strengths(first: Edges, second: Edges) -> Edges:
    """Return the signed path strength of every (class, input) that a path connects."""
    found: Edges = {}
    for (label, unit), outer in second.items():
        for (to, pixel), inner in first.items():
            if to == unit:
                found[label, pixel] = found.get((label, pixel), 0.0) + outer * inner
    return found
