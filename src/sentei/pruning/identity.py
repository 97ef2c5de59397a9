"""What tells the networks and masks of two runs apart besides weights and groups."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from torch import nn

from sentei.describing import described
from sentei.network.holders import is_foreign
from sentei.network.mask import Mask
from sentei.samples import fingerprint

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def network_words(model: nn.Module) -> dict[str, Any]:
    """Describe what a network computes besides its weights, as plain data.

    Two networks with equal weights can differ in their layers (a ReLU where the other has a Tanh),
    in what the layers are set to, in the code of classes of the user's own, in buffers that are not
    saved, and in which parameters are trained.
    """
    saved = model.state_dict().keys()
    unsaved = {name: b for name, b in model.named_buffers() if name not in saved}
    own = {name: part for name, part in model.named_modules() if is_foreign(part)}
    return {
        "layers": _digest(_ADDRESS.sub("", repr(model))),
        "classes": sorted({str(described(type(part))) for part in own.values()}),
        "settings": {name: plain for name, part in own.items() if (plain := _settings(part))},
        "unsaved": fingerprint(unsaved[name] for name in sorted(unsaved)) if unsaved else None,
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
    }


def mask_fingerprint(mask: Mask) -> str | None:
    """Return sixteen hex digits that identify what is dead in a mask; None if nothing is."""
    if all(mask.count(group) == group.size for group in mask.groups):
        return None
    return fingerprint(mask.alive(group) for group in mask.groups)


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the public numbers, texts and truth values that a module keeps."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
        and name != "training"
        and not name.startswith("_")
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
