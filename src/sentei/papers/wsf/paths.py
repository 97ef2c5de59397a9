"""What serves which class in a network that is small enough to be read.

A synapse into a hidden unit is marked with the class whose output reads that unit most. The signed
path strength P[c, d] is the sum over alive paths of the product of their weights. Both are our
reading of the paper's figure 3, which defines neither.
"""

from __future__ import annotations

from collections.abc import Sequence

Edges = dict[tuple[int, int], float]  # (to, from) and the weight


def network_of(edges: Sequence[Sequence[Sequence[float]]]) -> tuple[Edges, Edges]:
    """Both layers' synapses, without those on no path from an input to an output."""
    first, second = ({(int(to), int(of)): w for to, of, w in part} for part in edges)
    read, heard = {of for _, of in second}, {to for to, _ in first}
    return (
        {edge: w for edge, w in first.items() if edge[0] in read},
        {edge: w for edge, w in second.items() if edge[1] in heard},
    )


def speaks_for(first: Edges, second: Edges) -> dict[tuple[int, int], int]:
    """For each synapse of the first layer the class to which its strongest path leads."""
    found: dict[tuple[int, int], int] = {}
    for unit, pixel in first:
        outer = {label: abs(w) for (label, of), w in second.items() if of == unit}
        found[unit, pixel] = max(outer, key=lambda label: outer[label])
    return found


def strengths(first: Edges, second: Edges) -> Edges:
    """Signed path strength of every (class, input) that a path connects."""
    found: Edges = {}
    for (label, unit), outer in second.items():
        for (to, pixel), inner in first.items():
            if to == unit:
                found[label, pixel] = found.get((label, pixel), 0.0) + outer * inner
    return found
