"""What is coupled with what: each group's layers, its parameters and scores, and attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sentei.network.attention import multi_head_attention, plain_attention
from sentei.network.copying import copied
from sentei.network.mask import Mask
from sentei.network.parameters import removed_parameters
from sentei.network.units import Branches, Group, Listener, Neurons, Synapses
from sentei.reporting.page.base64_arrays import packed
from sentei.reporting.page.story import Story, evenly

SAMPLES = 16  # whose attention weights are averaged
SIDE = 28  # pixels of a picture of attention weights, at most
ROLES = ("computed", "passed", "read")
_SOFTMAXES = (torch.softmax, F.softmax, Tensor.softmax)


def structure(story: Story) -> dict[str, Any] | None:
    """Describe which layers compute, pass on and read the units of each group.

    Returns:
        `{"layers": names in the network's order, "rows": [{"group", "parameters", "scores", and
        positions of layers by role}], "attention": {group: packed maps}}`; None without groups of
        units or branches.
    """
    groups = [pair for pair in enumerate(story.groups) if not isinstance(pair[1], Synapses)]
    if not groups:
        return None
    order = {name: place for place, (name, _) in enumerate(story.start.named_modules())}
    by_role = {place: _layers(group) for place, group in groups}
    used = {name for roles in by_role.values() for names in roles for name in names}
    layers = sorted(used, key=lambda name: order.get(name, len(order)))
    rows = []
    for place, group in groups:
        roles = [sorted(map(layers.index, names)) for names in by_role[place]]
        rows.append(
            {
                "group": place,
                "parameters": _parameters(story, group),
                "scores": _scores(story, group),
                **dict(zip(ROLES, roles, strict=True)),
            }
        )
    rows.sort(key=lambda row: min((*row["computed"], *row["read"]), default=0))
    return {
        "layers": layers,
        "rows": rows,
        "parameters": sum(each.numel() for each in story.start.parameters()),
        "attention": {} if story.running else attention(story),
    }


def _layers(group: Group) -> tuple[set[str], set[str], set[str]]:
    """Return the names of the layers that compute the units, pass them on, and read them."""
    if not isinstance(group, Neurons):
        return set(), set(), set()  # a branch is removed whole
    parts: tuple[Sequence[Listener], ...] = (group.producers, group.followers, group.listeners)
    computed, passed, read = ({part.layer for part in each} for each in parts)
    return computed, passed - computed, read


def _parameters(story: Story, group: Any) -> int:
    """Return how many parameters go if this group alone keeps as few units as it can."""
    least = 0 if isinstance(group, Branches) else group.least
    mask = Mask.full([group]).without({group: range(least, group.size)})
    return removed_parameters(story.start, mask)


def _scores(story: Story, group: Group) -> Any:
    """Return the run's own scores in its first step; None without a run or without scores."""
    given = story.records[1].all_scores.get(group) if len(story.records) > 1 else None
    return None if given is None else packed(given.double().nan_to_num(0.0, 0.0, 0.0))


class _Weights(TorchFunctionMode):
    """Keep the weights, (samples, heads, from, to), of each attention that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return multi_head_attention(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            with self:
                return plain_attention(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAXES and result.ndim == 4:
            self.found.append(result)
        return result


@torch.no_grad()
def attention(story: Story) -> dict[int, Any]:
    """Return the mean attention weights of each group of heads, by the group's position.

    They are those of the untouched network, averaged over a few samples, and reduced to pictures;
    255 is the largest weight of a head. Empty unless each attention of the network belongs to one
    group of heads.
    """
    order = {name: place for place, (name, _) in enumerate(story.start.named_modules())}
    heads = [
        (at, group)
        for at, group in enumerate(story.groups)
        if isinstance(group, Neurons) and group.kind == "head"
    ]
    if not heads or story.samples is None:
        return {}
    heads.sort(key=lambda pair: min(order.get(part.layer, 0) for part in pair[1].producers))
    with _Weights() as weights:
        copied(story.start).eval()(evenly(story.samples, SAMPLES).inputs)
    sizes = [maps.shape[1] for maps in weights.found]
    if sizes != [group.size for _, group in heads]:
        return {}
    return {
        at: packed(_picture(maps), "u1") for (at, _), maps in zip(heads, weights.found, strict=True)
    }


def _picture(maps: Tensor) -> Tensor:
    """Return the mean over samples, (heads, height, width), at most SIDE wide, 0 to 255."""
    mean = maps.float().mean(0)
    height, width = (min(size, SIDE) for size in mean.shape[1:])
    small = F.adaptive_avg_pool2d(mean[None], (height, width))[0]
    return (255 * small / small.amax((1, 2), keepdim=True).clamp(min=1e-12)).round()
