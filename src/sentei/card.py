"""`Card`: what a network predicts, as its files know it: loss, class names, feature names."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from sentei.arguments import checked
from sentei.losses import LOSSES

_ATTRIBUTE = "sentei_card"
PREDICTED = ("classes", "values")


@dataclass(frozen=True)
class Card:
    """What is known about a network beside its layers and weights; `save` stores it.

    Attributes:
        loss: name of the loss that the network was trained with; None if it is not known, or a
            function.
        predicts: "classes" or "values" (a regression, an autoencoder); None if not known.
        classes: a name for each class, in the order of the outputs; empty if not known.
        features: a name for each value of an input; empty if not known.

    Raises:
        ValueError: an unknown loss, or names that are not texts.
    """

    loss: str | None = None
    predicts: str | None = None
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def __post_init__(self):
        # The value itself is shown: it may come from a damaged file.
        if self.loss is not None and not _is_one_of(self.loss, LOSSES):
            raise ValueError(f"a card names a loss of sentei, {', '.join(LOSSES)}; {self.loss!r}")
        if self.predicts is not None and not _is_one_of(self.predicts, PREDICTED):
            raise ValueError(f"networks predict {' or '.join(PREDICTED)}, not {self.predicts!r}")
        for what in ("classes", "features"):
            names = getattr(self, what)
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"names of {what} are texts in a tuple, not {names!r}")

    def data(self) -> dict[str, Any]:
        """Return what is known as JSON-able data; `from_data` reads it again."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items() if v}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Card:
        """Return the Card that gave this `data`.

        Raises:
            ValueError: `data` is not what `data()` returns.
        """
        if not isinstance(data, dict) or not data.keys() <= {field.name for field in fields(cls)}:
            raise ValueError(f"{data!r} is no card of a network")
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in data.items()}
        return cls(**given)


def _is_one_of(value: Any, names: Container[str]) -> bool:
    return isinstance(value, str) and value in names


@checked
def card_of(model: nn.Module) -> Card:
    """Return the Card that belongs to a network; one without entries if it has none."""
    return vars(model).get(_ATTRIBUTE, Card())


@checked
def set_card_(model: nn.Module, card: Card) -> None:
    """Make a Card belong to a network; copies of the network have it too, and `save` stores it."""
    vars(model)[_ATTRIBUTE] = card
