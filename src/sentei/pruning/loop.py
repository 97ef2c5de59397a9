"""The pruning loop: propose a cut, apply it, retrain, measure, keep or undo, yield the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sentei.arguments import checked
from sentei.errors import GroupError
from sentei.network.finished import refuse_finished
from sentei.network.folding import fold_, sweep_
from sentei.network.mask import Mask
from sentei.network.tracing.inventory import no_groups
from sentei.network.units import Group, Listener, Neurons
from sentei.probe.probe import Probe
from sentei.pruning.judging import Judge, MetricFunction
from sentei.pruning.progress_line import ProgressLine
from sentei.pruning.rules.conditions import Condition, limit_of
from sentei.pruning.rules.proposals import Cut, Proposal
from sentei.pruning.run import Run, Step
from sentei.pruning.step_files import Retrain
from sentei.running import Example


@checked
def prune(
    model: nn.Module,
    groups: Sequence[Group],
    probe: Probe,
    propose: Proposal,
    until: Condition | None = None,
    keeping: Condition | None = None,
    retrain: Retrain | None = None,
    evaluate: Any = None,
    metric: MetricFunction | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
    mask: Mask | None = None,
    progress: bool = False,
) -> Iterator[Step]:
    """Prune `model` in place; yield each step once it is stored in the run folder.

    One step proposes a cut, applies it, retrains, and measures. If the result breaches `keeping`,
    the step is undone; otherwise it is kept and yielded. The loop ends when `until` holds, when
    nothing more is proposed, or when a cut that was undone is proposed again. However the loop ends
    (`break`, Ctrl-C, an exception), the model then holds the last step that was yielded, which
    satisfies `keeping`.

    Args:
        model: the network to prune. Dead weights become zero; its tensors keep their shape. Call
            `shrink` afterwards to get smaller tensors.
        groups: the units and synapses that may be cut, from `find_units` and `find_synapses`.
        probe: the Probe whose data the criterion scores on.
        propose: what to remove next, such as `ranked("ablation", one_at_a_time())`.
        until: budget; the run ends when it is reached. A limit, or a function of two measurements
            (now, start) that returns whether it holds: `lambda now, start: now.units <= 3`.
        keeping: floor; a step that breaches it is undone. As `until`; the run starts only if it
            holds for the untouched network.
        retrain: any function of (model, mask), called after every cut, such as a `FineTune`. It
            trains the model in place; `mask.hold_(model, optimizer)` after every update keeps
            dead weights zero, and what is not zero afterwards is set to zero. Methods `state_dict`
            and `load_state_dict` are optional: with them, undo and resume restore its state.
        evaluate: samples, or a Probe, on which accuracy and loss are measured; those of `probe` if
            None. Or a function as `metric`, with accuracy and loss of `probe`.
        metric: a function of the masked network that returns other metrics: a number, which is
            named "metric", or a dict of numbers by name, the same names at every step. It is called
            after every cut, in evaluation mode, without gradients; torch's random state, buffers
            and modes are restored afterwards. Its numbers are in `step.measured.metrics`, and
            `metric_at_least` and the like limit them. Only its qualified name tells runs apart.
        journal: folder to which every complete step is written; a temporary one if None.
        resume: continue the run in `journal`; its steps are yielded again first.
        mask: units and synapses that are dead from the start, such as those that `load_mask` reads
            from a saved network. Their weights are set to zero, and they stay dead and are counted
            as dead. The mask may hold groups that are not in `groups`; they are masked as well.
        progress: show on stderr how far the run is: a line that changes on a terminal, elsewhere a
            line for each step.

    Yields:
        Step 0, the untouched network, then every step that is kept.

    Raises:
        GroupError: `groups` is empty, `groups` or `mask` hold a group that the model does not have,
            or `probe` or `evaluate` belong to another model.
        BudgetError: even the smallest network cannot meet `until`, the untouched network breaches
            `keeping`, or one of them limits a metric that is not measured.
        MetricError: `metric` returns no finite numbers, or other names than at the step before.
        JournalError: `journal` holds a run already and `resume` is false, or another run; it is
            damaged; another process writes to it; or it was removed while the run goes on.
        FileError: a step cannot be written, because the disk is full or the folder read-only.
    """
    refuse_finished(model)
    judge = Judge(model, probe, evaluate, metric)
    if not groups:
        raise no_groups(model, probe.example)
    budget, floor = limit_of(until), limit_of(keeping)
    run = Run(model, list(groups), probe, judge, propose, budget, floor, retrain, mask)
    run.begin(journal, resume)
    return _steps(run, ProgressLine(progress))


def _steps(run: Run, line: ProgressLine) -> Iterator[Step]:
    try:
        yield from _from_here(run, line)
    finally:
        run.close()


def _from_here(run: Run, line: ProgressLine) -> Iterator[Step]:
    before = run.steps_so_far()
    line.kept(before[-1])
    yield from before
    start, step, refused = before[0].measured, before[-1], None
    while run.until is None or not run.until(step.measured, start):
        with run.restored_on_error(step.mask), line.after(step):
            cut = run.propose(run.probe, run.groups, step.mask, run.progress(step))
            if cut is None or cut == refused:
                break
            mask = apply_cut_(run.model, step.mask, cut, run.probe.example)
            run.retrain_and_update_(mask, refit=bool(cut.updates))
            measured = run.judge.measure(mask)
            if run.keeping is not None and not run.keeping(measured, start):
                run.undo(step.mask)
                refused = cut
                continue
            step = run.keep(step, cut, mask, measured)
        line.kept(step)
        yield step
    line.end(step)
    run.tell_end(step, start)


def apply_cut_(model: nn.Module, mask: Mask, cut: Cut, example: Example) -> Mask:
    """Apply a cut: update weights, fold the repair, zero what is removed, sweep what became dead.

    Args:
        model: changed in place.
        mask: what is alive before the cut.
        cut: what is removed, its repair and updates, and which synapses are regrown.
        example: inputs on which `sweep_` measures constant outputs.

    Returns:
        The mask after the cut and the sweep.
    """
    return sweep_(model, mask_cut_(model, mask, cut), example)


def mask_cut_(model: nn.Module, mask: Mask, cut: Cut) -> Mask:
    """Apply a cut to the model as `apply_cut_` does, but without the sweep; return the new mask.

    Raises:
        GroupError: the cut updates a parameter that the model does not have, or to another shape.
    """
    _update_weights_(model, cut.updates)
    for group, units in cut.doomed.items():
        mix = {part: cut.mix[part] for part in _listeners(group) if part in cut.mix}
        if mix and isinstance(group, Neurons):
            fold_(model, group, units, mix)
    mask = mask.without(cut.doomed).with_(cut.regrown)
    mask.apply_(model)
    return mask


@torch.no_grad()
def _update_weights_(model: nn.Module, updates: Mapping[str, Tensor]) -> None:
    """Set parameters to new weights, after all of them are checked."""
    held = dict(model.named_parameters(remove_duplicate=False))
    for name, weight in updates.items():
        shape = tuple(held[name].shape) if name in held else None
        if shape != tuple(weight.shape):
            has = "no such parameter" if shape is None else f"shape {shape}"
            raise GroupError(
                f"the updates of a Cut are whole parameters; {name!r} was given shape "
                f"{tuple(weight.shape)}, the model has {has}"
            )
    for name, weight in updates.items():
        held[name].copy_(weight)


def _listeners(group: Group) -> tuple[Listener, ...]:
    return group.listeners if isinstance(group, Neurons) else ()
