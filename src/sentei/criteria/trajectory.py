"""The Trajectory: what training did to the weights, recorded while it happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import CriterionError, GroupError

_PARTS = ("start", "checked", "before", "now", "karnin")


class Trajectory:
    """Records a network's weights as they move; goes along with any loop as an after-update call.

        trajectory = Trajectory(model)                    # before training: these weights are w(0)
        train(model, data, after_update=[trajectory])
        probe = Probe(model, data, trajectory=trajectory)

    In a loop of one's own, call it after `optimizer.step()` and before gradients are cleared. It
    keeps four copies of the parameters and, for Karnin's sensitivity, one of sums in float64.

    Args:
        model: its floating-point parameters are followed, also through `shrink_`, which cuts the
            record along.
        sums: also add up Karnin's sums, which is most of the work; without them `karnin` is not
            to be had.

    Attributes:
        model: the network.
        sums: whether Karnin's sums are there.
        updates: how many were seen.
    """

    def __init__(self, model: nn.Module, sums: bool = True):
        self.model, self.sums = model, sums
        self.updates = 0
        self._record: dict[int, dict[str, Tensor]] = {}
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parts = {name: parameter.detach().clone() for name in _PARTS[:4]}
                parts["karnin"] = torch.zeros_like(parameter, dtype=torch.float64)
                self._record[id(parameter)] = parts

    @torch.no_grad()
    def __call__(self) -> None:
        """Take note of an update: where every weight is now, and what Karnin's sums gain.

        Raises:
            GroupError: a parameter was replaced by another object since the record began.
        """
        named = self.model.named_parameters()
        followed = [(self._of(n, p), p) for n, p in named if p.is_floating_point()]
        for parts, _ in followed:
            parts["before"], parts["now"] = parts["now"], parts["before"]
        # One call for all of them: there is an update of tiny tensors to keep up with.
        torch._foreach_copy_([parts["now"] for parts, _ in followed], [p for _, p in followed])
        for parts, parameter in followed if self.sums else ():
            if parameter.grad is not None:
                parts["karnin"] -= parameter.grad * (parts["now"] - parts["before"])
        self.updates += 1

    def check_(self) -> None:
        """Remember the present weights as those of a check: what `since_check` is counted from."""
        for parts in self._record.values():
            parts["checked"].copy_(parts["now"])

    # What is asked of it, by the name of a parameter.

    def start(self, parameter: str) -> Tensor:
        """w(0): the weights when the record began; a copy, as all that follow."""
        return self._copy(parameter, "start")

    def karnin(self, parameter: str) -> Tensor:
        """Minus the sum over all updates of gradient times change of weight, float64.

        Raises:
            CriterionError: this trajectory leaves the sums out.
        """
        if not self.sums:
            raise CriterionError(
                f"Karnin's sums of {parameter!r} were not added up: this is a Trajectory(model, "
                "sums=False); record with sums=True"
            )
        return self._copy(parameter, "karnin")

    def before(self, parameter: str) -> Tensor:
        """The weights one update ago."""
        return self._copy(parameter, "before")

    def checked(self, parameter: str) -> Tensor:
        """The weights at the last `check_`; those of the start if there was none."""
        return self._copy(parameter, "checked")

    # What happens to it.

    def keep_(self, parameter: str, dim: int, kept: Tensor) -> None:
        """Go along with surgery: only positions `kept` along `dim` of a parameter stay.

        Args:
            parameter: its name at this moment; anything that is not followed is passed over.
            dim: which dimension is cut.
            kept: (k,) int64.
        """
        layer, _, short = parameter.rpartition(".")
        held = getattr(self.model.get_submodule(layer), short)
        parts = self._record.get(id(held), {})
        for name, value in parts.items():
            parts[name] = value.index_select(dim, kept.to(value.device))

    def state_dict(self) -> dict[str, Any]:
        """The record, copied: dicts of tensors by the parameters' present names."""
        named = self.model.named_parameters()
        held = {n: self._of(n, p) for n, p in named if p.is_floating_point()}
        weights = {n: {k: v.clone() for k, v in parts.items()} for n, parts in held.items()}
        return {"updates": self.updates, "sums": self.sums, "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back, or forward, to a state of the same network.

        Raises:
            GroupError: the state is another network's; nothing has changed then.
        """
        own = {n: p for n, p in self.model.named_parameters() if p.is_floating_point()}
        given: Mapping[str, Mapping[str, Tensor]] = state["weights"]
        other = sorted(own.keys() ^ given.keys())
        other += [n for n in own.keys() & given.keys() if given[n]["now"].shape != own[n].shape]
        if other:
            raise GroupError(
                f"a trajectory goes with the network it was recorded on; this one's differs in "
                f"{other[0]!r}. Load the state that was saved with this network."
            )
        self.updates, self.sums = state["updates"], state.get("sums", True)
        for name, parameter in own.items():
            parts = {key: value.to(parameter.device).clone() for key, value in given[name].items()}
            self._record[id(parameter)] = parts

    def _copy(self, parameter: str, part: str) -> Tensor:
        return self._of(parameter, self.model.get_parameter(parameter))[part].clone()

    def _of(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        parts = self._record.get(id(parameter))
        if parts is None or parts["now"].shape != parameter.shape:
            raise GroupError(
                f"parameter {name!r} is not the one this trajectory recorded: it was replaced, or "
                "cut without the record. Cut with shrink_(..., trajectory=trajectory), or record "
                "anew with Trajectory(model)."
            )
        return parts


def recorded(probe: Any, asking: str, group: Any) -> Trajectory:
    """The trajectory of a Probe, for a criterion that cannot do without.

    Args:
        probe: whose.
        asking: the criterion's name.
        group: what is to be scored.

    Raises:
        CriterionError: there is none; says how to record one.
        GroupError: it is another network's.
    """
    trajectory: Trajectory | Callable[..., Any] | None = probe.trajectory
    if not isinstance(trajectory, Trajectory):
        raise CriterionError(
            f"criterion {asking!r} asks what training did to {group.name!r}, and no trajectory was "
            "recorded: make trajectory = Trajectory(model) before training, train(..., "
            "after_update=[trajectory]), then Probe(model, data, trajectory=trajectory)"
        )
    if trajectory.model is not probe.model:
        raise GroupError(
            f"the trajectory is another network's, so {asking!r} cannot score {group.name!r}; "
            "make one of this model, and load_state_dict() what was recorded on its original"
        )
    return trajectory
