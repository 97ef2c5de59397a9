"""Fill a network with the weights of a file: of sentei, plain safetensors, or a state_dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentei.cli.screen import note
from sentei.errors import FileError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sentei.network.mask import Mask

INSIDE = ("state_dict", "model_state_dict", "model", "weights")  # where checkpoints keep weights
PREFIXES = ("module.", "_orig_mod.", "model.")  # that wrappers add to every name
SHOWN = 3
DEPTH = 3  # of dicts in a checkpoint that are searched


def of_file(named: Path) -> tuple[Path, str | None]:
    """Return the file that `--weights` names, and what is taken from it: `FILE` or `FILE:name`."""
    file, colon, name = str(named).rpartition(":")
    return (named, None) if named.exists() or not colon else (Path(file), name)


def check(_: Any, named: Path | None) -> None:
    """Check that there is a file of weights, if one is named.

    Raises:
        ValueError: there is none.
    """
    if named is not None and not of_file(named)[0].is_file():
        raise ValueError(f"there is no file {of_file(named)[0]} with weights")


def filled(network: nn.Module, named: Path) -> tuple[nn.Module, Mask]:
    """Load weights into a network; return it and its mask, in evaluation mode.

    A file that sentei saved may be of a pruned network of this class: the network is cut to it.

    Args:
        network: the whole network; changed in place.
        named: a file of sentei's, a safetensors file, or a state_dict that `torch.save` wrote. Of a
            checkpoint with more in it, the state_dict is taken: under one of the names `INSIDE`, or
            the only one, or that with the name behind a colon. Nothing in it is executed.

    Raises:
        FileError: the file is damaged, its weights are not those of the network (the message
            names some of them), or it has several state_dicts and none is named.
    """
    from sentei import Mask, formats

    path, name = of_file(named)
    if name is None and _is_sentei_s(path):
        return formats.load(path, into=network), formats.load_mask(path)
    state = _without_prefix(_chosen(_read(path), network, path, name), network)
    _check(state, network, path)
    network.load_state_dict(dict(state))
    return network.eval(), Mask.full([])


def _is_sentei_s(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return "sentei" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _read(path: Path) -> Any:
    """Read what a file holds: tensors by name, as a rule."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError):
        pass
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types of error for damaged files
        raise FileError(
            f"{path} is no safetensors file, and torch.load(weights_only=True) cannot read it: "
            f"{str(error).splitlines()[0]}. Write it with torch.save(model.state_dict(), path)."
        ) from error


def _chosen(held: Any, network: nn.Module, path: Path, name: str | None) -> Mapping[str, Tensor]:
    """Return the state_dict with this name in a checkpoint; without a name, the one to take."""
    known = dict(_state_dicts(held, network))
    if name is not None:
        if name not in known:
            raise FileError(f"{path}: {unknown('state_dict', name, known)}")
        return known[name]
    usual, at = held, []
    for key in INSIDE:
        if isinstance(usual, Mapping) and isinstance(usual.get(key), Mapping):
            usual = usual[key]
            at.append(key)
    others = [other for other in known if other != ".".join(at)]
    if isinstance(usual, Mapping) and _holds_tensors(usual):
        if at and others:
            note(f"weights: {'.'.join(at)} of {path}; others: {_choices(path, others)}")
        return usual
    if len(known) == 1:
        return next(iter(known.values()))
    if known:
        raise FileError(
            f"{path} holds {len(known)} state_dicts of this network; choose one: "
            f"{_choices(path, known)}"
        )
    names = f" with {', '.join(map(repr, list(usual)[:SHOWN]))}" * isinstance(usual, Mapping)
    raise FileError(
        f"{path} must hold a state_dict, or a dict with one under "
        f"{', '.join(map(repr, INSIDE))}; it holds a {type(usual).__name__}{names}. Write it with "
        "torch.save(model.state_dict(), path)."
    )


def _choices(path: Path, names: Iterable[str]) -> str:
    return " or ".join(f"--weights {path}:{name}" for name in names)


def _state_dicts(
    held: Any, network: nn.Module, at: tuple[str, ...] = ()
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield the mappings in a checkpoint that have names of the network's, with their places."""
    if not isinstance(held, Mapping) or len(at) > DEPTH:
        return
    if _holds_tensors(held):
        if at and _without_prefix(held, network).keys() & network.state_dict().keys():
            yield ".".join(at), held
        return
    for name, inner in held.items():
        yield from _state_dicts(inner, network, (*at, str(name)))


def _holds_tensors(found: Mapping[Any, Any]) -> bool:
    from torch import Tensor

    return (
        bool(found)
        and all(isinstance(name, str) for name in found)
        and all(isinstance(value, Tensor) for value in found.values())
    )


def _without_prefix(state: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Take off a prefix that a wrapper added to every name, if the network has none such."""
    own = network.state_dict().keys()
    for prefix in PREFIXES:
        shorter = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        if all(name.startswith(prefix) for name in state) and not state.keys() & own:
            state = shorter
    return state


def _check(state: Mapping[str, Tensor], network: nn.Module, path: Path) -> None:
    own = network.state_dict()
    shapes = [
        f"{name} is {tuple(state[name].shape)} here and {tuple(own[name].shape)} in the network"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    wrong = {
        "missing from it": [name for name in own if name not in state],
        "not in the network": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    said = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for what, names in wrong.items()
        if names
    ]
    if said:
        raise FileError(
            f"{path} must hold the weights of this network, {len(own)} tensors: "
            f"{'; '.join(said)}. Make the network as it was when they were saved; a network that "
            "was pruned with sentei is saved with sentei.save."
        )
