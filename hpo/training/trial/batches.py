"""The order of a trial's batches."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from hpo.training.tasks import Row


def train_batches(
    rows: Sequence[Row], *, batch_size: int, epochs: int, seed: tuple[int, int]
) -> Iterator[list[int]]:
    """Row indices batch by batch: every epoch a new order, the last batch of it may be short.

    The first batch is the longest of its epoch: what does not fit shows in the first step.
    """
    for epoch in range(epochs):
        order = np.random.default_rng([*seed, epoch]).permutation(len(rows)).tolist()
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        if epoch == 0:
            weights = [len(batch) * max(rows[i].length for i in batch) for batch in batches]
            longest = weights.index(max(weights))
            batches[0], batches[longest] = batches[longest], batches[0]
        yield from batches


def parts(rows: int, most: int | None) -> list[tuple[int, int]]:
    """(first, end) of the parts of a batch, of at most `most` rows each, as equal as can be."""
    count = -(-rows // (most or rows))
    return list(pairwise(rows * k // count for k in range(count + 1)))


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Batches of an epoch."""
    return -(-rows // batch_size)
