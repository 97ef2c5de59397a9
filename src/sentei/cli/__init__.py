"""The command line program `sentei`: its commands, exit codes and configuration file.

Importing it does not import torch: each command imports what it needs when it runs.

May import everything but `integrations`.
"""

from __future__ import annotations

import logging
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Toml

from sentei.cli.command_line import typed
from sentei.cli.compare import compare
from sentei.cli.demo import demo
from sentei.cli.explain import explain
from sentei.cli.export import export
from sentei.cli.figures import figures
from sentei.cli.fit import fit
from sentei.cli.info import info
from sentei.cli.prune import prune
from sentei.cli.pruned import UNREACHED
from sentei.cli.rank import rank
from sentei.cli.reproduce import reproduce
from sentei.cli.surface import surface
from sentei.cli.tidy import tidy
from sentei.cli.train import train
from sentei.errors import PruningError, UnreachableError, unknown

USAGE, REFUSED, INTERRUPTED = 2, 1, 130

HELP = """Make trained neural networks smaller, and see why the remaining network works.

Start with `sentei demo`. `sentei COMMAND --help` lists the options of a command. With
`--config FILE` they can also be set in a TOML file, in a table that is named after the command,
under the same names: `sentei prune model.safetensors --config run.toml`.

Exit codes: 0 done, 1 refused, 2 wrong usage, 3 a budget was not reached, 130 interrupted.
"""


def build(config: str | None = None) -> App:
    """Build the application; `config` names a TOML file with default values for the options."""
    commands = (
        *(demo, train, prune, fit, rank, surface, compare),
        *(explain, figures, info, export, reproduce, tidy),
    )
    app = App(
        name="sentei",
        help=HELP,
        version=lambda: version("sentei"),
        help_format="markdown",
        default_parameter=Parameter(negative=()),  # no --no-inputs, no --empty-paths
    )
    for command in commands:
        app.command(command)
    if config is not None:
        _check_headings(config, [command.__name__ for command in commands])
        app.config = Toml(config, must_exist=True)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name, and exit with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    typed.set(tuple(given))
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        config = _take_config(given)
        sys.exit(build(config)(given, exit_on_error=False, print_error=True))
    except CycloptsError:
        sys.exit(USAGE)
    except UnreachableError as error:
        sys.stderr.write(f"sentei: {error}\n")
        sys.exit(UNREACHED)
    except (PruningError, ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"sentei: {error}\n")
        sys.exit(USAGE if isinstance(error, (ValueError, FileNotFoundError)) else REFUSED)
    except KeyboardInterrupt:
        sys.stderr.write("sentei: interrupted. The journal, if any, has all complete steps.\n")
        sys.exit(INTERRUPTED)


def _check_headings(config: str, commands: Sequence[str]) -> None:
    """Raise ValueError if the TOML file has a top-level key that is not a command's name."""
    file = Path(config)
    if not file.is_file():
        return
    try:
        headings = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} is not valid TOML: {error}") from error
    for name in headings:
        if name not in commands:
            raise ValueError(
                f"{config}: {unknown('command', name, commands)} Options stand under a heading "
                "with the command's name, such as [prune]."
            )


def _take_config(given: list[str]) -> str | None:
    """Remove `--config FILE` from the arguments and return FILE: it is read before parsing."""
    for position, argument in enumerate(given):
        if argument.startswith("--config="):
            return given.pop(position).partition("=")[2]
        if argument == "--config":
            if position + 1 == len(given):
                raise ValueError("--config needs the name of a TOML file")
            given.pop(position)
            return given.pop(position)
    return None
