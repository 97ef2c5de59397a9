"""`FineTune`: retrain a network between cuts, with a state that can be saved and restored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sentei.arguments import check_entries, checked
from sentei.describing import described
from sentei.nests import tensors
from sentei.reading.batches import Unpack, as_samples, beginning, is_pair
from sentei.running import Forward
from sentei.samples import fingerprint
from sentei.training.feeding import check_readable
from sentei.training.recipe import Recipe
from sentei.training.train import Course


class Holding(Protocol):
    """An object with `hold_`, such as a Mask: it keeps dead weights at zero in training."""

    def hold_(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Zero the dead weights, and their entries in the optimizer's state."""
        ...


@checked
class FineTune:
    """Retrain a network for some epochs after every cut, with one optimizer for all calls.

    Pass it as `retrain=` to `prune`, which calls it with the model and the mask. The optimizer's
    state and the epoch number continue from call to call, and dead weights stay zero after every
    update. When `prune` undoes a step, it restores this state as well.

    Args:
        samples: what `train` takes; an epoch is a pass over it.
        recipe: how to train; its `epochs` are those of one call. One epoch of Adam if None.
        batch: takes a batch apart, as for `Probe`.
        forward: how the network is run on inputs: callable(model, inputs) -> outputs.
        after_update: functions without arguments, called after every update once the dead weights
            are zero. If they have a `state_dict`, as a Trajectory has, it is part of the state that
            is saved and restored.

    Raises:
        DataError: the samples are of another form, or cannot be read again.
    """

    def __init__(
        self,
        samples: Any,
        recipe: Recipe | None = None,
        *,
        batch: Unpack | None = None,
        forward: Forward | None = None,
        after_update: Iterable[Callable[[], object]] = (),
    ):
        check_readable(samples)
        beginning(samples, batch, torch.get_default_dtype())
        self.samples = samples
        self.recipe = recipe or Recipe(epochs=1)
        self.batch, self.forward = batch, forward
        self.after_update = tuple(after_update)
        self.epoch = 0
        self._course: Course | None = None
        self._moments: dict[str, dict[str, Any]] = {}

    @property
    def words(self) -> str:
        """Recipe, data and teacher as a text that is the same in every process."""
        parts = {
            "batch": self.batch,
            "forward": self.forward,
            "after_update": self.after_update or None,
        }
        more = "".join(f", {name}={described(part)}" for name, part in parts.items() if part)
        return f"FineTune({described(self.recipe)}, data {self._data}{more})"

    @property
    def _data(self) -> str:
        """Hex digits of the samples; of what is read anew in every epoch, of its description."""
        if is_pair(self.samples):
            inputs, targets = self.samples
            pair = as_samples(inputs, targets, torch.get_default_dtype())
            return fingerprint((*tensors(pair.inputs), *tensors(pair.targets)))
        return hashlib.sha256(str(described(self.samples)).encode()).hexdigest()[:16]

    def __call__(self, model: nn.Module, mask: Holding) -> None:
        """Train `model` for the recipe's epochs, and zero the dead weights after every update.

        Args:
            model: the same network at every call; it is changed in place.
            mask: the mask whose dead weights stay zero.

        Raises:
            ValueError: another network than at the first call.
            DataError: the network cannot learn from the samples.
            LossError: the loss is not finite.
        """
        course = self._started(model)
        calls = (lambda: mask.hold_(model, course.optimizer), *self.after_update)
        calls[0]()
        for _ in range(self.recipe.epochs):
            course.epoch(self.epoch, calls)
            self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state besides the weights: epoch, optimizer, and that of `after_update`.

        Returns:
            Dicts of tensors and numbers, copied.
        """
        states = {str(i): call.state_dict() for i, call in enumerate(self._stateful)}
        return {"epoch": self.epoch, "optimizer": self._optimizer_state(), "after_update": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned, also before the first call.

        Raises:
            ValueError: the state belongs to another network, or to a FineTune with another
                `after_update`.
        """
        check_entries(self, state, ("epoch", "optimizer"))
        states = state.get("after_update", {})
        if len(states) != len(self._stateful):
            raise ValueError(
                f"the state holds the states of {len(states)} functions of after_update=; this "
                f"FineTune has {len(self._stateful)}: make it with the same after_update="
            )
        for i, call in enumerate(self._stateful):
            call.load_state_dict(states[str(i)])
        self.epoch = state["epoch"]
        self._moments = state["optimizer"]
        if self._course is not None:
            self._restore_optimizer(self._course)

    @property
    def _stateful(self) -> list[Any]:
        return [call for call in self.after_update if hasattr(call, "state_dict")]

    def _started(self, model: nn.Module) -> Course:
        if self._course is None:
            self._course = Course(model, self.samples, self.recipe, self.batch, self.forward)
            self._restore_optimizer(self._course)
        if self._course.model is not model:
            raise ValueError("a FineTune trains one network; make another for another network")
        return self._course

    def _optimizer_state(self) -> dict[str, dict[str, Any]]:
        """Return the optimizer's state by parameter name, copied."""
        if self._course is None:
            return {name: _copied(state) for name, state in self._moments.items()}
        optimizer, model = self._course.optimizer, self._course.model
        named = ((name, optimizer.state.get(p)) for name, p in model.named_parameters())
        return {name: _copied(state) for name, state in named if state}

    def _restore_optimizer(self, course: Course) -> None:
        """Copy the stored optimizer state into the optimizer of `course`."""
        parameters = dict(course.model.named_parameters())
        unknown = sorted(self._moments.keys() - parameters.keys())
        if unknown:
            raise ValueError(
                f"the state belongs to another network: this one has no {unknown[0]!r}"
            )
        counts_there = bool(course.optimizer.defaults.get("fused"))
        course.optimizer.state.clear()
        for name, state in self._moments.items():
            own = parameters[name]
            own_state = {key: _beside(own, value, counts_there) for key, value in state.items()}
            course.optimizer.state[own] = _copied(own_state)


def _beside(parameter: Tensor, value: Any, counts_there: bool) -> Any:
    """Return an entry of an optimizer's state on the parameter's device.

    Counts of updates, which have no dimension, are on the CPU but for fused optimizers.
    """
    there = isinstance(value, Tensor) and (value.ndim or counts_there)
    return value.to(parameter.device) if there else value


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    entries = ((key, value) for key, value in state.items() if value is not None)
    return {key: v.clone() if isinstance(v, Tensor) else v for key, v in entries}
