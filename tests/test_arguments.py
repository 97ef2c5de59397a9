"""`checked`: arguments are compared with their annotations at the call."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hand
import sentei
from sentei import Mask, Neurons, Progress
from sentei.arguments import checked
from sentei.describing import described
from sentei.kinds import READ

GROUP = hand.group("0", 6, "2")


@checked
def echo(
    model: nn.Module,
    groups: Sequence[Neurons] = (),
    *numbers: int,
    mask: Mask | None = None,
    flag: bool = False,
    score: Callable[[Neurons, Tensor], Tensor] | None = None,
    make: Callable[[], nn.Module] | None = None,
    steps: Annotated[int, "a count"] = 1,
    free: Annotated[int, READ] = 1,
    anything: Any = None,
    x: Tensor | None = None,
    pair: tuple[Tensor, Tensor] | None = None,
    names: tuple[str, ...] = (),
    several: Iterable[Neurons] = (),
    table: Mapping[Neurons, Tensor] | None = None,
) -> dict[str, Any]:
    """Return the arguments."""
    return dict(locals())


NET = nn.ReLU()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", None, "echo: `model` must be a network, an nn.Module; got None. Pass the netw"),
        ("model", nn.ReLU, "got the class ReLU. Make an object of the class first: ReLU(...)."),
        ("model", {}, "got an empty dict. Pass the network itself, not its class, its state_dict"),
        ("groups", GROUP, "got a Neurons object. Put it into a list: groups=[...]."),
        ("groups", [GROUP, None], "got a list of 2 items, whose item 1 is None. Take groups from"),
        ("groups", "ab", "must be a list (each item: a group of units); got 'ab'."),
        ("groups", torch.ones(2), "got a Tensor of shape (2,)."),
        ("groups", NET, "got a ReLU object. Swap"),
        ("groups", itertools.count(), "got a list of 1 item, whose item 0 is 0."),
        ("mask", Mask, "must be a Mask or None; got the class Mask. Make an object of the class"),
        ("flag", 1, "must be True or False; got 1."),
        ("score", lambda x: x, "must be a function of (Neurons, Tensor) or None; got the function"),
        ("score", nn.ReLU, "got the class ReLU. Make an object of the class first"),
        ("score", NET, "got a ReLU object."),  # its forward takes one argument
        ("make", Mask, "got the class Mask."),
        ("steps", 2.5, "`steps` must be a count; got 2.5."),
        ("steps", True, "`steps` must be a count; got True."),
        ("x", np.array(["a"]), "must be a tensor or None; got a ndarray of shape (1,). Make it"),
        ("pair", (1, 2), "must be a tuple (a tensor, a tensor) or None; got a tuple of 2 items"),
        ("names", "ab", "must be a tuple (each item: a text); got 'ab'. Put it into a list"),
        ("table", {GROUP: None}, "whose item 0 is None."),
        ("names", ["\x1b[2J", 3], "whose item 1 is 3."),
    ],
)
def test_a_refusal_says_what_is_wanted(name, value, message):
    given = {"model": NET, name: value}
    if name == "groups" and value is NET:
        given["model"] = [GROUP]
        message = "`model` must be a network, an nn.Module; got a list of 1 item. Swap `model` and"
    with pytest.raises(TypeError) as caught:
        echo(**given)
    assert message in str(caught.value)


def test_positions_and_further_arguments_count():
    assert echo(NET, [GROUP], 1, np.int64(2))["numbers"] == (1, 2)
    with pytest.raises(TypeError, match="`numbers` must be a whole number; got 'x'"):
        echo(NET, [GROUP], 1, "x")
    with pytest.raises(TypeError, match="missing 1 required"):
        echo()


def test_what_is_as_good_is_converted():
    assert echo(NET, (each for each in [GROUP]))["groups"] == [GROUP]
    assert echo(NET, {GROUP: 1}.keys())["groups"] == [GROUP]
    assert echo(NET, several={GROUP: 1})["several"] == [GROUP]
    assert echo(NET, names=["a"])["names"] == ("a",)
    backwards = np.arange(3.0)[::-1]
    assert echo(NET, x=backwards)["x"].tolist() == [2.0, 1.0, 0.0]
    frozen = np.arange(3)
    frozen.flags.writeable = False
    pair = echo(NET, pair=[frozen, torch.ones(1)])["pair"]
    assert isinstance(pair, tuple)
    assert pair[0].tolist() == [0, 1, 2]
    assert echo(NET, table={GROUP: np.ones(2)})["table"][GROUP].tolist() == [1, 1]


def test_what_is_right_is_passed_on_as_it_is():
    groups, table = [GROUP], {GROUP: torch.ones(1)}
    given = echo(NET, groups, table=table, free="read by echo", anything=echo, make=nn.ReLU)
    assert given["groups"] is groups
    assert given["table"] is table
    assert echo(NET, flag=np.bool_(True), score=lambda group, x, more=1: x)["flag"]
    assert echo(NET, score=nn.Bilinear(1, 1, 1))["score"] is not None  # takes two tensors


def test_methods_dataclasses_and_generators_are_checked_at_the_call():
    class Held(Protocol):
        def hold_(self) -> None: ...

    @checked
    @dataclass(frozen=True)
    class Made:
        size: int
        held: "Held | None" = None  # a name that is not known here

        @classmethod
        def of(cls, size: int) -> "Made":
            return cls(size)

        def steps(self, count: int) -> Iterator[int]:
            yield from range(count)

        def _own(self, count: int) -> Any:
            return count

        def __call__(self, count: int) -> int:
            return self._own("x") and count

    assert list(Made.of(3).steps(2)) == [0, 1]
    assert Made(3)(2) == 2
    for bad, name in (
        (lambda: Made("x"), "Made: `size`"),
        (lambda: Made.of("x"), "Made.of: `size`"),
        (lambda: Made(3).steps("x"), "Made.steps: `count`"),
        (lambda: Made(3)("x"), "Made: `count`"),
    ):
        with pytest.raises(TypeError, match=name):
            bad()


def test_a_checked_function_looks_and_is_described_as_before():
    parameters = inspect.signature(sentei.prune).parameters
    assert list(parameters)[:4] == ["model", "groups", "probe", "propose"]
    assert sentei.prune.__doc__.startswith("Prune `model` in place")
    assert inspect.signature(sentei.ranked).parameters["within"].default == "network"
    assert described(sentei.criteria.magnitude) == "magnitude"
    assert described(sentei.shrink) == "shrink"
    assert described(sentei.twins(3)).startswith("twins(degrees=3, ")
    mine = checked(lambda probe, group: probe)
    assert described(mine) == described(inspect.unwrap(mine))
    assert Progress(1, None, 2, 2) == Progress(1, None, 2, 2)
