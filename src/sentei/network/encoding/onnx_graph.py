"""Serialise a network as the exact bytes of an ONNX file, without the onnx package.

ONNX files are protocol buffers. A network needs a few message types and three wire types of them
(varint, 32-bit and length-delimited). The size is known without any weights: a file is a list of
parts, and of weights on the meta device only the lengths are in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from sentei.card import Card
from sentei.network.encoding.merging import folded
from sentei.network.encoding.stages import (
    Chosen,
    Joined,
    Pointwise,
    Pool,
    Recurrent,
    Scaled,
    Softmax,
    Stage,
    Standardised,
    Sum,
    Transposed,
    Weighted,
)

OPSET, IR = 13, 8  # of 2020 and 2021: old enough for every runtime
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType


Part = bytes | int  # bytes of the file, or how many there are where a tensor has no memory


def onnx_bytes(stages: Sequence[Stage], shape: Sequence[int], card: Card) -> bytes:
    """Return the content of an ONNX file with a free batch dimension.

    Args:
        stages: of the network.
        shape: of one sample as callers pass it.
        card: what the network predicts; names of classes and features become metadata, as JSON.
    """
    return b"".join(part for part in _file(stages, shape, card) if isinstance(part, bytes))


def onnx_size(stages: Sequence[Stage], shape: Sequence[int], card: Card) -> int:
    """Return how many bytes `onnx_bytes` would return; weights may be on the meta device."""
    return _length(_file(stages, shape, card))


def output_shape(stages: Sequence[Stage], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an output of the file, for samples of this shape."""
    leaving = stages[-1].leaving
    return (leaving[0], leaving[2]) if len(leaving) == 3 and len(shape) == 2 else leaving


def _file(stages: Sequence[Stage], shape: Sequence[int], card: Card) -> list[Part]:
    stages, graph = folded(stages), _Graph()
    here = "input"
    if len(shape) == 2:
        here = graph.reshape(here, stages[0].entering)
    names = {0: here}
    for index, stage in enumerate(stages):
        here = graph.add(stage, [names[value] for value in stage.reads], f"{index}")
        names[stage.value] = here
    leaving = output_shape(stages, shape)
    if leaving != stages[-1].leaving:
        here = graph.reshape(here, leaving)
    graph.node("Identity", [here], "output")
    values = [_message(11, _value("input", shape)), _message(12, _value("output", leaving))]
    body = [*graph.nodes, _text(2, "network"), *graph.weights, *values]
    opset = _message(8, _text(1, "") + _integer(2, OPSET))
    head = _integer(1, IR) + _text(2, "sentei")
    return [head, *_long_message(7, body), opset, metadata(card)]


def metadata(card: Card) -> bytes:
    """Return names of classes and features as the end of an ONNX file, whoever wrote the rest.

    Fields of a protocol buffer may come in any order, so they are appended.
    """
    known = {
        name: json.dumps(names) for name, names in card.data().items() if isinstance(names, list)
    }
    return b"".join(_message(14, _text(1, name) + _text(2, text)) for name, text in known.items())


class _Graph:
    """Nodes and weights of an ONNX graph, each serialised when it is added."""

    def __init__(self):
        self.nodes: list[bytes] = []
        self.weights: list[Part] = []

    def node(
        self, kind: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: object
    ) -> str:
        """Add a node of operator type `kind`; return the name of its (last) output."""
        outputs = [output] if isinstance(output, str) else output
        body = [*(_text(1, name) for name in inputs), *(_text(2, name) for name in outputs)]
        body.append(_text(4, kind))
        body += [_message(5, _attribute(name, value)) for name, value in attributes.items()]
        self.nodes.append(_message(1, b"".join(body)))
        return outputs[-1]

    def weight(self, name: str, tensor: Tensor) -> str:
        """Add a constant as int64 or float32; return its name."""
        is_integer = not tensor.is_floating_point()
        body = b"".join(_integer(1, side) for side in tensor.shape)
        body += _integer(2, _INT64 if is_integer else _FLOAT) + _text(8, name)
        if tensor.is_meta:
            data: Part = tensor.numel() * (8 if is_integer else 4)
        else:
            kind = np.dtype("<i8" if is_integer else "<f4")
            data = tensor.detach().cpu().numpy().astype(kind).tobytes()
        self.weights += _long_message(5, [body, *_long_message(9, [data])])
        return name

    def reshape(self, here: str, shape: Sequence[int], out: str | None = None) -> str:
        """Add a node that reshapes each sample of the value named `here`."""
        out = f"{here}.reshaped" if out is None else out
        target = self.weight(f"{out}.shape", torch.tensor([-1, *shape]))
        return self.node("Reshape", [here, target], out)

    def add(  # noqa: PLR0911 - a table of types
        self, stage: Stage, given: Sequence[str], out: str
    ) -> str:
        """Add the nodes of a stage that reads the values named `given`; return its output."""
        here = given[0]
        if isinstance(stage, Sum):
            return self.node("Add", given, out)
        if isinstance(stage, Joined):
            return self.node("Concat", given, out, axis=1)
        if isinstance(stage, Recurrent):
            return self._recurrent(stage, here, out)
        if isinstance(stage, Transposed):
            return self.node("Transpose", [here], out, perm=(0, 3, 2, 1))
        if isinstance(stage, Weighted):
            return self._weighted(stage, here, out)
        if isinstance(stage, Pool):
            return self._pool(stage, here, out)
        if isinstance(stage, Pointwise):
            return self._pointwise(stage, here, out)
        if isinstance(stage, Softmax):
            return self.node("LogSoftmax" if stage.log else "Softmax", [here], out, axis=1)
        if isinstance(stage, Chosen):
            index = self.weight(f"{out}.index", stage.index)
            return self.node("Gather", [here, index], out, axis=1)
        if isinstance(stage, Scaled):
            shape = (-1, *(1,) * (len(stage.entering) - 1))
            scale = self.weight(f"{out}.scale", stage.scale.float().reshape(shape))
            shift = self.weight(f"{out}.shift", stage.shift.float().reshape(shape))
            scaled = self.node("Mul", [here, scale], f"{out}.scaled")
            return self.node("Add", [scaled, shift], out)
        if isinstance(stage, Standardised):
            return self._standardised(stage, here, out)
        if len(stage.leaving) == 1:
            return self.node("Flatten", [here], out, axis=1)
        return self.reshape(here, stage.leaving, out)

    def _recurrent(self, stage: Recurrent, here: str, out: str) -> str:
        """Add a recurrent layer; ONNX has the steps first, and gates in another order."""
        steps, units = stage.entering[0], stage.units
        here = self.reshape(here, (steps, stage.entering[2]))
        here = self.node("Transpose", [here], f"{out}.steps", perm=(1, 0, 2))
        kind, order, attributes = _RECURRENT[stage.kind]
        weights, biases = [], []
        for matrix, what in zip(stage.matrices, ("W", "R"), strict=True):
            parts = [matrix.masked.split(units)[gate] for gate in order]
            weights.append(self.weight(f"{out}.{what}", torch.cat(parts)[None]))
            biases += [matrix.bias.split(units)[gate] for gate in order]
        given = [here, *weights, self.weight(f"{out}.B", torch.cat(biases)[None])]
        every, last = f"{out}.every", f"{out}.last"
        if stage.leaving[0] == steps:
            self.node(kind, given, every, hidden_size=units, **attributes)
            return self.node("Transpose", [every], out, perm=(2, 0, 1, 3))
        self.node(kind, given, ["", last], hidden_size=units, **attributes)
        here = self.node("Transpose", [last], f"{out}.first", perm=(1, 0, 2))
        return self.reshape(here, stage.leaving, out)

    def _standardised(self, stage: Standardised, here: str, out: str) -> str:
        if stage.index is not None:
            here = self.node(
                "Gather", [here, self.weight(f"{out}.index", stage.index)], f"{out}.kept", axis=1
            )
        shape = stage.leaving
        if len(stage.mean) == shape[0]:
            shape = (shape[0], *(1,) * (len(shape) - 1))
        mean, std = (
            values.float().repeat_interleave(prod(shape) // len(values)).reshape(shape)
            for values in (stage.mean, stage.std)
        )
        centred = [here, self.weight(f"{out}.mean", mean)]
        divided = [self.node("Sub", centred, f"{out}.centred"), self.weight(f"{out}.std", std)]
        return self.node("Div", divided, out)

    def _weighted(self, stage: Weighted, here: str, out: str) -> str:
        weight, window = stage.masked, stage.window
        if window is None:
            given = [here, self.weight(f"{stage.name}.weight:{out}", weight)]
            given.append(self.weight(f"{stage.name}.bias:{out}", stage.bias))
            return self.node("Gemm", given, out, transB=1)
        kernels = weight.reshape(len(weight), -1, *window.kernel)
        given = [here, self.weight(f"{stage.name}.weight:{out}", kernels)]
        given.append(self.weight(f"{stage.name}.bias:{out}", stage.bias))
        return self.node(
            "Conv",
            given,
            out,
            kernel_shape=window.kernel,
            strides=window.stride,
            pads=window.padding * 2,
            dilations=window.dilation,
            group=stage.groups,
        )

    def _pool(self, stage: Pool, here: str, out: str) -> str:
        window = stage.window
        sides: dict[str, tuple[int, ...]] = {"kernel_shape": window.kernel}
        sides |= {"strides": window.stride, "pads": window.padding * 2}
        if stage.how == "max":
            return self.node("MaxPool", [here], out, **sides)
        counting = int(stage.count_padding)
        return self.node("AveragePool", [here], out, **sides, count_include_pad=counting)

    def _pointwise(self, stage: Pointwise, here: str, out: str) -> str:
        if stage.function in _OPERATORS:
            kind, attributes = _OPERATORS[stage.function]
            names = _SETTINGS.get(stage.function, ())
            settings = dict(zip(names, stage.settings, strict=True))
            return self.node(kind, [here], out, **attributes, **settings)
        if stage.function == "clip":
            bounds = [
                self.weight(f"{out}.{what}", torch.tensor(value))
                for what, value in zip(("low", "high"), stage.settings, strict=True)
            ]
            return self.node("Clip", [here, *bounds], out)
        if stage.function == "gelu":
            root = self.weight(f"{out}.root", torch.tensor(0.5**0.5))
            half, one = (self.weight(f"{out}.{v}", torch.tensor(v)) for v in (0.5, 1.0))
            inner = self.node("Mul", [here, root], f"{out}.inner")
            raised = self.node("Add", [self.node("Erf", [inner], f"{out}.erf"), one], f"{out}.sum")
            halved = self.node("Mul", [here, half], f"{out}.half")
            return self.node("Mul", [halved, raised], out)
        # x times a gate computed from x: silu and hard swish.
        kind, attributes = _OPERATORS[
            {"silu": "sigmoid", "hard_swish": "hard_sigmoid"}[stage.function]
        ]
        gate = self.node(kind, [here], f"{out}.gate", **attributes)
        return self.node("Mul", [here, gate], out)


# The operator of a recurrent layer, its gates by their places in torch's order, and attributes.
_RECURRENT: dict[str, tuple[str, tuple[int, ...], dict[str, object]]] = {
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
    "rnn_tanh": ("RNN", (0,), {}),
    "rnn_relu": ("RNN", (0,), {"activations": ("Relu",)}),
}
_OPERATORS: dict[str, tuple[str, dict[str, float]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softsign": ("Softsign", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "leaky_relu": ("LeakyRelu", {}),
    "elu": ("Elu", {}),
}
_SETTINGS = {"leaky_relu": ("alpha",), "elu": ("alpha",)}


# Protocol buffers: a key (field number and wire type), then a number or length-prefixed bytes.


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _long_message(field: int, parts: Sequence[Part]) -> list[Part]:
    return [_varint(field << 3 | 2) + _varint(_length(parts)), *parts]


def _length(parts: Sequence[Part]) -> int:
    return sum(part if isinstance(part, int) else len(part) for part in parts)


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _attribute(name: str, value: object) -> bytes:
    """Serialise an AttributeProto: a float, an integer, or a tuple of integers or texts."""
    begin = _text(1, name)
    if isinstance(value, float):
        return begin + _varint(2 << 3 | 5) + np.float32(value).tobytes() + _integer(20, 1)
    if isinstance(value, int):
        return begin + _integer(3, value) + _integer(20, 2)
    assert isinstance(value, tuple)
    if isinstance(value[0], str):
        return begin + b"".join(_message(9, text.encode()) for text in value) + _integer(20, 8)
    return begin + b"".join(_integer(8, side) for side in value) + _integer(20, 7)


def _value(name: str, shape: Sequence[int]) -> bytes:
    """Serialise a ValueInfoProto of floats whose first dimension is free."""
    sides = [_text(2, "batch"), *(_integer(1, side) for side in shape)]
    dims = b"".join(_message(1, side) for side in sides)
    tensor = _integer(1, _FLOAT) + _message(2, dims)
    return _text(1, name) + _message(2, _message(1, tensor))
