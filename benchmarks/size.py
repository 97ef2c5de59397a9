"""Time sentei on networks of real size, against one forward pass and against Torch-Pruning.

Run in the environment of `make networks`: .venv-networks/bin/python benchmarks/size.py [ROW ...]
[--repeats 5] [--json FILE]. Each row is a function in `ROWS`, which returns figures. Times are
processor seconds on one thread; all that a ratio compares is measured in turn, and the ratio is the
median over the repeats. Every figure is printed and, with --json, appended to a file, one a line.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

import sentei
from networks_torch_pruning import ATTENTION, SHARE, attention_heads, fit_heads_, last_layers
from networks_zoo.case import Case
from sentei.probe.choosing import listeners_of
from sentei.probe.engines.gates import Gates
from sentei.probe.engines.tape import taped
from sentei.probe.recording.recording import Pass
from sentei.pruning.while_training.lazy_probe import LazyProbe

Times = dict[str, float]  # seconds, by what took them


@dataclass(frozen=True)
class Figure:
    """One number of a table.

    Attributes:
        row: what was measured.
        column: in which respect.
        value: the median over the repeats.
        unit: of the value; "" for a ratio.
        note: what the number does not say.
    """

    row: str
    column: str
    value: float
    unit: str = ""
    note: str = ""


Row = Callable[[str, int], list[Figure]]  # takes its name and the number of repeats


# Cutting a third of everything: find, score by magnitude, shrink with a certificate.

CUT_NETWORKS = {
    "resnet50": "resnet50",
    "mobilenet_v2": "mobilenet_v2",
    "convnext_tiny": "convnext_tiny",
    "vit_b_16": "vit_b_16",
}


def cutting(network: str, row: str, repeats: int) -> list[Figure]:
    """Measure a network of torchvision with one image of 224 by 224 pixels."""
    model, image = built(network), torch.randn(1, 3, 224, 224)
    found: list[Times] = []
    passes: dict[str, float] = {}
    refused = ""
    for repeat in range(repeats + 1):
        times = {"forward": median(seconds(partial(forward, model, image)) for _ in range(5))}
        with counted(model, image) as made:
            groups = timed(times, "find", lambda: sentei.find_units(model, image))
            passes["find"] = sum(made)
        mask = timed(times, "score", lambda groups=groups: lowest_third(model, groups))
        with counted(model, image) as made:
            timed(times, "shrink", lambda mask=mask: sentei.shrink(model, mask, image))
            passes["shrink"] = sum(made)
        times["all"] = times["find"] + times["score"] + times["shrink"]
        other, refused = torch_pruning(network, image)
        if other is not None:
            times["torch-pruning"] = other
        if repeat:  # the first warms up
            found.append(times)
    return [
        *(Figure(row, what, middle(found, what), "s") for what in found[0]),
        *(Figure(row, f"passes of {what}", count) for what, count in passes.items()),
        *(
            Figure(row, f"{what} / forward", ratio(found, what, "forward"))
            for what in ("find", "shrink", "all", "torch-pruning")
            if what in found[0]
        ),
        Figure(*(row, "all / torch-pruning", ratio(found, "all", "torch-pruning")), note=refused),
    ]


def built(network: str) -> nn.Module:
    """Build a network of torchvision with random weights."""
    import torchvision  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    return torchvision.models.get_model(network, weights=None).eval()


@torch.no_grad()
def forward(model: nn.Module, example: Tensor) -> Tensor:
    """Run a network."""
    return model(example)


def lowest_third(model: nn.Module, groups: Sequence[sentei.Neurons]) -> sentei.Mask:
    """Return a mask without the third of each group that has the smallest magnitudes."""
    whole = sentei.Mask.full(groups)
    probe: Any = LazyProbe(model, whole, None, None, "")
    dead = {}
    for group in groups:
        count = min(max(1, group.size // SHARE), group.size - max(1, group.least))
        scores = sentei.criteria.magnitude(probe, group)
        dead[group] = scores.argsort()[: max(0, count)]
    return whole.without(dead)


def torch_pruning(network: str, image: Tensor) -> tuple[float | None, str]:
    """Return the seconds in which Torch-Pruning cuts a third of a new copy, or why it cannot."""
    import torch_pruning as tp  # pyright: ignore[reportMissingImports]

    why, taken = "", None
    for way in ATTENTION:
        model = built(network)
        heads, ignored = attention_heads(model), last_layers(Case(model, image))
        start = process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pruner = tp.pruner.BasePruner(
                    *(model, image),
                    importance=tp.importance.GroupMagnitudeImportance(p=2),
                    pruning_ratio=1 / SHARE,
                    global_pruning=False,
                    ignored_layers=ignored,
                    num_heads=dict(heads),
                    **way,
                )
                pruner.step()
            for layer, count in heads.items():
                fit_heads_(model, layer, pruner.num_heads.get(layer, count))
            taken = process_time() - start
            forward(model, image)
        except Exception as error:
            why = f"Torch-Pruning: {type(error).__name__}: {str(error)[:80]}"
            continue
        return taken, ""
    return taken, f"{why} (timed; what it leaves does not run)" if taken else why


# Exact ablation: what a unit costs, in passes of the network.

SAMPLED = 8  # units of each group that are timed


def image_classifier(network: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network of torchvision with images of 64 by 64 pixels and their classes."""
    return built(network), torch.randn(128, 3, 64, 64), torch.randint(0, 1000, (128,))


def sequence_classifier() -> tuple[nn.Module, Tensor, Tensor]:
    """Return an encoder of six layers with sequences of 32 words and their classes."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 512}
    sizes |= {"vocab_size": 1000, "num_hidden_layers": 6, "num_labels": 5}
    config = BertConfig(**sizes)
    words = torch.randint(0, 1000, (256, 32))
    return BertForSequenceClassification(config).eval(), words, torch.randint(0, 5, (256,))


ABLATED = {
    "resnet18": partial(image_classifier, "resnet18"),
    "mobilenet_v2": partial(image_classifier, "mobilenet_v2"),
    "encoder": sequence_classifier,
}


@torch.no_grad()
def ablating(network: str, row: str, repeats: int) -> list[Figure]:
    """Measure ablation on one block of samples, for some units of each group.

    A unit's cost holds its part of the recording. Its share is the part of the network's
    floating-point operations that is behind it.
    """
    model, inputs, targets = ABLATED[network]()
    groups = sentei.find_units(model, inputs[:2])
    probe = sentei.Probe(model, (inputs, targets), "cross_entropy", memory="4 GiB")
    with probe.measuring() as recording:
        block = next(block for _, block in recording.passes("kept"))
        return [
            unit_cost(row, group, Gates(recording, listeners_of(model, group)), block, repeats)
            for group in groups
        ]


def unit_cost(row: str, group: sentei.Neurons, engine: Gates, block: Pass, repeats: int) -> Figure:
    """Return what a unit of a group costs, in passes of the network on the same samples."""
    recording, units = engine.recording, torch.arange(min(SAMPLED, group.size))
    whole = partial(recording.output, block.samples)
    found: list[Times] = []
    for _ in range(repeats + 1):
        times: Times = {}
        timed(times, "pass", whole)
        timed(times, "record", partial(taped, recording, block, engine.listeners, engine.writes))
        timed(times, "units", partial(engine.rises, block, units))
        each = (times["units"] - times["record"]) / len(units)
        found.append(times | {"unit": each + times["record"] / group.size})
    first, more = (operations(partial(engine.rises, block, units[:k])) for k in (1, len(units)))
    share = (more - first) / (len(units) - 1) / operations(whole)
    note = f"share {share:.3f}, reach {1.2 * share + 0.02:.3f}, {group.size} units"
    return Figure(row, group.name, ratio(found[1:], "unit", "pass"), note=note)


def operations(action: Callable[[], Any]) -> int:
    """Return the floating-point operations of an action: of products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


ROWS: dict[str, Row] = {
    **{f"cut {name}": partial(cutting, network) for name, network in CUT_NETWORKS.items()},
    **{f"ablate {name}": partial(ablating, name) for name in ABLATED},
}


# Measuring.


def seconds(action: Callable[[], Any]) -> float:
    """Return the processor seconds that an action takes."""
    start = process_time()
    action()
    return process_time() - start


def timed(times: Times, what: str, action: Callable[[], Any]) -> Any:
    """Note the processor seconds of an action, and return its result."""
    start = process_time()
    result = action()
    times[what] = process_time() - start
    return result


@contextmanager
def counted(model: nn.Module, example: Tensor) -> Iterator[list[float]]:
    """Count passes of one sample at full size: how many of them the pixels of each pass make."""
    made: list[float] = []
    whole = example.numel()

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if type(module) is type(model) and args and args[0].device.type != "meta":
            made.append(args[0].numel() / whole)  # asking another tensor would end a recording

    handle = register_module_forward_pre_hook(note)
    try:
        yield made
    finally:
        handle.remove()


def middle(found: Sequence[Times], what: str) -> float:
    """Return the median seconds."""
    return median(times[what] for times in found)


def ratio(found: Sequence[Times], what: str, against: str) -> float:
    """Return the median ratio of what was measured in turn; NaN where there is none."""
    ratios = [t[what] / t[against] for t in found if what in t and against in t]
    return median(ratios) if ratios else float("nan")


def main() -> None:
    """Measure the rows that are asked for, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file to append to")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.rows or ROWS:
        print(name)
        for figure in ROWS[name](name, asked.repeats):
            print(f"  {figure.column:24}{figure.value:10.3g} {figure.unit:4}{figure.note}")
            if asked.json is not None:
                with asked.json.open("a") as file:
                    file.write(json.dumps(asdict(figure)) + "\n")


if __name__ == "__main__":
    main()
