"""`sentei info`."""

from __future__ import annotations

from cyclopts.types import ExistingFile


def info(model: ExistingFile) -> None:
    """Say what is in a file that sentei saved, without running it.

    Parameters
    ----------
    model
        A .safetensors file.
    """
    from sentei import formats
    from sentei.cli.screen import console
    from sentei.reporting.tables import contents

    console.print(contents(formats.inspect(model)))
