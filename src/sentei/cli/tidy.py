"""The command `sentei tidy`: remove units whose removal leaves the outputs unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sentei.cli.options import REMOVED, Data, Loss, Model, OutFile, RunOnDevice, Samples, Weights
from sentei.cli.screen import Result, head


def tidy(
    model: Model,
    *,
    weights: Weights = None,
    loss: Loss = None,
    proven: Annotated[bool, Parameter(group=REMOVED)] = False,
    norms: Annotated[bool, Parameter(group=REMOVED)] = False,
    data: Data = Data(),
    samples: Samples = 10_000,
    out: OutFile = Path("tidy.safetensors"),
    run: RunOnDevice = RunOnDevice(),
) -> Result:
    """Remove unread, constant, repeated and dependent units: the outputs stay the same.

    Units are compared on training samples.

    Parameters
    ----------
    proven
        Remove only what provably changes the outputs for no input, not just for the samples.
    norms
        Also fold batch norms into the layer before them: equal in evaluation mode only.
    out
        File to write the smaller network to.
    """
    from sentei import formats
    from sentei.cli.loading import loaded
    from sentei.pruning.tidying import examined
    from sentei.reporting.tables import finds

    run.start()
    network, mask, split = loaded(model, data, loss, weights, run.place())
    done = examined(network, split.train.first(samples), proven=proven, norms=norms, mask=mask)
    formats.save(done.network, out, done.mask if done.mask.groups else None)
    return Result(
        {
            "finds": [{**vars(find), "group": find.group.name} for find in done.finds],
            "norms": done.norms,
            "difference": done.difference,
            "samples": done.samples,
            "out": out,
        },
        (
            head(f"{model}: units that can be removed without any change"),
            finds(done),
            f"outputs differ by {done.difference:.1e} at most on {done.samples:,} samples; "
            f"the network is in {out}",
        ),
    )
