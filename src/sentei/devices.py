"""Devices: which there are, which one a network is on, their random state and free memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import StructureError
from sentei.nests import resized

AUTO = "auto"
_WITHOUT_FLOAT64 = ("mps",)


def available() -> list[str]:
    """Return the types of the devices of this machine that can be used: "cpu" comes first."""
    found = _accelerator()
    return ["cpu", *([] if found in (None, *_WITHOUT_FLOAT64) else [found])]


def named(name: str, number: int | None = None) -> torch.device:
    """Return the device that a user names.

    Args:
        name: "cpu", the type of an accelerator, such as "cuda", or one of several by its number,
            such as "cuda:1"; or "auto", which is an accelerator where there is one.
        number: which accelerator is taken where the name says none; as torch chooses if None.

    Raises:
        ValueError: there is no such device, and the message lists those that are there; or it has
            no float64.
    """
    if name.partition(":")[0] in _WITHOUT_FLOAT64:
        raise ValueError(_without_float64(name))
    kind, _, own = (available()[-1] if name == AUTO else name).partition(":")
    counted = torch.accelerator.device_count() if kind != "cpu" and kind in available() else 1
    if kind not in available() or (own and not (own.isdecimal() and int(own) < counted)):
        raise ValueError(f"there is no device {name!r} here; there is {_listed()}, or {AUTO}")
    if kind == "cpu":
        return torch.device(kind)
    at = int(own) if own else number
    return torch.device(kind) if at is None else torch.device(kind, at % counted)


def _listed() -> str:
    kinds = available()
    more = range(1, torch.accelerator.device_count()) if len(kinds) > 1 else ()
    return ", ".join([*kinds, *(f"{kinds[-1]}:{number}" for number in more)])


def _accelerator() -> str | None:
    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None else found.type


def check_float64(model: nn.Module) -> None:
    """Refuse a network on a device that cannot add up losses and products as precisely as needed.

    Raises:
        StructureError: the device has no float64.
    """
    device = device_of(model)
    if device.type in _WITHOUT_FLOAT64:
        raise StructureError(_without_float64(str(device)))


def _without_float64(name: str) -> str:
    return (
        f"losses and scores are added up in float64, which the device {name!r} does not have; "
        'measure on the CPU: model.to("cpu"), --device cpu'
    )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter, or buffer; the CPU if it has neither."""
    held = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in held), torch.device("cpu"))


def moved(value: Any, device: torch.device) -> Any:
    """Return a nest with its tensors on a device; one that is held twice stays one."""
    there: dict[int, Tensor] = {}
    return resized(value, lambda tensor: there.setdefault(id(tensor), tensor.to(device)))


def in_use() -> list[torch.device]:
    """Return the accelerators that this process may have used."""
    kind = _accelerator()
    if kind is None:
        return []
    began = getattr(torch.get_device_module(kind), "is_initialized", lambda: True)
    every = range(torch.accelerator.device_count()) if began() else ()
    return [torch.device(kind, number) for number in every]


def seed_(seed: int) -> None:
    """Seed the random generators of the CPU and of accelerators in use.

    Unlike `torch.manual_seed`, it does not keep the seed, and the call's stack as text, for devices
    that are not in use; to format the stack takes 150 times as long as to seed.
    """
    torch.default_generator.manual_seed(seed)
    for kind in dict.fromkeys(device.type for device in in_use()):
        module = torch.get_device_module(kind)
        getattr(module, "manual_seed_all", module.manual_seed)(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random generators in a `with` block; restore their states on exit."""
    with random_kept(in_use()):
        seed_(seed)
        yield


def random_states() -> list[Tensor]:
    """Return the states of the CPU's random generator and of those of accelerators in use."""
    own = (read() for read, _ in map(_generator, in_use()))
    return [torch.get_rng_state(), *own]


@contextmanager
def random_kept(devices: Iterable[torch.device]) -> Iterator[None]:
    """Restore the random states of the CPU and of these devices on exit."""
    with torch.random.fork_rng([]), ExitStack() as stack:
        for device in _others(devices):
            read, write = _generator(device)
            stack.callback(write, read())
        yield


def _others(devices: Iterable[torch.device]) -> list[torch.device]:
    return [each for each in dict.fromkeys(devices) if each.type not in ("cpu", "meta")]


def _generator(device: torch.device) -> tuple[Any, Any]:
    """Return functions that read and write the random state of an accelerator."""
    module = torch.get_device_module(device)
    read = lambda: module.get_rng_state(device)  # noqa: E731
    return read, (lambda state: module.set_rng_state(state, device))


def synchronise(devices: Iterable[torch.device]) -> None:
    """Wait until accelerators have computed what they were given, as before a time is read."""
    for device in _others(devices):
        torch.accelerator.synchronize(device)


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes are free on a GPU; None where torch does not say, as on the CPU.

    What torch holds for later tensors counts as free.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def room(device: torch.device, otherwise: int, part: float) -> int:
    """Return a bound of bytes: a part of what is free on an accelerator.

    It is a power of two, so that small changes of what is free do not change how work is divided.

    Args:
        device: where the tensors are.
        otherwise: the bound where free memory is not known, as on the CPU.
        part: the part of the free memory, from 0 to 1.
    """
    free = free_memory(device)
    return otherwise if free is None else 1 << max(int(free * part), 1).bit_length() - 1
