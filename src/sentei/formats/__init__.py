"""Networks as files: `save`, `load` and `load_mask` for ours, `export` for everybody else's."""

from sentei.formats.exporting import export
from sentei.formats.safetensors import Contents, inspect, load, load_mask, save

__all__ = ["Contents", "export", "inspect", "load", "load_mask", "save"]
