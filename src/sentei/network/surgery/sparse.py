"""Linear layers that store only alive synapses (CSR), used where that is measured to be faster."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sentei.running import Example, run

log = logging.getLogger("sentei")

MAX_ALIVE = 0.5  # a weight with more than this fraction alive is not tried
TRIES = 9  # timings of a layer; the smallest counts, since other load can only add time
MIN_SECONDS = 0.002  # shortest duration of one timing, in seconds


class SparseLinear(nn.Module):
    """A linear layer in compressed sparse rows (CSR), for inference.

    Args:
        in_features: size of each input sample.
        out_features: size of each output sample.
        alive: number of stored synapses.
        bias: whether the layer has a bias.
    """

    crow: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, alive: int, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features, self.alive = in_features, out_features, alive
        self.register_buffer("crow", torch.zeros(out_features + 1, dtype=torch.int32))
        self.register_buffer("columns", torch.zeros(alive, dtype=torch.int32))
        self.register_buffer("values", torch.zeros(alive))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)
        self._held: tuple[Any, Tensor] | None = None

    @classmethod
    def of(cls, layer: nn.Linear) -> SparseLinear:
        """Return the SparseLinear with the nonzero weights and the bias of `layer`."""
        weight = layer.weight.detach()
        rows, columns = weight.nonzero(as_tuple=True)
        sparse_layer = cls(layer.in_features, layer.out_features, len(rows), layer.bias is not None)
        counts = torch.bincount(rows, minlength=layer.out_features)
        sparse_layer.crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        sparse_layer.columns, sparse_layer.values = columns.int(), weight[rows, columns].clone()
        if layer.bias is not None:
            sparse_layer.bias = layer.bias.detach().clone()
        return sparse_layer.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer: (..., in_features) to (..., out_features)."""
        rows = x.reshape(-1, self.in_features)
        found = (self._matrix() @ rows.T).T
        if self.bias is not None:
            found = found + self.bias
        return found.reshape(*x.shape[:-1], self.out_features)

    def _matrix(self) -> Tensor:
        """Return the weight as a torch CSR tensor, rebuilt and checked only after a change."""
        parts = self.crow, self.columns, self.values
        key = tuple((part.data_ptr(), part._version) for part in parts)
        if self._held is None or self._held[0] != key:
            shape = self.out_features, self.in_features
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns that CSR tensors are in beta
                matrix = torch.sparse_csr_tensor(*parts, size=shape, check_invariants=True)
            self._held = key, matrix
        return self._held[1]

    def extra_repr(self) -> str:
        """Return the sizes that `print(model)` shows."""
        total = self.in_features * self.out_features
        return f"{self.in_features}, {self.out_features}, {self.alive} of {total} synapses as CSR"


@torch.no_grad()
def sparsified(model: nn.Module, example: Example) -> nn.Module:
    """Replace each linear layer by a SparseLinear (CSR) where that is measured to be faster.

    Each layer is timed on the inputs that `example` produces for it, so the batch size of `example`
    matters. The choices and their timings are logged at level INFO of the logger "sentei".

    Args:
        model: changed in place, unless the model itself is a layer that is replaced.
        example: inputs, with the batch size that will be used later.

    Returns:
        The model, or the SparseLinear that replaces it.
    """
    layer_inputs = _layer_inputs(model, example)
    for path, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or path not in layer_inputs or layer.weight.is_meta:
            continue
        share = float((layer.weight != 0).double().mean()) if layer.weight.numel() else 1.0
        if share > MAX_ALIVE:
            continue
        sparse_layer = _faster(path, layer, layer_inputs[path], share)
        if sparse_layer is not None and not path:
            return sparse_layer
        if sparse_layer is not None:
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, sparse_layer)
    return model


def _layer_inputs(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """Return the first input of each linear layer that runs on `example`, by path."""
    inputs: dict[str, Tensor] = {}

    def record_input(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            inputs.setdefault(path, given[0])

        return hook

    linear = [(path, m) for path, m in model.named_modules() if type(m) is nn.Linear]
    hooks = [layer.register_forward_pre_hook(record_input(path)) for path, layer in linear]
    try:
        run(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def _faster(path: str, layer: nn.Linear, x: Tensor, share: float) -> SparseLinear | None:
    """Return the layer as a SparseLinear if that runs faster on `x`; None otherwise."""
    sparse_layer = SparseLinear.of(layer)
    try:
        same = torch.allclose(sparse_layer(x), layer(x), atol=1e-4, rtol=1e-4)
    except RuntimeError:  # torch has no CSR product for this dtype or device
        return None
    if not same:
        return None
    dense, sparse = seconds(lambda: layer(x)), seconds(lambda: sparse_layer(x))
    log.info(
        "layer %r, %.1f %% alive, %d rows at once: dense %.1f us, CSR %.1f us; it %s",
        *(path, 100 * share, x[..., 0].numel(), 1e6 * dense, 1e6 * sparse),
        "becomes CSR" if sparse < dense else "stays dense",
    )
    return sparse_layer if sparse < dense else None


def seconds(call: Callable[[], object]) -> float:
    """Return the smallest time of one call in `TRIES` timings of at least `MIN_SECONDS` each."""
    call()
    started = time.perf_counter()
    call()
    calls = max(1, round(MIN_SECONDS / max(time.perf_counter() - started, 1e-7)))
    timings = []
    for _ in range(TRIES):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        timings.append((time.perf_counter() - started) / calls)
    return min(timings)
