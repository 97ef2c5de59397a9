"""Stand-ins for the layers of a removed branch: they return zeros in the form of the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import StructureError

# The form of a result as plain data: None, {"tuple": [form, ...]}, {"list": [form, ...]} or
# {"tensor": [length, ...]}. The length of a dimension is one of
#   [argument, dim]            that of an argument, by its position or keyword;
#   [argument, dim, k, s, p, d]  that of a window of size k, stride s, padding p and dilation d;
#   {"size": n}                a number;
#   {"rows": [parameter, dim]}   that of a parameter of the layer.
# At most one dimension of a tensor has a length of the last two kinds.
Form = Any


class Zeros(nn.Module):
    """A layer that returns zeros in the form in which a removed layer returned its results.

    Lengths follow the inputs. A length that belongs to the layer is that of a buffer of zeros, so
    that it is cut with the units of the stream. Numbers and texts of the layer that code around it
    may read (`eps`, `batch_first`) stay; its parameters are None.

    Args:
        form: of the results.
        layer: the layer whose place it takes.

    Raises:
        StructureError: the form is not that of such a layer.
    """

    # torch's transformer layers read this; False keeps them from a fused path.
    _qkv_same_embed_dim = False

    def __init__(self, form: Form, layer: nn.Module):
        super().__init__()
        plain = {n: v for n, v in vars(layer).items() if _is_kept(n, v)}
        vars(self).update(plain)
        for name in layer._parameters:
            self.register_parameter(name, None)
        self.form = form
        self.instead_of = getattr(layer, "instead_of", type(layer).__name__)
        self.train(layer.training)
        try:
            for name, lengths, dim in _sized(form):
                shape = [1] * len(lengths)
                shape[dim] = _own_length(lengths[dim], layer)
                like = next(iter(layer.parameters()), torch.zeros(()))
                zeros = torch.zeros(shape, dtype=like.dtype, device=like.device)
                self.register_buffer(name, zeros)
        except (TypeError, LookupError, AttributeError, RuntimeError) as error:
            raise StructureError(f"no layer returns results of the form {form}: {error}") from error

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros, whatever the values of the arguments are."""
        given = {**dict(enumerate(args)), **kwargs}
        buffers = iter([self.get_buffer(name) for name, _, _ in _sized(self.form)])
        return _result(self.form, given, buffers)

    def extra_repr(self) -> str:
        """Return the class of the layer whose place it takes, for `print(model)`."""
        return f"in place of {self.instead_of}"


def stand_in_(model: nn.Module, forms: Mapping[str, Form]) -> None:
    """Put zeros into the place of layers, in place.

    Args:
        model: the network.
        forms: for each layer, by its path, the form of its results.

    Raises:
        StructureError: the network does not have one of the layers.
    """
    made: dict[int, nn.Module] = {}
    for path, form in forms.items():
        parent, _, name = path.rpartition(".")
        try:
            owner, layer = model.get_submodule(parent), model.get_submodule(path)
        except AttributeError as error:
            raise StructureError(f"the network has no layer {path!r}: {error}") from error
        made.setdefault(id(layer), layer if isinstance(layer, Zeros) else Zeros(form, layer))
        owner.add_module(name, made[id(layer)])
        if isinstance(owner, nn.TransformerEncoderLayer):
            owner.activation_relu_or_gelu = 0  # its fused path takes weights, and calls no layers


def stand_ins(model: nn.Module) -> dict[str, Form]:
    """Return the forms of the results of all `Zeros` of a network, by path."""
    named = model.named_modules(remove_duplicate=False)
    return {path: module.form for path, module in named if isinstance(module, Zeros)}


def path_around(parameter: str, forms: Mapping[str, Form]) -> str | None:
    """Return the layer, of those with forms, that a parameter or buffer lies in; None if none."""
    return next((path for path in forms if parameter.startswith(f"{path}.")), None)


def check_form(form: Form) -> None:
    """Check plain data that is to be the form of a result.

    Raises:
        ValueError: it is not.
    """
    try:
        for lengths in _leaves(form):
            own = [length for length in lengths if isinstance(length, dict)]
            followed = [length for length in lengths if not isinstance(length, dict)]
            if len(own) > 1 or not lengths or not all(map(_is_followed, followed)):
                raise ValueError(f"{lengths} are no lengths")
            if own and not (_is_size(own[0]) or _is_rows(own[0])):
                raise ValueError(f"{own[0]} is no length")
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{form!r} is no form of a result: {error}") from error


def _is_followed(length: Any) -> bool:
    numbers = isinstance(length, list) and all(type(each) is int for each in length[1:])
    return numbers and len(length) in (2, 6) and type(length[0]) in (int, str)


def _is_size(length: Mapping[str, Any]) -> bool:
    return length.keys() == {"size"} and type(length["size"]) is int and length["size"] >= 0


def _is_rows(length: Mapping[str, Any]) -> bool:
    rows = length.get("rows")
    is_pair = isinstance(rows, list) and [type(each) for each in rows] == [str, int]
    return length.keys() == {"rows"} and is_pair


def widths(form: Form) -> Iterator[tuple[str, str, int, int]]:
    """Yield what lengths that follow a parameter of the layer become.

    Yields:
        The buffer that holds the length and the dimension of it; the parameter and its dimension.
    """
    for name, lengths, dim in _sized(form):
        if "rows" in lengths[dim]:
            parameter, rows = lengths[dim]["rows"]
            yield name, parameter, dim, rows


def _is_kept(name: str, value: Any) -> bool:
    plain = value is None or isinstance(value, (bool, int, float, str))
    return not name.startswith("_") and name != "training" and plain


def _leaves(form: Form) -> Iterator[list[Any]]:
    """Yield the lengths of each tensor of a form, in order."""
    if form is None:
        return
    ((kind, items),) = form.items()
    if kind not in ("tensor", "tuple", "list"):
        raise TypeError(f"{kind!r} is no kind of result")
    if kind == "tensor":
        yield items
    else:
        for item in items:
            yield from _leaves(item)


def _sized(form: Form) -> Iterator[tuple[str, list[Any], int]]:
    """Yield buffer, lengths and dimension of each tensor that has a length of its own."""
    for at, lengths in enumerate(_leaves(form)):
        for dim, length in enumerate(lengths):
            if isinstance(length, dict):
                yield f"zeros{at or ''}", lengths, dim


def _own_length(length: Mapping[str, Any], layer: nn.Module) -> int:
    if "size" in length:
        return length["size"]
    parameter, dim = length["rows"]
    return layer.get_parameter(parameter).shape[dim]


def _result(form: Form, given: Mapping[Any, Any], buffers: Iterator[Tensor]) -> Any:
    if form is None:
        return None
    ((kind, items),) = form.items()
    if kind == "tensor":
        return _tensor(items, given, buffers)
    results = [_result(item, given, buffers) for item in items]
    return tuple(results) if kind == "tuple" else results


def _tensor(lengths: list[Any], given: Mapping[Any, Any], buffers: Iterator[Tensor]) -> Tensor:
    shapes = {key: value.shape for key, value in given.items() if isinstance(value, Tensor)}
    shape = [-1 if isinstance(each, dict) else length_in(each, shapes) for each in lengths]
    if -1 in shape:
        return next(buffers).expand(shape).clone()
    return given[lengths[0][0]].new_zeros(shape)


def length_in(length: list[Any], shapes: Mapping[Any, Any]) -> int:
    """Return a length that follows an argument, from the arguments' shapes.

    Raises:
        LookupError: there is no such argument.
    """
    argument, dim, *window = length
    if not window:
        return shapes[argument][dim]
    kernel, stride, padding, dilation = window
    return (shapes[argument][dim] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
