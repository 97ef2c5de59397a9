"""Options that have no effect beside others, or without others, are refused: one table of them.

Fractions where a whole number is asked for are refused here too; cyclopts would round them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args

from cyclopts import App, ArgumentCollection


@dataclass(frozen=True)
class Needs:
    """Options that have no effect without another one.

    Attributes:
        options: names of the options, separated by spaces.
        one_of: names of the options of which one is needed.
        suffix: what the value of the needed option has to end with.
    """

    options: str
    one_of: str
    suffix: str = ""

    def broken(self, given: Mapping[str, str]) -> str | None:
        """Return why the options that are given break this rule; None if they do not."""
        needed = [given[name] for name in self.one_of.split() if name in given]
        if any(value.endswith(self.suffix) for value in needed):
            return None
        for option in self.options.split():
            if option in given:
                need = self.one_of.replace(" ", " or ") + f" *{self.suffix}" * bool(self.suffix)
                return (
                    f"{option} has no effect without {need}: give that too, or leave {option} out."
                )
        return None


@dataclass(frozen=True)
class Excludes:
    """Options that leave others without effect.

    Attributes:
        options: names of the options, separated by spaces.
        others: names of the options that none of them goes with.
        why: what the options do instead of what the others say.
    """

    options: str
    others: str
    why: str

    def broken(self, given: Mapping[str, str]) -> str | None:
        """Return why the options that are given break this rule; None if they do not."""
        for option in self.options.split():
            for other in self.others.split():
                if option in given and other in given:
                    return f"{option} and {other} exclude each other: {self.why}. Leave one out."
        return None


TABLE = Needs("--target --missing --text", "--data", ".csv")
JOURNAL = Needs("--resume", "--journal")
ONE_BUDGET = Excludes("--budget", "--board", "each says what the network has to fit into")
RULES: dict[str, tuple[Needs | Excludes, ...]] = {
    "train": (Needs("--temperature --teacher-weight", "--teacher"),),
    "prune": (
        JOURNAL,
        Needs("--watch", "--journal"),
        Excludes("--watch", "--budget --board", "a search runs several prunings, in turn"),
        ONE_BUDGET,
        Needs("--paths --synapse-criterion", "--budget --board"),
        Needs("--board-latency", "--board"),
        Needs("--keep --steps", "--schedule"),
        Needs("--metric-at-least --metric-at-most --metric-within", "--metric"),
        Needs("--metric-lower-is-better", "--metric-within"),
        Excludes(
            "--synapses",
            "--inputs --depth --repair --twins",
            "it removes single weights, not units",
        ),
        Excludes(
            "--twins",
            "--criterion --schedule --within --depth",
            "units are compared with each other, not scored",
        ),
        Excludes(
            "--alike --keep-of --at-least --multiples-of",
            "--twins --budget --board",
            "they are for rankings by a score",
        ),
        Excludes(
            "--budget --board",
            "--schedule --synapses --depth --within --repair --twins --metric",
            "for a budget, sentei fit searches paths of its own",
        ),
    ),
    "fit": (
        JOURNAL,
        Needs("--jobs --backend --shard", "--journal"),
        ONE_BUDGET,
        Needs("--board-latency", "--board"),
    ),
    "units": (Excludes("--data", "--shape", "inputs of the data have a shape"),),
    "surface": (Excludes("--literal-grid", "--points", "it sets the number of gains"),),
    "compare": (
        Needs("--shard", "--results"),
        Needs("--paths --formats --retrain-epochs", "--budgets"),
        Excludes(
            "--budgets",
            "--repairs --retrain --keep --steps --seeds",
            "sizes are compared, not ways of pruning",
        ),
    ),
    "reproduce": (
        Excludes("--page", "--quick", "a page shows full runs only"),
        Excludes("--processes", "--jobs", "they are two names of one option"),
    ),
}


def refuse(_: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Check the options of a command line, and of its TOML file: a `config` of cyclopts.

    Raises:
        ValueError: one of them would have no effect, or would be rounded.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        for token in argument.tokens:
            if _kinds(argument.hint) == {int} and "." in token.value:
                raise ValueError(f"{argument.name} takes a whole number, not {token.value}")
        if argument.tokens and not _is_off(argument.hint, argument.tokens[-1].value):
            given |= dict.fromkeys(argument.names, argument.tokens[-1].value)
    for rule in (*RULES.get(" ".join(commands), ()), TABLE):
        if why := rule.broken(given):
            raise ValueError(why)


def _kinds(hint: Any) -> set[type]:
    """Return the types of one value of an option: {int} for `list[int] | None`."""
    if isinstance(hint, type) and not get_args(hint):
        return {hint} - {NoneType}
    return set().union(*(_kinds(each) for each in get_args(hint)))


def _is_off(hint: object, value: str) -> bool:
    """Whether a flag is set to false, as a TOML file can do."""
    return hint is bool and value.lower() in ("false", "no", "off", "0")
