"""`Rounds`: hooks on one or several optimizers, and what counts as one update of theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sentei.network.optimizer_state import inner, with_inner


class Rounds:
    """Follow optimizers: call a function after every step, and one after every round.

    A round is over once every optimizer that moves weights has taken at least one step since the
    last round. An optimizer that steps less often than the others therefore sets the pace.
    Optimizers that wrap others, such as SAM or Lookahead, are opened: a step is one of the
    optimizer inside, and the outer one's own step is followed as well, since it may change weights
    after the inner one has. Updates that a gradient scaler skips are no steps.

    Args:
        optimizers: the optimizers, as the training loop has them.
        before_step: called before every step of any of them.
        after_step: called after every step of any of them.
        after_round: called after the last step of a round, after `after_step`.

    Attributes:
        optimizers: all optimizers, wrapping and wrapped.
        moving: those of them that wrap no other: their steps make a round.
    """

    def __init__(
        self,
        optimizers: Optimizer | Sequence[Optimizer],
        before_step: Callable[[], object],
        after_step: Callable[[], object],
        after_round: Callable[[], object],
    ):
        self.optimizers = with_inner(optimizers)
        self.moving = tuple(o for o in self.optimizers if not inner(o))
        self._before_step = before_step
        self._after_step, self._after_round = after_step, after_round
        self._stepped: set[int] = set()
        self._depth: Counter[int] = Counter()
        self._hooks: list[Any] = []

    def hook_(self) -> None:
        """Add the hooks to the optimizers."""
        for optimizer in self.optimizers:
            if hasattr(optimizer, "_optimizer_step_post_hooks"):  # some wrappers have none
                self._hooks.append(optimizer.register_step_pre_hook(self._enter))
                self._hooks.append(optimizer.register_step_post_hook(self._leave))

    @property
    def waiting(self) -> list[str]:
        """The classes of the optimizers that have not stepped since the last round."""
        return [type(o).__name__ for o in self.moving if id(o) not in self._stepped]

    def remove(self) -> None:
        """Remove the hooks from the optimizers."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, optimizer: Optimizer, *_: Any) -> None:
        # A subclass whose step() calls its parent's may run the hooks of both: torch puts them into
        # the class whose step() is used first. Only the outer call is a step.
        self._depth[id(optimizer)] += 1
        if self._depth[id(optimizer)] == 1:
            self._before_step()

    def _leave(self, optimizer: Optimizer, *_: Any) -> None:
        self._depth[id(optimizer)] -= 1
        if self._depth[id(optimizer)] or was_skipped(optimizer):
            return
        self._after_step()
        if any(optimizer is each for each in self.moving):
            self._stepped.add(id(optimizer))
            if not self.waiting:
                self._stepped.clear()
                self._after_round()


def runs_hooks(optimizer: Optimizer) -> bool:
    """Return whether `step` runs the hooks that are registered.

    It does once the constructor of torch.optim.Optimizer has run; some wrappers do not call it.
    """
    hooked = getattr(type(optimizer).step, "hooked", False)
    return hooked and hasattr(optimizer, "_optimizer_step_post_hooks")


def was_skipped(optimizer: Optimizer) -> bool:
    """Return whether a gradient scaler made a fused optimizer skip this update.

    The step hook of a fused optimizer also runs when the update is skipped.
    """
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.item())
