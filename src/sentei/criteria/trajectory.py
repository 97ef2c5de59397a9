"""The Trajectory: a record of a network's weights during training, for criteria that need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sentei.arguments import check_entries, checked
from sentei.errors import CriterionError, GroupError, unknown
from sentei.samples import fingerprint
from sentei.shards import refuse_sharded

_PARTS = ("start", "checked", "before", "now", "karnin")


@checked
class Trajectory:
    """Record how a network's weights change in training, as a callback after each update.

        trajectory = Trajectory(model)                    # before training: these weights are w(0)
        train(model, data, after_update=[trajectory])
        probe = Probe(model, data, trajectory=trajectory)

    In your own training loop, call it after `optimizer.step()` and before the gradients are
    cleared. It keeps four copies of the parameters and, for the criterion `karnin`, one tensor of
    float64 sums for each parameter: of gradient times weight change, over all updates.

    Args:
        model: the network; its floating-point parameters are recorded. `shrink_` cuts the record
            along with the parameters.
        sums: whether to add up these sums, which takes most of the time; without them the
            criterion `karnin` is not available.

    Attributes:
        model: the network.
        sums: whether the sums for `karnin` are recorded.
        updates: the number of updates recorded.

    Raises:
        StructureError: tensors of the network are in shards on several devices.
    """

    def __init__(self, model: nn.Module, sums: bool = True):
        refuse_sharded(model)
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
        """Record an update: copy every weight, and add to the sums for `karnin`.

        Raises:
            GroupError: a parameter was replaced by another object since the record began.
        """
        named = self.model.named_parameters()
        followed = [(self._of(n, p), p) for n, p in named if p.is_floating_point()]
        for parts, _ in followed:
            parts["before"], parts["now"] = parts["now"], parts["before"]
        # One call for all parameters, so as not to slow down fast updates of small tensors.
        torch._foreach_copy_([parts["now"] for parts, _ in followed], [p for _, p in followed])
        for parts, parameter in followed if self.sums else ():
            if parameter.grad is not None:
                parts["karnin"] -= parameter.grad * (parts["now"] - parts["before"])
        self.updates += 1

    def fingerprint(self) -> str:
        """Return sixteen hex digits that identify everything that was recorded."""
        return fingerprint(part for parts in self._record.values() for part in parts.values())

    def check_(self) -> None:
        """Save the current weights as those of the last check, which `checked` returns."""
        for parts in self._record.values():
            parts["checked"].copy_(parts["now"])

    # The record of a parameter, by its name.

    def start(self, parameter: str) -> Tensor:
        """Return a copy of the weights w(0) at the start of the record."""
        return self._copy(parameter, "start")

    def karnin(self, parameter: str) -> Tensor:
        """Return minus the sum over all updates of gradient times weight change, float64.

        Raises:
            CriterionError: this trajectory was made with `sums=False`.
        """
        if not self.sums:
            raise CriterionError(
                f"Karnin's sums of {parameter!r} were not recorded: this is a Trajectory(model, "
                "sums=False). Record with sums=True"
            )
        return self._copy(parameter, "karnin")

    def before(self, parameter: str) -> Tensor:
        """Return a copy of the weights before the last update."""
        return self._copy(parameter, "before")

    def checked(self, parameter: str) -> Tensor:
        """Return a copy of the weights at the last `check_`, or at the start if there was none."""
        return self._copy(parameter, "checked")

    # Changes of the record.

    def keep_(self, parameter: str, dim: int, kept: Tensor) -> None:
        """Cut the record of a parameter like the parameter: keep positions `kept` along `dim`.

        Args:
            parameter: its current name; a parameter that is not recorded is ignored.
            dim: the dimension that is cut.
            kept: (k,) int64.
        """
        held: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        held |= dict(self.model.named_buffers(remove_duplicate=False))
        self._check_name(parameter, held)
        parts = self._record.get(id(held[parameter]), {})
        if parts and (dim >= parts["now"].ndim or kept.is_floating_point()):
            raise GroupError(
                f"positions along dimension {dim} of {parameter!r} are wanted, of the shape "
                f"{tuple(parts['now'].shape)}; got {kept.dtype}"
            )
        for name, value in parts.items():
            parts[name] = value.index_select(dim, kept.to(value.device))

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the record: dicts of tensors by the parameters' current names."""
        named = self.model.named_parameters()
        held = {n: self._of(n, p) for n, p in named if p.is_floating_point()}
        weights = {n: {k: v.clone() for k, v in parts.items()} for n, parts in held.items()}
        return {"updates": self.updates, "sums": self.sums, "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the record from a state of the same network.

        Raises:
            GroupError: the state belongs to another network; nothing has changed then.
        ValueError: it is no state of a Trajectory.
        """
        check_entries(self, state, ("updates", "weights"))
        own = {n: p for n, p in self.model.named_parameters() if p.is_floating_point()}
        given: Mapping[str, Mapping[str, Tensor]] = state["weights"]
        differing = sorted(own.keys() ^ given.keys())
        differing += [n for n in own.keys() & given.keys() if given[n]["now"].shape != own[n].shape]
        if differing:
            raise GroupError(
                "a trajectory can be loaded only for the network it was recorded on; this state "
                f"differs from the network in {differing[0]!r}. Load the state that was saved with "
                "this network."
            )
        self.updates, self.sums = state["updates"], state.get("sums", True)
        for name, parameter in own.items():
            parts = {key: value.to(parameter.device).clone() for key, value in given[name].items()}
            self._record[id(parameter)] = parts

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: the record itself is by the identity of parameters."""
        return {"model": self.model, **self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make this the record of the model in a state."""
        self.model, self._record = state["model"], {}
        self.load_state_dict(state)

    def _copy(self, parameter: str, part: str) -> Tensor:
        """A copy of one part, such as "start", of a parameter's record."""
        held = dict(self.model.named_parameters(remove_duplicate=False))
        self._check_name(parameter, held)
        return self._of(parameter, held[parameter])[part].clone()

    def _check_name(self, parameter: str, known: Mapping[str, Tensor]) -> None:
        if parameter not in known:
            raise GroupError(unknown("parameter", parameter, known))

    def _of(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        """The record of a parameter; raises GroupError if it has none of the same shape."""
        parts = self._record.get(id(parameter))
        if parts is None or parts["now"].shape != parameter.shape:
            raise GroupError(
                f"parameter {name!r} is not the one this trajectory recorded: it was replaced, or "
                "cut without cutting the record. Cut with shrink_(..., trajectory=trajectory), or "
                "start a new record with Trajectory(model)."
            )
        return parts


def recorded(probe: Any, asking: str, group: Any) -> Trajectory:
    """Return a Probe's trajectory, or raise if it has none, for a criterion that needs one.

    Args:
        probe: the Probe.
        asking: the criterion's name.
        group: the group to score.

    Raises:
        CriterionError: the Probe has no trajectory; the message explains how to record one.
        GroupError: the trajectory was recorded on another network.
    """
    trajectory: Trajectory | Callable[..., Any] | None = probe.trajectory
    if not isinstance(trajectory, Trajectory):
        raise CriterionError(
            f"criterion {asking!r} needs a record of how the weights of {group.name!r} changed in "
            "training, and this Probe has none. Make trajectory = Trajectory(model) before "
            "training, call train(..., after_update=[trajectory]), then Probe(model, data, "
            "trajectory=trajectory)"
        )
    if trajectory.model is not probe.model:
        raise GroupError(
            f"the trajectory is another network's, so {asking!r} cannot score {group.name!r}. Make "
            "a Trajectory of this model and load the original's record with load_state_dict()"
        )
    return trajectory
