"""Write any network as ONNX with torch's exporters; what onnxruntime computes from it is checked.

torch has two exporters, and neither writes every network. The older one records a pass: it takes a
tenth of the time, and works alike in all versions of torch that sentei takes. It warns where sizes
or values decide what is computed, because the file then holds what they decided in that pass. The
newer one, `torch.export`, reasons about sizes and refuses what it cannot follow. Tried are a
recording without such a warning, `torch.export`, and a recording with one, which is logged. A file
is taken only if onnxruntime then computes the network's outputs, and where the batch dimension is
free, for other numbers of samples too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from sentei.errors import CertificateError, FileError, StructureError
from sentei.nests import resized, tensors
from sentei.network.copying import copied
from sentei.network.example import at_least, check, rows
from sentei.network.mask import Mask
from sentei.running import Example, own_inputs, run

log = logging.getLogger("sentei")

CLOSE = 1e-4  # how far an output may differ, as a part of its largest value
CLOSE_IN_HALF = 1e-2  # the same for 16-bit floats
_SMALLEST = 1e-3  # what counts as the largest value where all are smaller

Tensors = list[Tensor]


def onnx_by_torch(model: nn.Module, example: Example, mask: Mask | None = None) -> bytes:
    """Return a network as the content of an ONNX file that torch wrote and onnxruntime checked.

    The batch dimension is free if every tensor of the example has it and both the network and the
    file run with other numbers of samples. Otherwise it is that of the example, which is logged.

    Args:
        model: any network; it is not changed.
        example: inputs that the network runs on.
        mask: of this network; dead members are written as zeros.

    Raises:
        DataError: the example does not run through the network.
        FileError: onnxruntime is not installed.
        StructureError: torch's exporters cannot write the network.
        CertificateError: they can, and onnxruntime computes other outputs.
    """
    if find_spec("onnxruntime") is None:
        raise FileError(
            "an ONNX file of a network of which some parts are no layers of torch's own is written "
            "by torch and checked with onnxruntime, which is missing: pip install 'sentei[onnx]'"
        )
    model, example = copied(model).cpu().eval(), resized(example, lambda t: t.detach().cpu())
    check(model, example)
    if not _run(model, example):
        raise StructureError("an ONNX file has outputs, and this network returns no tensor")
    if mask is not None:
        mask.apply_(model)
    errors: dict[str, Exception] = {}
    for job in filter(None, (_job(model, example, free=True), _job(model, example, free=False))):
        for name, write in _EXPORTERS.items():
            try:
                with _quietly():
                    data = write(job)
                _check(data, job)
            except Exception as error:
                errors[name] = error
                continue
            _say(job, decided=write is _decided)
            return data
    reasons = "; ".join(f"{name}: {_reason(error)}" for name, error in errors.items())
    wrong = any(isinstance(error, CertificateError) for error in errors.values())
    raise (CertificateError if wrong else StructureError)(
        "an ONNX file has to compute what the network computes; torch cannot write this network "
        f"so ({reasons}). Save it as safetensors, or export a part of it with forward=."
    )


@dataclass(frozen=True)
class _Job:
    """What is written, and what it has to compute.

    Attributes:
        network: takes the tensors of an example, and returns those of its outputs.
        inputs: the names of the tensors that it takes.
        outputs: the names of the tensors that it returns.
        trials: tensors that it is given, and those that it returns; the first is exported with.
        batched: names of inputs and outputs whose first dimension is free.
    """

    network: nn.Module
    inputs: Sequence[str]
    outputs: Sequence[str]
    trials: Sequence[tuple[Tensors, Tensors]]
    batched: Sequence[str]

    @property
    def is_free(self) -> bool:
        """Whether the number of samples is."""
        return bool(self.batched)


def _job(model: nn.Module, example: Example, *, free: bool) -> _Job | None:
    """Return what to write; None if the network runs with no other number of samples."""
    examples = [example]
    if free:
        if rows(example) is None:
            return None
        several = at_least(example, 2)  # an exporter takes a dimension of 1 for a fixed one
        count = rows(several) or 0
        more = at_least(several, count + 1)
        fewer = (resized(several, lambda t, n=n: t[:n]) for n in range(1, min(count, 3)))
        examples = [several, more, *(each for each in fewer if _run(model, each))]
    runs = [_run(model, each) for each in examples]
    if not all(runs):
        return None
    inputs, outputs = _input_names(model, example), _output_names(model, examples[0])
    outputs = [f"{name}_out" if name in inputs else name for name in outputs]
    counts = [rows(each) for each in examples]
    grows = zip(outputs, *runs, strict=True)
    batched = [*inputs, *(n for n, *each in grows if [*map(_rows, each)] == counts)] if free else []
    trials = [*zip(map(tensors, examples), runs, strict=True)]
    return _Job(_Flat(model, examples[0]).eval(), inputs, outputs, trials, batched)


@torch.no_grad()
def _run(model: nn.Module, example: Example) -> Tensors:
    """Return the tensors that the network returns; none if it does not run."""
    try:
        return tensors(run(model, example))
    except Exception:
        return []


class _Flat(nn.Module):
    """A network whose arguments and results are tensors in a row, as exporters want it."""

    def __init__(self, model: nn.Module, example: Example):
        super().__init__()
        self.model, self.example = model, example

    def forward(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return all tensors that the network returns."""
        left = iter(given)
        return tuple(tensors(run(self.model, resized(self.example, lambda _: next(left)))))


def _rows(tensor: Tensor) -> int | None:
    return len(tensor) if tensor.ndim else None


def _recorded(job: _Job) -> bytes:
    warnings.simplefilter("error", torch.jit.TracerWarning)
    return _decided(job)


def _decided(job: _Job) -> bytes:
    file: Any = io.BytesIO()  # of which torch's annotation does not know
    torch.onnx.export(
        job.network,
        (tuple(job.trials[0][0]),),
        file,
        input_names=job.inputs,
        output_names=job.outputs,
        dynamic_axes={name: {0: "batch"} for name in job.batched},
        dynamo=False,
    )
    return file.getvalue()


def _followed(job: _Job) -> bytes:
    given = tuple(job.trials[0][0])
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        job.network,
        (given,),
        input_names=job.inputs,
        output_names=job.outputs,
        dynamic_shapes=(tuple({0: batch} for _ in given),) if job.is_free else None,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto.SerializeToString()


_EXPORTERS: Mapping[str, Callable[[_Job], bytes]] = {
    "by recording a pass": _recorded,
    "by torch.export": _followed,
    "by recording a pass in which values decide": _decided,
}


def _say(job: _Job, *, decided: bool) -> None:
    """Log what a file holds that the network does not."""
    if decided:
        log.warning(
            "Sizes or values decide what the network computes, as in `if x.sum() > 0`. The ONNX "
            "file holds what they decide on the example: compare it with the network on your data."
        )
    if not job.is_free:
        log.warning(
            "The ONNX file takes inputs of the example's shapes only: the network does not run "
            "with another number of samples, or torch cannot write it so that the file does."
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep warnings, logs and prints of the exporters back; what goes wrong, the check finds."""
    disabled, nowhere = logging.root.manager.disable, io.StringIO()
    try:
        logging.disable(logging.ERROR)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            _without_stdout(),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _without_stdout() -> Iterator[None]:
    """Drop what compiled code prints: the older exporter prints its whole graph when it fails."""
    out = 1
    try:
        before = os.dup(out)
    except OSError:  # there is no standard output
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, out)
        yield
    finally:
        os.dup2(before, out)
        os.close(before)
        os.close(nowhere)


def _check(data: bytes, job: _Job) -> None:
    """Compare what onnxruntime computes from a file with what the network does.

    Raises:
        CertificateError: an output that differs, by name, with the largest difference.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; they need not be printed as well
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    taken = {each.name for each in session.get_inputs()}  # without those that nothing reads
    for given, wanted in job.trials:
        feed = {n: t.numpy() for n, t in zip(job.inputs, given, strict=True) if n in taken}
        found = map(torch.as_tensor, session.run(None, feed))
        for name, own, theirs in zip(job.outputs, wanted, found, strict=True):
            _compare(name, own, theirs)


def _compare(name: str, own: Tensor, theirs: Tensor) -> None:
    if own.shape != theirs.shape:
        raise CertificateError(
            f"onnxruntime gives {name!r} of shape {tuple(theirs.shape)}; the network's is "
            f"{tuple(own.shape)}"
        )
    close = 0.0
    if own.is_floating_point() and own.numel():
        finite = own[own.isfinite()].abs()
        largest = max(float(finite.max()) if finite.numel() else 0.0, _SMALLEST)
        close = largest * (CLOSE_IN_HALF if own.element_size() == 2 else CLOSE)
    own, theirs = own.double(), theirs.double()
    if not torch.allclose(own, theirs, rtol=0, atol=close, equal_nan=True):
        off = float((own - theirs).abs().max())
        raise CertificateError(
            f"onnxruntime gives {name!r} that differs by {off:.1e} from the network's; at most "
            f"{close:.1e} is taken"
        )


def _input_names(model: nn.Module, example: Example) -> list[str]:
    """Return the names of the inputs: keywords, or those that `forward` gives its arguments."""
    inputs: Any = own_inputs(example)
    if inputs is example and isinstance(inputs, (tuple, list)):
        with contextlib.suppress(ValueError, TypeError):
            inputs = signature(model.forward).bind(*inputs).arguments
    return _names(inputs, "input")


@torch.no_grad()
def _output_names(model: nn.Module, example: Example) -> list[str]:
    return _names(run(model, example), "output")


def _names(value: Any, kind: str) -> list[str]:
    """Return a name for each tensor of a nest: the keys, fields or positions that lead to it."""
    found = [("_".join(path) if path else kind, path) for path in _paths(value)]
    numbered = [f"{kind}_{n}" for n in range(len(tensors(value)))]
    plain = [f"{kind}_{name}" if path[:1] and path[0].isdigit() else name for name, path in found]
    return plain if len(set(plain)) == len(numbered) else numbered


def _paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the way to each tensor of a nest, in the order of `nests.tensors`."""
    if isinstance(value, Tensor):
        yield path
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        inside = value._asdict().items()  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(value, (tuple, list)):
        inside = enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    for name, item in inside:
        yield from _paths(item, (*path, str(name)))


def _reason(error: BaseException) -> str:
    """Return the first line of what an error goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
