"""The plan of the sensitivity experiments: settings of each experiment by name, and their jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sentei.jobs.results import Job, Result
from sentei.papers.sensitivity.restarts import rebuilt
from sentei.papers.sensitivity.runs import trained
from sentei.papers.sensitivity.teachers import taught
from sentei.papers.sensitivity.timing import timed
from sentei.papers.sensitivity.watching import watched

SHALLOW = "16-64-26:sigmoid"
DEEP, DEEP_RELU = "16-60-45-30-26:sigmoid", "16-60-45-30-26:relu"
CONTROLS = (
    "random",
    "magnitude",
    "ablation",
    "karnin",
    "weight_change-mean_abs",
    "weight_change-l2",
    "weight_change-angle",
)
FEW = ("random", "magnitude", "ablation")
WIDTHS = (24, 28, 32)
MOMENTS = (2, 12, 25, 47)  # epochs, of 50, at which a quarter of each layer is removed at once
LATE = {  # criterion of the last 30 % of training, and its repair
    "none": None, "random": None, "weight_change": None, "ablation": None, "badness": None,
    "distinctiveness": "affine",
}  # fmt: skip
SGD = {"optimizer": "sgd", "lr": 1.0, "batch": 0, "epochs": 1_000}
ONCE = {"every": 50, "cap": 0.25}  # in 100 epochs: one check, at epoch 50
OFTEN = {"every": 5}  # in 50 epochs: seven checks

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "relu-sgd": {"widths": "16-50-26:relu", **SGD},
    "sigmoid-sgd": {"widths": "16-50-26:sigmoid", **SGD},
    "relu-rmsprop": {"widths": "16-50-26:relu", "epochs": 200},
    "sigmoid-rmsprop": {"widths": SHALLOW, "epochs": 50},
    "sgd-pruned": {"widths": "16-50-26:relu", **SGD, "check": {"every": 100}},
    "rmsprop-pruned": {
        "widths": SHALLOW, "epochs": 50, "check": OFTEN, "controls": ("random",), "afresh": True,
    },
    "deep": {"widths": DEEP, "epochs": 100},
    "deep-once": {
        "widths": DEEP, "epochs": 100, "check": ONCE, "controls": FEW, "afresh": True,
    },
    "deep-often": {
        "widths": DEEP, "epochs": 50, "check": OFTEN, "controls": CONTROLS, "afresh": True,
    },
    "deep-relu-often": {
        "widths": DEEP_RELU, "epochs": 50, "check": OFTEN, "controls": FEW, "afresh": True,
    },
    "deep-mask": {"widths": DEEP, "epochs": 50, "check": {**OFTEN, "way": "mask"}},
    "deep-hack": {"widths": DEEP, "epochs": 50, "check": {**OFTEN, "way": "hack"}},
    "deep-authors": {"widths": DEEP, "epochs": 100, "check": ONCE, "split": "authors"},
    **{
        f"when-{epoch}": {
            "widths": DEEP, "epochs": 50, "controls": ("random",),
            "check": {"every": epoch, "keep": "75 %", "finish": (epoch + 0.5) / 50},
        }
        for epoch in MOMENTS
    },
    **{
        f"late-{name}": {
            "widths": DEEP, "epochs": 50,
            "check": {"every": 5, "cap": 0.05, "late": name, "repair": repair, "finish": 0.95},
        }
        for name, repair in LATE.items()
    },
    **{
        f"width-{n}": {
            "widths": f"16-{n}-26:gelu", "epochs": 60, "optimizer": "adam", "lr": 0.01, "batch": 64,
            "decay": "cosine",
        }
        for n in WIDTHS
    },
}  # fmt: skip
WATCHED = {
    "sigmoid": {"widths": DEEP, "epochs": 50, "every": 5},
    "relu": {"widths": DEEP_RELU, "epochs": 50, "every": 5},
    "decay": {"widths": DEEP, "epochs": 50, "every": 5, "decay": "cosine"},
}
TIMED = {
    "batches": {"widths": DEEP, "epochs": 50, "every": 5, "batch": 256},
    "whole": {"widths": DEEP, "epochs": 100, "every": 10, "batch": 0},
}
RESTARTS = {"start": 64, "epochs": 30, "tolerance": 0.01, "every": 3}
TAUGHT: dict[str, Any] = {
    "teacher": "16-512-512-26:relu", "teachers": 2, "lesson": 1, "copies": 40, "noise": 0.3,
    "students": {
        "best": {
            "widths": "16-60-45-30-26:gelu", "epochs": 20, "lr": 0.015, "batch": 256,
            "weight_decay": 0.05, "check": {"every": 1, "keep": "74.8 %", "finish": 0.15},
        },
    },
}  # fmt: skip


def jobs(seeds: Sequence[int], *, quick: bool) -> list[Job]:
    """Return the jobs of all experiments, ordered by seed.

    With `quick`, they train for a tenth of the epochs and check ten times as often.
    """
    planned = []
    for seed in seeds:
        todo: list[tuple[str, Callable[..., Result], dict[str, Any]]] = [
            (name, trained, settings) for name, settings in EXPERIMENTS.items()
        ]
        todo += [(f"watched-{name}", watched, settings) for name, settings in WATCHED.items()]
        todo += [(f"timed-{name}", timed, settings) for name, settings in TIMED.items()]
        todo += [(f"restart-{step}", rebuilt, {**RESTARTS, "step": step})
                 for step in ("one", "counted")]  # fmt: skip
        todo.append(("taught", taught, TAUGHT))
        for name, function, settings in todo:
            job_settings = _shortened(settings) if quick else settings
            planned.append(Job(f"{name}-{seed}", function, {**job_settings, "seed": seed}))
    return planned


NAMES = tuple(job.name.removesuffix("-0") for job in jobs([0], quick=False))


def _shortened(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings for a quick run: a tenth of the epochs, and some smaller networks."""
    short = dict(settings)
    for name in ("epochs", "every", "lesson"):
        if name in short:
            short[name] = max(short[name] // 10, 1)
    if "check" in short:
        check = _shortened(short["check"])
        if "keep" in check:  # end before a second check
            check["finish"] = (check["every"] + 0.5) / short["epochs"]
        short["check"] = check
    if "start" in short:
        short["start"] = 24
    if "copies" in short:
        short["copies"] = 2
    if "students" in short:
        short["students"] = {name: _shortened(of) for name, of in short["students"].items()}
        short["teacher"] = "16-64-26:relu"
    return short
