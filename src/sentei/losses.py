"""Loss functions that return one value per sample, and the choice of the one that fits.

The functions serve both training and measuring. `chosen` decides which of them a network is
measured with where the user names none, and refuses one that does not fit the targets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei.errors import DataError, LossError, TargetsError, unknown

log = logging.getLogger("sentei")

PerSample = Callable[[Tensor, Tensor], Tensor]
IGNORED = -100  # the class number of a position that does not count; torch's ignore_index


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of logits: log(sum of exp(outputs)) minus the target's logit.

    A sample's loss is the mean over its own positions that count: those whose class number is not
    -100. `F.cross_entropy` divides by the positions of the whole batch instead, which differs where
    samples have different numbers of positions that count.

    Args:
        outputs: (N, classes), or (N, classes, ...) for a class at every position.
        targets: (N,) or (N, ...) class numbers, or probabilities shaped like `outputs`.

    Returns:
        (N,), in nats; 0 for a sample without a position that counts.
    """
    classes = not targets.is_floating_point()
    targets = targets.long() if classes else targets
    found = F.cross_entropy(outputs, targets, ignore_index=IGNORED, reduction="none")
    if found.ndim == 1:
        return found
    if not classes:
        return found.flatten(1).mean(1)
    count = (targets != IGNORED).flatten(1).sum(1)
    return found.flatten(1).sum(1) / count.clamp(min=1)


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return half the squared difference between outputs and targets, summed over the outputs.

    Args:
        outputs: (N, ...).
        targets: shaped like `outputs`, but for dimensions of size 1; or (N,) class numbers, which
            are converted to one-hot where a network has several outputs.

    Returns:
        (N,).
    """
    return _sum((outputs - wanted(outputs, targets)).square()) / 2


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy of each output, a logit, summed over the outputs.

    Use it for a network that would end with sigmoids, without these sigmoids: this form does not
    overflow.

    Args:
        outputs: (N, ...).
        targets: shaped like `outputs`, from 0 to 1, or (N,) class numbers, as in
            `half_squared_error`.

    Returns:
        (N,), in nats.
    """
    labels = wanted(outputs, targets)
    return _sum(F.softplus(outputs) - labels * outputs)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the absolute difference between outputs and targets, summed over the outputs.

    Args:
        outputs: (N, ...).
        targets: as in `half_squared_error`.

    Returns:
        (N,).
    """
    return _sum((outputs - wanted(outputs, targets)).abs())


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1) if values.ndim > 1 else values


def wanted(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets in the shape and dtype of `outputs`; class numbers become one-hot.

    (N,) whole numbers are class numbers where `outputs` are (N, 2) or wider.
    """
    if targets.ndim == 1 and is_whole(targets) and outputs.ndim == 2 and outputs.shape[1] > 1:
        classes = torch.arange(outputs.shape[1], device=outputs.device)
        targets = targets.unsqueeze(1) == classes
    return targets.reshape(outputs.shape).to(outputs.dtype)


def predicted(name: str | None, outputs: Tensor) -> Tensor:
    """Return what outputs say in the units of the targets: probabilities where they are logits."""
    if name == "cross_entropy":
        return outputs.softmax(1)
    return outputs.sigmoid() if name == "binary_cross_entropy" else outputs


LOSSES: dict[str, PerSample] = {
    "absolute_error": absolute_error,
    "binary_cross_entropy": binary_cross_entropy,
    "cross_entropy": cross_entropy,
    "half_squared_error": half_squared_error,
}


def per_sample(loss: str | PerSample) -> PerSample:
    """Return the loss with this name; a callable(outputs, targets) -> (N,) is returned unchanged.

    Raises:
        ValueError: the name is unknown.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(unknown("loss", loss, LOSSES))
    return LOSSES[loss]


def per_sample_losses(loss: PerSample, outputs: Tensor, targets: Tensor) -> Tensor:
    """Compute the (n,) losses of a batch and check their shape.

    Raises:
        LossError: the loss does not return one number per sample.
    """
    values = loss(outputs, targets)
    if not isinstance(values, Tensor) or values.shape != targets.shape[:1]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise LossError(
            f"a loss must return one number per sample, shape ({len(targets)},); this one returns "
            f"{shape} for outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}. Use "
            'reduction="none", and sum or average over the dimensions of a sample.'
        )
    return values


# Which loss.


@dataclass(frozen=True)
class Loss:
    """A loss that fits a network's outputs and its targets, as `chosen` returns it.

    Attributes:
        name: the name of the loss; None for a callable.
        per_sample: callable(outputs, targets) -> (N,).
        predicts: what the outputs predict: "classes" (class numbers, one per sample or position),
            "labels" (0 or 1 for each output), "values"; None if a callable leaves it open.
    """

    name: str | None
    per_sample: PerSample
    predicts: str | None

    def fitted(self, targets: Tensor) -> Tensor:
        """Return targets as the loss takes them: class numbers as int64."""
        return targets.long() if self.predicts == "classes" else targets

    def counting(self, targets: Tensor) -> Tensor | None:
        """Return the rows of the samples that count, (n,) int64; None if all of them do.

        A sample counts if the class number of a position is not -100. How many do not is logged.

        Raises:
            DataError: no sample counts.
        """
        if self.predicts != "classes":
            return None
        counts = (targets != IGNORED).reshape(len(targets), -1).any(1)
        if counts.all():
            return None
        if not counts.any():
            raise DataError(
                f"a sample must have a target that is not {IGNORED}, which marks what does not "
                f"count; none of these {len(targets):,} has one"
            )
        log.warning(
            "%d of %d samples have no class number but %d, so that nothing in them counts: they "
            "are left out",
            *(int((~counts).sum()), len(targets), IGNORED),
        )
        return counts.nonzero().flatten()


@dataclass(frozen=True)
class _Form:
    """A form of targets that losses take.

    Attributes:
        predicts: as in `Loss`.
        words: (outputs) -> what such targets are.
        shaped: (outputs, targets) -> whether shape and dtype are right.
        wrong: (outputs, targets) -> which of the targets cannot be, for those of the right shape.
        exists: (outputs) -> whether there are targets of this form for such outputs.
    """

    predicts: str
    words: Callable[[Tensor], str]
    shaped: Callable[[Tensor, Tensor], bool]
    wrong: Callable[[Tensor, Tensor], Tensor]
    exists: Callable[[Tensor], bool] = lambda outputs: True  # noqa: ARG005

    def shapes(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether targets have the shape and dtype of this form."""
        return self.exists(outputs) and self.shaped(outputs, targets)

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether targets have this form."""
        return self.shapes(outputs, targets) and not bool(self.wrong(outputs, targets).any())


def is_whole(targets: Tensor) -> bool:
    """Whether targets are of an integer type; bool is none."""
    return not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)


def _per_position(outputs: Tensor, targets: Tensor) -> bool:
    return is_whole(targets) and targets.shape[1:] == outputs.shape[2:]


def _has_classes(outputs: Tensor) -> bool:
    return outputs.ndim > 1 and outputs.shape[1] > 1


def _beyond(outputs: Tensor, targets: Tensor) -> Tensor:
    return (targets.long() < 0) | (targets.long() >= outputs.shape[1])


def _long_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a sample without dimensions of size 1."""
    return tuple(size for size in tensor.shape[1:] if size != 1)


def _like_outputs(outputs: Tensor, targets: Tensor) -> bool:
    return not targets.is_complex() and _long_shape(targets) == _long_shape(outputs)


def _outside_0_to_1(outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG001
    return ~((targets >= 0) & (targets <= 1))


def _no_distribution(outputs: Tensor, targets: Tensor) -> Tensor:
    off = (targets.double().sum(1, keepdim=True) - 1).abs() > _SUM_TOLERANCE
    return _outside_0_to_1(outputs, targets) | off


_SUM_TOLERANCE = 0.01  # of probabilities in bfloat16

_CLASSES = _Form(
    "classes",
    lambda o: (
        f"class numbers, whole numbers from 0 to {_most(o)} (or {IGNORED}: does not count), "
        f"shape {_shape(o.shape[2:])}"
    ),
    _per_position,
    lambda o, t: _beyond(o, t) & (t.long() != IGNORED),
    _has_classes,
)
_ONE_HOT = _Form(
    "classes",
    lambda o: f"class numbers, whole numbers from 0 to {_most(o)}, shape (N,)",
    _per_position,
    _beyond,
    lambda o: o.ndim == 2 and _has_classes(o),
)
_VALUES = _Form(
    "values",
    lambda o: f"finite values shaped like the outputs, {_shape(o.shape[1:])}",
    _like_outputs,
    lambda o, t: ~t.isfinite(),  # noqa: ARG005
)
_LABELS = _Form(
    "labels",
    lambda o: f"0 or 1 for each output, shape {_shape(o.shape[1:])}",
    _like_outputs,
    lambda o, t: (t != 0) & (t != 1),  # noqa: ARG005
)
_FRACTIONS = _Form(
    "values",
    lambda o: f"values from 0 to 1 shaped like the outputs, {_shape(o.shape[1:])}",
    _like_outputs,
    _outside_0_to_1,
)
_PROBABILITIES = _Form(
    "values",
    lambda o: f"probabilities that sum to 1 over the classes, shape {_shape(o.shape[1:])}",
    lambda o, t: t.is_floating_point() and t.shape[1:] == o.shape[1:],
    _no_distribution,
    _has_classes,
)
# The forms of targets that each loss takes, in the order in which they are tried.
_TAKES: dict[str, tuple[_Form, ...]] = {
    "half_squared_error": (_ONE_HOT, _VALUES),
    "absolute_error": (_ONE_HOT, _VALUES),
    "binary_cross_entropy": (_ONE_HOT, _LABELS, _FRACTIONS),
    "cross_entropy": (_CLASSES, _PROBABILITIES),
}
assert _TAKES.keys() == LOSSES.keys()


def chosen(
    loss: str | PerSample | None, outputs: Tensor, targets: Tensor, known: str | None = None
) -> Loss:
    """Choose the loss of a network, and check that it fits the outputs and the targets.

    Args:
        loss: a name, or a callable(outputs, targets) -> (N,). If None, the loss that is `known`,
            else cross entropy, which has to find class numbers: one class for each sample, or for
            each position, of two classes at least. Nothing is guessed for other targets.
        outputs: of some samples, the first ones.
        targets: of all samples.
        known: the name of the loss that the network was trained with, if its `Card` has one.

    Raises:
        LossError: the loss does not fit; the message names those that do.
        ValueError: the name is unknown.
    """
    if callable(loss):
        _check_own_target(loss, outputs, targets)
        own = (form.predicts for form in _of_callable(targets) if form.fits(outputs, targets))
        return Loss(None, loss, next(own, None))
    name = loss or known or "cross_entropy"
    function = per_sample(name)
    forms = _TAKES[name] if loss or known else (_CLASSES,)
    for form in forms:
        if form.fits(outputs, targets):
            return Loss(name, function, form.predicts)
    if loss:
        who = f'loss="{name}"'
    elif known:
        who = f"the loss of this network, {name},"
    else:
        who = "cross_entropy, taken where no loss is named,"
    raise TargetsError(_misfit(who, forms, outputs, targets))


def _of_callable(targets: Tensor) -> tuple[_Form, ...]:
    """Return the forms that say what is predicted where the loss is the user's own function."""
    return (_CLASSES, _VALUES) if targets.is_floating_point() else (_CLASSES,)


def _misfit(who: str, forms: Sequence[_Form], outputs: Tensor, targets: Tensor) -> str:
    """Return the message for targets of none of these forms."""
    takes = "; or ".join(form.words(outputs) for form in forms if form.exists(outputs))
    takes = takes or "outputs of shape (N, classes, ...), two classes at least, and class numbers"
    known, span = targets.isfinite(), ""
    if not targets.is_complex() and known.any():
        found = targets[known].double()
        span = f", from {float(found.amin()):.6g} to {float(found.amax()):.6g}"
    shaped = next((form for form in forms if form.shapes(outputs, targets)), None)
    wrong = ~known if shaped is None or not known.all() else shaped.wrong(outputs, targets)
    if wrong.any():
        at = wrong.nonzero()[0].tolist()
        place = f", position {', '.join(map(str, at[1:]))}" if at[1:] else ""
        span += f"; row {at[0]}{place} has {targets[tuple(at)].item():.6g}"
    kind = str(targets.dtype).removeprefix("torch.")
    return (
        f"{who} needs {takes}. For outputs of shape {_shape(outputs.shape[1:])}, these targets are "
        f"{kind} of shape {_shape(targets.shape[1:])}{span}. {_remedy(outputs, targets)}"
    )


def _remedy(outputs: Tensor, targets: Tensor) -> str:
    fitting = [f'loss="{n}"' for n in _TAKES if any(f.fits(outputs, targets) for f in _TAKES[n])]
    if fitting:
        return (
            f"These fit: {', '.join(fitting)} (on the command line: --loss), or a "
            "callable(outputs, targets) -> (N,)."
        )
    if _CLASSES.shapes(outputs, targets):
        return "Number the classes from 0, or give the network more outputs."
    if not targets.is_complex() and _CLASSES.fits(outputs, _as_whole(targets)):
        return "If they are class numbers, convert them with targets.long()."
    if is_whole(targets) and targets.shape[1:] == outputs.shape[1:-1]:
        return "If they are class numbers, move the classes to dimension 1 of the outputs."
    return "No loss of sentei takes them: pass a callable(outputs, targets) -> (N,)."


def _as_whole(targets: Tensor) -> Tensor:
    """Return the targets as whole numbers; -1 where they are none."""
    whole = targets.long()
    return whole.where(whole == targets, -1)


def _most(outputs: Tensor) -> int:
    """Return the largest class number."""
    return outputs.shape[1] - 1


def _shape(sizes: Sequence[int]) -> str:
    return f"(N, {', '.join(map(str, sizes))})" if sizes else "(N,)"


@torch.no_grad()
def _check_own_target(loss: PerSample, outputs: Tensor, targets: Tensor) -> None:
    """Raise LossError if a function compares each output with every target.

    It does so for outputs (N, 1) and targets (N,): their difference is (N, N), and no shape shows
    it once it has been averaged.
    """
    if targets.shape[1:] == outputs.shape[1:] or not _like_outputs(outputs, targets):
        return
    if min(len(outputs), len(targets)) < 2:
        return
    other = int((targets != targets[0]).reshape(len(targets), -1).any(1).int().argmax())
    pairs = outputs[:2], targets[[0, other]].to(outputs.device)
    together = per_sample_losses(loss, *pairs)
    alone = [per_sample_losses(loss, *(part[[row, row]] for part in pairs))[0] for row in (0, 1)]
    if not torch.allclose(together, torch.stack(alone), rtol=1e-4, atol=1e-6):
        raise LossError(
            "a sample's loss must depend on its own output and target alone; this function gives "
            f"other losses where other samples are beside it, for outputs of shape "
            f"{_shape(outputs.shape[1:])} and targets of shape {_shape(targets.shape[1:])}, which "
            "broadcast to a table. Give both one shape: targets.reshape(outputs.shape)."
        )
