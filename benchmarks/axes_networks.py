"""The two networks that `transformers_by_axis.py` prunes: their data, and how they are trained.

A language model of the shape of Llama reads single characters of the documentation strings of
torch; a ViT reads the digits of MNIST. Both come from transformers and are trained here, since no
hub is asked for weights. Trained weights are kept in runs/axes.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification

from sentei import Recipe, train
from sentei.datasets import mnist

KEPT = Path(__file__).parents[1] / "runs" / "axes"
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """Samples as (inputs, targets): to learn from, to choose by, and to report."""

    train: Pair
    validation: Pair
    test: Pair


@dataclass(frozen=True)
class Network:
    """A network of the study.

    Attributes:
        make: builds it with random weights.
        data: its samples.
        forward: how it is run; classes are in dimension 1 of what it returns.
        blocks: pattern of the names of what its blocks hold.
        recipe: how it is trained, but for the seed.
        calibration: how many training samples criteria and repairs read.
        distilling: how many training samples the short distillation reads, in one epoch.
        tested: how many test samples are reported on.
        timed: how many samples a timed pass reads.
    """

    make: Callable[[], nn.Module]
    data: Callable[[], Data]
    forward: Callable[[nn.Module, Tensor], Tensor]
    blocks: str
    recipe: Recipe
    calibration: int
    distilling: int
    tested: int
    timed: int


def first(pair: Pair, count: int) -> Pair:
    """Return the first samples."""
    return pair[0][:count], pair[1][:count]


# Text.

PARTS = ("autograd", "distributions", "nn", "optim", "utils")  # and the files of torch itself
LENGTH = 128  # characters that the language model reads at once
LETTERS = "\n" + "".join(map(chr, range(32, 127)))
TEXT = "5940695c21f8b4467c699309fdb2f186520fde4f0100a57fff885b7799a1a9fb"  # of torch 2.13.0


def documentation() -> Iterator[tuple[str, str]]:
    """Yield (file, documentation string) of each class and function in torch, 200 letters or more.

    A paragraph that occurred before is left out, so that no test text is one that was learnt.
    """
    root = Path(torch.__file__).parent
    files = [*root.glob("*.py"), *(f for part in PARTS for f in (root / part).rglob("*.py"))]
    seen: set[str] = set()
    for file in sorted(files, key=lambda file: file.relative_to(root).as_posix()):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            words = ast.get_docstring(node) or ""
            if len(words) < 200:
                continue
            paragraphs = [p for p in re.split(r"\n\s*\n", words) if p.strip() not in seen]
            seen.update(p.strip() for p in paragraphs)
            yield file.relative_to(root).as_posix(), "\n\n".join(paragraphs)


@cache
def text() -> Data:
    """Return text as samples of 128 characters, each with the character that follows.

    One file in 20 is test text, and one in 20 validation text.
    """
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for file, words in documentation():
        part = {0: "test", 1: "validation"}.get(crc32(file.encode()) % 20, "train")
        parts[part].append("".join(letter for letter in words if letter in LETTERS))
    joined = {part: "\n\n\n".join(each) for part, each in parts.items()}
    found = hashlib.sha256("".join(joined.values()).encode()).hexdigest()
    if found != TEXT:
        raise SystemExit(f"the text is that of torch 2.13.0, not of {torch.__version__}: {found}")
    return Data(**{part: _cut(words) for part, words in joined.items()})


def _cut(words: str) -> Pair:
    numbers = {letter: number for number, letter in enumerate(LETTERS)}
    coded = torch.tensor([numbers[letter] for letter in words])
    count = (len(coded) - 1) // LENGTH
    inputs, targets = (coded[at : at + count * LENGTH].view(count, LENGTH) for at in (0, 1))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return inputs[order].contiguous(), targets[order].contiguous()


def llama() -> nn.Module:
    """Return the language model."""
    config = LlamaConfig(
        vocab_size=len(LETTERS), hidden_size=96, intermediate_size=256, num_hidden_layers=5,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=LENGTH,
        use_cache=False, attention_dropout=0.0, initializer_range=0.1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def next_letters(model: nn.Module, letters: Tensor) -> Tensor:
    """Return logits (N, letters, 128)."""
    return model(input_ids=letters).logits.transpose(1, 2)


# Pictures.


@cache
def digits() -> Data:
    """Return MNIST: 20,000 images to learn from, and the whole test set."""
    found = mnist()
    parts = (found.train.first(20_000), found.validation, found.test)
    return Data(*((part.inputs, part.targets) for part in parts))


def vit() -> nn.Module:
    """Return the ViT: 16 patches of 7 x 7 pixels."""
    config = ViTConfig(
        hidden_size=64, intermediate_size=192, num_hidden_layers=6, num_attention_heads=8,
        image_size=28, patch_size=7, num_channels=1,
        id2label={number: str(number) for number in range(10)},
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.1,
    )  # fmt: skip
    return ViTForImageClassification(config)


def classes(model: nn.Module, images: Tensor) -> Tensor:
    """Return logits (N, 10) of flat images."""
    return model(images.view(-1, 1, 28, 28)).logits


NETWORKS = {
    "language model": Network(
        llama, text, next_letters, "model.layers.*",
        Recipe(2, batch_size=16, lr=3e-3, decay="cosine"), 32, 256, 128, 16,
    ),
    "ViT": Network(
        vit, digits, classes, "vit.layers.*",
        Recipe(5, batch_size=32, lr=1e-3, decay="cosine"), 500, 640, 2000, 64,
    ),
}  # fmt: skip


def trained(name: str, seed: int) -> nn.Module:
    """Return a network trained with a seed, in evaluation mode; trained once, then read."""
    network, file = NETWORKS[name], KEPT / f"{name.replace(' ', '-')}-{seed}.safetensors"
    torch.manual_seed(seed)
    model = network.make()
    if not file.exists():
        recipe = replace(network.recipe, seed=seed)
        train(model, network.data().train, recipe, forward=network.forward, progress=_told)
        KEPT.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), file)
    model.load_state_dict(load_file(file))
    return model.eval()


def _told(epoch: int, loss: float) -> None:
    print(f"epoch {epoch}: training loss {loss:.4f}", flush=True)
