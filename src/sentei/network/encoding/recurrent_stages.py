"""Convert recurrent layers to stages: one for each layer that is stacked."""

from __future__ import annotations

from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.network.alive_weights import AliveWeights
from sentei.network.encoding.stages import Recurrent, Shape, Stage, Weighted
from sentei.network.mask import Mask


def recurrent_stages(
    layer: nn.GRU | nn.LSTM | nn.RNN, path: str, entering: Shape, mask: Mask | None
) -> list[Stage]:
    """Return the stages of a recurrent module, which give the states after all steps.

    Raises:
        StructureError: the module reads sequences in both directions, has the batch in the second
            dimension, projects its states, or does not get sequences of its width.
    """
    for has, what in (
        (layer.bidirectional, "reads sequences in both directions"),
        (not layer.batch_first, "has the batch in the second dimension (batch_first=False)"),
        (layer.proj_size, "projects its states (proj_size)"),
    ):
        if has:
            raise StructureError(
                f"layer {path!r} is a {type(layer).__name__} that {what}; files in C and planned "
                "sizes in ONNX have recurrent layers in one direction, with batch_first=True and "
                "without projections. Save it as safetensors instead; export to ONNX takes any "
                "network."
            )
    if len(entering) != 3 or entering[1] != 1 or entering[2] != layer.input_size:
        raise StructureError(
            f"layer {path!r} reads steps of {layer.input_size} numbers and gets samples of shape "
            f"{entering}; pass an example (N, steps, {layer.input_size})"
        )
    kind = type(layer).__name__.lower()
    kind = f"rnn_{layer.nonlinearity}" if isinstance(layer, nn.RNN) else kind
    found: list[Stage] = []
    for number in range(layer.num_layers):
        matrices = [_matrix(layer, path, f"{what}_l{number}", mask) for what in ("ih", "hh")]
        leaving = (entering[0], 1, layer.hidden_size)
        found.append(Recurrent(path, entering, leaving, kind, *matrices))
        entering = leaving
    return found


def _matrix(layer: nn.RNNBase, path: str, which: str, mask: Mask | None) -> Weighted:
    """Return one matrix of a recurrent module, with its bias, as a linear layer."""
    weight: Tensor = getattr(layer, f"weight_{which}").detach().float()
    bias = getattr(layer, f"bias_{which}").detach().float() if layer.bias else None
    name = f"{path}.weight_{which}" if path else f"weight_{which}"
    shape = tuple(weight.shape)
    alive = AliveWeights(shape) if mask is None else mask.weights(name, shape)
    if not alive.count:
        raise StructureError(f"layer {path!r} has no weight left in {name!r}. Prune less.")
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return Weighted(name, (shape[1],), (shape[0],), weight, bias, alive)
