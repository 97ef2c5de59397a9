"""Write the page of a comparison: curves that can be switched, the table, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sentei import storage
from sentei.metrics import NAMES
from sentei.reporting.page.bundle import joined


def write_comparison(
    curves: Sequence[Any], found: Sequence[Any], path: str | Path, *, network: str, samples: str
) -> Path:
    """Write one HTML file about ways to prune a network.

    Args:
        curves: `experiments.comparing.Curve` objects.
        found: their means by way, the best first; see `experiments.comparing.Row`.
        path: the file to write.
        network: how the command names the network.
        samples: what the quality is measured on, such as "5,000 validation samples".

    Raises:
        FileError: the file cannot be written; an existing one is unchanged.
    """
    page = comparison(curves, found, network=network, samples=samples)
    storage.write(path, joined(page, "comparison").encode("utf-8"))
    return Path(path)


def comparison(
    curves: Sequence[Any], found: Sequence[Any], *, network: str, samples: str
) -> dict[str, Any]:
    """Collect the data of the page as one value that can be stored as JSON."""
    percent = all(row.metric == "accuracy" for row in found)
    ways = [_way(row, [curve for curve in curves if curve.way == row.way]) for row in found]
    return {
        "title": f"{len(found)} {'way' if len(found) == 1 else 'ways'} to prune {network}",
        "live": False,
        "metric": "accuracy" if percent else NAMES.get(found[0].metric, found[0].metric),
        "percent": percent,
        "samples": samples,
        "seeds": max((row.seeds for row in found), default=0),
        "ways": ways,
    }


def _way(row: Any, curves: Sequence[Any]) -> dict[str, Any]:
    return {
        "name": str(row.way),
        "criterion": row.way.criterion,
        "area": row.area,
        "deviation": row.deviation,
        "half": row.half,
        "agreement": row.agreement if np.isfinite(row.agreement) else None,
        "left": list(curves[0].left),
        "values": np.mean([curve.accuracy for curve in curves], 0).tolist(),
        "choice": None if curves[0].choice is None else vars(curves[0].choice),
    }
