"""Pruning, in the open: propose, cut, retrain, measure, keep or undo, hand over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sentei.errors import GroupError
from sentei.network.example import Example
from sentei.network.folding import fold_, sweep_
from sentei.network.mask import Mask
from sentei.network.units import Group, Listener, Neurons
from sentei.probe.probe import Probe
from sentei.pruning.journal import Retrain
from sentei.pruning.measuring import measure
from sentei.pruning.rules.limits import Limit
from sentei.pruning.rules.proposals import Cut, Proposal
from sentei.pruning.run import Run, Step


def prune(
    model: nn.Module,
    groups: Sequence[Group],
    probe: Probe,
    propose: Proposal,
    until: Limit | None = None,
    keeping: Limit | None = None,
    retrain: Retrain | None = None,
    evaluate: Any = None,
    journal: str | Path | None = None,
    resume: bool = False,
    mask: Mask | None = None,
) -> Iterator[Step]:
    """Prune `model` step by step; every step is yielded once it is safe.

    The loop ends when `until` holds, when nothing more is proposed, or when a cut that was undone
    is proposed again. Whatever ends it (`break`, Ctrl-C, an exception), the model then holds the
    last step that was yielded, which satisfies `keeping`.

    Args:
        model: masked in place; its tensors keep their size (see `shrink`).
        groups: what may be cut, from `find_units` and `find_synapses`.
        probe: evidence for the criterion.
        propose: what to remove next, such as `ranked("ablation", one_at_a_time())`.
        until: budget; the run ends when it is reached.
        keeping: floor; a step that breaches it is undone.
        retrain: called with (model, mask) after every cut.
        evaluate: samples, or a Probe, that accuracy and loss are measured on; the probe's if None.
        journal: folder of the run; each step is written to it whole. A temporary one if None.
        resume: go on with the run in `journal`; its steps are yielded again first.
        mask: what is dead to begin with, such as `load_mask` found in the network's file; it is
            silenced, stays dead, and counts as dead. Groups of it that are not in `groups` too.

    Yields:
        Step 0, the untouched network, then every step that was kept.

    Raises:
        GroupError: a group, or a mask's, that the model does not have.
        BudgetError: a budget that even the smallest network cannot meet, or a floor that the
            untouched one breaches.
        JournalError: `journal` holds another run.
    """
    judge = _evaluation_probe(model, probe, evaluate)
    run = Run(model, list(groups), probe, judge, propose, until, keeping, retrain, mask)
    run.begin(journal, resume)
    return _steps(run)


def _steps(run: Run) -> Iterator[Step]:
    before = run.steps_so_far()
    yield from before
    start, step, refused = before[0].measured, before[-1], None
    while run.until is None or not run.until(step.measured, start):
        with run.restored_on_error(step.mask):
            cut = run.propose(run.probe, run.groups, step.mask, run.progress(step))
            if cut is None or cut == refused:
                break
            mask = apply_cut_(run.model, step.mask, cut, run.probe.example)
            run.retrain_and_update_(cut, step.mask, mask)
            measured = measure(run.model, mask, run.judge)
            if run.keeping is not None and not run.keeping(measured, start):
                run.undo(step.mask)
                refused = cut
                continue
            step = run.keep(step, cut, mask, measured)
        yield step
    run.warn_if_not_reached(step, start)


def apply_cut_(model: nn.Module, mask: Mask, cut: Cut, example: Example) -> Mask:
    """Carry out a cut: hand the work over, silence the doomed, sweep what died with them.

    Args:
        model: changed in place.
        mask: what is alive before.
        cut: what goes, who takes over, what is given back.
        example: inputs on which `sweep_` reads constants off.

    Returns:
        What is alive after.
    """
    return sweep_(model, mask_cut_(model, mask, cut), example)


def mask_cut_(model: nn.Module, mask: Mask, cut: Cut) -> Mask:
    """As `cut_`, but what has died with the doomed is left as it is."""
    for group, units in cut.doomed.items():
        mix = {part: cut.mix[part] for part in _listeners(group) if part in cut.mix}
        if mix and isinstance(group, Neurons):
            fold_(model, group, units, mix)
    mask = mask.without(cut.doomed).with_(cut.regrown)
    mask.apply_(model)
    return mask


def _evaluation_probe(model: nn.Module, probe: Probe, evaluate: Any) -> Probe:
    if probe.model is not model:
        raise GroupError("the probe looks at another model; make it with Probe(model, data)")
    if evaluate is None:
        return probe
    judge = evaluate if isinstance(evaluate, Probe) else probe.on(evaluate)
    if judge.model is not model:
        raise GroupError("evaluate= looks at another model; make it with Probe(model, data)")
    return judge


def _listeners(group: Group) -> tuple[Listener, ...]:
    return group.listeners if isinstance(group, Neurons) else ()
