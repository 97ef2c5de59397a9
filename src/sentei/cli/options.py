"""Options that several commands share, in the groups in which `--help` shows them.

A frozen dataclass here is a bundle: each of its fields is an option of every command that takes it.
This file imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from sentei import storage
from sentei.cli import ranks, screen, weights
from sentei.cli.bounds import Count, Seed, Threads, accepted_by
from sentei.cli.references import is_reference
from sentei.errors import FileError, IncompleteError
from sentei.jobs.workers import Workers, share

if TYPE_CHECKING:
    import torch

    from sentei.datasets import Split

NETWORK = Group("Network", sort_key=0)
REMOVED = Group("What is removed", sort_key=1)
PACE = Group("How fast", sort_key=2)
UNTIL = Group("Until when", sort_key=3)
REPAIR = Group("Repair and retraining", sort_key=4)
DATA = Group("Data", sort_key=6)
OUTPUT = Group("Output", sort_key=7)
JOBS = Group("Several at once", sort_key=8)
RUN = Group("Run", sort_key=9)

# The names in CRITERIA and REPAIRS of `sentei.criteria` and LOSSES of `sentei.losses`. They are
# repeated here, and compared by tests, because those modules import torch, which takes seconds.
CRITERIA = {
    "Units": (
        *("ablation", "ablation-affine", "ablation-least-squares", "activation", "badness"),
        *("contribution", "distinctiveness", "sietsma-dow", "skeletonization", "variance"),
    ),
    "Units or synapses": (
        *("magnitude", "obd", "obs", "random", "taylor1", "taylor1-absolute"),
        *("taylor1-per-sample", "taylor2", "taylor2-diagonal"),
    ),
    "Synapses": ("gradient", "wanda"),
    "Only in Python, with a Trajectory of the training": (
        *("karnin", "weight_change", "weight_change-angle", "weight_change-l2"),
        *("weight_change-mean_abs", "wsf"),
    ),
}
REPAIRS = ("mean", "twin", "affine", "least_squares", "least_squares_by_column", "least_loss")
LOSSES = ("cross_entropy", "half_squared_error", "binary_cross_entropy", "absolute_error")


def listed(names: tuple[str, ...]) -> str:
    """Join names for a sentence: "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


ALL_CRITERIA = "\n\n".join(f"{what}: {listed(names)}." for what, names in CRITERIA.items())

Model = Annotated[
    str,
    Parameter(
        group=NETWORK,
        help="File of a network that sentei saved (.safetensors); what is dead in it stays dead. "
        "Or your own network: file.py:name or package.module:name of an nn.Module, or of a "
        "function or class without arguments that makes one; it is taken as it is, with --weights "
        "if they are in a file. Or layer widths such as 784-64-32-10:relu, or a convolutional "
        "network such as conv:3x32x32:16-32:10, to train first.",
    ),
]
Weights = Annotated[
    Path | None,
    Parameter(
        group=NETWORK,
        validator=weights.check,
        help="File with the weights of your own network: one that sentei saved (also of a network "
        "that was pruned), a safetensors file, or a state_dict that torch.save wrote. FILE:name "
        "takes one of several in a checkpoint.",
    ),
]
SCORING = (
    "How units or synapses are scored; the lowest scores are removed first. ablation measures the "
    "rise in loss exactly."
)
Criterion = Annotated[str, Parameter(group=REMOVED, help=f"{SCORING}\n\n{ALL_CRITERIA}")]
_UNSAID = "half_squared_error with --regression, and cross_entropy without"
Loss = Annotated[
    str | None,
    Parameter(
        group=NETWORK,
        help=f"Loss that the network was trained with: {listed(LOSSES)}; or your own, file.py:name "
        f"of a function (outputs, targets) that returns a loss for each sample. If left out, the "
        f"one that its file names; if there is none, {_UNSAID}.",
    ),
]
TrainingLoss = Annotated[
    str | None,
    Parameter(
        help=f"Loss to train with: {listed(LOSSES)}; or your own, file.py:name of a function "
        f"(outputs, targets) that returns a loss for each sample. If left out, {_UNSAID}."
    ),
]
Depth = Annotated[
    bool,
    Parameter(
        group=REMOVED,
        help="Residual branches too: attention, feed-forward layers and blocks of convolutions "
        "that are added to a stream, each as a whole.",
    ),
]
Samples = Annotated[
    Count,
    Parameter(group=DATA, help="Number of training samples to measure units and synapses on."),
]


def check_place(_: Any, path: Path | None) -> None:
    """Check, before any work is done, that a file can be written at a path, if one is given.

    Raises:
        ValueError: as the FileError of `storage.writable`; wrong usage, as far as a command goes.
    """
    if path is not None:
        _as_usage(storage.writable, path)


def check_folder(_: Any, path: Path | None) -> None:
    """Check, before any work is done, that files can be written in a folder, if one is given.

    Raises:
        ValueError: as the FileError of `storage.writable_folder`.
    """
    if path is not None:
        _as_usage(storage.writable_folder, path)


def check_figure(_: Any, path: Path) -> None:
    """Check, before any work is done, that a figure can be written as PNG and SVG.

    Raises:
        ValueError: as the FileError of `storage.writable`.
    """
    for suffix in (".png", ".svg"):
        _as_usage(storage.writable, path.with_suffix(suffix))


def _as_usage(check: Callable[[Path], object], path: Path) -> None:
    try:
        check(path)
    except FileError as error:
        raise ValueError(str(error)) from error


OutFile = Annotated[Path, Parameter(group=OUTPUT, validator=check_place)]
OutFolder = Annotated[Path, Parameter(validator=check_folder)]
OutFigure = Annotated[Path, Parameter(group=OUTPUT, validator=check_figure)]
Config = Annotated[
    Path | None,
    Parameter(
        name="--config",
        group=RUN,
        help="TOML file with options, under a heading with the name of the command. Options on the "
        "command line override those of the file.",
    ),
]


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class Data:
    """The samples.

    Attributes:
        data: Data set: mnist, letter, a named split such as mnist:shrinking, or a path to a .csv,
            an .npz, a folder of IDX files or a folder of images by class. Or your own:
            file.py:name or package.module:name of a Split, of train, validation and test data, or
            of a function that returns one of them.
        target: For a .csv: the column to predict, by name or position (-1 is the last).
        regression: The targets of a .csv, an .npz or your own data are values to predict, not
            classes. A file of a network that predicts values says so itself.
        size: For images: height and width that they are resized to, such as 32x32.
        missing: For a .csv: drop leaves rows with missing cells out, mean fills in the mean of
            the column over the training part.
        text: For a .csv: one-hot makes a column of 0 and 1 for each word of columns of words.
        seed: Seed of everything random: the split of the data, initial weights, training, and
            random scores.
    """

    data: str = "mnist"
    _: KW_ONLY
    target: str = "-1"
    regression: bool = False
    missing: Literal["drop", "mean"] | None = None
    text: Literal["one-hot"] | None = None
    size: str | None = None
    seed: Seed = 0

    def load(self, *, flat: bool, standardise: bool, predicts: str | None = None) -> Split:
        """Load the samples, split into training, validation and test samples.

        Args:
            flat: whether inputs are rows.
            standardise: whether inputs are standardised, where the data needs it.
            predicts: what the network's `Card` says that it predicts.

        Raises:
            ValueError: `--regression` for data whose targets are classes.
        """
        from sentei import datasets

        if self.is_own:
            from sentei.cli.own_data import own_split

            if self.size is not None:
                raise ValueError(f"--size is for folders of images; {self.data} is your own data")
            return own_split(self.data, regression=self.regression or predicts == "values")
        either = Path(self.data).suffix in (".csv", ".npz")
        if self.regression and not either:
            raise ValueError(
                f"--regression is for the targets of a .csv, an .npz or data of your own; "
                f"{self.data} has classes"
            )
        target = int(self.target) if self.target.lstrip("-").isdigit() else self.target
        return datasets.load(
            self.data,
            flat=flat,
            seed=self.seed,
            target=target,
            regression=self.regression or (either and predicts == "values"),
            missing=self.missing,
            text=self.text,
            standardise=standardise,
            size=self.size,
        )

    @property
    def is_own(self) -> bool:
        """Whether the data are the user's own Python."""
        return is_reference(self.data) and self.data.partition(":")[0] not in ("mnist", "letter")

    def default_loss(self) -> str | None:
        """Return the loss of a network for which none is named; None leaves it to the targets."""
        return "half_squared_error" if self.regression else None


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class Shown:
    """What a command prints.

    Attributes:
        quiet: Print results and errors only: no progress, notes or warnings.
        json: Print the result as one JSON object, and nothing else, on standard output; if the
            command fails, an object with the message: {"error": "..."}.
        config: a field so that `--help` shows the option; `main` takes it out and reads the file.
    """

    _: KW_ONLY
    quiet: bool = False
    json: bool = False
    config: Config = None

    def start(self) -> None:
        """Make what is printed from now on follow the options."""
        screen.quiet.set(self.quiet or not ranks.is_first())
        screen.as_json.set(self.json and ranks.is_first())


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class Run(Shown):
    """How a command runs, and what it prints.

    Attributes:
        threads: Number of CPU threads that torch may use; one gives the same bytes everywhere and
            leaves other cores free.
    """

    threads: Threads = 1

    def start(self) -> None:
        """Make what is printed follow the options, and set the number of threads."""
        super().start()
        import torch

        torch.set_num_threads(self.threads)


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class RunOnDevice(Run):
    """How a command runs, and on which device its network is.

    Attributes:
        device: Where the network is and is measured: cpu or cuda, one of several accelerators
            (cuda:1), or auto, an accelerator where there is one. Samples are moved there block by
            block; files are written as from the CPU.
    """

    device: str = "cpu"

    def start(self) -> None:
        """Make what is printed follow the options; refuse a device that is not there.

        Raises:
            ValueError: the message lists those that are there.
        """
        super().start()
        self.place()

    def place(self) -> torch.device:
        """Return where the network is to be; under torchrun, each process has its own one."""
        from sentei.devices import named

        return named(self.device, ranks.number())


@Parameter(name="*", group=JOBS)
@dataclass(frozen=True)
class Parallel:
    """Where the runs that a command consists of take place; the results are the same anywhere.

    Attributes:
        jobs: Number of runs at once, each on one thread. More than one needs sentei[jobs].
        backend: Where they run: loky, processes of this machine; dask or ray, the cluster whose
            address is in DASK_SCHEDULER_ADDRESS or RAY_ADDRESS, or a new one on this machine.
    """

    _: KW_ONLY
    jobs: Threads = 1
    backend: Literal["loky", "dask", "ray"] = "loky"
    shard: Annotated[
        str | None,
        accepted_by(share),
        Parameter(
            help="Share of the runs that this command runs, such as 2/8: every eighth, from the "
            "second on. Several commands share the work, as a job array of SLURM does, and the "
            "one that finds the results of all others goes on with them.",
        ),
    ] = None

    def workers(self) -> Workers:
        """Return where the runs take place, before any work is done.

        Raises:
            JobError: a package that is needed is missing.
        """
        return Workers(self.jobs, self.backend, self.shard or "")


def shared(error: IncompleteError) -> screen.Result:
    """Return what a command prints whose share is done, while other shares are missing."""
    return screen.Result({"complete": False, "message": str(error)}, (str(error),))


def seeded(criterion: str, seed: int) -> Any:
    """Return a criterion by name, with the seed if it is random; the name itself for seed 0.

    Raises:
        ValueError: no criterion has this name.
    """
    from sentei import criteria

    criteria.criterion(criterion)
    return criteria.Random(seed) if criterion == "random" and seed else criterion
