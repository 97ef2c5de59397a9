"""Texts and numbers of a page: its title, sizes before and after, and the run's settings."""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import nn

from sentei.errors import PruningError
from sentei.metrics import NAMES, R2, texts
from sentei.network.copying import copied
from sentei.network.encoding.size import latency, multiply_adds
from sentei.network.surgery.certificate import certify
from sentei.network.surgery.surgery import shrink
from sentei.network.units import Synapses
from sentei.pruning.measuring import Measurement
from sentei.reporting.page.story import Story, versions

AT_ONCE = 256
CALLS = 100  # µs: in a faster pass, function calls take more time than arithmetic


def facts(story: Story) -> dict[str, Any]:
    """Collect sizes before and after, sentences about them, and the run's settings."""
    sizes, sentences, certificate = _sizes(story)
    return {
        "sizes": sizes,
        "sentences": sentences,
        "run": [[name, value] for name, value in _run(story, certificate) if value],
    }


def title(story: Story, widths: list[int] | None) -> tuple[str, str]:
    """Return the page's title, and a sentence that sums up the run."""
    shape = "-".join(map(str, widths)) if widths else type(story.start).__name__
    name = "A convolutional network" if shape == "Sequential" else shape
    on = f" on {story.names.data}" if story.names.data else ""
    first, last = story.records[0].measured, story.records[-1].measured
    if not story.is_run:
        right = "" if last.accuracy is None else f", {last.accuracy:.2%} correct"
        right += "".join(f", {name} {text}" for name, text in texts(last.metrics))
        return f"{name}{on}", f"{last.units:,} units and {last.synapses:,} synapses{right}."
    cut_synapses = any(isinstance(group, Synapses) for group in story.groups)
    what = "synapses" if cut_synapses else "units"
    left, had = getattr(last, what), getattr(first, what)
    return f"{name}{on}", f"{left:,} of {had:,} {what} stay; {_cost(first, last)}."


def _cost(first: Measurement, last: Measurement) -> str:
    """Return a clause on how accuracy has changed, or R², or the loss where there is neither."""
    if first.accuracy is not None and last.accuracy is not None:
        return f"accuracy went from {first.accuracy:.2%} to {last.accuracy:.2%}"
    if R2 in first.metrics and R2 in last.metrics:
        return f"{NAMES[R2]} went from {first.metrics[R2]:.4f} to {last.metrics[R2]:.4f}"
    return f"loss went from {first.loss:.4f} to {last.loss:.4f}"


def _sizes(story: Story) -> tuple[list[list[Any]], list[str], str]:
    """Return rows of sizes and times, sentences about them, and the certificate."""
    first, last = story.records[0], story.records[-1]
    rows: list[list[Any]] = [
        [name, getattr(first.measured, key), getattr(last.measured, key), "count"]
        for name, key in (
            ("units", "units"),
            ("synapses", "synapses"),
            ("parameters", "parameters"),
            ("bytes on disk", "bytes"),
        )
    ]
    if story.samples is None or story.running:
        return rows, [], ""
    inputs = story.samples.inputs
    networks: list[nn.Module] = [copied(story.start).eval()]
    sentences, certificate = [], ""
    if story.is_run:
        masked = story.network(last.number)
        try:
            networks.append(shrink(masked, last.mask, inputs[:64]).eval())
            certificate = str(certify(masked, networks[1], inputs[:64], mask=last.mask))
        except PruningError as error:
            sentences.append(f"The network cannot be shrunk: {error}")
    ends = (networks[0], networks[-1])
    adds = [multiply_adds(each, inputs[:1]) for each in ends]
    rows.append(["multiply-adds for one input", *adds, "count"])
    for rows_at_once, name in ((1, "one input"), (AT_ONCE, f"{AT_ONCE} inputs")):
        batch = inputs[:rows_at_once]
        times = [1e6 * latency(each, batch) for each in ends]
        rows.append([f"time for {name} (µs)", *times, "time"])
    if len(networks) == 2:
        sentences += _time_sentences(rows[-2], rows[-1], story, adds)
    return rows, sentences, certificate


def _time_sentences(one: list[Any], many: list[Any], story: Story, adds: list[int]) -> list[str]:
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


def _run(story: Story, certificate: str) -> list[tuple[str, str]]:
    """Return the names and values of the run's settings; unknown values are empty."""
    card, words = story.card, story.words
    numbers = words.get("versions") or versions()
    rows = story.samples.rows if story.samples is not None else 0
    data = card.get("data")
    return [
        ("command", str(words.get("command", ""))),
        ("data", story.names.data),
        ("seed", str(words.get("seed", ""))),
        ("proposal", str(card.get("propose") or "")),
        ("floor", str(card.get("keeping") or "")),
        ("retraining", str(card.get("retrain") or ("none" if story.is_run else ""))),
        ("loss", story.loss if isinstance(story.loss, str) else ""),
        ("certificate", certificate),
        ("weights' fingerprint", str(card.get("weights", ""))),
        ("data's fingerprints", ", ".join(data) if isinstance(data, list) else ""),
        ("measured for this page on", f"{rows:,} samples" if rows else ""),
        ("timed on", f"{platform.machine()}, {torch.get_num_threads()} thread(s)"),
        ("versions", ", ".join(f"{name} {number}" for name, number in numbers.items())),
    ]
