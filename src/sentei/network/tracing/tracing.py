"""Find the groups of prunable units of any network by running it: `find_units`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, overload

from torch import nn
from torch.nn.parameter import is_lazy

from sentei.arguments import checked
from sentei.errors import StructureError
from sentei.network.copying import restored_attributes
from sentei.network.example import check, smallest, undisturbed
from sentei.network.forward import with_forward
from sentei.network.tracing.branches import find_branches
from sentei.network.tracing.decoding import Tracer
from sentei.network.tracing.grouping import NotOffered, groups, left_out, unread_rows
from sentei.network.tracing.inputs import Place
from sentei.network.tracing.offering import Offer, offer
from sentei.network.tracing.reducing import reduced
from sentei.network.tracing.replay import Replay
from sentei.network.tracing.sharing import shared_rows
from sentei.network.units import Branches, Neurons
from sentei.running import Example, Forward, on_threads

WAYS = 4  # of taking rows for shared ones are tried, each in a trace of its own


@overload
def find_units(
    model: nn.Module,
    example: Example,
    inputs: bool = False,
    forward: Forward | None = None,
    depth: Literal[False] = False,
) -> list[Neurons]: ...
@overload
def find_units(
    model: nn.Module,
    example: Example,
    inputs: bool = False,
    forward: Forward | None = None,
    *,
    depth: bool,
) -> list[Neurons | Branches]: ...
@checked
def find_units(
    model: nn.Module,
    example: Example,
    inputs: bool = False,
    forward: Forward | None = None,
    depth: bool = False,
) -> Any:
    """Find the groups of interchangeable units of a network: neurons, channels, heads, streams.

    The model runs once, and again in training mode, where it may use other layers. Then its
    recorded activations are replayed with NaN written into the outputs of chosen weight rows: the
    columns that read NaN read these rows. Neither the types of the layers nor the source of
    `forward` matter. Not offered are units that are part of an output, units that are added to
    single elements of the model's input, units that no column reads, and units that an operation
    over all of them (softmax) ties together into one; `not_offered` lists them. Units that a norm
    over them reads (layer norm, RMS norm) are a "stream". The model's weights, buffers, modes and
    the random state stay unchanged.

    Args:
        model: any module that uses its weights through torch's own functions.
        example: what to run it on: a tensor, a tuple of arguments or a dict of keywords. One or two
            samples are used where the model treats each alone, else all.
        inputs: whether to offer input features too, in groups of kind "input" without producers.
        forward: how the network is run, a function (model, example) -> outputs: for a part of it,
            several calls, or unusual arguments. It reaches all layers through its first argument.
            If None, `model(example)`, `model(*example)` or `model(**example)`.
        depth: whether to offer residual branches too, in one group of kind "branch": attention,
            feed-forward layers or a block of convolutions that are added to a stream, each one unit
            that is removed whole. What `shrink` removes are the modules that a branch alone needs.

    Returns:
        The groups in the order of their first producers, that of the branches last; indices are
        int64 on the CPU.

    Raises:
        StructureError: the network cannot be followed (no use of a weight is seen, its calls depend
            on values, or an operation hides which columns read which rows).
        DataError: the example does not run.
    """
    example = with_forward(model, example, forward)
    groups = traced(model, example, inputs=inputs).groups
    return [*groups, *find_branches(model, example)[0]] if depth else groups


@checked
def not_offered(
    model: nn.Module, example: Example, forward: Forward | None = None, depth: bool = False
) -> list[NotOffered]:
    """Return what `find_units` leaves out, and why: rows of parameters that are in no group.

    Args:
        model: as for `find_units`.
        example: as for `find_units`.
        forward: as for `find_units`.
        depth: whether to list what is added to a stream and is no branch that can go, too.

    Returns:
        For each parameter with such rows an entry for each reason, in the order of their first use.
        For an addition that is no branch, then, the last layer that computes what is added.

    Raises:
        StructureError, DataError: as `find_units`.
    """
    example = with_forward(model, example, forward)
    left = traced(model, example, inputs=False).left_out
    return [*left, *find_branches(model, example)[1]] if depth else left


def traced(model: nn.Module, example: Example, *, inputs: bool, fast: bool = True) -> Offer:
    """Trace a network; return the groups that can be cut, and what cannot.

    Args:
        model: the network.
        example: its inputs.
        inputs: whether input features count as units.
        fast: replay functions instead of the model, on a smaller example, where that shows the
            same. What contradicts itself is traced again without, so that errors are those of the
            model on the example.
    """
    with restored_attributes(model), undisturbed(model), on_threads(1):
        replay, seen = record(model, example, inputs=inputs, fast=fast)
        try:
            found = _best(model, replay, seen)
            if any(group.kind == "stream" for group in found.refused):
                tied = _best(model, replay.without_statistics(), seen)
                found = max(found, tied, key=lambda offer: _rank(offer)[:2])
            return found
        except StructureError:
            if replay.tape is None and seen is example:
                raise
    return traced(model, example, inputs=inputs, fast=False)


def _best(model: nn.Module, replay: Replay, example: Example) -> Offer:
    found, tracer = _followed(model, replay, example)
    ways = shared_rows(tracer)[:WAYS]
    others = [_followed(model, replay.without(way), example)[0] for way in ways]
    better = [other for other in others if len(other.groups) > len(found.groups)]
    return max(better, key=_rank, default=found)


def _rank(offer: Offer) -> tuple[int, int, int]:
    heads = sum(group.kind == "head" for group in offer.groups)
    return len(offer.groups), heads, -len(offer.refused)


def _followed(model: nn.Module, replay: Replay, example: Example) -> tuple[Offer, Tracer]:
    tracer = Tracer(replay)
    try:
        tracer.trace()
    except StructureError:
        raise
    except Exception as error:
        raise StructureError(
            "the network cannot be followed: with NaN in the place of units it does not run "
            f"({error}). If a part of it does not depend on values, pass forward=, which runs only "
            "that part: forward=lambda model, example: model.backbone(example). If you know which "
            "tensors belong to units, make groups with sentei.declare"
        ) from error
    found = offer(model, groups(tracer), unread_rows(tracer), example)
    whys = [
        NotOffered(part.parameter, part.dim, why)
        for group, why in found.refused.items()
        for part in group.producers
    ]
    known = {(each.parameter, each.dim) for each in whys}
    others = left_out(tracer, [*found.groups, *found.refused])
    whys += [each for each in others if (each.parameter, each.dim) not in known]
    return replace(found, left_out=whys), tracer


def _over_units(replay: Replay) -> set[Place]:
    """Return the statistics that reduce units, not steps or pixels.

    With NaN in every other row, and then in the others, these read it at other positions.
    """
    found = [
        replay.nan_columns({p: source.codes & 1 == bit for p, source in replay.sources.items()})
        for bit in (0, 1)
    ]
    differs = found[0] != found[1]
    return {place for place in replay.statistics if differs[replay.readers[place]].any()}


def record(
    model: nn.Module, example: Example, *, inputs: bool, fast: bool = True
) -> tuple[Replay, Example]:
    """Record the model's forward pass over the example, on one sample if that shows as much.

    Args:
        model: the network.
        example: its inputs.
        inputs: whether input features count as units.
        fast: as for `traced`.

    Returns:
        The recorded pass; and the example, with fewer pixels or steps where that shows as much.

    Raises:
        StructureError: the model has lazy layers that have not run yet, or cannot be followed.
        DataError: the example does not run.
    """
    lazy = [name for name, value in model.named_parameters() if is_lazy(value)]
    if lazy:
        raise StructureError(
            f"every weight must have its shape; {lazy[0]!r} is lazy and gets its shape from the "
            "first input: run the model once before tracing it"
        )
    try:
        less = reduced(model, example) if fast and not inputs else example
        replay = _recorded(model, smallest(model, less), inputs=inputs)
        if replay.differs_in_training():
            replay = _recorded(model, replay.example, inputs=inputs, training=True)
        return (replay if fast else replay.untaped()), less
    except StructureError:
        raise
    except Exception as error:
        check(model, example)
        raise StructureError(f"the network cannot be followed: {error}") from error


def _recorded(
    model: nn.Module, example: Example, *, inputs: bool, training: bool = False
) -> Replay:
    """Record a pass in which the statistics over units are answered as they were recorded."""
    replay = Replay(model, example, inputs=inputs, training=training)
    try:
        over_units = _over_units(replay)
    except Exception:  # the replays of tracing fail in the same way, and say why
        return replay
    if len(over_units) < len(replay.statistics):
        return Replay(model, example, inputs=inputs, training=training, statistics=over_units)
    return replay
