"""What is measured: every experiment by name, with its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentei.papers.jobs import Job
from sentei.papers.sensitivity.runs import rebuilt, trained

DEEP, DEEP_RELU = "16-60-45-30-26:sigmoid", "16-60-45-30-26:relu"
CONTROLS = (
    "random",
    "magnitude",
    "ablation",
    "weight_change-mean_abs",
    "weight_change-l2",
    "weight_change-angle",
)
WIDTHS = (16, 24, 32, 40, 48, 64)
SGD = {"optimizer": "sgd", "lr": 1.0, "batch": 0, "epochs": 1_000}
ONCE = {"every": 50, "cap": 0.25}  # of 100 epochs: one check, at the fiftieth
OFTEN = {"every": 5}  # of 50 epochs: seven checks

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "relu-sgd": {"widths": "16-50-26:relu", **SGD},
    "sigmoid-sgd": {"widths": "16-50-26:sigmoid", **SGD},
    "relu-rmsprop": {"widths": "16-50-26:relu", "epochs": 200},
    "sigmoid-rmsprop": {"widths": "16-64-26:sigmoid", "epochs": 50},
    "sgd-pruned": {"widths": "16-50-26:relu", **SGD, "check": {"every": 100}},
    "rmsprop-pruned": {
        "widths": "16-64-26:sigmoid", "epochs": 50, "check": OFTEN, "controls": ("random",),
    },
    "deep": {"widths": DEEP, "epochs": 100},
    "deep-once": {"widths": DEEP, "epochs": 100, "check": ONCE, "controls": CONTROLS},
    "deep-often": {"widths": DEEP, "epochs": 50, "check": OFTEN, "controls": CONTROLS},
    "deep-relu-often": {"widths": DEEP_RELU, "epochs": 50, "check": OFTEN, "controls": CONTROLS},
    "deep-mask": {"widths": DEEP, "epochs": 50, "check": {**OFTEN, "way": "mask"}},
    "deep-hack": {"widths": DEEP, "epochs": 50, "check": {**OFTEN, "way": "hack"}},
    "deep-authors": {"widths": DEEP, "epochs": 100, "check": ONCE, "split": "authors"},
    "best": {
        "widths": DEEP_RELU, "epochs": 300, "lr": 0.002, "batch": 128, "split": "authors",
        "teacher": "16-512-512-26:relu", "check": {"every": 10, "keep": 101, "finish": 0.4},
    },
    **{f"width-{n}": {"widths": f"16-{n}-26:sigmoid", "epochs": 100} for n in WIDTHS},
}  # fmt: skip

RESTARTS = {"start": 64, "epochs": 50, "tolerance": 0.01, "every": 5}


def jobs(seeds: Sequence[int], *, quick: bool) -> list[Job]:
    """Every experiment for every seed, seed by seed.

    Quick ones train for a tenth of the epochs, with checks ten times as often.
    """
    planned = []
    for seed in seeds:
        for name, settings in EXPERIMENTS.items():
            asked = {**settings, "seed": seed}
            planned.append(Job(f"{name}-{seed}", trained, _shortened(asked) if quick else asked))
        for step in ("one", "counted"):
            restarts = {**RESTARTS, "epochs": 10, "every": 1, "start": 24} if quick else RESTARTS
            planned.append(Job(f"restart-{step}-{seed}", rebuilt,
                               {**restarts, "seed": seed, "step": step}))  # fmt: skip
    return planned


def _shortened(settings: dict[str, Any]) -> dict[str, Any]:
    short = {**settings, "epochs": settings["epochs"] // 10}
    if "check" in settings:
        short["check"] = {**settings["check"], "every": max(settings["check"]["every"] // 10, 1)}
    if "teacher" in settings:
        short["teacher"] = "16-64-26:relu"
    return short
