"""What the loss would rise by, told from its derivatives along the gates: one measurement, no cut.

A gate is 1 for a member that is there and 0 for one that is gone, so the rise of E from 1 to 0 is
-E' + E''/2 up to third order. Sources: Sharma, Wolfe and Raj, "The Incredible Shrinking Neural
Network" (arXiv 1701.04465); LeCun, Denker and Solla (1990); Mozer and Smolensky (1989).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sentei.errors import CriterionError, unknown
from sentei.losses import absolute_error
from sentei.network.units import Group, Neurons
from sentei.probe.probe import Probe
from sentei.probe.recording.recording import PerSample, Slope

FORMS = ("signed", "absolute", "per-sample")
CURVATURES = ("full", "diagonal")


@dataclass(frozen=True)
class Taylor1:
    """First-order estimate of the rise in loss: -E'.

    Attributes:
        form: "signed", as the estimate says; "absolute", its size, which keeps members whose
            removal would help; "per-sample", the mean size of each sample's own, in which samples
            cannot cancel (for one position a unit, the criterion of Molchanov et al., 2017).

    Raises:
        ValueError: another form.
    """

    form: str = "signed"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(unknown("form", self.form, FORMS))

    def __call__(self, probe: Probe, group: Group, **settings: Any) -> Tensor:
        """(size,) float64 in the loss's unit, of units or synapses; `settings` replace one's own.

        Raises:
            CriterionError: the loss has no derivative.
        """
        if settings:
            return replace(self, **settings)(probe, group)
        if self.form == "per-sample":
            return probe.slopes(group, Slope(absolute=True))
        slopes = probe.slopes(group)
        return slopes.abs() if self.form == "absolute" else -slopes


@dataclass(frozen=True)
class Taylor2:
    """Second-order estimate of the rise in loss: -E' + E''/2.

    Attributes:
        curvature: "full" is exact for every network and loss. "diagonal" is the paper's recursion,
            which drops cross terms between the units of a layer: exact for the last hidden layer of
            squared error or binary cross-entropy, and off by about a third to a half of the
            curvature elsewhere. It exists for plain chains alone.

    Raises:
        ValueError: another curvature.
    """

    curvature: str = "full"

    def __post_init__(self) -> None:
        if self.curvature not in CURVATURES:
            raise ValueError(unknown("curvature", self.curvature, CURVATURES))

    def __call__(self, probe: Probe, group: Group, **settings: Any) -> Tensor:
        """(size,) float64 in the loss's unit, of units or synapses; `settings` replace one's own.

        Raises:
            CriterionError: the loss has no second derivative, or the recursion does not apply.
        """
        if settings:
            return replace(self, **settings)(probe, group)
        curvatures = probe.curvatures(group, self.curvature)
        return curvatures / 2 - probe.slopes(group)


@dataclass(frozen=True)
class Obd:
    """Optimal brain damage: E''/2, the slope taken to be zero as it is at a minimum.

    Attributes:
        curvature: "diagonal", as LeCun, Denker and Solla (1990) have it, or "full"; see `Taylor2`.

    Raises:
        ValueError: another curvature.
    """

    curvature: str = "diagonal"

    __post_init__ = Taylor2.__post_init__

    def __call__(self, probe: Probe, group: Group, **settings: Any) -> Tensor:
        """(size,) float64 in the loss's unit, of units or synapses; `settings` replace one's own.

        Raises:
            CriterionError: the loss has no second derivative, or the recursion does not apply.
        """
        if settings:
            return replace(self, **settings)(probe, group)
        return probe.curvatures(group, self.curvature) / 2


def skeletonization(probe: Probe, group: Group) -> Tensor:
    """Relevance of a unit: -E' of the *linear* error, the sum of |output - target|.

    Near a minimum the squared error's own slopes vanish and say little; the linear error's do not.
    Where the network puts out logits the error is that of the probabilities they stand for.

    Returns:
        (size,) float64, in outputs per sample; lower goes first.

    Raises:
        CriterionError: synapses, or a loss that does not say what an output stands for.

    Source: Mozer and Smolensky (1989); "The Incredible Shrinking Neural Network" gives this name to
    the first order of the squared error, which is `taylor1` here.
    """
    if not isinstance(group, Neurons):
        raise CriterionError(
            f"skeletonization scores whole units, and {group.name!r} is a group of synapses; score "
            'those with "taylor1" or "obd"'
        )
    if probe.loss_name is None or probe.loss_name not in _LINEAR:
        raise CriterionError(
            "skeletonization has to know what an output stands for; it does for the losses "
            f'{", ".join(_LINEAR)}, not for {probe.loss_name or "a callable"}. Use "taylor1".'
        )
    return -probe.slopes(group, Slope(loss=_LINEAR[probe.loss_name]))


_LINEAR: dict[str, PerSample] = {
    "absolute_error": absolute_error,
    "half_squared_error": absolute_error,
    "binary_cross_entropy": lambda outputs, targets: absolute_error(outputs.sigmoid(), targets),
    "cross_entropy": lambda outputs, targets: absolute_error(outputs.softmax(1), targets),
}

taylor1 = Taylor1()
taylor2 = Taylor2()
obd = Obd()
