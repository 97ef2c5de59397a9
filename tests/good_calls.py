"""One good call of every public function, class and method; bad ones are made from them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import hand
import sentei
import stream_networks
from sentei import Mask, Probe, Trajectory, criteria, datasets, losses, training
from sentei.network.units import Branch

PACKAGES = {
    "criteria": criteria,
    "datasets": datasets,
    "formats": sentei.formats,
    "training": training,
}

# What sentei makes and a caller only reads, and what is a type or a table.
NOT_CALLED = {
    *(
        "Block",
        "Inventory",
        "NotOffered",
        "Step",
        "criteria.CRITERIA",
        "criteria.REPAIRS",
        "criteria.Criterion",
        "criteria.Repair",
    ),
    *("formats.Contents", "training.Evaluation", "training.History", "datasets.Samples"),
}


class World:
    """A small network, and one of everything that a call may need, made again for each name."""

    def __init__(self, folder: Path):
        torch.manual_seed(0)
        self.folder = folder
        self.model = hand.mlp(4, 6, 3)
        self.x, self.y = torch.rand(12, 4), torch.arange(12) % 3
        self.data = self.x, self.y
        (self.group,) = hand.hidden(self.model)
        self.synapses = sentei.find_synapses(self.model)
        self.mask = Mask.full([self.group]).without({self.group: [1]})
        self.trajectory = Trajectory(self.model)
        self.probe = Probe(self.model, self.data, trajectory=self.trajectory)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.model(self.x).sum().backward()
        self.optimizer.step()
        self.trajectory()
        self.optimizer.zero_grad()
        self.probe.forget_()
        self.schedule = sentei.one_at_a_time()
        self.propose = sentei.ranked("magnitude", self.schedule)
        self.stalled = sentei.when_stalled(self.propose)
        self.layer = sentei.Standardise(torch.zeros(4), torch.ones(4))
        self.limit = sentei.units_at_most(4)
        self.recipe = training.Recipe(epochs=1)
        samples = datasets.Samples(self.x, self.y)
        self.split = datasets.Split("small", samples, samples, samples, ("a",) * 4, ("b",) * 3)
        self.progress = sentei.Progress(1, 2, 6, 6)
        self.part = self.group.listeners[0]
        self.pruner = sentei.PruneWhileTraining(self.model, self.synapses, self.propose)
        self.tuner = training.FineTune(self.data, self.recipe)
        other = hand.mlp(3, 5, 9, 2)
        self.other_groups = hand.hidden(other)
        self.copy = copy.deepcopy(self.model)
        self.copys_probe = Probe(self.copy, self.data)
        with self.probe.measuring() as recording:
            self.recording = recording
        self.other_mask = Mask.full(self.other_groups).without({self.other_groups[1]: [0]})


def fill(folder: Path) -> None:
    """Write a file of every kind that is read."""
    w = World(folder)
    sentei.save(w.model, folder / "net.safetensors")
    rows = "".join(f"{a:.3f},{b:.3f},{'uvw'[int(y)]}\n" for (a, b), y in zip(w.x[:, :2], w.y))
    (folder / "table.csv").write_text("a,b,y\n" + rows * 4)
    np.savez(folder / "arrays.npz", x=w.x.repeat(4, 1).numpy(), y=w.y.repeat(4).numpy())
    for name in ("dark", "light"):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (2, 2), number).save(folder / "pictures" / name / f"{number}.png")
    (folder / "images").mkdir()
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", w.x.reshape(12, 2, 2)), ("labels-idx1", w.y)):
            head = bytes([0, 0, 8, array.ndim])
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            data = head + sizes + array.to(torch.uint8).numpy().tobytes()
            (folder / "images" / f"{part}-{name}-ubyte").write_bytes(data)
    list(
        sentei.prune(w.model, [w.group], w.probe, w.propose, until=w.limit, journal=folder / "run")
    )


@functools.cache
def public() -> dict[str, Callable[..., Any]]:
    """Return everything public that can be called with arguments, by name: "Probe.slopes"."""
    found: dict[str, Any] = {n: getattr(sentei, n) for n in sentei.__all__ if n not in PACKAGES}
    for package, module in PACKAGES.items():
        found |= {f"{package}.{name}": getattr(module, name) for name in module.__all__}
    for name in (*losses.LOSSES, "chosen", "per_sample", "wanted"):
        found[f"losses.{name}"] = getattr(losses, name)
    seen: dict[int, str] = {}  # a thing may have several names
    names = {}
    for name, value in found.items():
        is_error = isinstance(value, type) and issubclass(value, Exception)
        left_out = is_error or name in NOT_CALLED or isinstance(value, types.ModuleType)
        if not left_out and seen.setdefault(id(value), name) == name:
            names |= {name: value, **_methods(name, value)}
    return {name: value for name, value in names.items() if _parameters(value)}


def _methods(name: str, thing: Any) -> dict[str, Any]:
    if not isinstance(thing, type):
        return {}
    members = {
        key: getattr(value, "__func__", value)
        for key, value in vars(thing).items()
        if key == "__call__" or (key[0] != "_" and key != "forward")  # what torch calls
    }
    return {f"{name}.{key}": value for key, value in members.items() if inspect.isfunction(value)}


def _parameters(thing: Any) -> list[str]:
    names = inspect.signature(thing).parameters
    return [name for name in names if name not in ("self", "cls")]


@dataclass(frozen=True)
class Call:
    """A call: the function, and its arguments by name; those of `*row` are one tuple."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    row: str | None = None

    def __call__(self) -> Any:
        named = dict(self.arguments)
        return self.function(*(named.pop(self.row) if self.row else ()), **named)

    def but(self, name: str, value: Any) -> Call:
        """Return the call with another value for one argument."""
        value = (value,) if name == self.row else value
        return Call(self.function, {**self.arguments, name: value}, self.row)


def good_call(name: str, w: World) -> Call:
    """Return a good call of a name of `public()`, with a value for each of its arguments."""
    thing = public()[name]
    owner, _, method = name.rpartition(".")
    function = getattr(owners(w)[owner], method) if owner in owners(w) else thing
    given = {**usual(w), **special(w).get(name, {})}
    parameters = inspect.signature(function).parameters.values()
    row = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
    named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    return Call(function, {each: given[each] for each in named}, row[0] if row else None)


def owners(w: World) -> dict[str, Any]:
    """Return an object of each public class with methods."""
    return {
        "Card": sentei.Card,
        "FineTune": w.tuner,
        "Mask": w.mask,
        "Probe": w.probe,
        "PruneWhileTraining": w.pruner,
        "Recipe": w.recipe,
        "Split": w.split,
        "Standardise": sentei.Standardise(torch.zeros(4), torch.ones(4)),
        "Trajectory": w.trajectory,
        "below": sentei.below("magnitude", 0.1),
        "only": sentei.only("neuron", w.stalled),
        "pattern": sentei.pattern(1, 2),
        "per_byte": sentei.per_byte("safetensors"),
        "ranked": w.propose,
        "regrowing": sentei.regrowing("magnitude", w.schedule, 3),
        "twins": sentei.twins(),
        "when_stalled": w.stalled,
        "criteria.Ablation": criteria.Ablation(),
        "criteria.Fixed": sentei.fixed(range(6)),
        "criteria.LeastLoss": criteria.LeastLoss(1),
        "criteria.Obd": criteria.Obd(),
        "criteria.Obs": criteria.Obs(),
        "criteria.Random": criteria.Random(),
        "criteria.SietsmaDow": criteria.SietsmaDow(),
        "criteria.Taylor1": criteria.Taylor1(),
        "criteria.Taylor2": criteria.Taylor2(),
        "criteria.Thresholded": criteria.Thresholded(criteria.magnitude),
        "criteria.WeightChange": criteria.WeightChange(),
        "datasets.Scaling": datasets.Scaling.of(w.x),
    }


def usual(w: World) -> dict[str, Any]:
    """Return a good value for each argument, by its name; `special` has the exceptions."""
    networks = dict.fromkeys(
        ("model", "network", "masked", "small", "original", "teacher"), w.model
    )
    return {
        **networks,
        **dict.fromkeys(("example", "inputs"), w.x),
        **dict.fromkeys(("data", "samples", "learn", "evaluate"), w.data),
        **dict.fromkeys(("seed", "number", "every", "total", "steps_per_epoch", "steps"), 2),
        **dict.fromkeys(("until", "keeping"), w.limit),
        **dict.fromkeys(("by", "ram", "retrain", "judge", "on_step", "journal", "init"), None),
        **dict.fromkeys(
            ("known", "missing", "text", "output", "into", "distillation", "decay"), None
        ),
        **dict.fromkeys(
            ("resume", "delete", "proven", "norms", "flat", "alone", "sums", "raw"), False
        ),
        **dict.fromkeys(("precise", "two_sided", "relative", "dropout", "regression"), False),
        **dict.fromkeys(("raw", "standardise"), False),
        "after_update": [],
        "alike": ("*",),
        "at_least": 1,
        "multiples_of": 1,
        "standardise": True,
        "alive": {w.group: torch.ones(6, dtype=torch.bool)},
        "batch_size": 6,
        "before": Mask.full([w.group]),
        "bytes": "1 KiB",
        "cap": 0.5,
        "card": sentei.Card(),
        "ceiling": 1.0,
        "change": 0.1,
        "centre": "half",
        "classes": 3,
        "count": 2,
        "criterion": "magnitude",
        "curvature": "diagonal",
        "cut": sentei.Cut({w.group: torch.tensor([0])}),
        "degrees": 15.0,
        "doomed": {w.group: [0]},
        "drop": 0.1,
        "emptied": {},
        "epoch": 1.0,
        "epochs": 1,
        "features": ("a",) * 4,
        "forward": lambda model, x: model(x),
        "filters": 2,
        "finish": 0.5,
        "floor": 0.5,
        "format": "c",
        "gains": [0.0, 1.0],
        "group": w.group,
        "groups": [w.group],
        "growth": "gradient",
        "keep": 2,
        "kind": "neuron",
        "limits": (w.limit,),
        "longest": "2 ms",
        "loss": "cross_entropy",
        "lower_is_better": False,
        "lr": 0.1,
        "mask": w.mask,
        "mix": {},
        "mu": 1.0,
        "name": "0",
        "optimizer": w.optimizer,
        "order": "best_first",
        "outputs": torch.rand(12, 3),
        "parameter": "2.weight",
        "path": w.folder / "net.safetensors",
        "percents": (25.0,),
        "probe": w.probe,
        "progress": w.progress,
        "propose": w.propose,
        "quantile": 0.9,
        "recipe": w.recipe,
        "regrown": {},
        "remaining": 6,
        "repair": "affine",
        "rise": 0.1,
        "schedule": w.schedule,
        "scores": {w.group: torch.rand(6)},
        "share": 0.2,
        "size": 10_000,
        "start": 6,
        "starts": {w.group: 6},
        "stops": (),
        "synapses": w.synapses[0],
        "targets": w.y,
        "temperature": 4.0,
        "then": w.schedule,
        "threads": 1,
        "threshold": 0.1,
        "times": 2.0,
        "trajectory": w.trajectory,
        "undone": 0,
        "unit": 1,
        "units": torch.tensor([0]),
        "weight": 0.5,
        "weight_decay": 0.0,
        "within": "group",
    }


@functools.cache  # it is asked for at every name, and not changed
def streaming() -> dict[str, Any]:
    """Return a stream and a Probe of its network, as arguments."""
    model, x = stream_networks.made("rms")
    (group,) = stream_networks.streams(model, x)
    return {"probe": Probe(model, (x, torch.arange(len(x)) % 4)), "group": group}


def normed() -> dict[str, Any]:
    """Return a network with a batch norm, and its groups."""
    layers = torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3)
    part = hand.part("1", "weight", 0, 6)
    group = dataclasses.replace(hand.group("0", 6, "2"), followers=(part,))
    return {"model": torch.nn.Sequential(*layers), "groups": [group]}


def special(w: World) -> dict[str, dict[str, Any]]:
    """Return the good values that a name does not share with all others."""
    synapses = {"groups": w.synapses, "mask": Mask.full(w.synapses)}
    shape = {"parameter": "2.weight", "shape": (3, 6)}
    copied = {"model": w.copy, "mask": Mask.full([w.group]), "optimizer": None}
    callback = {"progress": None}
    record = {"state": w.trajectory.state_dict()}
    surface = {"unit": 1}
    repair = {"units": torch.tensor([0]), "mask": w.mask.without({w.group: [0]})}
    sizes = {"groups": [w.group], "total": 2}
    path = {"path": w.folder / "net.safetensors"}
    return {
        "Card": {"loss": None, "predicts": None, "classes": ("a",)},
        "Card.from_data": {"data": {}},
        "Cut": {"doomed": {w.group: torch.tensor([0])}, "scores": {}, "updates": {}},
        "FineTune": {"batch": None},
        "FineTune.__call__": copied,
        "FineTune.load_state_dict": {"state": w.tuner.state_dict()},
        "Mask": {"_alive": {w.group: torch.ones(6, dtype=torch.bool)}},
        "Mask.apply_": copied,
        "Mask.hold_": copied,
        "Mask.joined": {"other": w.mask},
        "Mask.living": shape,
        "Mask.weights": shape,
        "Mask.with_": {"regrown": {w.group: [1]}},
        "Mask.zero_": {"like": torch.rand(3, 6)},
        "Neurons": {
            "size": 6,
            "producers": (w.part,),
            "followers": (),
            "listeners": (w.part,),
        },
        "Branches": {
            "size": 1,
            "branches": (Branch("0", ("0.weight",)),),
            "kind": "branch",
        },
        "Probe": {
            "loss": "cross_entropy",
            "samples": 8,
            "memory": "1 MiB",
            "batch": None,
        },
        "Probe.check_smooth": {"recording": w.recording, "order": 1},
        "Probe.curvatures": {"kind": "full"},
        "Probe.mean": {"of": lambda block: torch.zeros(2), "count": 2},
        "Probe.rises_at": {"gains": torch.tensor([0.0, 1.0])},
        "Probe.rises_without": {"mix": None},
        "Probe.slopes": {"asked": None},
        "Progress": {"step": 1},
        "PruneWhileTraining": {
            **copied,
            **synapses,
            "every": 1,
            "total": 4,
            "until": None,
            "probe": None,
            "trajectory": None,
            "companions": [],
        },
        "PruneWhileTraining.attach": {"rewrap": None},
        "PruneWhileTraining.load_state_dict": {"state": w.pruner.state_dict()},
        "Recipe": {"optimizer": "adam"},
        "Recipe.optimizer_for": {},
        "Standardise": {"mean": torch.zeros(4), "std": torch.ones(4)},
        "Standardise.of": {"scaling": datasets.Scaling.of(w.x)},
        "Split": {
            **dict.fromkeys(("train", "validation", "test"), w.split.train),
            "classes": ("b",) * 3,
            "scaling": None,
        },
        "Synapses": {"shape": (3, 6), "kind": "synapse", "size": 18, "columns": 1},
        "Trajectory.keep_": {"dim": 0, "kept": torch.arange(3)},
        "Trajectory.load_state_dict": record,
        "certify": {"mask": None},
        "criteria.LeastLoss": {"updates": 1},
        "criteria.LeastLoss.__call__": repair,
        "criteria.Fixed": {"scores": torch.rand(6)},
        "criteria.Obs": {"damping": 0.01},
        "criteria.Obs.compensated": {
            "group": w.synapses[0],
            "alive": torch.ones(6, 4, dtype=torch.bool),
            "sets": (1, 2),
        },
        "criteria.SietsmaDow": {"opposite": 1.0},
        "criteria.Taylor1": {"form": "signed"},
        "criteria.Thresholded": {"criterion": criteria.magnitude, "middle": "mean"},
        "criteria.Thresholded.replaced": {"scores": torch.rand(6)},
        "criteria.WeightChange": {"kind": "l2", "since": "check"},
        "criteria.affine": repair,
        "criteria.gradient": {"group": w.synapses[0]},
        "criteria.wanda": {"group": w.synapses[0]},
        "criteria.wsf": {"group": w.synapses[0]},
        "criteria.approximations": surface,
        "criteria.criterion": {"name": "magnitude"},
        "criteria.repair": {"name": "affine"},
        "criteria.scores": {"name": "magnitude"},
        "Standardise.forward": {"x": w.x},
        "datasets.Scaling": {"mean": torch.zeros(4), "std": torch.ones(4)},
        "datasets.check_samples": {"width": 4},
        "datasets.csv_file": {"path": w.folder / "table.csv", "target": "y"},
        "datasets.fingerprint": {"samples": [w.x]},
        "datasets.idx_folder": {"folder": w.folder / "images"},
        "datasets.letter": {"split": "default"},
        "datasets.image_folder": {"folder": w.folder / "pictures", "size": "2x2"},
        "datasets.load": {"what": w.folder / "table.csv", "target": "y", "size": None},
        "datasets.mnist": {"split": "default"},
        "datasets.npz_file": {"path": w.folder / "arrays.npz"},
        "datasets.stratified": {"sizes": [6, 3]},
        "declare": {
            "producers": {"0.weight": 0, "0.bias": 0},
            "followers": {},
            "listeners": {"2.weight": 1},
            "units": 6,
        },
        "explain": {"path": w.folder / "page.html"},
        "export": {"path": w.folder / "net.c", "mask": None},
        "each_block": {
            "model": w.model,
            "blocks": "2",
            "weights": None,
            "out": None,
            "inputs": w.x,
            "batch": 4,
        },
        "find_units": {"inputs": False, "depth": True},
        "inventory": {"inputs": False, "depth": True},
        "not_offered": {"depth": False},
        "fixed": {"scores": [1.0, 2.0]},
        "formats.inspect": path,
        "levels": {},
        "losses.per_sample": {},
        "pick": {"only": ["*"], "without": []},
        "pattern": {"n": 1, "m": 2, "repair": "least_squares"},
        "pattern.__call__": synapses,
        "pattern.check": {**sizes, "groups": [w.synapses[0]]},
        "only.load_state_dict": {"state": w.stalled.state_dict()},
        "only.check": {**sizes, "groups": [w.group], "starts": {w.group: 6}},
        "per_byte": {"units": "magnitude", "synapses": "magnitude"},
        "prune": {**copied, "probe": w.copys_probe, "evaluate": None, "keeping": None}
        | {"metric": None}
        | {"progress": False},
        "ranked": {"keep": {"*": "50 %"}, "at_least": 1, "multiples_of": 1, "alike": ["*"]}
        | {"racing": False, "lazy": False},
        "rows": {"run": w.folder / "run"},
        "when_stalled.check": sizes,
        "ranked.check": sizes,
        "ranked.load_state_dict": {
            "state": sentei.ranked("ablation", w.schedule, lazy=True).state_dict()
        },
        "regrowing.__call__": synapses,
        "rotated": streaming(),
        "report": {"journal": w.folder / "run", "path": w.folder / "page.html", "model": None},
        "save": {"path": w.folder / "new.safetensors"},
        "search": {
            "room": sentei.MemoryBudget("safetensors", "1 KiB"),
            "paths": ["units"],
            "units": "magnitude",
            "synapses": "magnitude",
            "inputs": False,
            "mask": None,
            "until": None,
            "keeping": None,
            "workers": sentei.Workers(),
        },
        "shrink": {"sparse": None},
        "shrink_": {**copied, "trajectory": None},
        "slimming": normed(),
        "surface": surface,
        "Workers": {"jobs": 1, "backend": "loky", "shard": "1/2"},
        "training.Distillation": {"loss": "half_squared_error"},
        "training.evaluate": {"batch": None},
        "training.annealing_cnn": {"padding": "valid", "init": "torch"},
        "training.build": {"spec": "4-6-3"},
        "training.distinctiveness_cnn": {"width": 4, "init": "torch"},
        "training.initialise_": {"network": w.copy, "init": "glorot"},
        "training.cnn": {
            "shape": "1x4x4",
            "channels": "2-3",
            "widths": "4-3",
            "activation": "relu",
            "init": "torch",
        },
        "training.mlp": {"widths": "4-6-3", "activation": "relu", "init": "torch"},
        "training.seeded": {"numbers": (1,)},
        "train": {**copied, **callback, "batch": None},
        "when_stalled.load_state_dict": {"state": {"before": None, "propose": None}},
    }
