"""Find the residual branches of a network: what is added to a stream and can be left out.

A *sum* is a tree of additions of tensors of one shape. A *term* of it is a branch if layers lie on
it that no other use needs, if it has more layers behind it than another term, the stream, and if
both come from one place. No type of layer and no name matters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sentei.network.copying import restored_attributes
from sentei.network.example import smallest, undisturbed
from sentei.network.origins import argument_tensors
from sentei.network.tracing.dataflow import Flow, Operation, run_noting
from sentei.network.tracing.grouping import NotOffered
from sentei.network.tracing.result_forms import ResultForms
from sentei.network.units import Branch, Branches
from sentei.running import Example, on_threads

NAME = "branches"
PRODUCERS = 4  # layers of a branch that are tried as the one whose zeros silence it, the last first
_SHARED = "no branch that can go: what is added to the stream is read elsewhere too"
_NOT_SILENT = (
    "no branch that can go: with zeros in all parameters that only it uses, what it adds to the "
    "stream is not zero"
)
Term = tuple[int, int]  # the number of an addition, and that of the result which it adds


@dataclass(eq=False)
class _Candidate:
    """Terms that are zero together, and what only they need.

    Attributes:
        terms: the terms.
        own: the operations that nothing else needs.
        producers: those of them that mix, the last first.
        parameters: names of the parameters that silence it; none found so far if empty.
        gates: names of the parameters that it is proportional to.
    """

    terms: frozenset[Term]
    own: frozenset[Operation]
    producers: Sequence[Operation]
    parameters: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()


def find_branches(model: nn.Module, example: Example) -> tuple[list[Branches], list[NotOffered]]:
    """Return the group of a network's residual branches, and what is added and cannot be left out.

    Args:
        model: any network.
        example: its inputs.

    Returns:
        The group, none if there is no branch; and for each residual addition that is no branch,
        the last layer that computes what is added, with the reason.
    """
    with restored_attributes(model), undisturbed(model), on_threads(1):
        example = smallest(model, example)
        flow, training = _flow(model, example)
        added = _candidates(flow)
        refused = [_refused(flow, each, _SHARED) for each in added if not each.producers]
        tried = _merged(flow, [each for each in added if each.producers])
        if tried:
            _try_(tried, _Trial(model, example, flow, training=training))
        found = [each for each in tried if each.parameters]
        refused += [_refused(flow, each, _NOT_SILENT) for each in tried if not each.parameters]
        forms = ResultForms(model, example, flow)
        branches = tuple(_distinct([_branch(flow, each, forms) for each in found]))
    group = [Branches(NAME, len(branches), branches)] if branches else []
    return group, [each for each in dict.fromkeys(refused) if each is not None]


def _flow(model: nn.Module, example: Example) -> tuple[Flow, bool]:
    """Record the network in both modes; in evaluation mode alone if it runs only there."""
    for training in (True, False):
        try:
            flow = Flow(model, example, training=training)
            again: list[str] = []
            run_noting(model, example, _names_into(again), training=training)
        except Exception:
            if not training:
                raise
            continue
        if again == flow.names:
            return flow, training
    return flow, False


def _names_into(names: list[str]) -> Callable[[Any, Any, Callable[[], Any]], Any]:
    def note(function: Any, given: Any, result: Callable[[], Any]) -> Any:  # noqa: ARG001
        names.append(getattr(function, "__name__", ""))
        return result()

    return note


# Candidates, from the graph alone.


def _candidates(flow: Flow) -> list[_Candidate]:
    """Return what is added to streams, in order; what has no producers of its own is no branch."""
    alive = flow.alive()
    found = []
    for terms in _sums(flow, alive):
        least = min(flow.depth[node] for _, node in terms)
        stream = [node for _, node in terms if flow.depth[node] == least]
        for term in terms:
            is_deeper = flow.depth[term[1]] > least
            if is_deeper and any(flow.origins[term[1]] & flow.origins[node] for node in stream):
                found.append(_candidate(flow, frozenset([term]), alive))
    return found


def _candidate(flow: Flow, terms: frozenset[Term], alive: Set[Operation]) -> _Candidate:
    own = alive - flow.alive(terms)
    behind = _behind(flow, [node for _, node in terms], own)
    producers = sorted((each for each in behind if each.mixes), key=lambda o: -o.number)
    return _Candidate(terms, frozenset(own), producers)


def _sums(flow: Flow, alive: Set[Operation]) -> Iterator[list[Term]]:
    """Yield the terms of each sum; a sum that only another one reads is a part of that."""
    additions = [each for each in flow.operations if each.terms is not None and each in alive]

    def is_part(operation: Operation) -> bool:
        for node in operation.gives:
            readers = [each for each in flow.readers[node] if each in alive]
            if node in flow.outputs or any(each.terms is None for each in readers):
                return False
        used = [each for node in operation.gives for each in flow.readers[node] if each in alive]
        return len(used) == 1

    def terms_of(operation: Operation) -> Iterator[Term]:
        for node in dict.fromkeys(operation.terms or ()):
            maker = flow.maker.get(node)
            if maker in parts and maker is not None:
                yield from terms_of(maker)
            else:
                yield operation.number, node

    parts = {each for each in additions if is_part(each)}
    for each in additions:
        if each not in parts:
            yield [*terms_of(each)]


def _behind(flow: Flow, nodes: Iterable[int], own: Set[Operation]) -> set[Operation]:
    """Return the operations among `own` on which results depend."""
    found: set[Operation] = set()
    left = [*nodes]
    while left:
        maker = flow.maker.get(left.pop())
        if maker is not None and maker in own and maker not in found:
            found.add(maker)
            left += maker.reads
    return found


def _after(flow: Flow, first: Operation, among: Set[Operation]) -> set[Operation]:
    """Return an operation and those among some that depend on it."""
    found, left = {first}, [first]
    while left:
        for node in left.pop().gives:
            for reader in flow.readers[node]:
                if reader in among and reader not in found:
                    found.add(reader)
                    left.append(reader)
    return found


def _merged(flow: Flow, found: Sequence[_Candidate]) -> list[_Candidate]:
    """Join candidates whose last layer is the same: a network may use it several times."""
    alive = flow.alive()
    together: dict[frozenset[str], set[Term]] = defaultdict(set)
    for each in found:
        together[each.producers[0].weights] |= each.terms
    joined = [_candidate(flow, frozenset(terms), alive) for terms in together.values()]
    return [each for each in joined if each.producers]


# What silences a candidate, by trying.


def _try_(tried: Sequence[_Candidate], trial: _Trial) -> None:
    """Find for each candidate what silences it, and then what it is proportional to."""
    trial.silence_(tried)
    if silent := [each for each in tried if each.parameters]:
        trial.gate_(silent)


class _Trial:
    """Runs the network with other numbers in the parameters of all candidates at once.

    Every sum keeps the value it has in the network, so that candidates do not change each other.
    """

    def __init__(self, model: nn.Module, example: Example, flow: Flow, *, training: bool):
        self._model, self._example, self._training = model, example, training
        self._flow, self._alive = flow, flow.alive()
        self._parameters = dict(model.named_parameters())
        self._sums = {each.number: each.terms for each in flow.operations if each.terms is not None}
        self._values: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

        def note(number: int, given: Sequence[Tensor], result: Tensor) -> None:
            self._values[number] = given[0], given[1], result.clone()

        self._run(note)

    def silence_(self, found: Sequence[_Candidate]) -> None:
        """Find for each candidate the parameters whose zeros silence it."""
        left = [*found]
        for turn in range(PRODUCERS + 1):
            tried = {each: self._silencing(each, turn) for each in left}
            silent = self._holds(tried.values(), 0.0, lambda now, _: not now.count_nonzero())
            for each, parameters in tried.items():
                if parameters and silent >= each.terms:
                    each.parameters = parameters
            left = [each for each in left if not each.parameters]

    def gate_(self, found: Sequence[_Candidate]) -> None:
        """Find for each candidate the parameters that it is proportional to, if there are any."""
        left = [*found]
        for turn in range(PRODUCERS):
            tried = {each: self._gating(each, turn) for each in left}
            halved = self._holds(tried.values(), 0.5, _is_half)
            for each, gates in tried.items():
                if gates and halved >= each.terms:
                    each.gates = gates
            left = [each for each in left if not each.gates]

    def _silencing(self, candidate: _Candidate, turn: int) -> tuple[str, ...]:
        """Return what is tried: all parameters of its own; then those from a last layer on."""
        own = tuple(
            name
            for name in self._parameters
            if (users := [user for user in self._flow.users[name] if user in self._alive])
            and candidate.own.issuperset(users)
        )
        if turn == 0:
            return own
        if turn > len(candidate.producers):
            return ()
        behind = _behind(self._flow, [node for _, node in candidate.terms], candidate.own)
        after = _after(self._flow, candidate.producers[turn - 1], behind)
        return tuple(name for name in own if any(name in each.weights for each in after))

    def _gating(self, candidate: _Candidate, turn: int) -> tuple[str, ...]:
        """Return the parameters of one of the last operations that have any."""
        behind = _behind(self._flow, [node for _, node in candidate.terms], candidate.own)
        held = sorted((each for each in behind if each.weights), key=lambda each: -each.number)
        used = [*dict.fromkeys(each.weights for each in held)][turn : turn + 1]
        return tuple(name for name in candidate.parameters if any(name in each for each in used))

    def _holds(
        self,
        names: Iterable[Sequence[str]],
        factor: float,
        of: Callable[[Tensor, Tensor], bool],
    ) -> set[Term]:
        """Return the terms of whose values something holds with parameters multiplied.

        A term holds if it does in both modes.
        """
        fails: set[int] = set()

        def note(number: int, given: Sequence[Tensor], result: Tensor) -> None:
            for node, now, before in zip(
                self._sums[number], given, self._values[number][:2], strict=True
            ):
                fails.update(() if of(now, before) else (node,))
            result.copy_(self._values[number][2])

        parameters = [self._parameters[name] for some in names for name in some]
        with _scaled(parameters, factor):
            self._run(note)
        return {(n, node) for n, terms in self._sums.items() for node in terms} - {
            (n, node) for n, terms in self._sums.items() for node in terms if node in fails
        }

    def _run(self, see: Callable[[int, Sequence[Tensor], Tensor], None]) -> None:
        """Run the network; `see` gets the number, the terms and the result of each addition."""
        count = 0

        def note(function: Any, given: Any, result: Callable[[], Any]) -> Any:  # noqa: ARG001
            nonlocal count
            count += 1
            if count - 1 not in self._sums:
                return result()
            terms = [tensor.clone() for tensor in argument_tensors(given)][:2]
            found = result()
            see(count - 1, terms, found)
            return found

        run_noting(self._model, self._example, note, training=self._training)


def _is_half(now: Tensor, before: Tensor) -> bool:
    return torch.allclose(2 * now, before, rtol=1e-3, atol=1e-4 * float(before.abs().amax()))


@contextmanager
def _scaled(parameters: Sequence[nn.Parameter], factor: float) -> Iterator[None]:
    """Multiply parameters in a `with` block; their numbers are not written to."""
    before = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            scaled = parameter.data * factor if factor else torch.zeros_like(parameter.data)
            parameter.data = scaled
        yield
    finally:
        for parameter, data in zip(parameters, before, strict=True):
            parameter.data = data


# Branches.


def _branch(flow: Flow, candidate: _Candidate, forms: ResultForms) -> Branch:
    zeros = forms.of(candidate.own)
    number = _last_of_all(flow, candidate).number
    name = min(
        (v.path for v in flow.visits if v.begin <= number < v.end),
        key=lambda path: (path not in zeros, -len(path)),
    )
    return Branch(name, candidate.parameters, candidate.gates, zeros)


def _refused(flow: Flow, candidate: _Candidate, why: str) -> NotOffered | None:
    """Return that the last layer of a candidate is not offered."""
    behind = _behind(flow, [node for _, node in candidate.terms], flow.alive())
    last = max((each for each in behind if each.mixes), key=lambda each: each.number, default=None)
    if last is None:
        return None
    name, dim = last.layer[:2] if last.layer else (min(last.weights), 0)
    return NotOffered(name, dim, why)


def _last_of_all(flow: Flow, candidate: _Candidate) -> Operation:
    """Return the last layer on which the whole candidate depends: not one that gates it."""
    ends = [node for _, node in candidate.terms]
    for each in candidate.producers:
        others = _behind(flow, ends, candidate.own - {each})
        if all(other.number > each.number for other in others if other.mixes):
            return each
    return candidate.producers[0]


def _distinct(branches: Sequence[Branch]) -> Iterator[Branch]:
    """Yield branches with names that differ."""
    taken: dict[str, int] = defaultdict(int)
    for each in branches:
        taken[each.name] += 1
        count = taken[each.name]
        yield each if count == 1 else replace(each, name=f"{each.name}:{count}")
