"""Cuts that are wrong on purpose, for sweeps over what a certificate finds.

A wrong cut is made as a wrong tracing would make it: by a group whose slices are wrong. Whether it
is really wrong is decided without a certificate: two float64 networks of the same kind with other
weights, one masked and one cut by the same wrong group, give other outputs, in evaluation or in
training mode.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import more_networks
import zoo
from sentei.errors import CertificateError
from sentei.network.example import resized, tensors
from sentei.network.mask import Mask
from sentei.network.surgery.certificate import certify
from sentei.network.surgery.cutting import remove_dead_
from sentei.network.surgery.size_attributes import apply_patch_
from sentei.network.surgery.surgery import shrink
from sentei.network.tracing.tracing import find_units
from sentei.network.units import Listener, Neurons
from sentei.running import run

NETWORKS = {**zoo.ZOO, **more_networks.MORE}
STATES = ("as built", "zero head", "tiny head", "huge output", "saturated")


@dataclass(frozen=True)
class Cut:
    """One cut of one network: the mask, what integers become, and whether it should be wrong."""

    network: str
    what: str
    mask: Mask
    patch: tuple[tuple[str, str, int], ...]

    def masked(self, model: nn.Module) -> nn.Module:
        model = copy.deepcopy(model)
        self.mask.apply_(model)
        return model

    def small(self, masked: nn.Module) -> nn.Module:
        return apply_patch_(remove_dead_(copy.deepcopy(masked), self.mask), self.patch)


def built(name: str, state: str = "as built", seed: int = 0) -> tuple[nn.Module, Any]:
    """Return a network and its example, with weights that hide what is wrong in some states."""
    torch.manual_seed(seed)
    build, example = NETWORKS[name]
    model, inputs = build().eval(), example() if callable(example) else example
    weights = [p for p in model.parameters() if p.ndim > 1]
    with torch.no_grad():
        if state == "zero head":
            weights[-1].zero_()
        elif state == "tiny head":
            weights[-1].mul_(1e-6)
        elif state == "huge output":
            weights[-1][0].mul_(1e6)
        elif state == "saturated":
            weights[0].mul_(100)
    return model, inputs


def cuts(name: str) -> Iterator[Cut]:
    """Yield the right cuts of a network and wrong ones, one group at a time."""
    model, example = built(name)
    for group in find_units(model, example):
        dead = list(range(max(group.least, 0), max(group.size // 2, 1) + group.least))[:-1] or [0]
        dead = [unit for unit in dead if unit < group.size - group.least] or [0]
        if group.size - len(dead) < max(group.least, 1) or group.kind == "input":
            continue
        mask = Mask.full([group]).without({group: dead})
        try:
            patch = changed_integers(model, shrink(model, mask, example))
        except Exception:
            continue
        yield Cut(name, "right", mask, patch)
        for what, wrong in wrong_groups(group):
            yield Cut(name, what, Mask.full([wrong]).without({wrong: dead}), patch)
        for i in range(len(patch)):
            rest = (*patch[:i], *patch[i + 1 :])
            yield Cut(name, "an integer of the old size", mask, rest)
            path, attribute, value = patch[i]
            off = (*rest, (path, attribute, value + 1))
            yield Cut(name, "an integer off by one", mask, off)


def changed_integers(model: nn.Module, small: nn.Module) -> tuple[tuple[str, str, int], ...]:
    """Return the integers of user modules that shrinking changed."""
    own = dict(model.named_modules())
    return tuple(
        (path, name, value)
        for path, module in small.named_modules()
        if path in own and type(module) is type(own[path])
        for name, value in vars(module).items()
        if type(value) is int
        and not type(module).__module__.startswith("torch.nn")
        and getattr(own[path], name) != value
    )


def wrong_groups(group: Neurons) -> Iterator[tuple[str, Neurons]]:
    """Yield the group with one part wrong: rolled by one, two units swapped, or left out."""
    for role in ("producers", "followers", "listeners"):
        parts: tuple[Listener, ...] = getattr(group, role)
        for i, part in enumerate(parts):
            for what, index in (
                ("shifted by one", part.index.roll(1, 0)),
                ("two units swapped", swapped(part.index)),
            ):
                if not torch.equal(index, part.index):
                    new = replace(part, index=index)
                    yield (
                        f"{role}: {what}",
                        replace(group, **{role: (*parts[:i], new, *parts[i + 1 :])}),
                    )
            if len(parts) > 1 or role == "followers":
                yield f"{role}: left out", replace(group, **{role: (*parts[:i], *parts[i + 1 :])})


def swapped(index: Tensor) -> Tensor:
    order = torch.arange(len(index))
    if len(order) > 1:
        order[0], order[-1] = len(order) - 1, 0
    return index[order]


def is_really_wrong(cut: Cut) -> bool | None:
    """Whether a cut changes what float64 networks with other weights compute; None if it fails.

    Compared are all outputs, in evaluation and in training mode, on inputs of its own.
    """
    model, example = built(cut.network, seed=7)
    model = model.double()
    torch.manual_seed(11)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) / max(parameter[0].numel(), 1) ** 0.5
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    example = resized(example, lambda t: t.double() if t.is_floating_point() else t)
    masked = cut.masked(model)
    try:
        small = cut.small(masked)
        return any(
            apart(run_in(masked, example, training), run_in(small, example, training)) > 1e-8
            for training in (False, True)
        )
    except Exception:
        return None


def run_in(model: nn.Module, example: Any, training: bool) -> list[Tensor]:
    torch.manual_seed(3)
    model = copy.deepcopy(model).train(training)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
        if isinstance(getattr(module, "dropout", None), float):  # of attention
            module.dropout = 0.0
    with torch.no_grad():
        return [t for t in tensors(run(model, example)) if t.is_floating_point()]


def apart(want: list[Tensor], got: list[Tensor]) -> float:
    if [t.shape for t in want] != [t.shape for t in got]:
        return float("inf")
    return max(
        (
            float((a - b).abs().max() / (a.abs().max() + 1e-300))
            for a, b in zip(want, got, strict=True)
        ),
        default=0.0,
    )


def is_certified(cut: Cut, state: str) -> bool | None:
    """Whether a cut passes in a state of the network; None if the cut network does not run."""
    model, example = built(cut.network, state)
    masked = cut.masked(model)
    try:
        small = cut.small(masked)
    except Exception:
        return None
    try:
        certify(masked, small, example, mask=cut.mask)
    except CertificateError:
        return False
    return True


def outcomes(name: str, states: Iterable[str]) -> Iterator[tuple[str, str, bool | None, bool]]:
    """Yield (what, state, is it wrong, is it certified) for the cuts of a network."""
    for cut in cuts(name):
        wrong = cut.what != "right" and is_really_wrong(cut)
        if cut.what != "right" and not wrong:
            continue  # it does not run, or two equal units were swapped
        for state in states:
            certified = is_certified(cut, state)
            if certified is not None:
                yield cut.what, state, wrong, certified
