"""Write sensor.csv: windows of a simulated accelerometer, as an analogue pin would read them.

Each row is one window: 32 readings from 0 to 1023, 20 ms apart, and what was done: the board lay
still, was shaken, or was tapped once.

Run: python make_data.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

STEPS = 32
GESTURES = ("still", "shaken", "tapped")


def window(gesture: str, random: np.random.Generator) -> np.ndarray:
    """Return one window of readings; gravity is near the middle of the range."""
    time = np.arange(STEPS) * 0.02
    values = random.normal(random.uniform(480, 540), random.uniform(2, 6), STEPS)
    if gesture == "shaken":
        beats, phase = random.uniform(2.5, 5), random.uniform(0, 2 * np.pi)
        values += random.uniform(60, 300) * np.sin(2 * np.pi * beats * time + phase)
    if gesture == "tapped":
        begin = random.integers(4, STEPS - 8)
        ring = np.exp(-np.arange(STEPS - begin) / 3) * np.cos(2.2 * np.arange(STEPS - begin))
        values[begin:] += random.uniform(120, 450) * ring
    return np.clip(values.round(), 0, 1023).astype(int)


def main() -> None:
    """Write 1,500 windows, as many of each gesture."""
    random = np.random.default_rng(0)
    with Path("sensor.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"t{step}" for step in range(STEPS)), "gesture"])
        for _ in range(500):
            for gesture in GESTURES:
                rows.writerow([*window(gesture, random), gesture])


if __name__ == "__main__":
    main()
