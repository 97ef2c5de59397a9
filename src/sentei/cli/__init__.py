"""The command line program `sentei`: its commands, exit codes and configuration file.

Importing it does not import torch: each command imports what it needs when it runs.

May import everything but `integrations`.
"""

from __future__ import annotations

import os
import signal
import sys
import tomllib
from collections.abc import Sequence
from contextvars import copy_context
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path

from cyclopts import App, Parameter
from cyclopts.config import Toml

from sentei import storage
from sentei.cli import conflicts, failures, ranks, screen, stopping
from sentei.cli.command_line import typed
from sentei.cli.compare import compare
from sentei.cli.demo import demo
from sentei.cli.explain import explain
from sentei.cli.export import export
from sentei.cli.figures import figures
from sentei.cli.fit import fit
from sentei.cli.info import info
from sentei.cli.prune import prune
from sentei.cli.rank import rank
from sentei.cli.reproduce import reproduce
from sentei.cli.screen import Result
from sentei.cli.surface import surface
from sentei.cli.tidy import tidy
from sentei.cli.train import train
from sentei.cli.units import units
from sentei.cli.watch import watch
from sentei.errors import unknown

STOPPED = 128  # plus the number of the signal: 130 for Ctrl-C, 143 for SIGTERM

HELP = """Make trained neural networks smaller, and see why the remaining network works.

Start with `sentei demo`. `sentei COMMAND --help` lists the options of a command. With
`--config FILE` they can also be set in a TOML file, in a table that is named after the command,
under the same names: `sentei prune model.safetensors --config run.toml`.

Results are printed on standard output; progress, warnings and errors on standard error. `--quiet`
prints no progress and no warnings, `--json` prints the result as one JSON object.

Exit codes: 0 done; 1 refused, such as a damaged file or a full disk; 2 wrong usage, such as an
unknown option; 3 a budget was not reached; 130 stopped by Ctrl-C (143 by SIGTERM). If a command
fails, standard error says why in one line.
"""


def build(config: str | None = None) -> App:
    """Build the application; `config` names a TOML file with default values for the options."""
    commands = (
        *(demo, train, prune, fit, rank, surface, compare),
        *(explain, figures, watch, info, units, export, reproduce, tidy),
    )
    app = App(
        name="sentei",
        help=HELP,
        version=lambda: version("sentei"),
        help_format="markdown",
        console=screen.console,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=()),  # no --no-inputs, no --empty-paths
    )
    for command in commands:
        app.command(command)
    if config is not None:
        _check_headings(config, [command.__name__ for command in commands])
    file = [] if config is None else [Toml(config, must_exist=True)]
    app.config = (*file, conflicts.refuse)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name, and exit with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(copy_context().run(_main, given))  # what a command sets ends with it


def _main(given: list[str]) -> int:
    """Run a command, print its result or its error, and return its exit code."""
    typed.set(tuple(given))
    screen.quiet.set("--quiet" in given)
    screen.as_json.set("--json" in given)  # for what is refused before a command starts
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal loses nothing
    with screen.logs_shown(), storage.written() as files, stopping.stoppable() as came:
        try:
            with ranks.grouped(given):
                return _run(given)
        except BaseException as error:
            if came or isinstance(error, KeyboardInterrupt):
                stopping.ignore()
                if ranks.is_first():
                    screen.fail(stopping.left(files))
                return STOPPED + (came[0] if came else signal.SIGINT)
            code, words = failures.code(error), failures.words(error)
            if ranks.is_first():
                screen.fail(words)
            elif code != failures.USAGE:  # the first process has refused the same line
                screen.fail(f"rank {os.environ['RANK']}: {words}")
            return code


def _run(given: list[str]) -> int:
    """Run a command, print its result, and return its exit code."""
    app = build(_take_config(given))
    result = app(given, exit_on_error=False, print_error=False, result_action="return_value")
    if not isinstance(result, Result):
        return 0  # help and version
    if ranks.is_first():
        screen.show(result)
    return result.code


def _check_headings(config: str, commands: Sequence[str]) -> None:
    """Raise ValueError if the TOML file has a top-level key that is not a command's name."""
    file = Path(config)
    if file.is_dir():
        raise ValueError(f"{config} is a folder; --config takes a TOML file")
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
    found: list[str] = []
    while (place := _place_of_config(given)) is not None:
        option, equals, file = given.pop(place).partition("=")
        if not equals and place == len(given):
            raise ValueError(f"{option} needs the name of a TOML file")
        found.append(file if equals else given.pop(place))
    if len(found) > 1:
        raise ValueError(f"--config is given {len(found)} times; put all options into one file")
    return found[0] if found else None


def _place_of_config(given: list[str]) -> int | None:
    return next((n for n, word in enumerate(given) if word.partition("=")[0] == "--config"), None)
