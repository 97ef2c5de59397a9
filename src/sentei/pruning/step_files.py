"""What a run folder stores of one step, and how it is turned into tensors and plain data and back.

Tensors of a step file, for the group at position i of the run:

    alive/i         which members are alive, a bit for each; only for groups with dead members
    removed/i       positions that the step removed, and scores/i their scores before it
    ranks/i         the order of the members that stayed, in some steps (see `has_ranks`)
    all_scores/i    the scores of all members, in step 1
    mix/name        how removed units are computed from others, at the parameter with that name
    by_class        samples classified correctly, and samples, by class
    weights/name    tensors that are not those of the untouched network under the mask
    random, retrain/..., propose/...    states
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy
import torch
from torch import Tensor, nn

from sentei.errors import CriterionError, JournalError
from sentei.network.mask import Mask
from sentei.network.units import Group
from sentei.pruning.measuring import Measurement
from sentei.pruning.rules.proposals import Cut, Proposal
from sentei.pruning.rules.states import restore_state_, state_of
from sentei.pruning.run_files import WEIGHTS, stripped, under

# What the names of the tensors of a `Record` begin with; the others are those of a `Snapshot`.
OF_RECORD = ("alive/", "removed/", "scores/", "ranks/", "all_scores/", "mix/", "by_class")


class Retrain(Protocol):
    """A function called after every cut to restore accuracy.

    If it has methods `state_dict` and `load_state_dict`, undo and resume restore its state. It may
    hold tensors, numbers, strings, lists and dicts.
    """

    def __call__(self, model: nn.Module, mask: Mask, /) -> object:
        """Train `model`; what is dead in `mask` stays zero."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """The state of a run after a step, as undo and resume restore it.

    Attributes:
        weights: parameters and buffers by name.
        retrain: the retrainer's state; None if it has none.
        propose: the proposal's state; None if it has none.
        random: torch's random state, where a retrainer draws from it.
        undone: steps undone since the start of the run.
    """

    weights: dict[str, Tensor]
    retrain: dict[str, Any] | None
    propose: dict[str, Any] | None
    random: Tensor | None
    undone: int

    @classmethod
    def take(
        cls, model: nn.Module, retrain: Retrain | None, propose: Proposal, undone: int
    ) -> Snapshot:
        """Copy the present state of the model, the retrainer, the proposal and random numbers."""
        weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        random = None if retrain is None else torch.get_rng_state()
        return cls(weights, state_of(retrain), state_of(propose), random, undone)

    def restore_(self, model: nn.Module, retrain: Retrain | None, propose: Proposal) -> None:
        """Copy the stored state back into the model's own tensors, retrainer and proposal."""
        model.load_state_dict(self.weights)
        restore_state_(retrain, self.retrain)
        restore_state_(propose, self.propose)
        if self.random is not None:
            torch.set_rng_state(self.random)


@dataclass(frozen=True)
class Record:
    """What the journal stores of one step besides the weights.

    Attributes:
        number: 0 is the untouched network.
        mask: what is alive after it.
        removed: positions removed in it, those of the sweep included.
        measured: quality and size after it.
        scores: the criterion's scores before it, of the removed members, in the order of `removed`.
        mixes: the mix at each listening parameter; see `network.folding.fold_`.
        ranks: the order of the members that stayed, by their scores before it: (alive,) integers,
            in the order of their positions. 0 is the lowest; equal scores have equal ranks. In some
            steps only; see `has_ranks`.
        all_scores: the scores of all members before it, (size,); in step 1 only.
        moved: names of the tensors that are not those of the untouched network under the mask.
    """

    number: int
    mask: Mask
    removed: dict[Group, Tensor]
    measured: Measurement
    scores: dict[Group, Tensor] = field(default_factory=dict)
    mixes: dict[str, Tensor] = field(default_factory=dict)
    ranks: dict[Group, Tensor] = field(default_factory=dict)
    all_scores: dict[Group, Tensor] = field(default_factory=dict)
    moved: tuple[str, ...] = ()

    @classmethod
    def after(
        cls, number: int, before: Mask, cut: Cut, mask: Mask, measured: Measurement
    ) -> Record:
        """Return the record of a step, with as much of the cut's scores as a journal keeps.

        Args:
            number: of the step.
            before: what was alive before it.
            cut: what was proposed.
            mask: what is alive after it.
            measured: quality and size after it.

        Raises:
            CriterionError: the cut's scores of a group are not one number for each member.
        """
        for group, given in cut.scores.items():
            if given.shape != (group.size,):
                raise CriterionError(
                    f"the scores of a Cut are one number for each of the {group.size} members of "
                    f"{group.name!r}, a tensor of shape ({group.size},); got {tuple(given.shape)}"
                )
        removed = mask.died_since(before)
        return cls(
            number,
            mask,
            removed,
            measured,
            scores={g: cut.scores[g][gone] for g, gone in removed.items() if g in cut.scores},
            mixes={part.parameter: mix for part, mix in cut.mix.items()},
            ranks={g: _ranks(cut.scores[g][mask.alive(g)]) for g in mask.groups if g in cut.scores}
            if has_ranks(number)
            else {},
            all_scores=dict(cut.scores) if number == 1 else {},
        )


def has_ranks(number: int) -> bool:
    """Whether a step's ranks are stored: every tenth step up to 100, then every hundredth.

    The ranks of a network with many synapses take more room than all else in a step.
    """
    return number > 0 and number % (10 if number <= 100 else 100) == 0


def _ranks(scores: Tensor) -> Tensor:
    """Return the rank of each score, equal for equal scores, in the smallest integer type."""
    ranks = scores.unique(return_inverse=True)[1]
    top = int(ranks.max()) if ranks.numel() else 0
    return ranks.to(torch.uint8 if top < 2**8 else torch.int16 if top < 2**15 else torch.int32)


def pack(
    record: Record, snapshot: Snapshot, groups: Sequence[Group], moved: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Turn a step into tensors and plain data.

    Args:
        record: the step.
        snapshot: the state after it; of its weights only `moved` are stored.
        groups: all groups of the run.
        moved: tensors that are not those of the untouched network under the step's mask.

    Raises:
        JournalError: the state of the retrainer or the proposal holds something that JSON cannot.
    """
    tensors = under(WEIGHTS, moved) | under("mix/", record.mixes)
    for i, group in enumerate(groups):
        alive = record.mask.alive(group)
        if not alive.all():
            tensors[f"alive/{i}"] = torch.from_numpy(numpy.packbits(alive.numpy()))
        if group in record.removed:
            tensors[f"removed/{i}"] = record.removed[group].int()
        for key in ("scores", "ranks", "all_scores"):
            if group in (held := getattr(record, key)):
                tensors[f"{key}/{i}"] = held[group]
    if record.measured.by_class is not None:
        tensors["by_class"] = record.measured.by_class
    if snapshot.random is not None:
        tensors["random"] = snapshot.random
    return tensors, {
        "number": record.number,
        "measured": record.measured.numbers(),
        "moved": sorted(moved),
        "undone": snapshot.undone,
        "retrain": _flatten(snapshot.retrain, "retrain", tensors),
        "propose": _flatten(snapshot.propose, "propose", tensors),
    }


def unpack_record(
    number: int, full: Mask, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> Record:
    """Return the record that `pack` was given, from its tensors whose names are `OF_RECORD`.

    Args:
        number: of the step.
        full: all groups of the run, everything alive.
        tensors: of the step.
        about: its plain data.

    Raises:
        ValueError: they are another step's, or damaged. Other damage raises the error it causes.
    """
    if type(about["number"]) is not int or about["number"] != number:
        raise ValueError(f"it holds step {about['number']}")
    held = {
        key: {
            g: tensors[f"{key}/{i}"] for i, g in enumerate(full.groups) if f"{key}/{i}" in tensors
        }
        for key in ("alive", "removed", "scores", "ranks", "all_scores")
    }
    mask = full.with_alive({group: _alive(group, bits) for group, bits in held["alive"].items()})
    removed = {group: positions.long() for group, positions in held["removed"].items()}
    for group, positions in removed.items():
        if mask.alive(group)[positions].any():
            raise ValueError(f"what it removed of {group.name!r} is alive")
    for key, size in (
        ("scores", lambda group: removed[group].numel()),
        ("ranks", mask.count),
        ("all_scores", lambda group: group.size),
    ):
        for group, given in held[key].items():
            if given.shape != (size(group),):
                raise ValueError(f"{key} of {group.name!r} have shape {tuple(given.shape)}")
    return Record(
        number,
        mask,
        removed,
        Measurement.read(about["measured"], tensors.get("by_class")),
        held["scores"],
        stripped("mix/", tensors),
        held["ranks"],
        held["all_scores"],
        tuple(about["moved"]),
    )


def unpack_snapshot(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> Snapshot:
    """Return the snapshot that `pack` was given.

    Args:
        expected: the untouched network's tensors under the step's mask.
        tensors: all tensors of the step.
        about: its plain data.

    Raises:
        ValueError: a tensor does not fit the network. Other damage raises the error it causes.
    """
    moved = stripped(WEIGHTS, tensors)
    if sorted(moved) != about["moved"]:
        raise ValueError("it does not hold the weights that it names")
    for name, tensor in moved.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"weight {name!r} has shape {tuple(tensor.shape)}")
    if type(about["undone"]) is not int:
        raise TypeError(f"{about['undone']!r} is no number of steps")
    retrain, propose = (_unflatten(about[key], tensors) for key in ("retrain", "propose"))
    weights = {**expected, **moved}
    return Snapshot(weights, retrain, propose, tensors.get("random"), about["undone"])


def _alive(group: Group, bits: Tensor) -> Tensor:
    if bits.dtype != torch.uint8 or bits.shape != (-(-group.size // 8),):
        raise ValueError(f"{group.size} members need as many bits; got {tuple(bits.shape)}")
    return torch.from_numpy(numpy.unpackbits(bits.numpy(), count=group.size).view(bool))


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as plain data; its tensors go into `tensors`, their names into the data."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        pairs = [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        return {"list": [_flatten(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise JournalError(
        "the state of a retrainer or a proposal may hold tensors, numbers, strings, lists and "
        f"dicts; {path} is a {type(value).__name__}"
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "list" in value:
            return [_unflatten(item, tensors) for item in value["list"]]
        return {key: _unflatten(item, tensors) for key, item in value["dict"]}
    return value
