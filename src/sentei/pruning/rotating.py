"""Rotate a stream to its principal directions, so that a few of its units say most of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.errors import CertificateError, GroupError, StructureError
from sentei.network.belonging import check_groups
from sentei.network.calls import recorded_names
from sentei.network.copying import copied
from sentei.network.example import undisturbed
from sentei.network.surgery.certificate import certify
from sentei.network.surgery.rotation import Norm, Parts, absorb_, parts_of, rotate_
from sentei.network.surgery.twin import redraw_
from sentei.network.units import Group, Neurons
from sentei.probe.input_moments import layouts_of, mean_products
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import Recording


@checked
@torch.no_grad()
def rotated(probe: Probe, group: Group) -> nn.Module:
    """Return a network with the same outputs whose units of a stream are principal directions.

    Units of a residual stream, such as the width of a transformer, share what they say: none of
    them can go at little cost. Principal directions of what the norms over the stream return on the
    samples are sorted by how much they vary, and the last ones can. Find the groups of the new
    network, and prune the stream as any other, best with `repair="least_squares"`.

    Scales and shifts of the norms are moved into the layers that read their results; layer norms
    become RMS norms (`CountedLayerNorm` with centred=0), and what computes the stream leaves its
    mean out. The number of parameters does not rise.

    Args:
        probe: the network, which does not change, and the samples.
        group: a stream of the network, of kind "stream".

    Raises:
        GroupError: a group of another kind, or one of which units are dead.
        StructureError: weights that compute the stream also read it (tied embeddings); something
            else than norms passes units on one by one, such as a depthwise convolution; or the
            result of a norm goes on in the stream, as in networks with norms behind the sums.

    Source: Ashkboos et al. (2024), SliceGPT (arXiv 2401.15024); there each block has a basis of its
    own, and products between two bases are added to the network. Here one basis serves all blocks,
    and nothing is added.
    """
    check_groups(probe.model, [group])
    if not isinstance(group, Neurons) or group.kind != "stream":
        raise GroupError(
            f"units are rotated in a group of kind 'stream'; {group.name!r} is of kind "
            f"{group.kind!r}. Choose one: [g for g in groups if g.kind == 'stream']."
        )
    if not probe.alive(group).all():
        raise GroupError(
            f"units are rotated before any of them is removed; in {group.name!r} some are dead. "
            "Rotate the whole network, or the one that `shrink` returns."
        )
    parts = _proven_parts(probe, group)
    new = copied(probe.model)
    with undisturbed(new):
        absorb_(new, parts)
        recording = Recording(new, probe.samples, probe.chosen, 0)
        rotate_(new, parts, _directions(recording, group, parts.norms))
    _prove(probe.model, new, probe, group)
    return new


def _proven_parts(probe: Probe, group: Neurons) -> Parts:
    """Return the parts of a stream, with which a twin is rotated in any way and stays the same.

    In the twin, weights are redrawn, so that no layer scale of 1e-6 hides what a part does.
    """
    twin = redraw_(copied(probe.model))
    turned = copied(twin)
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(group.size, group.size, generator=random, dtype=torch.float64)
    with undisturbed(turned):
        parts = parts_of(turned, group, probe.example)
        absorb_(turned, parts)
        rotate_(turned, parts, torch.linalg.qr(basis).Q)
    _prove(twin, turned, probe, group)
    return parts


def _prove(before: nn.Module, after: nn.Module, probe: Probe, group: Neurons) -> None:
    """Raise StructureError if two networks do not have the same outputs."""
    try:
        certify(before, after, probe.example)
    except CertificateError as error:
        raise StructureError(
            f"the stream {group.name!r} cannot be rotated: the outputs of the network would not "
            "stay the same, since something besides norms and layers reads its units, or results "
            "of norms go on in it. Prune the stream as it is."
        ) from error


def _directions(recording: Recording, group: Neurons, norms: Sequence[Norm]) -> Tensor:
    """Return the principal directions of what norms return, (size, size) float64, largest first.

    The mean products of any two units are averaged over the norms. They are known where a linear
    layer reads a norm's result.

    Raises:
        StructureError: no norm has such a layer.
    """
    names = recorded_names(recording.model)
    total, count = torch.zeros(group.size, group.size, dtype=torch.float64), 0
    for norm in norms:
        parts = {names[part.parameter]: part for part in norm.listeners}
        layouts = {n: x for n, x in layouts_of(recording, parts).items() if len(x.shape) == 2}
        for name, layout in [*layouts.items()][:1]:
            products = mean_products(recording, name, layout).means.sum(0).cpu()
            for columns in parts[name].index.T:
                total += products[columns][:, columns]
                count += 1
    if not count:
        raise StructureError(
            f"the directions of {group.name!r} are known where linear layers read the results of "
            "its norms, and none does. Prune the stream as it is."
        )
    return torch.linalg.eigh(total / count).eigenvectors.flip(1)
