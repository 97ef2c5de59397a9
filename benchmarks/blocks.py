"""Prune language models of 5 million to 1 billion parameters block by block: time and memory.

Run: python benchmarks/blocks.py [5M 50M 500M 1B] [--tokens 4096]. Each size runs in a process of
its own. A random network of decoder blocks (RMS norms, grouped heads, gated feed-forward layers) is
written to safetensors files, one block at a time. Then `each_block` reads it: every block is scored
by wanda (all its weights), by the activation and by `obs` (units of the feed-forward layer), loses
a third of those units with what remains making up for them, is certified, and written. Seconds are
those of the processor, on one thread; the peak is the largest resident memory of the process, with
what the system keeps of mapped files.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import sentei
from sentei import criteria

# Hidden width, feed-forward width, blocks, heads, heads of keys and values.
SIZES = {
    "5M": (192, 512, 6, 6, 2),
    "50M": (512, 1408, 12, 8, 4),
    "500M": (1280, 3456, 24, 20, 4),
    "1B": (2048, 5632, 20, 32, 8),
}
WORDS, LENGTH = 8192, 128


def outline(size: str) -> LlamaForCausalLM:
    """Return a network without numbers in its parameters."""
    width, inner, layers, heads, shared = SIZES[size]
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        use_cache=False,
    )
    with init_empty_weights(include_buffers=False):
        return LlamaForCausalLM(config).eval()


def write_weights(model: nn.Module, folder: Path) -> None:
    """Write random weights, a file for each block and one for the rest."""
    files: dict[str, list[str]] = {}
    for name in model.state_dict():
        part = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        files.setdefault(part, []).append(name)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    for part, names in files.items():
        drawn = {
            name: torch.ones(shapes[name])
            if len(shapes[name]) == 1
            else torch.randn(shapes[name]) * shapes[name][1] ** -0.5
            for name in names
        }
        save_file(drawn, folder / f"{part}.safetensors")


def prune_block(block: sentei.Block, timed: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Score a block by three criteria, and remove a third of its feed-forward units."""
    (units,) = [group for group in timed("find", block.units) if group.kind == "neuron"]
    probe = block.probe()
    layers = sentei.find_synapses(block.module)
    timed("wanda", lambda: [criteria.wanda(probe, layer) for layer in layers])
    timed("activation", lambda: criteria.activation(probe, units))
    propose = sentei.ranked("obs", sentei.linear("67 %", steps=1), repair="least_squares")
    steps = timed("obs", lambda: list(sentei.prune(block.module, [units], probe, propose)))
    timed("shrink", lambda: block.shrink(steps[-1].mask))


def measure(size: str, tokens: int) -> dict[str, Any]:
    """Prune one network, and return what it took."""
    torch.set_num_threads(1)
    times: dict[str, float] = {}

    def timed(what: str, action: Callable[[], Any]) -> Any:
        start = process_time()
        result = action()
        times[what] = times.get(what, 0.0) + process_time() - start
        return result

    model = outline(size)
    parameters = sum(p.numel() for p in model.parameters())
    words = torch.randint(0, WORDS, (tokens // LENGTH, LENGTH))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "given", Path(folder) / "out"
        given.mkdir()
        write_weights(model, given)
        start = process_time()
        walk = sentei.each_block(
            model, {"input_ids": words}, "model.layers.*", weights=given, out=out
        )
        while (block := timed("read and run", lambda: next(walk, None))) is not None:
            prune_block(block, timed)
        took = process_time() - start
        left = sum(file.stat().st_size for file in out.glob("*.safetensors")) / 4
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {"size": size, "parameters": parameters, "left": int(left), "seconds": took}
    return {**found, "peak GiB": peak, "peak before GiB": before, **times}


def main() -> None:
    """Measure the sizes that are asked for, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    for size in asked.sizes or SIZES:
        if asked.here:
            print(json.dumps(measure(size, asked.tokens)))
            continue
        call = [sys.executable, __file__, size, "--tokens", str(asked.tokens), "--here"]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
        for name, value in json.loads(done.stdout).items():
            print(f"{name:18}{value:,.2f}" if isinstance(value, float) else f"{name:18}{value}")


if __name__ == "__main__":
    main()
