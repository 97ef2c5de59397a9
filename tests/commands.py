"""Run a command of `sentei` as a user would type it."""

import pytest

from sentei import cli


def run(*arguments, capsys=None):
    """Run a command; return its exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err
