"""Training that goes on where it was, and can be taken back: what mends a network between cuts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from sentei.samples import fingerprint
from sentei.training.recipe import Recipe
from sentei.training.train import Course, Pair


class Holding(Protocol):
    """A mask, as far as training is concerned: it keeps something at zero."""

    def hold_(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Zero it again, in the weights and in the optimizer's state."""
        ...


class FineTune:
    """Trains a network for some epochs at every call, with one optimizer and one order of samples.

    Args:
        samples: (inputs, targets) with a row for each sample.
        recipe: how; its `epochs` are those of one call. One epoch of Adam if None.
        after_update: called without arguments after every update, once what is dead is held. Those
            that have a state of their own (`state_dict`), such as a Trajectory, go back with it.
    """

    def __init__(
        self,
        samples: Pair,
        recipe: Recipe | None = None,
        *,
        after_update: Iterable[Callable[[], object]] = (),
    ):
        self.samples = samples
        self.recipe = recipe or Recipe(epochs=1)
        self.after_update = tuple(after_update)
        self.epoch = 0
        self._course: Course | None = None
        self._moments: dict[str, dict[str, Any]] = {}

    @property
    def words(self) -> str:
        """Recipe, data and teacher, in words that are the same in every process."""
        told = self.recipe.distillation
        taught = f", teacher {fingerprint(told.teacher.state_dict().values())}" if told else ""
        recipe = re.sub(r" at 0x[0-9a-f]+", "", repr(self.recipe))
        return f"FineTune({recipe}, data {fingerprint(self.samples)}{taught})"

    def __call__(self, model: nn.Module, mask: Holding) -> None:
        """Train `model` for the recipe's epochs, holding `mask` after every update.

        Raises:
            ValueError: another network than before.
            DataError: samples that the network cannot learn from.
            LossError: the loss is not finite.
        """
        course = self._started(model)
        calls = (lambda: mask.hold_(model, course.optimizer), *self.after_update)
        calls[0]()
        for _ in range(self.recipe.epochs):
            course.epoch(self.epoch, calls)
            self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """What the next call depends on besides the weights: epoch, optimizer, after-updates.

        Returns:
            Dicts of tensors and numbers, copied.
        """
        along = {str(i): call.state_dict() for i, call in enumerate(self._stateful)}
        return {"epoch": self.epoch, "optimizer": self._read(), "after_update": along}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back, or forward, to a state; it may come before the first call.

        Raises:
            ValueError: the state is another network's.
        """
        along = state.get("after_update", {})
        if len(along) != len(self._stateful):
            raise ValueError(
                f"the state holds that of {len(along)} after-update calls; this FineTune has "
                f"{len(self._stateful)}: make it with the same after_update="
            )
        for i, call in enumerate(self._stateful):
            call.load_state_dict(along[str(i)])
        self.epoch = state["epoch"]
        self._moments = state["optimizer"]
        if self._course is not None:
            self._write(self._course)

    @property
    def _stateful(self) -> list[Any]:
        return [call for call in self.after_update if hasattr(call, "state_dict")]

    def _started(self, model: nn.Module) -> Course:
        if self._course is None:
            self._course = Course(model, self.samples, self.recipe)
            self._write(self._course)
        if self._course.model is not model:
            raise ValueError("a FineTune goes with one network; make another for another network")
        return self._course

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._course is None:
            return {name: _copied(state) for name, state in self._moments.items()}
        optimizer, model = self._course.optimizer, self._course.model
        named = ((name, optimizer.state.get(p)) for name, p in model.named_parameters())
        return {name: _copied(state) for name, state in named if state}

    def _write(self, course: Course) -> None:
        parameters = dict(course.model.named_parameters())
        foreign = sorted(self._moments.keys() - parameters.keys())
        if foreign:
            raise ValueError(f"the state is another network's: this one has no {foreign[0]!r}")
        course.optimizer.state.clear()
        for name, state in self._moments.items():
            course.optimizer.state[parameters[name]] = _copied(state)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    plain = ((key, value) for key, value in state.items() if value is not None)
    return {key: v.clone() if isinstance(v, Tensor) else v for key, v in plain}
