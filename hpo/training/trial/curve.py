"""A trial's `metrics.csv`: one line a step, val loss and metrics where they were measured."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpo.specs import Scalar

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


class Curve:
    """The curve as it grows; in the file it is complete up to the last `flush` at any time."""

    def __init__(
        self,
        folder: Path,
        text: str,
        fence: Callable[[], None],
        metrics: Sequence[str] = (),
    ) -> None:
        """Goes on from the `text` of an earlier attempt; `fence` is called before every write.

        Args:
            metrics: columns beside those that every task has.
        """
        self._fence = fence
        fence()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.csv"
        self._path.write_bytes(b"")
        self._flushed = 0
        self._lines = io.StringIO(newline="")
        self._lines.write(text)
        self._writer = csv.DictWriter(self._lines, (*COLUMNS, *metrics))
        if not text:
            self._writer.writeheader()
        self.flush()

    @property
    def text(self) -> str:
        """Everything so far, ASCII."""
        return self._lines.getvalue()

    def write(self, line: Mapping[str, Scalar]) -> None:
        """Adds a line; floats in full precision."""
        self._writer.writerow(line)

    def flush(self) -> None:
        """Brings the file up to date, or leaves it as it was and raises OSError."""
        self._fence()
        new = self.text[self._flushed :].encode("ascii")
        try:
            with self._path.open("ab") as file:
                file.write(new)
        except OSError:  # a full disk takes half of a line
            os.truncate(self._path, self._flushed)
            raise
        self._flushed += len(new)
