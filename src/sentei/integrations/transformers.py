"""Save shrunk networks of Hugging Face's transformers, load them, and prune in its Trainer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sentei import distributed, storage
from sentei.arguments import checked
from sentei.errors import CertificateError, FileError, StructureError
from sentei.formats.rebuilding import fit_to_tensors_
from sentei.formats.safetensors import load, save
from sentei.integrations.fitting_config import Fit, fits, why_not
from sentei.integrations.json_state import from_json, to_json
from sentei.integrations.outlines import Outline, outline
from sentei.nests import tensors
from sentei.network.encoding.architecture import tensors_of
from sentei.network.encoding.carrying import carried
from sentei.network.example import check, undisturbed
from sentei.network.forward import with_forward
from sentei.network.holders import public_numbers
from sentei.network.mask import Mask
from sentei.network.units import Branches, Group, find_synapses
from sentei.network.zeros import Form, path_around, stand_in_
from sentei.pruning.rules.proposals import Proposal
from sentei.pruning.while_training import during
from sentei.running import Example, Forward, run

try:
    import transformers
    from transformers import (
        GenerationConfig,
        PreTrainedModel,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from transformers.initialization import no_init_weights
    from transformers.trainer_callback import ExportableState
    from transformers.utils import logging as their_logging
except ImportError as error:
    raise ImportError(
        "sentei.integrations.transformers needs transformers: pip install 'sentei[transformers]'"
    ) from error

log = logging.getLogger("sentei")

OWN = "sentei.safetensors"  # the file of a network that its configuration cannot describe
ROUNDING = 32  # units in the last place of the largest output, within which outputs are equal


@dataclass(frozen=True)
class Saved:
    """What `save_pretrained` wrote.

    Attributes:
        plain: whether transformers loads the folder by itself; if False, sentei's `from_pretrained`
            does.
        changed: the numbers of the configuration that follow the cut, by name.
        why: why transformers cannot load it, and which layers differ; empty if it can.
    """

    plain: bool
    changed: Mapping[str, Any]
    why: str


@checked
def save_pretrained(
    model: nn.Module, folder: str | Path, example: Example, *, forward: Forward | None = None
) -> Saved:
    """Write a shrunk network to a folder that transformers loads, if a configuration can say it.

    A configuration is sought, by trying, whose network has the same tensors; no architecture is
    known by name. If what transformers loads from the folder computes the same on `example`, to
    rounding, any program can load it. Else the folder holds `sentei.safetensors` with sentei's own
    description, which `from_pretrained` of this module loads, and a warning is logged that says
    which layers differ. In both cases the folder is loaded again and compared before it gets its
    name; only safetensors and JSON are written.

    Args:
        model: a network of transformers, cut by `shrink` or not.
        folder: a new or empty folder; it is complete or not there.
        example: inputs, as for `shrink`.
        forward: as for `find_units`.

    Raises:
        TypeError: not a network of transformers.
        FileError: the folder is not empty or cannot be written, the network has what files cannot
            carry, or this is another rank of torch.distributed than 0, which alone writes.
        DataError: the network does not run on `example`.
        CertificateError: what was loaded from the folder again computes something else.
    """
    if not distributed.is_main():
        raise FileError(
            f"one process writes a folder: rank 0 of {distributed.world()}. Call save_pretrained "
            "there alone, such as under `if trainer.is_world_process_zero():`"
        )
    target = storage.new_folder_at(folder)
    bare = carried(model)
    if not isinstance(bare, PreTrainedModel):
        raise TypeError(
            f"save_pretrained writes networks of transformers; got {type(bare).__name__}. Use "
            "sentei.save for others."
        )
    example = with_forward(bare, example, forward)
    check(bare, example)
    why = "its configuration was not found"
    with storage.written_folder(target) as place, _no_progress_bars():
        for fit in _fits(bare):
            why = why_not(fit) or _plainly(bare, fit, place, example)
            if not why:
                return Saved(True, fit.changed, "")
        _by_ourselves(bare, place, example)
    log.warning(
        "transformers cannot load %s by itself: %s. Load it with "
        "sentei.integrations.transformers.from_pretrained.",
        *(folder, why),
    )
    return Saved(False, {}, why)


@checked
def from_pretrained(
    folder: str | Path, model_class: type[nn.Module] | None = None
) -> PreTrainedModel:
    """Load a network that `save_pretrained` wrote, in either form, in evaluation mode.

    Args:
        folder: its folder.
        model_class: the network's class; needed only if it is not one of transformers' own.

    Raises:
        FileError: the folder is missing, damaged or of another class.
    """
    kind: Any = _kind(Path(folder)) if model_class is None else model_class
    try:
        if not (Path(folder) / OWN).exists():
            return kind.from_pretrained(folder)
        config = kind.config_class.from_pretrained(folder)
        with no_init_weights():
            model = kind(config)
        if model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # what it refuses, it refuses with any error
        raise FileError(
            f"{folder} cannot be loaded as {kind.__name__}: {error}. Save the network again."
        ) from error
    load(Path(folder) / OWN, into=model)
    return model


def _kind(folder: Path) -> type[PreTrainedModel]:
    """Return the class that a folder names; only classes of transformers are looked up."""
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise FileError(f"{folder} holds no configuration of transformers: {error}") from error
    name = next(iter(config.get("architectures") or ()), None)
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, PreTrainedModel):
        raise FileError(
            f"{folder} is of the class {name!r}, which is not one of transformers' own; pass it as "
            "from_pretrained(folder, model_class=...)"
        )
    return kind


def _fits(model: PreTrainedModel) -> Iterator[Fit]:
    def built(config: Any) -> Outline:
        with torch.device("meta"), no_init_weights():
            return outline(type(model)(config))

    return fits(model.config, built, outline(model))


def _plainly(model: PreTrainedModel, fit: Fit, folder: Path, example: Example) -> str | None:
    """Write a network as transformers does; return why its folder is another network, or None."""
    weights, own, theirs = model.state_dict(), fit.wanted.names, fit.outline.names
    try:
        with torch.device("meta"), no_init_weights():
            shell: Any = type(model)(fit.config)
        shell.to(model.dtype)
        if model.can_generate():
            shell.generation_config = model.generation_config
        shell.save_pretrained(folder, state_dict={theirs[n]: weights[own[n]] for n in theirs})
        why = _unlike(model, type(model).from_pretrained(folder), example)
    except Exception as error:  # an architecture may forbid some numbers, with any error
        why = f"is refused: {' '.join(str(error).split())}"
    if why is not None:
        for file in folder.iterdir():
            file.unlink()
        return f"the configuration gives the same sizes, and the network of it {why}"
    return None


def _by_ourselves(model: PreTrainedModel, folder: Path, example: Example) -> None:
    """Write a network with sentei's own description of what its configuration cannot say."""
    config = type(model.config).from_dict(model.config.to_dict())
    config.architectures, config.dtype = [type(model).__name__], model.dtype
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    save(model, folder / OWN)
    why = _unlike(model, from_pretrained(folder, type(model)), example)
    if why is not None:
        raise CertificateError(
            f"the network that was loaded from the folder again {why}, so nothing is kept there. "
            "Save it with sentei.save, and load it into a new network of its class."
        )


def _unlike(model: Any, again: Any, example: Example) -> str | None:
    """Return in words how a loaded network differs from the one that was saved, or None."""
    again.to(model.device)
    again.set_attn_implementation(model.config._attn_implementation)
    try:
        with undisturbed(model), undisturbed(again):
            mine, theirs = (tensors(run(net, example)) for net in (model, again))
    except Exception as error:  # forward may raise anything where a size is wrong
        return f"does not run: {error}"
    if [t.shape for t in mine] != [t.shape for t in theirs]:
        return "has outputs of other shapes"
    far = max((_difference(a, b) for a, b in zip(mine, theirs, strict=True)), default=0.0)
    return f"has outputs that differ by {far:.2g} of the largest" if far else None


def _difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, relative to the largest value; 0 within rounding.

    Half precision has to agree exactly: a few units in its last place would hide a wrong number.
    """
    if torch.equal(a, b):
        return 0.0
    if not a.is_floating_point() or a.dtype != b.dtype:
        return float("inf")
    far = float((a.double() - b.double()).abs().max() / a.double().abs().max())
    allowed = ROUNDING * torch.finfo(a.dtype).eps if a.dtype.itemsize >= 4 else 0.0
    return 0.0 if far <= allowed else far or float("inf")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = their_logging.is_progress_bar_enabled()
    their_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            their_logging.enable_progress_bar()


class PruningCallback(TrainerCallback, ExportableState):
    """A callback for transformers' Trainer that prunes its model; see `sentei.PruneWhileTraining`.

        prune = PruningCallback(sentei.ranked("magnitude", sentei.cubic("40 %")), every=100)
        Trainer(model, arguments, train_dataset=data, callbacks=[prune]).train()

    Its state is part of the Trainer's checkpoints, so that `train(resume_from_checkpoint=...)`
    continues with the same bits. With `delete`, give the Trainer a new model as large as before
    pruning: it is cut to the sizes of the checkpoint when that is loaded. A second `train()` of the
    same model continues; for another model the callback starts again.

    Args:
        propose: what to remove next. A criterion that measures needs `probe=`, since the Trainer
            gives no batches to callbacks.
        groups: the units and synapses that may be cut, or a function of the model that returns
            them, such as `lambda model: find_units(model, example)`; to resume after a deletion it
            has to be a function. All synapses if None.
        every: updates from one proposal to the next, or epochs such as "2 epochs".
        total: number of updates in the whole training; the Trainer's own number if None.
        settings: other arguments of `sentei.PruneWhileTraining`.

    Attributes:
        pruner: the `sentei.PruneWhileTraining` in use; None before training.
    """

    @checked
    def __init__(
        self,
        propose: Proposal,
        groups: Sequence[Group] | Callable[[nn.Module], Sequence[Group]] | None = None,
        every: int | str = 50,
        total: int | str | None = None,
        **settings: Any,
    ):
        self.propose, self.groups, self.every, self.total = propose, groups, every, total
        self.settings = settings
        self.pruner: during.PruneWhileTraining | None = None
        self._hook: RemovableHandle | None = None

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Check the arguments; cut the model when a checkpoint of a smaller one is loaded.

        Raises:
            StructureError: arguments with which a deletion or a resumption would fail.
        """
        del state, control, kwargs
        if args.restore_callback_states_from_checkpoint:
            raise StructureError(
                "restore_callback_states_from_checkpoint=True makes callbacks anew, without their "
                "proposals; PruningCallback resumes without it, so leave it out"
            )
        if self.settings.get("delete") and args.load_best_model_at_end:
            raise StructureError(
                "load_best_model_at_end=True may load weights from before a deletion into the "
                "smaller model. Leave it out, or leave out delete= and shrink after training."
            )
        self._forget_hook()
        self._hook = model.register_load_state_dict_pre_hook(self._cut_to_checkpoint)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Make the pruner, or continue an earlier one, and attach it to the Trainer's optimizer."""
        del control, kwargs
        self._forget_hook()
        groups, before = self._groups_and_state(model, state)
        updates = before["updates"] if before else 0
        left = max(state.max_steps - state.global_step, 0)
        self.pruner = during.PruneWhileTraining(
            *(model, groups, self.propose, self.every),
            updates + left if self.total is None else self.total,
            **{"steps_per_epoch": _steps_per_epoch(args, train_dataloader), **self.settings},
        )
        if before:
            self.pruner.load_state_dict(before)
        self.pruner.attach(optimizer)
        _states(state)[_name(self)] = self.state()  # absent in the checkpoint of another run

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detach the pruner from the optimizer."""
        del args, state, control, kwargs
        if self.pruner is not None:
            self.pruner.detach()

    def state(self) -> dict[str, Any]:
        """Return the state that the Trainer stores in its checkpoints, as JSON."""
        held = {}
        if self.pruner is not None:
            sizes = public_numbers(self.pruner.model)
            held = {"pruning": to_json(self.pruner.state_dict()), "sizes": sizes}
        return {"args": {}, "attributes": held}

    def _groups_and_state(
        self, model: nn.Module, state: TrainerState
    ) -> tuple[Sequence[Group], dict[str, Any] | None]:
        """Return the groups, and the pruner's state from a checkpoint or an earlier `train()`."""
        earlier, before = self.pruner, None
        if earlier is not None:
            before = earlier.state_dict()
            # After an exception the pruner is still attached, to weights that are others by now.
            earlier.mask = Mask.full(earlier.mask.groups)
            earlier.detach()
        held = _states(state).get(_name(self))
        if isinstance(held, list):
            raise StructureError(
                "one PruningCallback prunes a model; give one the groups and proposals of both"
            )
        if state.global_step and held and held["attributes"]:
            _fit_(model, tensors_of(model), held["attributes"]["sizes"])
            return self._groups_of(model), from_json(held["attributes"]["pruning"])
        if earlier is not None and earlier.model is model:
            return earlier.groups, before
        return self._groups_of(model), None

    def _cut_to_checkpoint(self, model: nn.Module, given: Mapping[str, Tensor], *_: Any) -> None:
        """Cut a model to the sizes and branches of the tensors that are about to be loaded."""
        own = tensors_of(model)
        there = {id(own[name]) for name in own.keys() & given.keys()}
        lacking = {name for name, tensor in own.items() if id(tensor) not in there}
        zeros = _without_branches(self._groups_of(model), lacking) if lacking else {}
        if zeros or any(own[name].shape != given[name].shape for name in own.keys() & given.keys()):
            _fit_(model, given, {}, zeros)

    def _groups_of(self, model: nn.Module) -> Sequence[Group]:
        groups = find_synapses if self.groups is None else self.groups
        return groups(model) if callable(groups) else groups

    def _forget_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None


def _states(state: TrainerState) -> dict[str, Any]:
    """Return the states of callbacks by name: the Trainer keeps a dictionary in this field."""
    return cast("dict[str, Any]", state.stateful_callbacks)


def _name(callback: TrainerCallback) -> str:
    """Return the name under which the Trainer stores a callback's state."""
    return type(callback).__name__


def _steps_per_epoch(args: TrainingArguments, loader: Any) -> int | None:
    try:
        return max(ceil(len(loader) / args.gradient_accumulation_steps), 1)
    except TypeError:  # a stream of batches has no length
        return None


def _without_branches(groups: Sequence[Group], lacking: Collection[str]) -> dict[str, Form]:
    """Return what stands in for the branches whose parameters are all lacking in a checkpoint."""
    zeros: dict[str, Form] = {}
    for branch in (one for each in groups if isinstance(each, Branches) for one in each.branches):
        held = [name for name in branch.parameters if path_around(name, branch.zeros)]
        if held and all(name in lacking for name in held):
            zeros |= branch.zeros
    return zeros


def _fit_(
    model: nn.Module,
    given: Mapping[str, Tensor],
    attributes: Mapping[str, Mapping[str, int]],
    zeros: Mapping[str, Form] | None = None,
) -> None:
    """Fit a model to tensors by name, of which shared ones may be given once."""
    stand_in_(model, zeros or {})
    own, first = tensors_of(model), {}
    for name, tensor in own.items():
        if name in given:
            first.setdefault(id(tensor), name)
    tensors = {name: given[name].to(own[name].dtype) for name in first.values()}
    tied = {n: first[id(t)] for n, t in own.items() if first.get(id(t), n) != n}
    fit_to_tensors_(model, tensors, tied, attributes)
