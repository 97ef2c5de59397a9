"""Load the network that a command is given as a file, or train the one it is given by widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sentei.cli import references
from sentei.errors import DataError, FileError, StructureError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sentei.cli.options import Data
    from sentei.datasets import Scaling, Split
    from sentei.losses import PerSample
    from sentei.network.mask import Mask
    from sentei.training import Recipe


def opened(file: str | Path) -> tuple[nn.Module, Mask]:
    """Read a network and its mask from a file that sentei saved.

    Raises:
        ValueError: the path is a folder.
        FileError: the file is damaged or not sentei's.
        StructureError: a weight in the file is not finite.
    """
    from sentei import formats
    from sentei.formats import inspect

    if Path(file).is_dir():
        raise ValueError(f"{file} is a folder; name the file of a network that sentei saved")
    if inspect(file).architecture is None:
        raise FileError(
            f"{file} does not describe its network, whose class is your own: name the class too, "
            f"path/to/file.py:Class --weights {file}"
        )
    network = formats.load(file)
    check_finite(network, file)
    return network, formats.load_mask(file)


def check_finite(network: nn.Module, file: str | Path) -> None:
    """Raise StructureError if a weight is NaN or infinite.

    Raises:
        StructureError: names the weight.
    """
    for name, weight in (*network.named_parameters(), *network.named_buffers()):
        if not bool(weight.isfinite().all()):
            raise StructureError(
                f"weights must be finite; {name!r} in {file} has one that is not (NaN or "
                "infinity). Train it again."
            )


def known(model: str | Path, weights: Path | None) -> tuple[nn.Module, Mask] | None:
    """Return a network that need not be trained, and its mask: of a file, or of one's own.

    Args:
        model: a file that sentei saved, or `file.py:name` or `package.module:name` of a network, or
            of a function or class that makes one.
        weights: a file with its weights; see `weights.filled`. A network built by its name takes
            them too.

    Returns:
        None for a network's name without weights.

    Raises:
        As `loaded`.
    """
    from sentei import Mask
    from sentei.cli.weights import filled

    if Path(model).exists():
        if weights is not None:
            raise ValueError(f"{model} holds weights itself; leave --weights out")
        return opened(model)
    own = is_own(str(model))
    if not own and weights is None:
        return None
    network = _own(str(model)) if own else _built(str(model), seed=0)
    if weights is None:
        return network.eval(), Mask.full([])
    network, mask = filled(network, weights)
    check_finite(network, weights)
    return network, mask


def untrained(model: str | Path, weights: Path | None = None) -> nn.Module:
    """Return a network whose weights need not be trained: as `known`, or built by its name.

    Raises:
        FileNotFoundError, ValueError, FileError, StructureError: as `loaded`.
    """
    found = known(model, weights)
    return _built(str(model), seed=0) if found is None else found[0]


def built(model: str, seed: int) -> nn.Module:
    """Return a network to train: one's own, or one built by its name.

    Raises:
        FileNotFoundError, ValueError: as `loaded`.
    """
    from sentei.training import seeded

    if is_own(model):
        with seeded(seed):
            return _own(model)
    return _built(model, seed)


def _built(model: str, seed: int) -> nn.Module:
    from sentei import training

    try:
        return training.build(model, seed=seed)
    except ValueError as error:
        raise FileNotFoundError(
            f"there is no file {model}, and it is not a network's name: {error}"
        ) from error


def is_own(model: str) -> bool:
    """Return whether a text names a network of the user's own, and none that sentei builds."""
    from sentei.training.models import NETWORKS

    return references.is_reference(model) and model.partition(":")[0] not in NETWORKS


def _own(reference: str) -> nn.Module:
    """Return the user's own network, in evaluation mode.

    Raises:
        ValueError: what it names is no network and makes none.
    """
    from torch import nn

    network = references.made(reference, "the network")
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"{reference} must be a network (an nn.Module), or a function or class without "
            f"arguments that makes one; it gives a {type(network).__name__}"
        )
    return network


def loaded(
    model: str | Path,
    data: Data,
    loss: str | None = None,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[nn.Module, Mask, Split]:
    """Load a network from its file, or build it by name and train it as `sentei train` does.

    The network's `Card` then names its loss and says whether it predicts values; everything that
    measures takes the loss from there, and files that are written say both.

    Args:
        model: a file that sentei saved, one's own network as for `known`, or a network's name as in
            `sentei train --model`.
        data: the samples; its seed is that of initial weights and of training too.
        loss: name of the loss, or a reference to one's own; if None, that of the network's `Card`,
            else that of the data.
        weights: a file with the weights of one's own network.
        device: where the network is, and is trained.

    Returns:
        The network, its mask, and the data, on the CPU, in the shape that the network takes.

    Raises:
        FileNotFoundError: `model` is neither a file nor a network's name; or what it refers to is
            not there.
        ValueError: `model` is a folder, or an unknown loss, or one's own code fails.
        FileError: the file is damaged or not sentei's.
        StructureError: a weight in the file is not finite.
    """
    from sentei import Mask, training
    from sentei.card import card_of, set_card_
    from sentei.losses import per_sample

    own = own_loss(loss)
    loss = None if own is not None else loss
    if loss is not None:
        per_sample(loss)
    found = known(model, weights)
    if found is not None:
        network, mask = found
        card = card_of(network)
        predicts = "values" if data.regression else card.predicts
        named = None if own is not None else loss or card.loss or data.default_loss()
        set_card_(network, replace(card, loss=named, predicts=predicts))
        split = _samples(network, data)
        return network.to(device), mask, split
    network, split = with_samples(_built(str(model), data.seed), data)
    network.to(device)
    recipe = training.Recipe(seed=data.seed, loss=own or loss or data.default_loss())
    trained_(network, split, recipe, f"training {model}")
    return network.eval(), Mask.full([]), split


def own_loss(loss: str | None) -> PerSample | None:
    """Return the user's own loss function; None for a name, or for none.

    Raises:
        ValueError: what it refers to is no function.
        FileNotFoundError, OwnCodeError: as `references.referred`.
    """
    if loss is None or not references.is_reference(loss):
        return None
    found: Any = references.referred(loss)
    if not callable(found) or isinstance(found, type):
        raise ValueError(f"--loss {loss} must name a function (outputs, targets) -> (N,) losses")
    return cast("PerSample", found)


def with_samples(network: nn.Module, data: Data, *, own: bool = False) -> tuple[nn.Module, Split]:
    """Load data for a network that is to be trained; return the network as it takes them.

    Where the data needs it, the network begins with a `Standardise` fitted on the training samples.
    So it takes inputs as they are in the data, and so does every file that is written from it. A
    network of the user's own stays as it is, and takes standardised samples: its file is read into
    the same class again. The network's `Card` names classes and features.
    """
    from sentei import card_of, set_card_

    split = fitting(network, data, standardise=own)
    network = network if own else standardising(network, split)
    known = {"classes": split.named_classes, "features": split.named_features}
    set_card_(network, replace(card_of(network), **known))
    return network, split


def standardising(network: nn.Module, split: Split) -> nn.Module:
    """Return a network that takes the inputs of a Split: one that scales them first if needed."""
    from sentei import Standardise
    from sentei.network.layers import standardises

    if split.scaling is None or not split.raw or standardises(network):
        return network
    return Standardise.of(split.scaling).before(network)


def needed(split: Split) -> Scaling | None:
    """Return what callers of a network have to do; None if it takes inputs as they are."""
    return None if split.raw else split.scaling


def _samples(network: nn.Module, data: Data) -> Split:
    """Load data as a network takes them: in its shape, and as they are if it standardises them.

    A network saved by an older release, or trained in Python on standardised inputs, has no
    `Standardise` and still gets standardised inputs.
    """
    from sentei import card_of
    from sentei.network.layers import standardises

    predicts = card_of(network).predicts
    return fitting(network, data, standardise=not standardises(network), predicts=predicts)


def fitting(network: nn.Module, data: Data, **settings: Any) -> Split:
    """Load data in the shape that the network takes: images, or rows of their values.

    A one-dimensional convolution over one channel takes rows as that channel. For a network of the
    user's own class shapes are tried; data of the user's own stay as they are.

    Raises:
        DataError: the network takes neither.
    """
    from sentei import training
    from sentei.network.example import check, undisturbed
    from sentei.network.holders import is_foreign

    if not data.is_own and not is_foreign(network):
        flat = training.takes_flat(network)
        split = data.load(flat=flat, **settings)
        if _takes_one_row(network) and len(split.shape) != 2:
            return _as_channel(split if len(split.shape) == 1 else data.load(flat=True, **settings))
        if not flat and len(split.shape) == 1:
            width = split.shape[0]
            raise DataError(
                f"{data.data} has rows of {width} values without channels, and the network begins "
                f"with a convolution over several channels or over images. Name one that takes "
                f"rows: widths such as {width}-100-10, or conv:1x{width}:8:10, whose convolutions "
                "go along a row."
            )
        return split
    split = data.load(flat=False, **settings)
    try:
        with undisturbed(network):
            check(network, split.train.first(2).inputs)
        return split
    except DataError as error:
        rows = split if data.is_own else data.load(flat=True, **settings)
        if rows.shape == split.shape:
            raise DataError(
                f"the network must take the inputs of {data.data}, "
                f"{inputs_words(split.train.inputs)} for one sample; {error}"
            ) from error
        return rows


def inputs_words(inputs: Any) -> str:
    """Return the shapes of one sample's inputs in words: "shape (6,)", or several by name."""
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} of {inputs_words(each)}" for name, each in inputs.items())
    if isinstance(inputs, (tuple, list)):
        return " and ".join(map(inputs_words, inputs))
    return f"shape {tuple(inputs.shape[1:])}"


def one_input(split: Split, what: str) -> None:
    """Refuse data for networks of several inputs where one is needed.

    Raises:
        DataError: the inputs are no single tensor.
    """
    from torch import Tensor

    if not isinstance(split.train.inputs, Tensor):
        raise DataError(
            f"{what} is for networks of one input, and {split.name} has "
            f"{inputs_words(split.train.inputs)}"
        )


def _takes_one_row(network: nn.Module) -> bool:
    """Return whether a network begins with a one-dimensional convolution over one channel."""
    from torch import nn

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((layer for layer in network.modules() if isinstance(layer, kinds)), None)
    return isinstance(first, nn.Conv1d) and first.in_channels == 1


def _as_channel(split: Split) -> Split:
    """Return data whose inputs are rows with each row as one channel, (N, 1, values)."""
    parts = {
        part: samples._replace(inputs=samples.inputs.unsqueeze(1))
        for part, samples in (
            ("train", split.train),
            ("validation", split.validation),
            ("test", split.test),
        )
    }
    return replace(split, **parts)


def trained_(network: nn.Module, split: Split, recipe: Recipe, what: str) -> None:
    """Train a network in place on training samples, with a progress bar that is named `what`.

    Its `Card` then says what it was trained with, and what it predicts.
    """
    from sentei import training
    from sentei.card import card_of, set_card_
    from sentei.cli.screen import progress

    with progress(what, recipe.epochs) as advance:
        done = training.train(
            network,
            split.train,
            recipe,
            progress=lambda epoch, mean: advance(epoch, f"loss {mean:.4f}"),
        )
    predicts = "classes" if split.classes else "values"
    set_card_(network, replace(card_of(network), loss=done.loss, predicts=predicts))
