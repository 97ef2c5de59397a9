"""Turn data of any form into batches of inputs and targets: tensors with a row for each sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from numbers import Number
from typing import Annotated, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from sentei.errors import DataError
from sentei.nests import mapped, tensors
from sentei.reading.data import MemoryData
from sentei.samples import check_finite, check_rows

Unpack = Annotated[
    Callable[[Any], tuple[Any, Any]],
    "a function (batch) -> (inputs, targets), such as lambda batch: (batch['x'], batch['y'])",
]
LABELS = "labels"  # the key of the targets in a batch that is a dict

_ROWS, _BYTES = 1024, 32 * 2**20  # of a batch, where the data comes one sample at a time
_SETTING = (bool, int, float, type(None))  # of a model's arguments; they are the same for all rows


def is_pair(data: Any) -> bool:
    """Return whether data are `(inputs, targets)`, and no list of batches."""
    if not isinstance(data, Sequence) or isinstance(data, (str, bytes)) or len(data) != 2:
        return False
    batches = isinstance(data, list) and all(isinstance(each, (tuple, Mapping)) for each in data)
    return not batches


def opened(
    data: Any, unpack: Unpack | None, dtype: torch.dtype, only: Sequence[int] | None = None
) -> Iterator[MemoryData]:
    """Yield the batches of a Dataset, a DataLoader or any iterable of batches, checked.

    The global random state of torch stays as it is: what a shuffling loader draws comes from a
    state of its own.

    Args:
        data: the data.
        unpack: takes a batch apart; None where it is plain: a tuple or list whose last item is
            the targets, or a dict or dataclass with "labels".
        dtype: of tensors made from floating-point arrays.
        only: positions of the batches that are yielded, ascending; all if None. A Dataset with
            positions, and a DataLoader that reads one in order, read no others; other iterables
            are read up to the last of them.

    Raises:
        DataError: data of another form, rows that differ in number, NaN or infinite inputs.
    """
    for batch in _undrawn(_batches(data) if only is None else _some(_batches(data), only)):
        inputs, targets = _parts(batch) if unpack is None else _unpacked(batch, unpack)
        yield as_samples(inputs, targets, dtype)


def beginning(data: Any, unpack: Unpack | None, dtype: torch.dtype) -> MemoryData:
    """Return `(inputs, targets)`, or the first batch of data of another form, checked.

    Raises:
        DataError: there is none, or as `opened`.
    """
    if is_pair(data):
        return as_samples(data[0], data[1], dtype)
    first = next(opened(data, unpack, dtype), None)
    if first is None:
        raise DataError("there must be at least one sample; the data has no batches")
    return first


def as_samples(inputs: Any, targets: Any, dtype: torch.dtype) -> MemoryData:
    """Return inputs and targets, however nested, as tensors; check their rows.

    Args:
        inputs: tensors or arrays (N, ...).
        targets: tensors or arrays (N, ...), or a list of numbers.
        dtype: of tensors made from floating-point arrays: numpy computes in float64 where nothing
            else is said, and networks do not.

    Raises:
        DataError: inputs or targets hold what is no tensor, have no rows or not as many as others,
            or inputs are not finite.
    """
    samples = MemoryData(
        _as_tensors(inputs, "inputs", dtype), _as_tensors(_array(targets), "targets", dtype)
    )
    _check(samples)
    return samples


def _check(samples: MemoryData) -> None:
    inputs, targets = tensors(samples.inputs), tensors(samples.targets)
    for name, found in (("inputs", inputs), ("targets", targets)):
        if not found:
            raise DataError(
                f"{name} must be tensors with a row for each sample; there is no tensor"
            )
    for target in targets:
        check_rows(inputs[0], target)
    for tensor in inputs:
        check_rows(tensor, targets[0])
        check_finite("inputs", tensor)


def _batches(data: Any) -> Iterable[Any]:
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=_batch_size(data))
    if isinstance(data, Iterable) and not isinstance(data, (Tensor, np.ndarray, str, bytes, dict)):
        return data
    raise DataError(
        "data must be (inputs, targets), a Dataset, a DataLoader or another iterable of batches, "
        f"not {type(data).__name__}"
    )


def _some(batches: Iterable[Any], only: Sequence[int]) -> Iterable[Any]:
    """Return the batches at some positions."""
    if not only:
        return ()
    if not _in_order(batches):
        return (batch for at, batch in enumerate(islice(batches, only[-1] + 1)) if at in {*only})
    size, rows = batches.batch_size, len(batches.sampler)
    parts = [[*range(at * size, min((at + 1) * size, rows))] for at in only]
    options = "num_workers collate_fn pin_memory timeout worker_init_fn multiprocessing_context"
    own = {name: getattr(batches, name) for name in options.split()}
    return DataLoader(batches.dataset, batch_sampler=[part for part in parts if part], **own)


def _in_order(batches: Any) -> TypeGuard[Any]:
    """Return whether batches are rows of a Dataset in their order, so that any can be read alone.

    Such a loader draws no random number for the order, and subclasses may do anything.
    """
    return (
        type(batches) is DataLoader
        and type(batches.batch_sampler) is BatchSampler
        and type(batches.sampler) is SequentialSampler
    )


def _batch_size(data: Any) -> int:
    """Return how many samples of a Dataset are read at once: as many as take little memory."""
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or not len(data):
        return _ROWS
    leaves = tree_leaves(data[0])
    size = sum(getattr(leaf, "nbytes", 8) for leaf in leaves)
    return max(1, min(_ROWS, _BYTES // max(size, 1)))


def _undrawn(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches while the random numbers that they draw leave the global state as it is."""
    own, iterator = torch.get_rng_state(), None
    while True:
        before = torch.get_rng_state()
        torch.set_rng_state(own)
        try:
            iterator = iter(batches) if iterator is None else iterator
            batch = next(iterator)
        except StopIteration:
            return
        finally:
            own = torch.get_rng_state()
            torch.set_rng_state(before)
        yield batch


def _unpacked(batch: Any, unpack: Unpack) -> tuple[Any, Any]:
    found = unpack(batch)
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise DataError(
            "batch= must return (inputs, targets), two values; for a batch of type "
            f"{type(batch).__name__} it returned {type(found).__name__}"
        )
    return found[0], found[1]


def _parts(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch of a plain form."""
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        batch = {each.name: getattr(batch, each.name) for each in dataclasses.fields(batch)}
    if isinstance(batch, Mapping):
        if LABELS not in batch:
            raise DataError(
                f'a batch with names must have its targets under "{LABELS}"; it has '
                f"{', '.join(map(repr, batch)) or 'none'}. Pass batch=, a function (batch) -> "
                "(inputs, targets), such as lambda batch: (batch['x'], batch['y'])."
            )
        return {key: batch[key] for key in batch if key != LABELS}, batch[LABELS]
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        *inputs, targets = batch
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), targets
    kind = type(batch).__name__ + (f" of {len(batch)}" if isinstance(batch, Sized) else "")
    raise DataError(
        "a Dataset, a DataLoader or an iterable must yield batches (inputs, ..., targets), or "
        f'dicts or dataclasses with "{LABELS}"; it yields a {kind}. Pass batch=, a function '
        "(batch) -> (inputs, targets), or (inputs, targets) as tensors."
    )


def _array(targets: Any) -> Any:
    """Return a list of numbers, nested or not, as an array."""
    plain = isinstance(targets, list) and all(isinstance(t, Number) for t in tree_leaves(targets))
    return np.asarray(targets) if plain else targets


def _as_tensors(nest: Any, what: str, dtype: torch.dtype) -> Any:
    """Return a nest with arrays as tensors, and mappings of any class as dicts."""
    if isinstance(nest, Mapping):
        return {key: _as_tensors(value, what, dtype) for key, value in nest.items()}
    return mapped(nest, lambda leaf: _as_tensor(leaf, what, dtype))


def _as_tensor(leaf: Any, what: str, dtype: torch.dtype) -> Any:
    if isinstance(leaf, (Tensor, *_SETTING)):
        return leaf
    if isinstance(leaf, Mapping):
        return _as_tensors(leaf, what, dtype)
    if isinstance(leaf, (np.ndarray, np.generic)) and np.asarray(leaf).dtype.kind in "biufc":
        tensor = torch.tensor(leaf) if not _shareable(leaf) else torch.as_tensor(leaf)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor
    raise DataError(
        f"{what} must be tensors, arrays of numbers, or tuples and dicts of them; they hold a "
        f"{type(leaf).__name__}. Leave it out: pass batch=, a function (batch) -> (inputs, "
        "targets)."
    )


def _shareable(array: Any) -> bool:
    """Return whether a tensor can share the array's memory."""
    return array.flags.writeable and all(stride >= 0 for stride in array.strides)
