"""A trial's `metrics.csv`: one line a step, val loss where it was measured."""

import csv
from pathlib import Path
from typing import Any

COLUMNS = (
    "step",
    "samples_seen",
    "train_loss",
    "val_loss",
    "learning_rate",
    "gradient_norm",
    "samples_per_s",
    "memory_bytes",
)


class CurveFile:
    """Writes the curve as it grows; complete up to the last eval point at any time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.csv").open("w", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._writer.writeheader()

    def write(self, **values: Any) -> None:
        """Adds a line; floats in full precision."""
        self._writer.writerow(values)
        if "val_loss" in values:
            self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()
