"""An accelerator simulated on the CPU: its tensors compute as those of the CPU, and never mix.

A tensor of the device holds one of the CPU. Operations on both kinds together, conversions to numpy
and storage of a tensor without a copy are refused, as they are on a GPU, and copies to the CPU are
counted. So the tests of code for GPUs run on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from sentei.network.encoding import carrying

NAME = "simulated"
aten = torch.ops.aten
# What takes tensors of both kinds: copies, and positions, which torch copies by itself.
MIXED = {aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put_.default}
MIXED |= {aten._index_put_impl_.default, aten.index_put.default, aten.set_.source_Tensor}
memory: dict[int, torch.UntypedStorage] = {}  # on the CPU, of each storage of the device
copies: Counter[str] = Counter()  # to the CPU, by the function that made them


class OnDevice(Tensor):
    """A tensor of the device."""

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        memory[made.untyped_storage()._cdata] = held.untyped_storage()
        return made

    @property
    def held(self) -> Tensor:
        """What the memory of the tensor holds, on the CPU: `tensor.data = ...` replaces both."""
        at = memory[self.untyped_storage()._cdata], self.storage_offset()
        return torch.empty(0, dtype=self.dtype).set_(*at, self.shape, self.stride())

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Compute on the CPU what a function computes."""
        return computed(func, args, kwargs or {})


class Factories(TorchDispatchMode):
    """Make the tensors that are asked for on the device, and move those that are to go there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute what concerns the device on it, and everything else as it is."""
        kwargs = kwargs or {}
        if func.overloadpacket is aten.to:  # in inference mode: it is made of others
            with self:
                return func.decompose(*args, **kwargs)
        there = _is_there(kwargs.get("device"))
        if there or any(isinstance(each, OnDevice) for each in tree.tree_leaves((args, kwargs))):
            return computed(func, args, kwargs)
        return func(*args, **kwargs)


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return what a function computes of tensors of the device, on the device."""
    leaves = [each for each in tree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    if func not in MIXED:
        plain = [each for each in leaves if not isinstance(each, OnDevice) and each.ndim]
        if plain:
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, but found at least two "
                f"devices, {NAME}:0 and cpu, shape {tuple(plain[0].shape)}"
            )
    own = dict(kwargs)
    stays = func not in (aten._local_scalar_dense.default, aten.equal.default)
    if own.get("device") is not None:
        stays = _is_there(own["device"])
        if stays:
            own["device"] = torch.device("cpu")
    if not stays or (func is aten.copy_.default and not isinstance(args[0], OnDevice)):
        copies[str(func)] += 1
    if func is aten._efficientzerotensor.default:  # it has no memory
        func = aten.zeros.default
    bare, named = tree.tree_map_only(OnDevice, lambda tensor: tensor.held, (args, own))
    found = func(*bare, **named)
    if not stays:
        return found
    if func is aten.copy_.default:
        return args[0]
    found = tree.tree_map_only(Tensor, OnDevice, found)
    return return_and_correct_aliasing(func, args, kwargs, found)


class Module:
    """What torch asks of a device; it is there within `simulated` alone."""

    there = False
    random = torch.Generator()

    @classmethod
    def is_available(cls) -> bool:
        """Return whether the device is there."""
        return cls.there

    @staticmethod
    def device_count() -> int:
        """Return that it is one."""
        return 1

    @staticmethod
    def current_device() -> int:
        """Return which one it is."""
        return 0

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @classmethod
    def get_rng_state(cls, device: Any) -> Tensor:
        """Return the state of its random generator."""
        return cls.random.get_state()

    @classmethod
    def set_rng_state(cls, state: Tensor, device: Any) -> None:
        """Set the state of its random generator."""
        cls.random.set_state(state)

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        """Seed its random generator."""
        cls.random.manual_seed(seed)

    manual_seed = manual_seed_all

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        """Return what autocast may compute in."""
        return [torch.float16, torch.bfloat16]


@contextmanager
def simulated() -> Iterator[torch.device]:
    """Let the device be there within the block. The process keeps its name."""
    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        pytest.skip(f"torch {torch.__version__} has no devices that are written in Python")
    if torch._C._get_privateuse1_backend_name() != NAME:

        class Hook(torch._C._acc.PrivateUse1Hooks):
            def is_available(self) -> bool:
                return Module.there

            def has_primary_context(self, dev_id: int) -> bool:
                return Module.there

            def is_built(self) -> bool:
                return True

        setup(NAME, Module, Hook())
    address = torch.UntypedStorage.data_ptr
    with pytest.MonkeyPatch.context() as patch, Factories():
        patch.setattr(Module, "there", True)
        patch.setattr(torch.accelerator, "synchronize", lambda device: None)  # nothing waits
        patch.setattr(carrying, "_PLAIN", (*carrying._PLAIN, OnDevice))  # as it is on a GPU
        # Storages of the device have no memory of their own; each is told by its own address.
        theirs = lambda own: own._cdata if own.device.type == NAME else address(own)  # noqa: E731
        patch.setattr(torch.UntypedStorage, "data_ptr", theirs)
        yield torch.device(NAME, 0)
    memory.clear()
    copies.clear()
