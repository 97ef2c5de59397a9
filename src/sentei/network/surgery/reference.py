"""What a masked network computes, run once and compared with any number of cut networks.

A network is compared with its own weights on its own inputs, and as a twin: with redrawn weights,
on inputs of lower resolution or shorter length where the network calls the same functions there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from sentei.nests import resized, tensors
from sentei.network.copying import restored
from sentei.network.example import at_least, rows
from sentei.network.example import check as check_example
from sentei.network.mask import Mask
from sentei.network.reducing import smaller
from sentei.network.surgery.comparing import Marks, fit
from sentei.network.surgery.cutting import remove_dead_
from sentei.network.surgery.observing import Observed, observed
from sentei.network.surgery.size_attributes import copy_sizes_
from sentei.network.surgery.twin import redraw_
from sentei.running import Example

INPUTS = 64  # inputs on which networks are compared, if they are small
NUMBERS = 2**16  # numbers in all inputs together, from which on they are fewer
LARGE = 2**22  # numbers in the results of all layers of a pass
LEAST = 2  # inputs of a twin: statistics of a batch need two

Held = Callable[[], AbstractContextManager[nn.Module]]


class State:
    """A network with certain weights, the inputs that it runs on, and what it computes.

    Args:
        held: returns a context in which the network has these weights.
        example: the inputs.
        leaking: let rectifiers leak.

    Attributes:
        example: the inputs.
    """

    def __init__(self, held: Held, example: Example, *, leaking: bool = False):
        self.held = held
        self.example = example
        self.leaking = leaking
        self._seen: dict[bool, Observed] = {}

    @property
    def numbers(self) -> int:
        """How many numbers the inputs hold."""
        return sum(tensor.numel() for tensor in tensors(self.example))

    @property
    def is_large(self) -> bool:
        """Whether a pass takes much longer than following it on shapes alone."""
        return sum(result.numel() for _, result in self.seen().layers) > LARGE

    def observe(
        self, *, changed: Callable[[nn.Module], object] | None = None, **options: Any
    ) -> Observed:
        """Run the network once more.

        Args:
            changed: changes the network for this run.
            **options: those of `observed`, if they are others.
        """
        with self.held() as model, restored(model) if changed else nullcontext():
            if changed is not None:
                changed(model)
            return observed(model, **{"example": self.example, "leaking": self.leaking, **options})

    def seen(self, *, training: bool = False) -> Observed:
        """Return what the network computed in a mode; it runs at the first call."""
        if training not in self._seen:
            self._seen[training] = self.observe(training=training)
        return self._seen[training]

    def keep(self, seen: Observed) -> State:
        """Keep what the network computed in evaluation mode."""
        self._seen[False] = seen
        return self


class Reference:
    """A masked network, with its own and with redrawn weights.

    Args:
        masked: the network.
        example: inputs.
        mask: of the whole cut; without one only the own weights are compared.

    Attributes:
        own: the network with its own weights.
        given: how many of its inputs the caller gave.
        notes: what could not be run.
    """

    def __init__(self, masked: nn.Module, example: Example, mask: Mask | None = None):
        self.masked, self.mask = masked, mask
        self.given = rows(example) or 1
        self.notes: list[str] = []
        self._example = example
        least = LEAST if mask is None else 1
        self.own = _running(masked, at_least(example, _count(example, least)), example)
        self._twin: State | None = None
        self._marks: dict[tuple[Mask, bool, bool], Marks | None] = {}

    @cached_property
    def quick(self) -> State:
        """The masked network with its own weights on the smallest inputs known."""
        return State(lambda: nullcontext(self.masked), self._smallest.example)

    @property
    def _smallest(self) -> State:
        """The state with the smallest inputs."""
        return min(filter(None, (self.own, self.twin)), key=lambda state: state.numbers)

    @property
    def twin(self) -> State | None:
        """The masked network with redrawn weights; None, with a note, if it does not run so."""
        if self._twin is None and not self.notes:
            try:
                self._twin = self._redrawn()
            except Exception as error:
                self.notes.append(f"redrawn weights ({first_line(error)})")
        return self._twin

    def _redrawn(self) -> State:
        assert self.mask is not None
        with restored(self.masked) as model:
            redraw_(model)
            self.mask.apply_(model)
            weights = _weights(model)
        held = partial(_with_weights, self.masked, weights)
        with held() as model:
            example, seen = calibrated(model, first(self._example, LEAST), self.own)
        if not all(t.isfinite().all() for t in tensors(seen.outputs) if t.is_floating_point()):
            raise ValueError("its outputs are not finite")
        return State(held, example, leaking=True).keep(seen)

    def cut_twin(self, mask: Mask, small: nn.Module) -> State:
        """Return the twin with dead units cut and the sizes of a network that was cut like it."""
        twin = self.twin
        assert twin is not None

        @contextmanager
        def held() -> Iterator[nn.Module]:
            with twin.held() as model:
                cut = remove_dead_(model, mask)
                copy_sizes_(cut, small)
                yield cut

        return State(held, twin.example, leaking=True)

    def unmasked_twin(self) -> State:
        """Return the twin with other weights in the place of those that the mask zeroed."""
        twin, mask = self.twin, self.mask
        assert twin is not None
        assert mask is not None

        @contextmanager
        def held() -> Iterator[nn.Module]:
            with restored(self.masked) as model:
                drawn = _weights(redraw_(model))
            with twin.held() as model:
                named = _weights(model)
                for name in mask.zeroed:
                    living = torch.ones_like(named[name])
                    mask.zero_(name, living)
                    _named(model)[name].data = torch.where(living != 0, named[name], drawn[name])
                yield model

        return State(held, twin.example, leaking=True)

    def marks(self, mask: Mask, state: State, *, training: bool = False) -> Marks | None:
        """Return where the results of layers belong to alive units; None if that is not known.

        They do not depend on weights, and rarely on the inputs: marks of smaller inputs are taken
        where they fit.
        """
        seen = state.seen(training=training)
        training = training and seen.names != state.seen().names
        for each in dict.fromkeys((self._smallest, state)):
            found = self._marks_on(mask, each, training)
            if found is not None and fit(found, seen):
                return found
        return None

    def _marks_on(self, mask: Mask, state: State, training: bool) -> Marks | None:
        key = mask, state is self.own, training
        if key not in self._marks:
            try:
                marked = observed(self.masked, state.example, training=training, dead=mask)
                self._marks[key] = [alive for _, alive in marked.layers]
            except Exception:  # as where the network checks its values
                self._marks[key] = None
        return self._marks[key]


def calibrated(model: nn.Module, few: Example, own: State) -> tuple[Example, Observed]:
    """Calibrate a network on the smallest inputs known on which it computes in the same way.

    Args:
        model: whose weights are divided in place, as `observed` does.
        few: inputs, which are made smaller if possible.
        own: the network with its own weights; its inputs are taken if the network takes no others.

    Returns:
        The inputs, and what the network computed on them.
    """
    observe = partial(observed, model, leaking=True, calibrating=True)
    for each in (*smaller(few), few):
        try:
            seen = observe(example=each)
        except Exception:  # the size is written in the network
            continue
        if each is few or _is_alike(seen, own.seen()):
            return each, seen
    return own.example, observe(example=own.example)


def first(example: Example, least: int) -> Example:
    """Return the first samples of an example: `least`, or up to 64 where they are small.

    Noise completes them. An example whose tensors do not hold samples is returned as it is.
    """
    if rows(example) is None:
        return example
    count = _count(example, least)
    return resized(at_least(example, count), lambda tensor: tensor[:count])


def _is_alike(less: Observed, whole: Observed) -> bool:
    """Return whether a network computes on smaller inputs in the way it does on whole ones.

    It calls the same functions, and layers give as many dimensions, none of which is 1 instead of
    more.
    """
    forms = [
        [(result.ndim, [min(size, 2) for size in result.shape[1:]]) for _, result in seen.layers]
        for seen in (less, whole)
    ]
    return less.calls == whole.calls and forms[0] == forms[1]


def _running(model: nn.Module, preferred: Example, example: Example) -> State:
    """Return a network on the preferred inputs if it runs on them, else on the others.

    Raises:
        DataError: it does not run on the others.
    """
    own = State(lambda: nullcontext(model), preferred)
    try:
        own.seen()
    except Exception:
        own = State(lambda: nullcontext(model), example)
        try:
            own.seen()
        except Exception:
            check_example(model, example)  # whose error says what is wrong with it
            raise
    return own


def _count(example: Example, least: int) -> int:
    """Return on how many inputs networks are compared."""
    numbers = sum(t.numel() for t in tensors(example)) // (rows(example) or 1)
    return min(max(NUMBERS // max(numbers, 1), least), INPUTS)


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.data for name, tensor in _named(model).items()}


@contextmanager
def _with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Give a network other weights in a `with` block, and undo all that happens to it there."""
    with restored(model):
        for name, tensor in _named(model).items():
            tensor.data = weights[name]
        yield model


def first_line(error: Exception) -> str:
    """Return the first line of an error, shortened."""
    return str(error).partition("\n")[0][:200]
