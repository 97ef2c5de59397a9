"""Criteria that estimate the rise in loss from its derivatives along the members' gates.

A gate multiplies a member: 1 leaves it unchanged, 0 removes it. The rise of the loss E from gate 1
to gate 0 is -E' + E''/2, up to third order. Sources: Sharma, Wolfe and Raj, "The Incredible
Shrinking Neural Network" (arXiv 1701.04465); LeCun, Denker and Solla (1990); Mozer and Smolensky
(1989).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sentei.arguments import checked
from sentei.errors import CriterionError, unknown
from sentei.losses import LOSSES, PerSample, absolute_error, predicted
from sentei.network.units import Group, Neurons, members_word
from sentei.probe.probe import CURVATURES, Probe
from sentei.probe.recording.recording import Slope

FORMS = ("signed", "absolute", "per-sample")


@checked
@dataclass(frozen=True)
class Taylor1:
    """First-order estimate of the rise in loss when a member is removed: -E'.

    Attributes:
        form: "signed", the estimate itself; "absolute", its absolute value, which also keeps
            members whose removal would reduce the loss; "per-sample", the mean of the absolute
            values for each sample, in which samples cannot cancel (for units with one position,
            the criterion of Molchanov et al., 2017).

    Raises:
        ValueError: an unknown form.
    """

    form: str = "signed"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(unknown("form", self.form, FORMS))

    def __call__(self, probe: Probe, group: Group, **settings: Any) -> Tensor:
        """Score units or synapses, (size,) float64 in the unit of the loss; lowest removed first.

        Keyword `settings` replace the dataclass's own.

        Raises:
            CriterionError: the loss has no derivative.
        """
        if settings:
            return replace(self, **settings)(probe, group)
        if self.form == "per-sample":
            return probe.slopes(group, Slope(absolute=True))
        slopes = probe.slopes(group)
        return slopes.abs() if self.form == "absolute" else -slopes


@checked
@dataclass(frozen=True)
class Taylor2:
    """Second-order estimate of the rise in loss when a member is removed: -E' + E''/2.

    Attributes:
        curvature: how E'' is computed. "full" is exact for every network and loss. "diagonal" is
            the paper's recursion, which drops cross terms between the units of a layer: exact for
            the last hidden layer with squared error or binary cross-entropy, and off by about a
            third to a half of the curvature elsewhere. It exists only for plain chains: a linear
            layer followed by activations and linear layers.

    Raises:
        ValueError: an unknown curvature.
    """

    curvature: str = "full"

    def __post_init__(self) -> None:
        if self.curvature not in CURVATURES:
            raise ValueError(unknown("curvature", self.curvature, CURVATURES))

    def __call__(self, probe: Probe, group: Group, **settings: Any) -> Tensor:
        """Score units or synapses, (size,) float64 in the unit of the loss; lowest removed first.

        Keyword `settings` replace the dataclass's own.

        Raises:
            CriterionError: the loss has no second derivative, or the recursion does not apply.
        """
        if settings:
            return replace(self, **settings)(probe, group)
        curvatures = probe.curvatures(group, self.curvature)
        return curvatures / 2 - probe.slopes(group)


@checked
@dataclass(frozen=True)
class Obd:
    """Optimal brain damage: E''/2, with the first derivative taken as zero, as at a minimum.

    Attributes:
        curvature: "diagonal", as in LeCun, Denker and Solla (1990), or "full"; see `Taylor2`.

    Raises:
        ValueError: an unknown curvature.
    """

    curvature: str = "diagonal"

    __post_init__ = Taylor2.__post_init__

    def __call__(self, probe: Probe, group: Group, **settings: Any) -> Tensor:
        """Score units or synapses, (size,) float64 in the unit of the loss; lowest removed first.

        Keyword `settings` replace the dataclass's own.

        Raises:
            CriterionError: the loss has no second derivative, or the recursion does not apply.
        """
        if settings:
            return replace(self, **settings)(probe, group)
        return probe.curvatures(group, self.curvature) / 2


@checked
def skeletonization(probe: Probe, group: Group) -> Tensor:
    """Relevance of a unit: -E' of the *linear* error, the sum of |output - target|.

    Near a minimum the derivatives of the squared error vanish and carry little information; those
    of the linear error do not. If the network outputs logits, the error is that of the
    probabilities.

    Returns:
        (size,) float64, in units of the output, per sample; lowest removed first.

    Raises:
        CriterionError: a group of synapses, or a loss that does not define what an output means.

    Source: Mozer and Smolensky (1989). "The Incredible Shrinking Neural Network" gives this name to
    the first order of the squared error, which is `taylor1` here.
    """
    if not isinstance(group, Neurons):
        raise CriterionError(
            f"skeletonization scores whole units; {group.name!r} is a group of "
            f'{members_word(group)}. Score synapses with "taylor1" or "obd"'
        )
    if probe.loss_name is None:
        raise CriterionError(
            "skeletonization needs a loss that defines what an output means, one of "
            f"{', '.join(LOSSES)}; it is not defined for a callable. "
            'Use "taylor1".'
        )
    if probe.chosen.predicts == "classes" and probe.samples.head.targets.ndim > 1:
        raise CriterionError(
            "skeletonization is defined for one class a sample; these targets have a class at each "
            'of several positions. Use "taylor1".'
        )
    return -probe.slopes(group, Slope(loss=_linear(probe.loss_name)))


def _linear(name: str) -> PerSample:
    """Return the absolute error of what the outputs say under a loss: of probabilities if any."""
    return lambda outputs, targets: absolute_error(predicted(name, outputs), targets)


taylor1 = Taylor1()
taylor2 = Taylor2()
obd = Obd()
