"""Numbers of a page: sizes, times and quality before and after, and the run's settings."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sentei.errors import PruningError
from sentei.metrics import NAMES, in_order
from sentei.network.copying import copied
from sentei.network.surgery.certificate import certify
from sentei.network.surgery.surgery import shrink
from sentei.network.units import Synapses
from sentei.reporting.page.network_facts import AT_ONCE, times
from sentei.reporting.page.story import Story, versions
from sentei.reporting.page.wording import scored_on, shortened

CALLS = 100  # µs: in a faster pass, function calls take more time than arithmetic


def facts(story: Story, form: str, scored: int) -> dict[str, Any]:
    """Collect sizes before and after, sentences about them, and the run's settings.

    `form` is the network's class, or the widths of its layers; `scored` the number of samples that
    scores on the page are measured on.
    """
    sizes, sentences, certificate = _sizes(story)
    return {
        "sizes": sizes,
        "sentences": sentences,
        "run": [[name, value] for name, value in _run(story, form, scored, certificate) if value],
    }


def _sizes(story: Story) -> tuple[list[list[Any]], list[str], str]:
    """Return rows of sizes, times and quality, sentences about them, and the certificate."""
    first, last = (story.records[at].measured for at in (0, -1))
    rows: list[list[Any]] = [
        [name, getattr(first, key), getattr(last, key), "count"]
        for name, key in (
            ("units", "units"),
            ("synapses", "synapses"),
            ("parameters", "parameters"),
            ("bytes on disk", "bytes"),
        )
    ]
    if story.samples is None or story.running:
        return rows, [], ""
    networks, sentences, certificate = _ends(story)
    if story.tested is None:
        measured = [times(each, story.samples.inputs) for each in networks]
    else:
        ends = (story.tested.before, story.tested.after)
        measured = [(each.multiply_adds, each.latency, each.batch_latency) for each in ends]
        certificate = story.tested.certificate
    adds = [measured[at][0] for at in (0, -1)]
    rows.append(["multiply-adds for one input", *adds, "count"])
    for place, name in ((1, "one input"), (2, f"{AT_ONCE} inputs")):
        both = [1e6 * measured[at][place] for at in (0, -1)]
        rows.append([f"time for {name} (µs)", *both, "time"])
    if len(networks) == 2:
        sentences += _time_sentences(rows[-2], rows[-1], story, adds)
    return [*rows, *_tested(story)], sentences, certificate


def _ends(story: Story) -> tuple[list[nn.Module], list[str], str]:
    """Return the untouched network and the shrunk one, what hinders it, and the certificate."""
    networks: list[nn.Module] = [copied(story.start).eval()]
    if not story.is_run or story.samples is None:
        return networks, [], ""
    last, inputs = story.records[-1], story.samples.inputs[:64]
    masked = story.network(last.number)
    try:
        networks.append(shrink(masked, last.mask, inputs).eval())
        return networks, [], str(certify(masked, networks[1], inputs, mask=last.mask))
    except PruningError as error:
        return networks, [f"The network cannot be shrunk: {error}"], ""


def _tested(story: Story) -> list[list[Any]]:
    """Return rows of quality on test samples; none where no command measured it."""
    if story.tested is None:
        return []
    before, after, on = story.tested.before, story.tested.after, f"{story.tested.samples:,} test"
    rows: list[list[Any]] = [[f"loss on {on} samples", before.loss, after.loss, "loss"]]
    for name in in_order(before.metrics.keys() & after.metrics.keys()):
        values = before.metrics[name], after.metrics[name]
        rows.insert(0, [f"{NAMES.get(name, name)} on {on} samples", *values, "metric"])
    if before.accuracy is not None and after.accuracy is not None:
        rows.insert(0, [f"accuracy on {on} samples", before.accuracy, after.accuracy, "part"])
    return rows


def _time_sentences(
    one: list[Any], many: list[Any], story: Story, adds: Sequence[int]
) -> list[str]:
    """Say in sentences what became faster and what did not."""
    sentences = []
    for row, what in ((one, "One input"), (many, f"A batch of {AT_ONCE}")):
        share = row[2] / row[1]
        saved = 1 - adds[1] / max(adds[0], 1)
        if share > 0.9:
            why = " At this size, calling a layer takes longer than its multiplications."
            sentences.append(
                f"{what} takes {row[2]:,.0f} µs after pruning and {row[1]:,.0f} µs before: hardly "
                f"faster, although {saved:.0%} of the multiplications were removed."
                + (why if row[2] < CALLS else "")
            )
        else:
            sentences.append(f"{what} takes {share:.0%} of the time before pruning.")
    if any(isinstance(group, Synapses) for group in story.groups):
        sentences.append(
            "Dead synapses between two alive units stay in the tensors as zeros, and are "
            "multiplied like any other number: they save no time."
        )
    sentences.append(
        "A mask alone would have changed none of these; the sizes are those after shrinking."
    )
    return sentences


def _run(story: Story, form: str, scored: int, certificate: str) -> list[tuple[str, str]]:
    """Return the names and values of the run's settings; unknown values are empty."""
    card, words = story.card, story.words
    numbers = words.get("versions") or versions()
    data = card.get("data")
    return [
        ("command", str(words.get("command", ""))),
        ("network", form),
        ("data", story.names.data),
        ("seed", str(words.get("seed", ""))),
        ("proposal", shortened(card.get("propose"))),
        ("floor", str(card.get("keeping") or "")),
        ("retraining", str(card.get("retrain") or ("none" if story.is_run else ""))),
        ("loss", story.loss if isinstance(story.loss, str) else ""),
        ("certificate", certificate),
        ("weights' fingerprint", str(card.get("weights", ""))),
        ("data's fingerprints", ", ".join(data) if isinstance(data, list) else ""),
        ("scores on this page", f"measured on {scored_on(story, scored)}" if scored else ""),
        ("timed on", f"{platform.machine()}, {torch.get_num_threads()} thread(s)"),
        ("versions", ", ".join(f"{name} {number}" for name, number in numbers.items())),
    ]
