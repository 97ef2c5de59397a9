"""Make a Split of the data that a function of the user's returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sentei.cli import references
from sentei.errors import DataError

if TYPE_CHECKING:
    from sentei.datasets import Samples, Split

PARTS = ("train", "validation", "test")
_FORMS = (
    "a Split, or train, validation and test data: each (inputs, targets), a Dataset, a DataLoader "
    "or another iterable of batches"
)


def own_split(reference: str, *, regression: bool = False) -> Split:
    """Return the data that a reference names, or that the function that it names returns.

    Args:
        reference: `file.py:name` or `package.module:name`.
        regression: whether whole numbers as targets are values to predict.

    Raises:
        DataError: it is data of another form, or its parts do not go together.
        FileNotFoundError, OwnCodeError: as `references.made`.
    """
    from sentei.datasets import Split
    from sentei.nests import tensors

    found = references.made(reference, "the data")
    if isinstance(found, Split):
        return found
    if isinstance(found, Mapping):
        found = [found.get(part) for part in PARTS]
    if (
        not isinstance(found, (tuple, list))
        or len(found) != len(PARTS)
        or any(each is None for each in found)
    ):
        raise DataError(
            f"{reference} must give {_FORMS}; it gives a {type(found).__name__}"
            + (f" of {len(found)}" if isinstance(found, (tuple, list)) else "")
        )
    train, validation, test = parts = [
        _samples(f"{reference}, {part}", data, regression=regression)
        for part, data in zip(PARTS, found, strict=True)
    ]
    _check_alike(reference, parts)
    values = sum(tensor[0].numel() for tensor in tensors(train.inputs))
    names = tuple(f"value {place}" for place in range(values))
    return Split(reference, train, validation, test, names, _classes(parts))


def _samples(what: str, data: Any, *, regression: bool) -> Samples:
    """Read one part into memory."""
    import torch
    from torch import Tensor

    from sentei.datasets import Samples
    from sentei.reading.first_pass import in_memory

    try:
        found = in_memory(data)
    except DataError as error:
        raise DataError(f"{what}: {error}") from error
    if not isinstance(found.targets, Tensor):
        raise DataError(
            f"{what}: on the command line targets are one tensor. From Python, sentei.Probe takes "
            "any nest of them."
        )
    targets = found.targets
    if regression and not targets.is_floating_point():
        targets = targets.to(torch.float32)
    return Samples(found.inputs, targets)


def _check_alike(reference: str, parts: list[Samples]) -> None:
    for name in ("inputs", "targets"):
        forms = {_form(getattr(part, name)) for part in parts}
        if len(forms) > 1:
            said = ", ".join(sorted(forms))
            raise DataError(
                f"{reference}: the {name} of train, validation and test must have one shape and "
                f"type; they have {said}"
            )


def _form(nest: Any) -> str:
    """Return shapes and types of one sample as a text."""
    if isinstance(nest, Mapping):
        return f"{{{', '.join(f'{name}: {_form(each)}' for name, each in nest.items())}}}"
    if isinstance(nest, (tuple, list)):
        return f"({', '.join(map(_form, nest))})"
    return f"{tuple(nest.shape[1:])} {nest.dtype}" if hasattr(nest, "shape") else repr(nest)


def _classes(parts: list[Samples]) -> tuple[str, ...]:
    """Return a name for each class: its number; () where targets are values."""
    targets = [part.targets for part in parts]
    if targets[0].is_floating_point() or targets[0].is_complex():
        return ()
    return tuple(map(str, range(1 + max(int(each.max()) for each in targets))))
