"""How many trials at a time: what is asked for, or what is measured to be fastest."""

import pytest

from hpo.training import lanes
from hpo.training.lanes import COUNTS, choose_lanes


@pytest.fixture
def speeds(monkeypatch):
    def say(*rows_per_second):
        found = dict(zip(COUNTS, rows_per_second, strict=False))
        monkeypatch.setattr(lanes, "_rows_per_second", lambda bench, batch: found)

    return say


def test_what_is_asked_for_is_taken(bench):
    assert choose_lanes(bench, 3).count == 3


@pytest.mark.parametrize(
    "measured, count",
    [
        ((100, 130, 160, 161), 4),
        ((100, 130, 128, 90), 2),
        ((100, 104, 104, 104), 1),
        ((100, 60, 50, 40), 1),
        ((100, 150, 220, 300), 8),
        ((100,), 1),
        ((), 1),
    ],
)
def test_the_smallest_number_that_is_about_as_fast_as_any(bench, speeds, measured, count):
    speeds(*measured)
    chosen = choose_lanes(bench, None)
    assert chosen.count == count
    assert chosen.rows == count * 12, "of the median batch"


def test_measuring_leaves_base_and_rows_as_they_were(bench, order, ear):
    from tests.training.conftest import attempt

    before, after = ear(), ear()
    attempt(bench, order(0), before.listener)
    assert choose_lanes(bench, None).count in COUNTS
    attempt(bench, order(1, seed_number=0), after.listener)
    assert before.losses == after.losses
