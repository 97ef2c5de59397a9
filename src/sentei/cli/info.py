"""The command `sentei info`: list the contents of a saved network's file."""

from __future__ import annotations

from cyclopts.types import ExistingFile

from sentei.cli.options import Shown
from sentei.cli.screen import Result


def info(model: ExistingFile, *, shown: Shown = Shown()) -> Result:
    """List the tensors, the mask and the size of a saved network, without running it.

    Parameters
    ----------
    model
        File of a network that sentei saved (.safetensors).
    """
    from sentei import formats
    from sentei.reporting.tables import contents

    shown.start()
    about = formats.inspect(model)
    dead = {group.name: len(about.mask.dead(group)) for group in about.mask.groups}
    found = {name: value for name, value in vars(about).items() if name != "mask"}
    return Result({**found, "dead": dead}, (contents(about),))
