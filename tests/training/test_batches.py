"""The order of batches and the eval grid."""

from dataclasses import dataclass

import pytest

from hpo.specs import TrialSpec
from hpo.training.trial.batches import steps_per_epoch, train_batches


@dataclass
class Row:
    length: int


ROWS = [Row(length) for length in range(1, 24)]


def batches(batch_size=4, epochs=2, seed=(0, 0)):
    return list(train_batches(ROWS, batch_size=batch_size, epochs=epochs, seed=seed))


def test_every_epoch_sees_every_row_once():
    found = batches()
    assert len(found) == 2 * steps_per_epoch(23, 4) == 12
    for epoch in (found[:6], found[6:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(23))


def test_epochs_and_trials_differ_and_repeat_by_seed():
    found = batches()
    assert found[:6] != found[6:]
    assert found == batches()
    assert found != batches(seed=(0, 1)) and found != batches(seed=(1, 0))


def test_the_first_batch_is_the_longest():
    found = batches(batch_size=5)[:5]
    sizes = [len(batch) * max(ROWS[i].length for i in batch) for batch in found]
    assert sizes[0] == max(sizes)


@pytest.mark.parametrize("samples, evals, grid", [(100, 4, [25, 50, 75, 100]), (3, 5, [1, 2, 3])])
def test_the_grid_is_in_samples_seen_and_ends_with_the_trial(samples, evals, grid):
    assert TrialSpec(evals=evals).eval_grid(samples) == grid
