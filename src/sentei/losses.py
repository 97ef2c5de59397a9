"""Loss functions that return one value per sample, and the choice of the one that fits.

The functions serve both training and measuring. `chosen` decides which of them a network is
measured with where the user names none, and refuses one that does not fit the targets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sentei import nests
from sentei.arguments import checked
from sentei.errors import DataError, LossError, TargetsError, unknown
from sentei.target_forms import (
    CLASSES,
    FRACTIONS,
    IGNORED,
    LABELS,
    ONE_HOT,
    PROBABILITIES,
    VALUES,
    WITHOUT_ORDER,
    Form,
    are_like_outputs,
    as_whole,
    described,
    is_whole,
    shape,
)

log = logging.getLogger("sentei")

PerSample = Callable[[Any, Any], Tensor]  # (outputs, targets) -> (N,)


@checked
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

    Raises:
        LossError: targets of another shape.
    """
    if targets.shape not in (outputs.shape, outputs.shape[:1] + outputs.shape[2:]):
        raise _other_shapes(outputs, targets)
    classes = not targets.is_floating_point()
    targets = targets.long() if classes else targets
    found = F.cross_entropy(outputs, targets, reduction="none")  # 0 at IGNORED
    if found.ndim == 1:
        return found
    if not classes:
        return found.flatten(1).mean(1)
    count = (targets != IGNORED).flatten(1).sum(1)
    return found.flatten(1).sum(1) / count.clamp(min=1)


@checked
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


@checked
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


@checked
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


@checked
def wanted(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets in the shape and dtype of `outputs`; class numbers become one-hot.

    (N,) whole numbers are class numbers where `outputs` are (N, 2) or wider.

    Raises:
        LossError: not one target for each output.
    """
    if targets.ndim == 1 and is_whole(targets) and outputs.ndim == 2 and outputs.shape[1] > 1:
        classes = torch.arange(outputs.shape[1], device=outputs.device)
        targets = targets.unsqueeze(1) == classes
    if targets.numel() != outputs.numel():
        raise _other_shapes(outputs, targets)
    return targets.reshape(outputs.shape).to(outputs.dtype)


def _other_shapes(outputs: Tensor, targets: Tensor) -> LossError:
    return LossError(
        f"a loss compares outputs with as many targets; outputs of shape {tuple(outputs.shape)} "
        f"and targets of shape {tuple(targets.shape)} do not go together"
    )


@checked
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


@checked
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


@checked
def per_sample_losses(loss: PerSample, outputs: Any, targets: Any) -> Tensor:
    """Compute the (n,) losses of a batch and check their shape.

    Args:
        loss: callable(outputs, targets) -> (n,).
        outputs: what the network gives; a tensor, or for a callable any nest of tensors.
        targets: (n, ...), a tensor or any nest of tensors.

    Raises:
        LossError: the loss does not return one number per sample.
    """
    values = loss(outputs, targets)
    rows = nests.count(targets)
    if not isinstance(values, Tensor) or values.shape != (rows,):
        given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise LossError(
            f"a loss must return one number per sample, shape ({rows},); this one returns {given} "
            f"for outputs {nests.shapes(outputs)} and targets {nests.shapes(targets)}. Use "
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

    def takes(self, outputs: Any) -> Any:
        """Return what the loss takes of a network's outputs.

        A named loss takes the first tensor; a callable takes everything.
        """
        return outputs if self.name is None else nests.tensors(outputs)[0]

    def fitted(self, targets: Any) -> Any:
        """Return targets as the loss takes them: class numbers, and types without order, as int64.

        Nests of tensors stay as they are.

        See `target_forms.WITHOUT_ORDER`.
        """
        if not isinstance(targets, Tensor):
            return targets
        convert = self.predicts == "classes" or targets.dtype in WITHOUT_ORDER
        return targets.long() if convert else targets

    def counts(self, targets: Tensor) -> Tensor | None:
        """Return which samples count, (n,) bool; None if all of them do.

        A sample counts if the class number of a position is not -100.
        """
        if self.predicts != "classes":
            return None
        counts = (targets != IGNORED).reshape(len(targets), -1).any(1)
        return None if counts.all() else counts


def check_counting(count: int, rows: int) -> None:
    """Log how many of `rows` samples do not count; raise DataError if none does.

    Raises:
        DataError: no sample counts.
    """
    if not count:
        raise DataError(
            f"a sample must have a target that is not {IGNORED}, which marks what does not "
            f"count; none of these {rows:,} has one"
        )
    if count < rows:
        log.warning(
            "%d of %d samples have no class number but %d, so that nothing in them counts: they "
            "are left out",
            *(rows - count, rows, IGNORED),
        )


# The forms of targets that each loss takes, in the order in which they are tried.
_TAKES: dict[str, tuple[Form, ...]] = {
    "half_squared_error": (ONE_HOT, VALUES),
    "absolute_error": (ONE_HOT, VALUES),
    "binary_cross_entropy": (ONE_HOT, LABELS, FRACTIONS),
    "cross_entropy": (CLASSES, PROBABILITIES),
}
assert _TAKES.keys() == LOSSES.keys()
_OWN = (CLASSES, VALUES)  # what a callable may be taken to predict


@checked
def chosen(
    loss: str | PerSample | None, outputs: Any, targets: Any, known: str | None = None
) -> Loss:
    """Choose the loss of a network, and check that it fits the outputs and the targets.

    Args:
        loss: a name, or a callable(outputs, targets) -> (N,). If None, the loss that is `known`,
            else cross entropy, which has to find class numbers: one class for each sample, or for
            each position, of two classes at least. Nothing is guessed for other targets.
        outputs: of some samples, the first ones. Of several outputs, named losses take the first
            tensor; a callable gets them all.
        targets: of all samples. Only a callable takes a nest of tensors.
        known: the name of the loss that the network was trained with, if its `Card` has one.

    Raises:
        LossError: the loss does not fit; the message names those that do.
        ValueError: the name is unknown.
    """
    return chosen_for(loss, [(outputs, targets)], known)


def chosen_for(
    loss: str | PerSample | None, parts: Iterable[tuple[Any, Any]], known: str | None = None
) -> Loss:
    """Choose the loss as `chosen` does, for samples that come in parts.

    Args:
        loss: as for `chosen`.
        parts: outputs and targets; each is read once, and the outputs may be those of other samples
            with inputs of the same shape.
        known: as for `chosen`.
    """
    if callable(loss):
        return Loss(None, loss, _predicted_by(loss, parts))
    name = loss or known or "cross_entropy"
    function, forms = per_sample(name), _TAKES[name] if loss or known else (CLASSES,)
    for outputs, targets in parts:
        first = next(iter(nests.tensors(outputs)), None)
        if first is None or not isinstance(targets, Tensor):
            raise _no_tensor(name, first, targets)
        fitting = tuple(form for form in forms if form.fits(first, targets))
        if not fitting:
            raise TargetsError(_misfit(_chooser(loss, known), forms, first, targets))
        forms = fitting
    return Loss(name, function, forms[0].predicts)


def _predicted_by(loss: PerSample, parts: Iterable[tuple[Any, Any]]) -> str | None:
    """Return what a callable may be taken to predict; None where the targets leave it open."""
    forms = (CLASSES, VALUES)
    for i, (outputs, targets) in enumerate(parts):
        first = next(iter(nests.tensors(outputs)), None)
        if first is None or not isinstance(targets, Tensor):
            return None
        if i == 0 and first is outputs:
            _check_own_target(loss, outputs, targets)
        # Of whole numbers that are no class numbers only the function knows what they are.
        own = forms if targets.is_floating_point() else forms[:1]
        forms = tuple(form for form in own if form.fits(first, targets))
        if not forms:
            return None
    return forms[0].predicts if forms else None


def check_takes(loss: PerSample, outputs: Any, targets: Any) -> None:
    """Raise LossError if a callable fails on outputs that are no single tensor.

    Args:
        loss: callable(outputs, targets) -> (n,).
        outputs: what the network gives for some samples.
        targets: of the same samples.

    Raises:
        LossError: names what the network gives.
    """
    if isinstance(outputs, Tensor):
        return
    try:
        loss(outputs, targets)
    except Exception as error:
        names = ", ".join(map(repr, outputs)) if isinstance(outputs, Mapping) else ""
        raise LossError(
            "a loss of your own gets everything that the network returns, here a "
            f"{type(outputs).__name__}{names and f' with {names}'}; on it this one fails with "
            f"{type(error).__name__}: {error}. Take what it needs: lambda outputs, targets: "
            f"loss(outputs[{next(iter(outputs), 0) if names else 0!r}], targets)."
        ) from error


def _chooser(loss: str | None, known: str | None) -> str:
    if loss:
        return f'loss="{loss}"'
    if known:
        return f"the loss of this network, {known},"
    return "cross_entropy, taken where no loss is named,"


def _no_tensor(name: str, output: Tensor | None, targets: Any) -> LossError:
    found = (
        "the network gives no tensor"
        if output is None
        else f"the targets are of type {type(targets).__name__}"
    )
    return TargetsError(
        f'loss="{name}" takes one tensor of outputs and one of targets; {found}. Pass a loss of '
        "your own, a callable(outputs, targets) -> (N,), or choose the targets with batch=."
    )


def _misfit(who: str, forms: Sequence[Form], outputs: Tensor, targets: Tensor) -> str:
    """Return the message for targets of none of these forms."""
    takes = "; or ".join(form.words(outputs) for form in forms if form.exists(outputs))
    takes = takes or "outputs of shape (N, classes, ...), two classes at least, and class numbers"
    shaped = next((form for form in forms if form.shapes(outputs, targets)), None)
    wrong = torch.zeros(()) if shaped is None else shaped.wrong(outputs, targets)
    said = described(outputs, targets, wrong)
    return f"{who} needs {takes}. {said} {_remedy(outputs, targets)}"


def _remedy(outputs: Tensor, targets: Tensor) -> str:
    fitting = [f'loss="{n}"' for n in _TAKES if any(f.fits(outputs, targets) for f in _TAKES[n])]
    if fitting:
        return (
            f"These fit: {', '.join(fitting)} (on the command line: --loss), or a "
            "callable(outputs, targets) -> (N,)."
        )
    if CLASSES.shapes(outputs, targets):
        return "Number the classes from 0, or give the network more outputs."
    if not targets.is_complex() and CLASSES.fits(outputs, as_whole(targets)):
        return "If they are class numbers, convert them with targets.long()."
    if is_whole(targets) and targets.shape[1:] == outputs.shape[1:-1]:
        return "If they are class numbers, move the classes to dimension 1 of the outputs."
    return "No loss of sentei takes them: pass a callable(outputs, targets) -> (N,)."


@torch.no_grad()
def _check_own_target(loss: PerSample, outputs: Tensor, targets: Tensor) -> None:
    """Raise LossError if a function compares each output with every target.

    It does so for outputs (N, 1) and targets (N,): their difference is (N, N), and no shape shows
    it once it has been averaged.
    """
    if targets.shape[1:] == outputs.shape[1:] or not are_like_outputs(outputs, targets):
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
            f"other losses where other samples are beside it, for outputs {shape(outputs)} and "
            f"targets {shape(targets)}, which broadcast to a table. Give both one shape: "
            "targets.reshape(outputs.shape)."
        )
