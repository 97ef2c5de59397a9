"""Check by running them that a cut network computes the same function as the masked one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.errors import CertificateError, StructureError
from sentei.network.copying import copied
from sentei.network.example import at_least, resized, rows, tensors
from sentei.network.example import check as check_example
from sentei.network.forward import with_forward
from sentei.network.mask import Mask
from sentei.network.surgery.comparing import Pair, difference, paired
from sentei.network.surgery.cutting import remove_dead_
from sentei.network.surgery.observing import Observed, observed
from sentei.network.surgery.size_attributes import copy_sizes_
from sentei.network.surgery.twin import calibrate_, nudge_, redraw_
from sentei.running import Example, Forward

INPUTS = 64  # inputs on which networks are compared, if they are small
NUMBERS = 2**16  # numbers in all inputs together, from which on they are fewer
LEAST = 2

# Largest difference allowed in a tensor, relative to its largest absolute value.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
TWIN_TOLERANCE = {**TOLERANCE, torch.float64: 1e-7}
# In training mode, statistics of a batch of few samples make twins less exact.
TRAINING_TOLERANCE = {**TWIN_TOLERANCE, torch.float32: 4e-3}
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
        also = "" if training is None else f", {training:.1e} in training mode"
        notes = [f"not compared: {', '.join(self.uncompared)}"] if self.uncompared else []
        if self.moved == 0:
            notes.append("the cut changed no output")
        return "; ".join(
            [
                f"same function on {self.inputs} inputs ({self.real} of them given): "
                f"{self.compared} tensors differ by {self.difference:.1e} at most{also} (allowed "
                f"{self.tolerance:.1e})",
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
    example = with_forward(masked, example, forward)
    given = rows(example) or 1
    example = _extended(masked, example, _count(example))
    check = _Check(example)
    if mask is None:
        found = check.same(masked, small, TOLERANCE)
        training = check.training(masked, small, TOLERANCE)
        moved = math.nan
    else:
        found, moved = check.same(masked, small, TOLERANCE, mask), math.nan
        twins = check.twins(masked, small, mask)
        if twins is None:
            training = check.training(masked, small, TOLERANCE, mask)
        else:
            twin, small_twin, moved = twins
            redrawn = check.same(twin, small_twin, TWIN_TOLERANCE, mask, redrawn=True)
            found = max(found, redrawn)
            training = check.training(twin, small_twin, TRAINING_TOLERANCE, mask, redrawn=True)
    if original is not None:
        moved = check.moved(original, masked, leaking=False)
    return Certificate(
        *(rows(example) or 1, given, found, training, check.tolerance),
        *(check.compared, moved, tuple(dict.fromkeys(check.uncompared))),
    )


class Likeness:
    """A quick test of networks that may be the cut one: a pass on two inputs for each.

    It compares outputs and layers with those of the masked network, in evaluation mode and with the
    networks' own weights, so that it refuses most wrong cuts. `certify` proves a right one.
    """

    def __init__(self, masked: nn.Module, example: Example, mask: Mask, *, leaking: bool = False):
        self._masked, self._mask = masked, mask
        self.run = partial(observed, example=few(masked, example), leaking=leaking)

    @cached_property
    def _wanted(self) -> tuple[Observed, Observed | None]:
        # Most wrong cuts do not run, and nothing is compared with them.
        return self.run(self._masked), _with_marks(self._masked, self.run, self._mask)

    def holds(self, got: Observed) -> bool:
        """Return whether a network that ran with `run` computed what the masked one does."""
        want, marked = self._wanted
        try:
            pairs, _ = paired(want, got, marked, "evaluation mode")
        except CertificateError:  # outputs of other shapes
            return False
        allowed = 10 * max((TOLERANCE.get(a.dtype, 1e-4) for a in _floats(pairs)), default=1e-4)
        return all(difference(a, b) <= allowed for _, a, b in pairs)


def differs_by_seed(model: nn.Module, example: Example) -> bool:
    """Return whether a network computes other outputs under another seed."""
    apart = _differences(observed(model, example), observed(model, example, seed=1))
    return any(value > 0 for value in apart.values())


def _observed_cut(small: nn.Module, observe: Callable[..., Observed]) -> Observed:
    try:
        return observe(small)
    except Exception as error:  # of any kind: `forward` may check its sizes itself
        raise CertificateError(f"the shrunk network does not run: {error}") from error


def _with_marks(model: nn.Module, observe: Callable[..., Observed], mask: Mask) -> Observed | None:
    """Run a network with NaN at dead units; return None if it does not run, as where it checks."""
    try:
        return observe(model, dead=mask)
    except Exception:
        return None


def few(model: nn.Module, example: Example) -> Example:
    """Return two inputs like those of an example; the example itself if the network needs all."""
    if rows(example) in (None, LEAST):
        return example
    two = resized(at_least(example, LEAST), lambda tensor: tensor[:LEAST])
    return two if _runs(model, two) else example


def _extended(model: nn.Module, example: Example, count: int) -> Example:
    """Return an example completed by noise, if the network takes another number of inputs."""
    more = at_least(example, count)
    return more if more is example or _runs(model, more) else example


def _runs(model: nn.Module, example: Example) -> bool:
    try:
        observed(model, example)
    except Exception:
        return False
    return True


def _count(example: Example) -> int:
    """Return on how many inputs networks are compared."""
    numbers = sum(t.numel() for t in tensors(example)) // (rows(example) or 1)
    return min(max(NUMBERS // max(numbers, 1), LEAST), INPUTS)


class _Check:
    """Compares networks on the same inputs, and keeps account of what was compared.

    Attributes:
        example: the inputs.
        compared: number of tensors compared so far.
        uncompared: what could not be compared.
        tolerance: largest relative difference that was allowed in evaluation mode.
        marked: by mode, a run of the masked network with NaN at dead units. Where they are does not
            depend on the weights.
    """

    def __init__(self, example: Example):
        self.example = example
        self.compared = 0
        self.uncompared: list[str] = []
        self.tolerance = 0.0
        self.marked: dict[bool, Observed | None] = {}

    def same(
        self,
        reference: nn.Module,
        other: nn.Module,
        tolerances: Mapping[torch.dtype, float],
        mask: Mask | None = None,
        *,
        training: bool = False,
        redrawn: bool = False,
    ) -> float:
        """Return the largest relative difference between two networks.

        Args:
            reference: the masked network.
            other: the smaller one.
            tolerances: by dtype.
            mask: of the cut, to compare the results of layers; outputs alone if None.
            training: run in training mode.
            redrawn: the networks are twins, and rectifiers leak.

        Raises:
            CertificateError: it is too large, or `other` does not run.
            StructureError: the reference draws random numbers.
        """
        where = f"{'training' if training else 'evaluation'} mode"
        where += " with redrawn weights" if redrawn else ""
        observe = partial(observed, example=self.example, training=training, leaking=redrawn)
        try:
            want = observe(reference)
        except Exception:
            check_example(reference, self.example)  # whose error says what is wrong with it
            raise
        got = _observed_cut(other, observe)
        if mask is not None and training not in self.marked:
            self.marked[training] = _with_marks(reference, observe, mask)
            if self.marked[training] is None:
                self.uncompared.append(f"layers in {where} (the network does not run with NaN)")
        marked = self.marked.get(training)
        pairs, left_out = paired(want, got, marked, where)
        self.uncompared += left_out
        allowed = max((tolerances.get(a.dtype, 1e-4) for a in _floats(pairs)), default=1e-4)
        self.compared += sum(isinstance(a, Tensor) for _, a, _ in pairs)
        self.tolerance = max(self.tolerance, 0.0 if training else allowed)
        apart = {name: difference(a, b) for name, a, b in pairs}
        if found := {name: value for name, value in apart.items() if not value <= allowed}:
            again = partial(_differences, want, marked=marked)
            _refuse_random(again(observe(reference, seed=1)), allowed)
            nudged = again(observe(nudge_(copied(reference))))
            if not self._is_rounding(found, nudged, reference, other, observe):
                name = max(found, key=found.__getitem__)
                raise CertificateError(
                    f"the shrunk network must compute what the masked one computes; in {where} "
                    f"outputs differ: {name} by {found[name]:.3g} of its largest value, and "
                    f"{allowed:.3g} is allowed"
                )
        return max((value for name, value in apart.items() if name not in found), default=0.0)

    def training(
        self,
        reference: nn.Module,
        other: nn.Module,
        tolerances: Mapping[torch.dtype, float],
        mask: Mask | None = None,
        **options: bool,
    ) -> float | None:
        """Compare in training mode; None if the masked network itself cannot run in it."""
        if (note := self._cannot_train(reference)) is not None:
            self.uncompared.append(note)
            return None
        return self.same(reference, other, tolerances, mask, training=True, **options)

    def _cannot_train(self, model: nn.Module) -> str | None:
        try:
            observed(model, self.example, training=True)
        except Exception as error:  # such as batch norm of one sample
            return f"training mode ({_first_line(error)})"
        return None

    def moved(self, original: nn.Module, masked: nn.Module, *, leaking: bool = True) -> float:
        """Return the largest relative difference that masking makes in outputs, in either mode."""
        largest = 0.0
        for training in (False, True):
            observe = partial(observed, example=self.example, training=training, leaking=leaking)
            if training and self._cannot_train(original) is not None:
                continue
            found = _differences(observe(original), observe(masked)).values()
            largest = max([largest, *(value for value in found if math.isfinite(value))])
            if largest:
                break
        return largest

    def twins(
        self, masked: nn.Module, small: nn.Module, mask: Mask
    ) -> tuple[nn.Module, nn.Module, float] | None:
        """Return two networks with redrawn weights, masked and cut as `small` was, and `moved`.

        None, with a note, if the network cannot run with redrawn weights.
        """
        try:
            whole = redraw_(copied(masked))
            twin = copied(whole)
            mask.apply_(twin)
            moved = self.moved(whole, twin)
            calibrate_(twin, self.example)
            outputs = observed(twin, self.example, leaking=True).outputs
            if not all(t.isfinite().all() for t in tensors(outputs) if t.is_floating_point()):
                raise ValueError("its outputs are not finite")
        except Exception as error:
            self.uncompared.append(f"redrawn weights ({_first_line(error)})")
            return None
        small_twin = remove_dead_(copied(twin), mask)
        copy_sizes_(small_twin, small)
        return twin, small_twin, moved

    def _is_rounding(
        self,
        found: Mapping[str, float],
        nudged: Mapping[str, float],
        reference: nn.Module,
        other: nn.Module,
        observe: Callable[..., Observed],
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
            both = [copied(model).double() for model in (reference, other)]
            example = resized(self.example, lambda t: t.double() if t.is_floating_point() else t)
            want, got = (observe(model, example=example) for model in both)
        except Exception:  # the network needs its own dtype
            return False
        apart = _differences(want, got)
        return not any(apart.get(name, math.inf) for name in exact)


def _differences(want: Observed, got: Observed, marked: Observed | None = None) -> dict[str, float]:
    return {name: difference(a, b) for name, a, b in paired(want, got, marked, "")[0]}


def _floats(pairs: Iterable[Pair]) -> Iterator[Tensor]:
    for _, a, _ in pairs:
        if isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex()):
            yield a


def _refuse_random(apart: Mapping[str, float], allowed: float) -> None:
    """Raise StructureError if a network differs from itself under another seed."""
    if any(not value <= allowed for value in apart.values()):
        raise StructureError(
            "the network draws random numbers when it runs (besides dropout), so that its outputs "
            "cannot be compared with those of the shrunk one; switch the noise off to shrink it"
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
