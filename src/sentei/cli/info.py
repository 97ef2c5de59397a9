"""The command `sentei info`: list the contents of a saved network's file."""

from __future__ import annotations

from cyclopts.types import ExistingFile


def info(model: ExistingFile) -> None:
    """List the tensors, the mask and the size of a saved network, without running it.

    Parameters
    ----------
    model
        File of a network that sentei saved (.safetensors).
    """
    from sentei import formats
    from sentei.cli.screen import console
    from sentei.reporting.tables import contents

    console.print(contents(formats.inspect(model)))
