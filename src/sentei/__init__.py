"""sentei (剪定, pruning): make trained networks smaller, and see why what is left works.

The names below are the public ones. Each loads on first use, so that importing the package costs
nothing: torch is imported with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "BudgetError": "errors",
    "CertificateError": "errors",
    "CriterionError": "errors",
    "Cut": "pruning.proposals",
    "DataError": "errors",
    "FileError": "errors",
    "FineTune": "training",
    "GroupError": "errors",
    "JournalError": "errors",
    "LossError": "errors",
    "Mask": "network.mask",
    "Neurons": "network.units",
    "Probe": "criteria.probe",
    "Progress": "pruning.schedules",
    "PruningError": "errors",
    "Recipe": "training",
    "ScheduleError": "errors",
    "Split": "datasets",
    "StaleError": "errors",
    "Step": "pruning.loop",
    "StructureError": "errors",
    "Synapses": "network.units",
    "accuracy_at_least": "pruning.limits",
    "accuracy_within": "pruning.limits",
    "all_of": "pruning.limits",
    "any_of": "pruning.limits",
    "bytes_at_most": "pruning.limits",
    "certify": "network.certificate",
    "cubic": "pruning.schedules",
    "find_synapses": "network.units",
    "find_units": "network.tracing",
    "fixed": "criteria",
    "fsa": "pruning.schedules",
    "geometric": "pruning.schedules",
    "levels": "pruning.schedules",
    "linear": "pruning.schedules",
    "load": "export",
    "load_mask": "export",
    "loss_at_most": "pruning.limits",
    "loss_within": "pruning.limits",
    "one_at_a_time": "pruning.schedules",
    "one_shot": "pruning.schedules",
    "parameters_at_most": "pruning.limits",
    "prune": "pruning.loop",
    "ranked": "pruning.proposals",
    "save": "export",
    "shrink": "network.surgery",
    "shrink_": "network.surgery",
    "synapses_at_most": "pruning.limits",
    "train": "training",
    "units_at_most": "pruning.limits",
}
_PACKAGES = ("criteria", "datasets", "errors", "export", "training")

__all__ = sorted([*_HOME, *_PACKAGES])  # noqa: PLE0605 - one list, kept in one place

if TYPE_CHECKING:
    from sentei import criteria, datasets, errors, export, training
    from sentei.criteria import fixed
    from sentei.criteria.probe import Probe
    from sentei.datasets import Split
    from sentei.errors import (
        BudgetError,
        CertificateError,
        CriterionError,
        DataError,
        FileError,
        GroupError,
        JournalError,
        LossError,
        PruningError,
        ScheduleError,
        StaleError,
        StructureError,
    )
    from sentei.export import load, load_mask, save
    from sentei.network.certificate import certify
    from sentei.network.mask import Mask
    from sentei.network.surgery import shrink, shrink_
    from sentei.network.tracing import find_units
    from sentei.network.units import Neurons, Synapses, find_synapses
    from sentei.pruning.limits import (
        accuracy_at_least,
        accuracy_within,
        all_of,
        any_of,
        bytes_at_most,
        loss_at_most,
        loss_within,
        parameters_at_most,
        synapses_at_most,
        units_at_most,
    )
    from sentei.pruning.loop import Step, prune
    from sentei.pruning.proposals import Cut, ranked
    from sentei.pruning.schedules import (
        Progress,
        cubic,
        fsa,
        geometric,
        levels,
        linear,
        one_at_a_time,
        one_shot,
    )
    from sentei.training import FineTune, Recipe, train


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"sentei.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"sentei.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'sentei' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
