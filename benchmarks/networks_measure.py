"""Measure one network of `networks.py`: what sentei offers and cuts of it, and Torch-Pruning.

`measure(build, report)` calls `report` with all results so far after every stage, so that a process
that runs out of time or memory loses one stage only.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

import sentei
from networks_run import built, copied, forward_of, leaves, limited, outputs, run, size, why
from networks_torch_pruning import SHARE, torch_pruning
from networks_zoo import Build, Case

Result = dict[str, Any]
ALONE = 12  # groups that are cut alone, spread over the network; fewer where all went at once
ALONE_AFTER = 2
CLOSE = 1e-6  # of the largest output, in float64: more is wrong
CLOSE_IN_FLOAT32 = 1e-3


# The oracle: outputs in float64, and nothing of sentei's certificate.


def differences(model: nn.Module, other: nn.Module, case: Case) -> tuple[float, bool]:
    """Return the largest difference of outputs as a share of a tensor's largest, and if it counts.

    It is computed in float64, or in float32 where an operation of the network has no other form.
    """
    try:
        error = _difference(model, other, case, torch.float64)
        return error, error > CLOSE
    except RuntimeError:
        error = _difference(model, other, case, torch.float32)
        return error, error > CLOSE_IN_FLOAT32


@torch.no_grad()
def _difference(model: nn.Module, other: nn.Module, case: Case, dtype: torch.dtype) -> float:
    pairs = [run(copy.deepcopy(each).to(dtype), case, dtype) for each in (model, other)]
    if len(pairs[0]) != len(pairs[1]):
        return float("inf")
    worst = 0.0
    for a, b in zip(*pairs, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if not a.is_floating_point() and not a.is_complex():
            worst = max(worst, float(not torch.equal(a, b)))
            continue
        same = (a == b) | (a.isnan() & b.isnan())
        if bool(same.all()):
            continue
        off = torch.where(same, 0, (a - b).abs()).amax()
        largest = a[a.isfinite()].abs().amax() if bool(a.isfinite().any()) else torch.tensor(1.0)
        share = float(off / largest.clamp(min=1e-300))
        worst = max(worst, float("inf") if math.isnan(share) else share)
    return worst


def masked(model: nn.Module, mask: sentei.Mask) -> nn.Module:
    """Return a copy with the columns that read dead units set to zero."""
    other = copy.deepcopy(model)
    mask.apply_(other)
    return other


def cut(groups: Sequence[Any]) -> sentei.Mask:
    """Return a mask in which a third of each group is dead, chosen at random."""
    torch.manual_seed(2)
    dead = {}
    for group in groups:
        count = min(max(1, group.size // SHARE), group.size - max(1, group.least))
        dead[group] = torch.randperm(group.size)[: max(0, count)]
    return sentei.Mask.full(groups).without(dead)


def offered_share(model: nn.Module, groups: Sequence[Any]) -> float:
    """Return the share of parameters that lie in a slice of a unit of some group."""
    unique = {id(p): p for p in model.parameters()}
    covered = {key: torch.zeros(p.shape, dtype=torch.bool) for key, p in unique.items()}
    named = dict(model.named_parameters(remove_duplicate=False))
    for group in groups:
        for part in (*group.producers, *group.followers, *group.listeners):
            if part.parameter in named:
                mask = covered[id(named[part.parameter])]
                mask.index_fill_(part.dim, part.index.flatten().unique(), True)
    total = sum(p.numel() for p in unique.values())
    return sum(int(mask.sum()) for mask in covered.values()) / max(1, total)


# The stages.


def measure(build: Build, report: Callable[[Result], None]) -> None:
    """Measure a network, stage by stage."""
    result: Result = {"stage": "build"}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        result["stage"] = name
        report(result)
        start = process_time()
        yield
        result.setdefault("seconds", {})[name] = round(process_time() - start, 2)

    with stage("build"):
        case = built(build)
        result["parameters"] = size(case.model)
        result["finite"] = all(bool(t.isfinite().all()) for t in outputs(case))
    with stage("follow"):
        groups = _followed(case, result)
    small = None
    if groups:
        with stage("at once"):
            small = _at_once(case, groups, result)
    if small is not None:
        with stage("save"):
            result["saved"] = _reason(lambda: save_and_load(build, small, case))
        with stage("train"):
            result["trained"] = _reason(lambda: train(small, case))
        with stage("onnx"):
            result["onnx"] = _reason(lambda: onnx(small, case))
            result["own onnx"] = _reason(lambda: own_onnx(small, case))
    with stage("torch-pruning"):
        result["torch-pruning"] = torch_pruning(build)
    if groups:
        with stage("alone"):
            _alone(case, groups, result, report)
    result["stage"] = "done"
    report(result)


def _reason(attempt: Callable[[], Any]) -> str:
    """Return "" where an attempt succeeds, else the error in one line."""
    try:
        attempt()
    except Exception as error:
        return why(error)
    return ""


def _followed(case: Case, result: Result) -> list[Any]:
    try:
        found = sentei.inventory(case.model, case.example, **forward_of(case))
    except Exception as error:
        result["followed"] = why(error)
        return []
    groups = found.groups
    result["followed"] = ""
    result["not offered"] = dict(Counter(each.reason for each in found.not_offered).most_common())
    result["groups"] = [[g.name, g.kind, g.size] for g in groups]
    result["offered"] = offered_share(case.model, groups)
    return [g for g in groups if g.size > max(1, g.least)]


def _at_once(case: Case, groups: Sequence[Any], result: Result) -> nn.Module | None:
    """Cut a third of everything; where that is refused, without the groups that the error names."""
    left = list(groups)
    for attempt in range(3):
        mask = cut(left)
        try:
            small = sentei.shrink(case.model, mask, case.example, **forward_of(case))
        except Exception as error:
            result.setdefault("refused", why(error))
            named = set(re.findall(r"'([^']+)'", str(error).partition(" does not repro")[0]))
            fewer = [g for g in left if g.name not in named]
            if len(fewer) in (0, len(left)) or attempt == 2:
                return None
            left = fewer
            continue
        result.setdefault("refused", "")
        result["left out"] = sorted(g.name for g in groups if g not in left)
        reference = masked(case.model, mask)
        result["removed"] = 1 - size(small) / result["parameters"]
        result["error"], result["wrong"] = differences(reference, small, case)
        result["moved"] = differences(case.model, reference, case)[0]
        return small
    return None


def _alone(
    case: Case, groups: Sequence[Any], result: Result, report: Callable[[Result], None]
) -> None:
    """Cut a third of groups one at a time, at most `ALONE` of them."""
    whole = result.get("refused") == "" and not result.get("left out")
    count = min(ALONE_AFTER if whole else ALONE, len(groups))
    some = [groups[round(k * (len(groups) - 1) / max(1, count - 1))] for k in range(count)]
    alone: dict[str, Any] = {"certified": 0, "refused": {}, "wrong": {}, "tried": 0}
    result["alone"] = alone
    for group in some:
        mask = cut([group])
        alone["tried"] += 1
        try:
            small = sentei.shrink(case.model, mask, case.example, **forward_of(case))
        except Exception as error:
            alone["refused"][f"{group.kind} {group.name}"] = why(error)
            report(result)
            continue
        alone["certified"] += 1
        error, wrong = differences(masked(case.model, mask), small, case)
        if wrong:
            alone["wrong"][f"{group.kind} {group.name}"] = error
        report(result)


def save_and_load(build: Build, small: nn.Module, case: Case) -> None:
    """Save the smaller network, load it into a new one with other weights, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.safetensors")
        sentei.save(small, path)
        loaded = sentei.load(path, into=built(build, seed=5).model)
    error, _ = differences(small, loaded, case)
    if error:
        raise AssertionError(f"the loaded network differs by {error:.1e}")


def train(small: nn.Module, case: Case) -> None:
    """Take one step of SGD on the sum of squares of the outputs; all weights must be finite."""
    model = copy.deepcopy(small).train()
    before = [p.detach().clone() for p in model.parameters()]
    given = [t for t in run(model, case) if t.is_floating_point() and t.requires_grad]
    loss = sum((t.float() ** 2).mean() for t in given)
    assert isinstance(loss, Tensor), "no output depends on a weight"
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    after = [*model.parameters()]
    assert all(bool(p.isfinite().all()) for p in after), "weights that are not finite after a step"
    moved = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert moved, "no weight changed"


class Flat(nn.Module):
    """A network whose arguments and results are tensors in a row, as exporters want it."""

    def __init__(self, model: nn.Module, case: Case):
        super().__init__()
        self.model, self.case = model, case

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        """Return all tensors that the network returns."""
        given, example = iter(tensors), self.case.example
        if isinstance(example, Mapping):
            example = {name: next(given) for name in example}
        elif isinstance(example, tuple):
            example = tuple(given)
        else:
            example = next(given)
        return run(self.model, dataclasses.replace(self.case, example=example))


def onnx(small: nn.Module, case: Case) -> None:
    """Export with torch's exporter, and compare onnxruntime's outputs."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    model = copy.deepcopy(small).eval()
    tensors = leaves(copied(case.example, None))
    with tempfile.TemporaryDirectory() as folder, limited(60):
        path = str(Path(folder, "network.onnx"))
        names = [f"input_{number}" for number in range(len(tensors))]
        flat = Flat(model, case).eval()  # the exporter puts the network in the mode of what it gets
        torch.onnx.export(flat, tuple(tensors), path, input_names=names, dynamo=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        read = {each.name for each in session.get_inputs()}
        given = {n: t.numpy() for n, t in zip(names, tensors, strict=True) if n in read}
        theirs = [torch.as_tensor(each) for each in session.run(None, given)]
    with torch.no_grad():
        ours = run(model, case)
    for a, b in zip(ours, theirs, strict=False):
        off = float((a.double() - b.double()).abs().max() / a.double().abs().max().clamp(min=1e-9))
        assert off < 1e-2, f"onnxruntime differs by {off:.1e}"


def own_onnx(small: nn.Module, case: Case) -> None:
    """Write sentei's own ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        sentei.export(small, Path(folder, "network.onnx"), case.example)
