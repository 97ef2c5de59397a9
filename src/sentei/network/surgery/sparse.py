"""Layers that hold only their alive synapses, and the choice of where that is faster."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sentei.network.example import Example, run

log = logging.getLogger("sentei")

MAX_ALIVE = 0.5  # a weight with more than this part alive is not tried
TRIES = 9  # timings of a layer, of which the least counts: whatever else runs only adds
MIN_SECONDS = 0.002  # seconds that one timing takes at least


class SparseLinear(nn.Module):
    """A linear layer in compressed sparse rows (CSR), for inference.

    Args:
        in_features: what it reads.
        out_features: what it computes.
        alive: how many synapses it has.
        bias: whether it has one.
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
        """The same function without the weights that are zero."""
        weight = layer.weight.detach()
        rows, columns = weight.nonzero(as_tuple=True)
        made = cls(layer.in_features, layer.out_features, len(rows), layer.bias is not None)
        counts = torch.bincount(rows, minlength=layer.out_features)
        made.crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        made.columns, made.values = columns.int(), weight[rows, columns].clone()
        if layer.bias is not None:
            made.bias = layer.bias.detach().clone()
        return made.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        rows = x.reshape(-1, self.in_features)
        found = (self._matrix() @ rows.T).T
        if self.bias is not None:
            found = found + self.bias
        return found.reshape(*x.shape[:-1], self.out_features)

    def _matrix(self) -> Tensor:
        """The weight as torch's own sparse tensor, checked once for the tensors that are there."""
        parts = self.crow, self.columns, self.values
        key = tuple((part.data_ptr(), part._version) for part in parts)
        if self._held is None or self._held[0] != key:
            shape = self.out_features, self.in_features
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls its sparse tensors a beta, once
                matrix = torch.sparse_csr_tensor(*parts, size=shape, check_invariants=True)
            self._held = key, matrix
        return self._held[1]

    def extra_repr(self) -> str:
        """Its sizes, for `print(model)`."""
        whole = self.in_features * self.out_features
        return f"{self.in_features}, {self.out_features}, {self.alive} of {whole} synapses as CSR"


@torch.no_grad()
def sparsified(model: nn.Module, example: Example) -> nn.Module:
    """The network with every linear layer as CSR for which that is measured to be faster.

    Layers are timed on what `example` brings to them, so that its batch size decides; what was
    chosen, and by which timing, is said at level INFO of the logger "sentei".

    Args:
        model: changed in place, unless it is itself a layer that is replaced.
        example: inputs, as many at once as will be later.
    """
    heard = _layer_inputs(model, example)
    for path, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or path not in heard or layer.weight.is_meta:
            continue
        share = float((layer.weight != 0).double().mean()) if layer.weight.numel() else 1.0
        if share > MAX_ALIVE:
            continue
        made = _faster(path, layer, heard[path], share)
        if made is not None and not path:
            return made
        if made is not None:
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, made)
    return model


def _layer_inputs(model: nn.Module, example: Example) -> dict[str, Tensor]:
    heard: dict[str, Tensor] = {}

    def hear(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            heard.setdefault(path, given[0])

        return hook

    linear = [(path, m) for path, m in model.named_modules() if type(m) is nn.Linear]
    held = [layer.register_forward_pre_hook(hear(path)) for path, layer in linear]
    try:
        run(model, example)
    finally:
        for hook in held:
            hook.remove()
    return heard


def _faster(path: str, layer: nn.Linear, x: Tensor, share: float) -> SparseLinear | None:
    made = SparseLinear.of(layer)
    try:
        same = torch.allclose(made(x), layer(x), atol=1e-4, rtol=1e-4)
    except RuntimeError:  # no such product for this type or device
        return None
    if not same:
        return None
    dense, sparse = seconds(lambda: layer(x)), seconds(lambda: made(x))
    log.info(
        "layer %r, %.1f %% alive, %d rows at once: dense %.1f us, CSR %.1f us; it %s",
        *(path, 100 * share, x[..., 0].numel(), 1e6 * dense, 1e6 * sparse),
        "becomes CSR" if sparse < dense else "stays dense",
    )
    return made if sparse < dense else None


def seconds(call: Callable[[], object]) -> float:
    """Least time of one call, each timing over as many calls as take two milliseconds."""
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
