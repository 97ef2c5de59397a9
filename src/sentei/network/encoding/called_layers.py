"""Find the layers that a function of the user's runs one after another: what a file will hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.example import undisturbed
from sentei.running import Forward, ForwardCall, run

Layers = list[tuple[str, nn.Module]]


def called_layers(model: nn.Module, shape: Sequence[int], forward: Forward) -> Layers:
    """Return the layers that `forward` runs, with their paths, each on the result of the last.

    Args:
        model: the network; may be on the meta device.
        shape: of one sample, without the batch dimension.
        forward: a function (model, example) -> outputs.

    Raises:
        StructureError: something is computed before, between or after layers.
    """
    first = next(model.parameters(), torch.empty(0))
    x = torch.zeros(2, *shape, device=first.device, dtype=first.dtype)
    seen: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def noting(path: str) -> Callable[..., None]:
        return lambda layer, given, result: seen.append((path, layer, given[0], result))

    leaves = [(path, m) for path, m in model.named_modules() if not any(True for _ in m.children())]
    hooks = [layer.register_forward_hook(noting(path)) for path, layer in leaves]
    given: list[Tensor] = []
    try:
        with undisturbed(model):
            result = run(model, ForwardCall(x, _noting_input(forward, given)))
    finally:
        for hook in hooks:
            hook.remove()
    before, passed = "the input", given[0]
    for path, _, reads, computes in seen:
        _check_passed(passed, reads, before, repr(path))
        before, passed = repr(path), computes
    _check_passed(passed, result, before, "the output")
    return [(path, layer) for path, layer, _, _ in seen]


def _noting_input(forward: Forward, given: list[Tensor]) -> Forward:
    """Return the function; it appends the input that it is given, a copy, to a list."""

    def noted(model: nn.Module, x: Tensor) -> object:
        given.append(x)
        return forward(model, x)

    return noted


def _check_passed(passed: Tensor, reads: object, before: str, after: str) -> None:
    if reads is not passed:
        raise StructureError(
            "files in C and ONNX hold layers that run one after another; between "
            f"{before} and {after} forward= computes something else. Use layers for it, such as "
            "nn.Flatten, or write a safetensors file."
        )
