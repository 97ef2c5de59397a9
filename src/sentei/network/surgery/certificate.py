"""Check by running them that a cut network computes the same function as the masked one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.errors import CertificateError, StructureError
from sentei.nests import resized
from sentei.network.copying import copied
from sentei.network.example import rows
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.network.surgery.comparing import (
    TOLERANCE,
    TRAINING_TOLERANCE,
    TWIN_TOLERANCE,
    Marks,
    difference,
    largest_allowed,
    paired,
)
from sentei.network.surgery.modes import same_in_both_modes
from sentei.network.surgery.observing import Observed
from sentei.network.surgery.reference import Reference, State, first_line
from sentei.network.surgery.twin import nudge_
from sentei.running import Example, Forward
from sentei.shards import refuse_sharded

ROUNDING = 10  # what rounding does to a value is allowed this many times


@dataclass(frozen=True)
class Certificate:
    """Result of comparing a masked and a shrunk network on the same inputs.

    Attributes:
        inputs: number of samples compared.
        real: how many of them the caller gave; the rest are seeded noise of the same shape.
        difference: largest |masked - shrunk| in evaluation mode, relative to the largest absolute
            value of its tensor.
        training_difference: the same in training mode with dropout switched off; None if the masked
            network itself cannot run in training mode on these inputs.
        tolerance: largest difference that was allowed in evaluation mode.
        compared: number of tensors compared: outputs, and the results of layers.
        moved: how far the cut moved the outputs of the original or, without one, of the network
            with redrawn weights, relative to the largest; NaN if that is not known. 0
            means that the comparison shows nothing.
        uncompared: what could not be compared.
    """

    inputs: int
    real: int
    difference: float
    training_difference: float | None
    tolerance: float
    compared: int = 0
    moved: float = math.nan
    uncompared: tuple[str, ...] = ()

    def __str__(self) -> str:
        training = self.training_difference
        drawn = self.inputs - self.real
        notes = [] if training is None else [f"{training:.1e} in training mode"]
        if self.uncompared:
            notes.append(f"not compared: {', '.join(self.uncompared)}")
        if self.moved == 0:
            notes.append("the cut changed no output")
        return "; ".join(
            [
                f"same function on {self.inputs} inputs"
                + f" ({drawn} of them random)" * (drawn > 0)
                + f": largest relative difference {self.difference:.1e} over {self.compared} "
                + f"tensor{'s' * (self.compared != 1)}, within the allowed {self.tolerance:.1e}",
                *notes,
            ]
        )


@checked
def certify(
    masked: nn.Module,
    small: nn.Module,
    example: Example,
    *,
    mask: Mask | None = None,
    original: nn.Module | None = None,
    forward: Forward | None = None,
) -> Certificate:
    """Compare two networks on the same inputs, in evaluation and training mode.

    With a mask, also the results of their layers are compared, and the same cut is made in a twin
    of the masked network with redrawn weights, whose layers all have an effect on the outputs.

    In training mode every dropout is the identity, because one seed draws different noise for
    different shapes. Modes and buffers of both networks and the random state are restored.

    Args:
        masked: the masked network.
        small: the network that was cut.
        example: inputs; of small ones, seeded noise completes 64.
        mask: the mask of the cut; without one only outputs are compared.
        original: the network before it was masked; `moved` is then measured on it.
        forward: as for `find_units`.

    Raises:
        CertificateError: something differs by more than the dtype's tolerance, or the small network
            does not run.
        StructureError: the masked network draws random numbers besides dropout, so that it differs
            from itself.
    """
    for network in (small, *([] if original is None else [original])):
        refuse_sharded(network)
    example = with_forward(masked, example, forward)
    # The twin of the network is made in its place and undone: of a copy, not of the caller's own.
    reference = Reference(masked if mask is None else copied(masked), example, mask)
    return certified(reference, small, mask, original=original, moved=True)


def certified(
    reference: Reference,
    small: nn.Module,
    mask: Mask | None,
    *,
    original: nn.Module | None = None,
    moved: bool = False,
) -> Certificate:
    """Compare a cut network with the masked one: `certify` for several cuts of one network.

    Args:
        reference: the masked network.
        small: the network that was cut.
        mask: what was cut of it, which may be less than was masked.
        original: as for `certify`.
        moved: measure how far the cut moved the outputs; NaN if not.
    """
    check = _Check(reference, mask)
    own = reference.own
    cut = State(lambda: nullcontext(small), own.example)
    found = check.same(own, cut, TOLERANCE)
    twin = None if mask is None else reference.twin
    if mask is None or twin is None:
        training = check.training(own, cut, TOLERANCE, found)
    else:
        cut = reference.cut_twin(mask, small)
        redrawn = check.same(twin, cut, TWIN_TOLERANCE)
        found = max(found, redrawn)
        training = check.training(twin, cut, TRAINING_TOLERANCE, redrawn)
    far = math.nan
    if moved and original is not None:
        far = _moved(State(lambda: nullcontext(original), own.example), own)
    elif moved and twin is not None:
        far = _moved(reference.unmasked_twin(), twin)
    uncompared = dict.fromkeys((*reference.notes, *check.uncompared))
    return Certificate(
        *(rows(own.example) or 1, reference.given, found, training, check.tolerance),
        *(check.compared, far, tuple(uncompared)),
    )


def resembles(reference: State, got: Observed) -> bool:
    """Return whether a network that may be the cut one returned what the masked one returns.

    A quick test that refuses most wrong cuts: `certify` proves a right one.

    Args:
        reference: the masked network.
        got: what the other one computed in evaluation mode.
    """
    want = reference.seen()
    try:
        pairs, _ = paired(want, got, None, "evaluation mode")
    except CertificateError:  # outputs of other shapes
        return False
    allowed = 10 * largest_allowed(pairs, TOLERANCE, casts=want.casts)
    return all(difference(a, b) <= allowed for _, a, b in pairs)


def differs_by_seed(state: State) -> bool:
    """Return whether a network computes other outputs under another seed."""
    return any(value > 0 for value in _differences(state.seen(), state.observe(seed=1)).values())


class _Check:
    """Compares networks on the same inputs, and keeps account of what was compared.

    Attributes:
        compared: number of tensors compared so far.
        uncompared: what could not be compared.
        tolerance: largest relative difference that was allowed in evaluation mode.
    """

    def __init__(self, reference: Reference, mask: Mask | None):
        self._reference, self._mask = reference, mask
        self.compared = 0
        self.uncompared: list[str] = []
        self.tolerance = 0.0

    def same(
        self,
        reference: State,
        other: State,
        tolerances: Mapping[torch.dtype, float],
        *,
        training: bool = False,
    ) -> float:
        """Return the largest relative difference between two networks.

        Args:
            reference: the masked network.
            other: the smaller one.
            tolerances: by dtype.
            training: run in training mode.

        Raises:
            CertificateError: it is too large, or `other` does not run.
            StructureError: the reference draws random numbers.
        """
        where = f"{'training' if training else 'evaluation'} mode"
        where += " with redrawn weights" if reference.leaking else ""
        want, got = reference.seen(training=training), _seen_of_cut(other, training)
        marks = None
        if self._mask is not None:
            marks = self._reference.marks(self._mask, reference, training=training)
            if marks is None:
                self.uncompared.append(f"layers in {where} (the network does not run with NaN)")
        pairs, left_out = paired(want, got, marks, where)
        self.uncompared += left_out
        allowed = largest_allowed(pairs, tolerances, casts=want.casts)
        self.compared += sum(isinstance(a, Tensor) for _, a, _ in pairs)
        self.tolerance = max(self.tolerance, 0.0 if training else allowed)
        apart = {name: difference(a, b) for name, a, b in pairs}
        if found := {name: value for name, value in apart.items() if not value <= allowed}:
            again = reference.observe(training=training, seed=1)
            _refuse_random(_differences(want, again, marks), allowed)
            nudged = reference.observe(training=training, changed=nudge_)
            by_rounding = _differences(want, nudged, marks)
            if not _is_rounding(found, by_rounding, reference, other, training):
                name = max(found, key=found.__getitem__)
                raise CertificateError(
                    f"the shrunk network must compute what the masked one computes; in {where} "
                    f"outputs differ: {name} by {found[name]:.3g} of its largest value, and "
                    f"{allowed:.3g} is allowed"
                )
        return max((value for name, value in apart.items() if name not in found), default=0.0)

    def training(
        self,
        reference: State,
        other: State,
        tolerances: Mapping[torch.dtype, float],
        evaluated: float,
    ) -> float | None:
        """Compare in training mode; None if the masked network itself cannot run in it.

        Large networks that compute the same in both modes are not run again: `evaluated` is the
        difference in evaluation mode.
        """
        if reference.is_large and all(map(same_in_both_modes, (reference, other))):
            return evaluated
        try:
            reference.seen(training=True)
        except Exception as error:  # such as batch norm of one sample
            self.uncompared.append(f"training mode ({first_line(error)})")
            return None
        return self.same(reference, other, tolerances, training=True)


def _seen_of_cut(small: State, training: bool) -> Observed:
    try:
        return small.seen(training=training)
    except Exception as error:  # of any kind: `forward` may check its sizes itself
        raise CertificateError(f"the shrunk network does not run: {error}") from error


def _moved(original: State, masked: State) -> float:
    """Return the largest relative difference that masking makes in outputs, in either mode."""
    largest = 0.0
    for training in (False, True):
        try:
            want = original.seen(training=training)
            found = _differences(want, masked.seen(training=training)).values()
        except Exception:
            if not training:
                raise
            continue
        largest = max([largest, *(value for value in found if math.isfinite(value))])
        if largest:
            break
    return largest


def _is_rounding(
    found: Mapping[str, float],
    nudged: Mapping[str, float],
    reference: State,
    other: State,
    training: bool,
) -> bool:
    """Whether rounding explains all that differs.

    A value may differ by ten times what a change of all weights in their last place does to it.
    Whole numbers have to be equal in float64 copies of the networks.
    """
    exact = {name for name, value in found.items() if math.isinf(value)}
    if any(found[name] > ROUNDING * nudged.get(name, 0.0) for name in found.keys() - exact):
        return False
    if not exact:
        return True
    try:
        want, got = (_in_float64(state).seen(training=training) for state in (reference, other))
    except Exception:  # the network needs its own dtype
        return False
    apart = _differences(want, got)
    return not any(apart.get(name, math.inf) for name in exact)


def _in_float64(state: State) -> State:
    with state.held() as model:
        wide = copied(model).double()
    example = resized(state.example, lambda t: t.double() if t.is_floating_point() else t)
    return State(lambda: nullcontext(wide), example, leaking=state.leaking)


def _differences(want: Observed, got: Observed, marks: Marks | None = None) -> dict[str, float]:
    return {name: difference(a, b) for name, a, b in paired(want, got, marks, "")[0]}


def _refuse_random(apart: Mapping[str, float], allowed: float) -> None:
    """Raise StructureError if a network differs from itself under another seed."""
    if any(not value <= allowed for value in apart.values()):
        raise StructureError(
            "the network draws random numbers when it runs (besides dropout), so that its outputs "
            "cannot be compared with those of the shrunk one; switch the noise off to shrink it"
        )
