"""The order of a trial's batches, stage by stage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, pairwise

import numpy as np

from hpo.training.tasks import Row


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Rows that are trained on together, and on how many of them in all."""

    rows: tuple[int, ...]
    samples: int


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a trial is trained on, from its first batch to its last.

    Stages come in their order (curriculum learning, Bengio et al. 2009); each has a share of the
    samples that its weight gives it, epoch by epoch, the last epoch of it perhaps in part.
    """

    rows: Sequence[Row]
    batch_size: int
    epochs: int
    """Times the rows that are seen in all."""
    seed: tuple[int, int]
    weights: Sequence[float] = ()
    """Of the stages, in their order; 1 for those that it does not name."""

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages that there are rows of."""
        rows: dict[int, list[int]] = {}
        for index, row in enumerate(self.rows):
            rows.setdefault(row.stage, []).append(index)
        weights = [self.weights[k] if k < len(self.weights) else 1.0 for k in sorted(rows)]
        if not any(weights):
            weights = [1.0] * len(rows)
        ends = np.cumsum([0.0, *weights]) / sum(weights) * len(self.rows) * self.epochs
        samples = [round(end) - round(begin) for begin, end in pairwise(ends.tolist())]
        return [
            Stage(rows=tuple(rows[stage]), samples=samples[k])
            for k, stage in enumerate(sorted(rows))
        ]

    @property
    def steps(self) -> int:
        """Batches in all."""
        found = 0
        for stage in self.stages:
            epochs, rest = divmod(stage.samples, len(stage.rows))
            found += epochs * self._batches(len(stage.rows)) + self._batches(rest)
        return found

    def batches(self) -> Iterator[list[int]]:
        """Row indices batch by batch: every epoch a new order, its last batch may be short.

        The first batch is the longest of its stage's first epoch: what does not fit shows at once.
        """
        epochs = count()
        for stage in self.stages:
            left = stage.samples
            while left > 0:
                batches = self._epoch(stage.rows, next(epochs), left)
                if left == stage.samples:
                    longest = batches.index(max(batches, key=self.tokens))
                    batches[0], batches[longest] = batches[longest], batches[0]
                left -= len(stage.rows)
                yield from batches

    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens of a batch, padding included."""
        return len(batch) * max(self.rows[i].length for i in batch)

    def longest(self) -> list[int]:
        """The batch that takes most memory: of the first epoch of each stage."""
        first, found = 0, []
        for stage in self.stages:
            if stage.samples:
                found.append(self._epoch(stage.rows, first, stage.samples))
                first += -(-stage.samples // len(stage.rows))
        return max((batch for epoch in found for batch in epoch), key=self.tokens)

    def _batches(self, rows: int) -> int:
        return -(-rows // self.batch_size)

    def _epoch(self, rows: Sequence[int], epoch: int, most: int) -> list[list[int]]:
        """The batches of one epoch, of at most so many rows in all."""
        order = np.random.default_rng([*self.seed, epoch]).permutation(len(rows))[:most]
        chosen = [rows[i] for i in order.tolist()]
        return [chosen[i : i + self.batch_size] for i in range(0, len(chosen), self.batch_size)]


def parts(rows: int, most: int | None) -> list[tuple[int, int]]:
    """(first, end) of the parts of a batch, of at most `most` rows each, as equal as can be."""
    count = -(-rows // (most or rows))
    return list(pairwise(rows * k // count for k in range(count + 1)))
