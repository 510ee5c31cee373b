"""The order of batches and the eval grid."""

from dataclasses import dataclass

import pytest

from hpo.specs import TrialSpec
from hpo.training.trial.batches import Course


@dataclass
class Row:
    length: int
    stage: int = 0


ROWS = [Row(length) for length in range(1, 24)]


def course(rows=ROWS, *, batch_size=4, epochs=2, seed=(0, 0), weights=()):
    return Course(rows=rows, batch_size=batch_size, epochs=epochs, seed=seed, weights=weights)


def batches(**changes):
    return list(course(**changes).batches())


def test_every_epoch_sees_every_row_once():
    found = batches()
    assert len(found) == course().steps == 12
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
    assert found[0] == course(batch_size=5).longest()


STAGED = [
    Row(length, stage) for stage, lengths in enumerate((12, 6, 2)) for length in range(lengths)
]


@pytest.mark.parametrize(
    "weights, samples",
    [
        ((), [13, 14, 13]),
        ((2, 1, 1), [20, 10, 10]),
        ((0, 1, 3), [0, 10, 30]),
        ((0, 0, 0), [13, 14, 13]),
    ],
)
def test_every_stage_has_its_share_and_comes_in_its_order(weights, samples):
    ours = course(STAGED, weights=weights)
    found = list(ours.batches())
    assert [stage.samples for stage in ours.stages] == samples and len(found) == ours.steps
    stages = [{STAGED[i].stage for i in batch} for batch in found]
    assert all(len(stage) == 1 for stage in stages), "no batch is of two stages"
    order = [stage.pop() for stage in stages]
    assert order == sorted(order)
    seen = [i for batch in found for i in batch]
    for stage, count in enumerate(samples):
        own = [i for i in seen if STAGED[i].stage == stage]
        rows = sum(row.stage == stage for row in STAGED)
        assert len(own) == count
        for first in range(0, len(own), rows):
            epoch = own[first : first + rows]
            assert len(set(epoch)) == len(epoch), "no row twice in an epoch"


def test_the_longest_batch_of_all_stages_is_one_that_is_trained_on():
    ours = course([Row(1), Row(2), Row(9, 1), Row(3, 1)], batch_size=2, epochs=3)
    assert ours.longest() in ours.batches()
    assert sorted(ours.longest()) == [2, 3]


@pytest.mark.parametrize("samples, evals, grid", [(100, 4, [25, 50, 75, 100]), (3, 5, [1, 2, 3])])
def test_the_grid_is_in_samples_seen_and_ends_with_the_trial(samples, evals, grid):
    assert TrialSpec(evals=evals).eval_grid(samples) == grid
