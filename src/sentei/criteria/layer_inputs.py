"""Criteria for synapses that compare a weight with the size of what it multiplies."""

from __future__ import annotations

import torch
from torch import Tensor

from sentei.arguments import checked
from sentei.errors import CriterionError
from sentei.network.units import Group, Synapses, members_word
from sentei.probe.probe import Probe
from sentei.probe.summaries import input_squares


@checked
@torch.no_grad()
def wanda(probe: Probe, group: Group) -> Tensor:
    """Weight and activation: |w| of a synapse times the root mean square of what it reads.

    The mean is over samples and positions, such as the tokens of a text. A weight of a convolution
    reads what its kernel position reads of its channel, zeros of the padding included; in a grouped
    convolution, of the channel in its own group. In attention whose query, key and value are
    different tensors, each third of the packed weight reads its own. One pass over the samples
    serves all layers.

    Sun et al. compare the synapses of one output with one another: `pattern(n, m)` does so, with m
    synapses at a time. `ranked(..., within="group")` compares those of a layer.

    Returns:
        (size,) float64; lowest removed first.

    Raises:
        CriterionError: a group of units.
        StructureError: the weight is used in other ways than by matrix products or convolutions,
            such as one that is looked up as an embedding too.

    Source: Sun, Liu, Bair and Kolter (2023), A simple and effective pruning approach for large
    language models (arXiv 2306.11695). They take the root of the sum over tokens, which ranks the
    synapses of a layer equally.
    """
    if not isinstance(group, Synapses):
        raise CriterionError(
            f"wanda scores single synapses; {group.name!r} is a group of {members_word(group)}. "
            "Use groups "
            'from find_synapses; the like for units is "contribution"'
        )
    moments = input_squares(probe, group)
    weight = probe.model.get_parameter(group.parameter).detach().double().abs()
    sizes = moments.means.sqrt()[:, None].to(weight.device)
    layout = moments.layout
    return layout.weight(layout.matrices(weight) * sizes).flatten().cpu()
