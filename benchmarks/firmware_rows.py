"""Send the raw rows of a table through emitted C code, and compare it with PyTorch row by row.

Trains 16-40-26 on the Letter Recognition table, with the standardisation of its columns as the
first layer, and counts on how many of the test rows, as they are in the table, C and PyTorch name
the same class.

Run: python benchmarks/firmware_rows.py. Needs a C compiler.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import sentei
from sentei import datasets, training
from sentei.formats.c.compiled import Compiled
from sentei.network.encoding.format import C_FORMATS
from sentei.network.encoding.size import bytes_in


def main() -> None:
    """Print a line for each format."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = datasets.load("letter", standardise=False)
    assert data.scaling is not None
    network = sentei.Standardise.of(data.scaling).before(training.build("16-40-26:relu"))
    sentei.train(network, data.train, sentei.Recipe(epochs=20))
    rows, targets = data.test
    with torch.no_grad():
        wanted = network.eval()(rows).argmax(1)
    right = float((wanted == targets).float().mean())
    print(f"PyTorch: {right:.2%} of {len(rows):,} test rows")
    with tempfile.TemporaryDirectory() as folder:
        for format in C_FORMATS:
            path = Path(folder) / "net.c"
            sentei.export(network, path, example=data.train.inputs[:512], format=format)
            got = Compiled(path)(rows).argmax(1)
            size = bytes_in(network, sentei.Mask.full([]), format, rows)
            print(
                f"{format}: {int((got == wanted).sum()):,} of {len(rows):,} rows as PyTorch, "
                f"{float((got == targets).float().mean()):.2%} right, {size:,} bytes"
            )


if __name__ == "__main__":
    main()
