"""Cut a network of `networks.py` with Torch-Pruning, with the settings that suit it best."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from networks_run import built, called, copied, leaves, limited, outputs, run, size, why
from networks_zoo import Build, Case

SHARE = 3  # one unit of so many is removed


# Ways to cut attention, of which the first is taken that works: narrower heads, or fewer.
ATTENTION: tuple[dict[str, Any], ...] = (
    {},
    {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 1 / SHARE},
)


def torch_pruning(build: Build) -> dict[str, Any]:
    """Remove a third of every layer with Torch-Pruning; return what it removed, or the error."""
    result: dict[str, Any] = {}
    for way in ATTENTION:
        case = built(build)
        heads = attention_heads(case.model)
        try:
            result = result | _cut(case, heads, way)
            if not result["error"]:
                break
        except TimeoutError as error:
            return result | {"error": why(error)}
        except Exception as error:
            result = {"error": why(error)} | result
        if not heads:
            break
    return result


def _cut(case: Case, heads: dict[nn.Module, int], way: Mapping[str, Any]) -> dict[str, Any]:
    import torch_pruning as tp

    before, wanted = size(case.model), [tuple(t.shape) for t in outputs(case)]
    with limited(30), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            case.model,
            copied(case.example, None),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=1 / SHARE,
            global_pruning=False,
            ignored_layers=last_layers(case),
            num_heads=dict(heads),
            forward_fn=lambda model, x: called(model, x, case.forward),
            output_transform=lambda out: [t for t in leaves(out) if t.requires_grad],
            **way,
        )
        pruner.step()
    for layer, count in heads.items():
        fit_heads_(case.model, layer, pruner.num_heads.get(layer, count))
    found = [tuple(t.shape) for t in outputs(case)]
    removed = 1 - size(case.model) / before
    if found != wanted:
        return {"error": f"outputs changed from {wanted[:3]} to {found[:3]}"}
    return {"error": "" if removed else "nothing removed", "removed": removed}


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


def fit_heads_(model: nn.Module, layer: nn.Module, count: int) -> None:
    """Set the sizes that an attention layer holds, as Torch-Pruning's examples do."""
    rows = len(layer.get_parameter("weight"))
    for module in model.modules():
        if any(child is layer for child in module.children()):
            parts = 3 if isinstance(getattr(module, "qkv", None), nn.Module) else 1
            sizes = dict.fromkeys(_HEADS, count) | {"all_head_size": rows // parts}
            sizes |= dict.fromkeys(("head_dim", "attention_head_size"), rows // parts // count)
            for name, value in sizes.items():
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, value)


def last_layers(case: Case) -> list[nn.Module]:
    """Return the layers from which an output can be reached without passing another layer."""
    kinds = nn.Linear | nn.modules.conv._ConvNd
    computed: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _: Any, value: Any) -> None:
        computed.append((module, value))

    linear = [module for module in case.model.modules() if isinstance(module, kinds)]
    handles = [module.register_forward_hook(note) for module in linear]
    try:
        outputs = run(case.model, case)
    finally:
        for handle in handles:
            handle.remove()
    layers = {value.grad_fn: module for module, value in computed if value.grad_fn is not None}
    seen: set[Any] = set()
    ahead = [t.grad_fn for t in outputs if t.grad_fn is not None]
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            if node not in layers:
                ahead += [each for each, _ in node.next_functions if each is not None]
    return [*dict.fromkeys(layers[node] for node in layers if node in seen)]
