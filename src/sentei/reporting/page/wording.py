"""Sentences of a page: what happened, what a unit is, and what numbers were measured on."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any

from sentei.metrics import NAMES, R2, texts
from sentei.network.units import Synapses
from sentei.pruning.measuring import Measurement
from sentei.pruning.rules import proposals
from sentei.reporting.page.story import Story

UNITS = {
    "neuron": "a neuron of a hidden layer, which computes one number for the next layers",
    "channel": "a channel of a convolution, which computes one map for the next layers",
    "head": "an attention head",
    "stream": "one position of the width that all blocks share",
    "branch": "a residual branch, which is removed whole",
    "input": "one value of the input",
}
SYNAPSE = "A synapse is a weight that connects two units."

_RISE = "by how much the loss rises without it"
EXACT = {
    "ablation": f"{_RISE} (exact ablation)",
    "ablation-affine": f"{_RISE}, once the unit most like it takes over (ablation-affine)",
    "ablation-least-squares": f"{_RISE}, once the others take over (ablation-least-squares)",
}


def title(story: Story) -> str:
    """Return the page's title: what was removed, and what the network is for."""
    purpose = f" for {story.names.data}" if story.names.data else ""
    first, last = story.records[0].measured, story.records[-1].measured
    if not story.is_run:
        what = "units" if last.units else "synapses"
        return f"A network{purpose}: {getattr(last, what):,} {what}"
    what = counted(story)
    had, left = getattr(first, what), getattr(last, what)
    if left == had:
        return f"A network{purpose}: none of its {had:,} {what} removed yet"
    removed = f"{had - left:,} of {had:,} {what}"
    return f"{removed} removed from a network{purpose}"


def lead(story: Story) -> list[str]:
    """Return sentences that sum up the run or the network, and say what a unit is."""
    first, last = story.records[0].measured, story.records[-1].measured
    found = [_definition(story)]
    if not story.is_run:
        right = "" if last.accuracy is None else f", accuracy {last.accuracy:.2%}"
        right += "".join(f", {name} {text}" for name, text in texts(last.metrics))
        return [f"{last.units:,} units and {last.synapses:,} synapses{right}.", *found]
    on = measured_on(story)
    how = criterion(story.card.get("propose"))
    if how is not None:
        by = EXACT.get(how, f"by {how}")
        found.append(f"Each was scored {by}; the lowest scores went first.")
    if any(sentence.startswith("Steps") for sentence in story.missing):
        found.append("Not all steps of the run can be read; the end of this page says why.")
    sizes = f"The file went from {first.bytes:,} to {last.bytes:,} bytes"
    return [f"{sizes}; {_cost(first, last)}{f', on {on}' if on else ''}.", *found]


def counted(story: Story) -> str:
    """Return what a run removes, in the words of a measurement: "units" or "synapses"."""
    return "synapses" if any(isinstance(g, Synapses) for g in story.groups) else "units"


def measured_on(story: Story) -> str:
    """Return what accuracy and loss were measured on at every step; "" if it is not known."""
    by_class = story.records[0].measured.by_class
    rows = None if by_class is None else int(by_class[:, 1].sum())
    noted = story.words.get("evaluated")
    if isinstance(noted, Mapping) and rows in (None, noted.get("samples")):
        return f"{noted.get('samples'):,} {noted.get('part')} samples"
    if rows is None:
        return ""
    same = len(set(story.card.get("data") or [""])) == 1
    return f"{rows:,} samples" + (", those that scores were measured on" if same else "")


def scored_on(story: Story, rows: int) -> str:
    """Return what a page's own measurements are made on."""
    return f"{rows:,} samples that the run stored" if story.is_run else f"{rows:,} samples"


def criterion(propose: Any) -> str | None:
    """Return the name of the criterion in the text of a proposal; None if it has none."""
    call = _call(propose)
    given = {} if call is None else {each.arg: each.value for each in call.keywords}
    found = given.get("criterion")
    return found.value if isinstance(found, ast.Constant) and isinstance(found.value, str) else None


def shortened(propose: Any) -> str:
    """Return the text of a proposal without the settings that are as they are by default."""
    call = _call(propose)
    if call is None or not isinstance(call.func, ast.Name):
        return str(propose or "")
    known = getattr(proposals, call.func.id, None)
    defaults = dict({} if known is None else inspect.signature(known).parameters)
    call.keywords = [
        each
        for each in call.keywords
        if not (each.arg in defaults and _is(each.value, defaults[each.arg].default))
    ]
    return ast.unparse(call)


def _is(written: ast.expr, default: Any) -> bool:
    return ast.unparse(written) in (repr(default), "tuple()" if default == () else repr(default))


def _call(text: Any) -> ast.Call | None:
    try:
        tree = ast.parse(str(text or ""), mode="eval").body
    except SyntaxError:
        return None  # the name of a function of the user's
    return tree if isinstance(tree, ast.Call) else None


def _definition(story: Story) -> str:
    """Say what a unit of this network is; of one without units, what a synapse is."""
    kinds = [kind for kind in UNITS if any(group.kind == kind for group in story.groups)]
    if not kinds:
        return SYNAPSE
    *others, last = (UNITS[kind] for kind in kinds)
    return f"A unit is {'; '.join(others) + '; or ' if others else ''}{last}. {SYNAPSE}"


def _cost(first: Measurement, last: Measurement) -> str:
    """Return a clause on how accuracy has changed, or R², or the loss where there is neither."""
    if first.accuracy is not None and last.accuracy is not None:
        return f"accuracy went from {first.accuracy:.2%} to {last.accuracy:.2%}"
    if R2 in first.metrics and R2 in last.metrics:
        return f"{NAMES[R2]} went from {first.metrics[R2]:.4f} to {last.metrics[R2]:.4f}"
    return f"the loss went from {first.loss:.4f} to {last.loss:.4f}"
