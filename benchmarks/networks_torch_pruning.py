"""Cut a network of `networks.py` with Torch-Pruning, with the settings that suit it best."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from networks_run import built, copied, leaves, limited, outputs, run, size, why
from networks_zoo import Build, Case

SHARE = 3  # one unit of so many is removed


def torch_pruning(build: Build) -> dict[str, Any]:
    """Remove a third of every layer with Torch-Pruning; return what it removed, or the error."""
    import torch_pruning as tp

    case = built(build)
    model, before = case.model, size(case.model)
    heads = attention_heads(model)
    try:
        wanted = [tuple(t.shape) for t in outputs(case)]
        with limited(30), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = tp.pruner.BasePruner(
                model,
                copied(case.example, None),
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=1 / SHARE,
                global_pruning=False,
                ignored_layers=last_layers(case),
                num_heads=heads,
                prune_num_heads=False,
                forward_fn=lambda m, x: case.forward(m, x) if case.forward else _called(m, x),
                output_transform=lambda out: [t for t in leaves(out) if t.requires_grad],
            )
            pruner.step()
            for layer in heads:
                fit_heads_(model, layer)
        removed = 1 - size(model) / before
        found = [tuple(t.shape) for t in outputs(case)]
    except Exception as error:
        return {"error": why(error)}
    if found != wanted:
        return {"error": f"outputs changed from {wanted[:3]} to {found[:3]}", "removed": removed}
    return {"error": "" if removed else "nothing removed", "removed": removed}


def _called(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")
_QKV = re.compile(r"(^|\.)(qkv|q|k|v|query|key|value|q_proj|k_proj|v_proj|to_qkv|[qkv]_lin)$")


def attention_heads(model: nn.Module) -> dict[nn.Module, int]:
    """Return the projections of attention layers and their numbers of heads."""
    found: dict[nn.Module, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and _QKV.search(name):
            parent = model.get_submodule(name.rpartition(".")[0])
            counts = [getattr(parent, each, None) for each in _HEADS]
            config = getattr(parent, "config", None)
            if re.search(r"(k|key|v|value)(_proj)?$", name):
                counts.insert(0, getattr(config, "num_key_value_heads", None))
            counts += [getattr(config, each, None) for each in _HEADS]
            known = [count for count in counts if isinstance(count, int)]
            found |= dict.fromkeys([module], known[0]) if known else {}
    return found


def fit_heads_(model: nn.Module, layer: nn.Module) -> None:
    """Set the width of heads of an attention layer, as Torch-Pruning's examples do."""
    for module in model.modules():
        if any(child is layer for child in module.children()):
            count = next((getattr(module, h) for h in _HEADS if hasattr(module, h)), None)
            rows = len(layer.get_parameter("weight"))
            parts = 3 if isinstance(getattr(module, "qkv", None), nn.Module) else 1
            for name in ("head_dim", "attention_head_size"):
                if isinstance(count, int) and isinstance(getattr(module, name, None), int):
                    setattr(module, name, rows // parts // count)
            if isinstance(getattr(module, "all_head_size", None), int):
                setattr(module, "all_head_size", rows)  # noqa: B010


def last_layers(case: Case) -> list[nn.Module]:
    """Return the layers that compute outputs: all of whose rows are in no group and last to run."""
    reached: list[nn.Module] = []
    outputs: set[int] = set()

    def note(module: nn.Module, _: Any, value: Any) -> None:
        if isinstance(value, Tensor):
            module.__dict__["_last_output"] = value
            reached.append(module)

    kinds = nn.Linear | nn.modules.conv._ConvNd
    handles = [m.register_forward_hook(note) for m in case.model.modules() if isinstance(m, kinds)]
    found: list[nn.Module] = []
    try:
        for leaf in run(case.model, case):
            outputs |= _passed_on(leaf)
        for module in reached:
            value = module.__dict__.get("_last_output")
            if value is not None and value.grad_fn is not None and id(value.grad_fn) in outputs:
                found.append(module)
    finally:
        for handle in handles:
            handle.remove()
        for module in reached:
            module.__dict__.pop("_last_output", None)
    return [*dict.fromkeys(found)]


_MIXING = re.compile("^(Addmm|Mm|Bmm|Baddbmm|Convolution|MkldnnConv|Linear|Embedding|Scaled)")
_KEPT: list[Any] = []  # nodes whose ids are compared must stay alive


def _passed_on(output: Tensor) -> set[int]:
    """Return ids of the graph's nodes between an output and the layers that compute it."""
    found: set[int] = set()
    ahead = [output.grad_fn] if output.grad_fn is not None else []
    while ahead:
        node = ahead.pop()
        if id(node) in found:
            continue
        found.add(id(node))
        _KEPT.append(node)
        if not _MIXING.match(type(node).__name__):
            ahead += [each for each, _ in node.next_functions if each is not None]
    return found
