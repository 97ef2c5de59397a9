"""Turn a pruner's state into JSON and back: nests of numbers, texts and tensors, without pickle."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor


def to_json(value: Any) -> Any:
    """Return plain JSON data for a nest.

    Args:
        value: numbers, texts, None and tensors, in dictionaries, lists and tuples.

    Raises:
        TypeError: anything else is in the nest.
    """
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        data = base64.b64encode(zlib.compress(flat.numpy().tobytes(), 1)).decode()
        return {"tensor": [str(value.dtype).removeprefix("torch."), list(value.shape), data]}
    if isinstance(value, Mapping):
        return {"items": [[to_json(key), to_json(each)] for key, each in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [to_json(each) for each in value]}
    if isinstance(value, list):
        return [to_json(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"the Trainer's checkpoints are JSON, and the pruner's state holds a "
        f"{type(value).__name__}; let state_dict of the proposal return numbers, texts and tensors"
    )


def from_json(value: Any) -> Any:
    """Return the nest that `to_json` was given."""
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "items":
        return {from_json(key): from_json(each) for key, each in held}
    if kind == "tuple":
        return tuple(from_json(each) for each in held)
    dtype, shape, data = held
    raw = numpy.frombuffer(bytearray(zlib.decompress(base64.b64decode(data))), dtype=numpy.uint8)
    return torch.from_numpy(raw).view(getattr(torch, dtype)).reshape(shape)
