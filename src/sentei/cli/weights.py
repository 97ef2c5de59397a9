"""Fill a network with the weights of a file: of sentei, plain safetensors, or a state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentei.errors import FileError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sentei.network.mask import Mask

INSIDE = ("state_dict", "model_state_dict", "model", "weights")  # where checkpoints keep weights
PREFIXES = ("module.", "_orig_mod.", "model.")  # that wrappers add to every name
SHOWN = 3


def filled(network: nn.Module, path: Path) -> tuple[nn.Module, Mask]:
    """Load weights into a network; return it and its mask, in evaluation mode.

    A file that sentei saved may be of a pruned network of this class: the network is cut to it.

    Args:
        network: the whole network; changed in place.
        path: a file of sentei's, a safetensors file, or a state_dict that `torch.save` wrote. Of a
            checkpoint with more in it, the state_dict is taken. Nothing in it is executed.

    Raises:
        FileError: the file is damaged, or its weights are not those of the network; the message
            names some of them.
    """
    from sentei import Mask, formats

    if _is_sentei_s(path):
        return formats.load(path, into=network), formats.load_mask(path)
    state = _without_prefix(_state(path), network)
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


def _state(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a file by name."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError):
        pass
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types of error for damaged files
        raise FileError(
            f"{path} is no safetensors file, and torch.load(weights_only=True) cannot read it: "
            f"{str(error).splitlines()[0]}. Write it with torch.save(model.state_dict(), path)."
        ) from error
    for key in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not _holds_tensors(found):
        kind = f"{type(found).__name__}" + (
            f" with {', '.join(map(repr, list(found)[:SHOWN]))}"
            if isinstance(found, Mapping)
            else ""
        )
        raise FileError(
            f"{path} must hold a state_dict, or a dict with one under "
            f"{', '.join(map(repr, INSIDE))}; it holds a {kind}. Write it with "
            "torch.save(model.state_dict(), path)."
        )
    return found


def _holds_tensors(found: Mapping[Any, Any]) -> bool:
    from torch import Tensor

    return bool(found) and all(isinstance(value, Tensor) for value in found.values())


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
