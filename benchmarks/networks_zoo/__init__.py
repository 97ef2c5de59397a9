"""Networks for `networks.py`: hand-written ones, and those of public libraries, by name."""

from __future__ import annotations

from functools import partial

from networks_zoo import graphs, others, pictures, sequences  # noqa: F401  (they fill PLAIN)
from networks_zoo.case import Build, Case, Forward
from networks_zoo.language import TRANSFORMERS, hf_model, lora
from networks_zoo.plain import PLAIN
from networks_zoo.timm_models import TIMM, timm_model
from networks_zoo.vision import SMP, smp_model, torchvision_cases, yolo_cases

__all__ = ["Build", "Case", "Forward", "zoo"]


def zoo() -> dict[str, Build]:
    """Return a function for each network that builds it."""
    plain = {f"plain/{name}": lambda build=build: Case(*build()) for name, build in PLAIN.items()}
    vision = {f"torchvision/{name}": build for name, build in torchvision_cases().items()}
    timm = {f"timm/{name}": partial(timm_model, name, *entry) for name, entry in TIMM.items()}
    yolos = {f"ultralytics/{name}": build for name, build in yolo_cases().items()}
    smp = {f"smp/{name}": partial(smp_model, name, *entry) for name, entry in SMP.items()}
    hf = {f"transformers/{name}": partial(hf_model, name) for name in TRANSFORMERS}
    loras = {f"peft/lora-{name}": partial(lora, name) for name in ("llama", "bert", "gpt2")}
    return {**plain, **vision, **timm, **yolos, **smp, **hf, **loras}
