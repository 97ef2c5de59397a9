"""A listener's call as it would be after a fold: no weight is changed, and any number at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sentei.network.calls import Call
from sentei.network.units import Listener


class Folds:
    """Calls of a group's listeners with one unit handed over to the others.

    Args:
        model: whose weights they are.
        listeners: by the names under which calls use them.
    """

    def __init__(self, model: nn.Module, listeners: Mapping[str, Listener]):
        self.listeners = listeners
        self.owner: dict[str, Tensor] = {}
        self.place: dict[str, Tensor] = {}
        for name, part in listeners.items():
            weight = model.get_parameter(name)
            size, each = part.index.shape
            index = part.index.flatten().to(weight.device)
            blank = torch.full((weight.shape[part.dim],), size, device=weight.device)
            units = torch.arange(size, device=weight.device).repeat_interleave(each)
            places = torch.arange(each, device=weight.device).repeat(size)
            self.owner[name] = blank.scatter(0, index, units)  # (columns,), size where nobody's
            self.place[name] = torch.zeros_like(blank).scatter(0, index, places)

    def __call__(self, call: Call, hit: Tensor, row: Tensor) -> Tensor:
        """The call's result.

        Args:
            call: of one of the listeners.
            hit: (columns,) 1 at the columns of the unit that goes, 0 elsewhere.
            row: (size + 1,) who takes over: a share for each unit, and a constant.
        """
        part = self.listeners[call.weight]
        weight = call.given[call.use.weight].movedim(part.dim, 0)
        each = part.index.shape[1]
        place = self.place[call.weight]
        # (places, ...): the leaving unit's columns, picked by a sum: its position may be wrapped.
        at_place = (place == torch.arange(each, device=place.device)[:, None]).to(weight) * hit
        leaving = torch.tensordot(at_place, weight, 1)
        nobody = torch.cat([row[:-1], row.new_zeros(1)])
        shares = nobody[self.owner[call.weight]]
        along = (-1, *[1] * (weight.ndim - 1))
        folded = weight * (1 - hit).reshape(along) + shares.reshape(along) * leaving[place]
        given = {**call.given, call.use.weight: folded.movedim(0, part.dim)}
        out = call.function(*given.values()) if call.by_position else call.function(**given)
        total = (leaving.sum(0) * row[-1]).flatten(1).sum(1) if weight.ndim > 2 else None
        constant = leaving.sum(0) * row[-1] if total is None else total
        return out + constant.reshape(-1, *[1] * (-1 - call.axis))
