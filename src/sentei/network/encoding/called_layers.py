"""Follow one pass of a network: the layers and functions that it calls, and what each reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sentei.errors import StructureError
from sentei.nests import tensors
from sentei.network.encoding.called_functions import (
    IDENTITIES,
    LastStep,
    followed_function,
)
from sentei.network.example import undisturbed
from sentei.network.torch_functions import FORM, argument_tensors, name_of
from sentei.running import Forward, ForwardCall, run

SAMPLES = 7  # in the pass that is followed
RECURRENT = (nn.GRU, nn.LSTM, nn.RNN)


@dataclass(frozen=True)
class Called:
    """A layer, or a function that stands for one, in the order of a pass.

    Attributes:
        path: of the layer; of the module that calls the function.
        layer: a layer of torch's own or of sentei's, or one of the functions of `called_functions`.
        reads: numbers of the values that it reads; 0 is the network's input.
        value: number of the value that it gives.
    """

    path: str
    layer: object
    reads: tuple[int, ...]
    value: int


def called_layers(
    model: nn.Module, shape: Sequence[int], forward: Forward | None = None
) -> list[Called]:
    """Return what a network calls on the way to its output, each with the values that it reads.

    Args:
        model: the network; may be on the meta device.
        shape: of one sample, without the batch dimension.
        forward: a function (model, example) -> outputs; None for the network itself.

    Raises:
        StructureError: something that is no layer, and no function that stands for one; it is
            named, with the module that calls it.
    """
    if forward is None:
        row = _row(model, "")
        if all(_is_leaf(layer) and not isinstance(layer, RECURRENT) for _, layer in row):
            return [Called(*layer, (n,), n + 1) for n, layer in enumerate(row)]
    first = next(model.parameters(), torch.empty(0))
    x = torch.zeros(SAMPLES, *shape, device=first.device, dtype=first.dtype)
    following = _Following(model)
    try:
        with following.hooked(), undisturbed(model), following:
            result = run(model, ForwardCall(x, following.beginning(forward)))
    except StructureError:
        raise
    except Exception as error:
        raise StructureError(
            f"the network does not run on samples of shape {tuple(shape)}: {error}. Pass an "
            "example of the right shape; files in C take networks with one input."
        ) from error
    return _needed(following.calls, following.output(result))


def _row(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Return the layers inside nested nn.Sequential with their paths, in order."""
    if type(module) is not nn.Sequential:
        return [(path, module)]
    # named_children would skip the second use of a layer that is used twice.
    parts = ((name, child) for name, child in module._modules.items() if child is not None)
    return [
        leaf for name, child in parts for leaf in _row(child, f"{path}.{name}" if path else name)
    ]


def _is_leaf(module: nn.Module) -> bool:
    """Return whether a module is one layer, whose own functions are not looked at."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    written_in = getattr(type(module).forward, "__module__", None) or ""
    return written_in.startswith(("torch.", "sentei."))


def _needed(calls: Sequence[Called], output: int) -> list[Called]:
    """Return the calls that the output depends on."""
    needed, kept = {output}, []
    for call in reversed(calls):
        if call.value in needed:
            needed.update(call.reads)
            kept.append(call)
    return kept[::-1]


class _Following(TorchFunctionMode):
    """Note the layers and functions of a pass; `calls` has them in order."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.calls: list[Called] = []
        self.depth = 0  # of layers that run at present: what is in them is not looked at
        self.paths = [""]
        self.values: dict[int, tuple[Tensor, int]] = {}  # by the id of a tensor
        self.states: dict[int, tuple[Tensor, int, int]] = {}  # last states, and how many layers

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Note modules as they are called, in a `with` block."""
        with ExitStack() as stack:
            for path, module in self.model.named_modules():
                before, after = self._entering(path), self._leaving(path)
                for hook in (
                    module.register_forward_pre_hook(before),
                    module.register_forward_hook(after, with_kwargs=True),
                ):
                    stack.callback(hook.remove)
            yield

    def beginning(self, forward: Forward | None) -> Forward:
        """Return the function that runs the network; what it is given becomes the value 0."""

        def begun(model: nn.Module, x: Any) -> Any:
            self.values[id(x)] = x, 0
            return model(x) if forward is None else forward(model, x)

        return begun

    def output(self, result: object) -> int:
        """Return the number of the value that the network returned."""
        held = tensors(result)
        if len(held) != 1:
            raise StructureError(
                f"files in C and planned sizes in ONNX have one output; this network returns "
                f"{len(held)} tensors. Choose one with forward=."
            )
        return self._read(held[0], "the output")

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        reads = [] if self.depth else self._reads(args, kwargs)
        shapes = [tuple(tensor.shape[1:]) for tensor, _ in reads]
        result = function(*args, **kwargs)
        if reads and name_of(function) not in FORM:
            self._function(name_of(function), reads, shapes, args, kwargs, result)
        return result

    def _reads(self, args: Any, kwargs: Any) -> list[tuple[Tensor, int]]:
        """Return the values among the arguments of a function, in order; states are values too."""
        given = argument_tensors(args) + argument_tensors(kwargs)
        found = [self.values.get(id(tensor)) or self.states.get(id(tensor)) for tensor in given]
        return [(each[0], each[1]) for each in found if each is not None]

    def _function(
        self,
        name: str,
        reads: Sequence[tuple[Tensor, int]],
        shapes: Sequence[tuple[int, ...]],
        args: Any,
        kwargs: Any,
        result: Any,
    ) -> None:
        """Note a function of values as the layers that it stands for."""
        state = self.states.get(id(reads[0][0]))
        constants = len(argument_tensors(args) + argument_tensors(kwargs)) - len(reads)
        if state is not None:
            layers = [LastStep()] if _is_last_state(result, args, state[2]) else None
        elif name in IDENTITIES and not kwargs.get("training"):
            layers = []
        else:
            layers = None if constants else followed_function(name, shapes, args, kwargs, result)
        if layers is None or not isinstance(result, Tensor) or len(result) != SAMPLES:
            where = f"layer {self.paths[-1]!r}" if self.paths[-1] else "the network"
            raise StructureError(
                f"{where} calls {name!r} on what layers computed, which files in C and planned "
                f"sizes in ONNX do not support. {REMEDY}"
            )
        self._note(self.paths[-1], layers, [value for _, value in reads], result)

    def _note(
        self, path: str, layers: Sequence[object], reads: Sequence[int], result: Tensor
    ) -> None:
        """Append calls after one another, the last of which gives `result`."""
        value = reads[0]
        for layer in layers:
            value = len(self.calls) + 1
            self.calls.append(Called(path, layer, tuple(reads), value))
            reads = (value,)
        if id(result) in self.values and self.values[id(result)][1] != value:
            self._forget_views(result)
        self.values[id(result)] = result, value

    def _forget_views(self, changed: Tensor) -> None:
        """Forget tensors that share memory with one that was changed in place: they changed too."""
        memory = changed.untyped_storage()._cdata
        self.values = {
            key: kept
            for key, kept in self.values.items()
            if kept[0] is changed or kept[0].untyped_storage()._cdata != memory
        }

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(module: nn.Module, _: Any) -> None:
            self.paths.append(path)
            self.depth += _is_leaf(module)

        return enter

    def _leaving(self, path: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            self.paths.pop()
            if _is_leaf(module):
                self.depth -= 1
                if not self.depth:
                    self._layer(path, module, args, kwargs, result)

        return leave

    def _layer(self, path: str, layer: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """Note a layer; of a recurrent one, its last state too."""
        reads = [value for _, value in self._reads(args, kwargs)]
        if not reads:
            return  # it computes something from weights alone
        if len(reads) > 1:
            raise StructureError(
                f"layer {path!r} is a {type(layer).__name__} that reads {len(reads)} values; files "
                "in C and planned sizes in ONNX have layers that read one. Save it as safetensors "
                "instead; export to ONNX takes any network."
            )
        if isinstance(layer, RECURRENT) and isinstance(result, tuple):
            states = result[1] if isinstance(result[1], tuple) else (result[1],)
            result = result[0]
            self._note(path, [layer], reads, result)
            self.states[id(states[0])] = states[0], self.values[id(result)][1], len(states[0])
            return
        if not isinstance(result, Tensor):
            raise StructureError(f"layer {path!r} returns no tensor. {REMEDY}")
        self._note(path, [layer], reads, result)

    def _read(self, tensor: Tensor, where: str) -> int:
        if id(tensor) not in self.values:
            raise StructureError(
                f"{where} is not what a layer returned: it was changed in place through another "
                f"tensor, or does not depend on the input. {REMEDY}"
            )
        return self.values[id(tensor)][1]


def _is_last_state(result: object, args: Any, layers: int) -> bool:
    """Return whether a function takes the last layer's state, (N, units), from all of them."""
    if not isinstance(result, Tensor) or result.ndim != 2:
        return False
    return layers == 1 or (len(args) > 1 and args[1] in (-1, layers - 1))


REMEDY = "Use layers for it, or save it as safetensors; export to ONNX takes any network."
