"""Save and load networks in sentei's own files; export them to C, ONNX or safetensors.

May import `formats.c`, `network` with its packages, and the base modules.
"""

from sentei.formats.exporting import export
from sentei.formats.safetensors import Contents, inspect, load, load_mask, save

__all__ = ["Contents", "export", "inspect", "load", "load_mask", "save"]
