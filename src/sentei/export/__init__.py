"""Networks as files: `save`, `load`, `load_mask`, and `inspect` for what is in one."""

from sentei.export.safetensors import Contents, inspect, load, load_mask, save

__all__ = ["Contents", "inspect", "load", "load_mask", "save"]
