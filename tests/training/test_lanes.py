"""How many trials at a time: what is asked for, or what is measured to be fastest."""

from dataclasses import replace

import pytest

from hpo.errors import UnpackableError
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


def test_several_at_a_time_are_refused_where_a_layer_cannot_tell_them_apart(bench, monkeypatch):
    layer = bench.base.layers[0]
    forward = layer.forward

    def of_tokens(x):
        """As experts do, to whom tokens come without their rows."""
        return forward(x.flatten(0, 1)).view(*x.shape[:-1], -1)

    monkeypatch.setattr(layer, "forward", of_tokens)
    with pytest.raises(UnpackableError, match="use --pack 1"):
        choose_lanes(bench, 2)
    assert choose_lanes(bench, 1).count == choose_lanes(bench, None).count == 1


@pytest.mark.parametrize(
    "measured, count, most",
    [
        ((100, 130, 160, 161), 6, 8),
        ((100, 130, 128, 90), 3, 4),
        ((100, 104, 104, 104), 1, 1),
        ((100, 60, 50, 40), 1, 1),
        ((100, 150, 220, 300), 8, 8),
        ((100,), 1, 1),
        ((), 1, 1),
    ],
)
def test_as_many_as_fill_the_smallest_pass_that_is_about_as_fast_as_any(
    bench, speeds, measured, count, most
):
    speeds(*measured)
    chosen = choose_lanes(bench, None)
    assert chosen.count == count, "of batches of 4 to 32, there at a time for as long as they last"
    assert chosen.rows == most * 12, "of the median batch: passes as large as are worth it"


@pytest.mark.parametrize(
    "batches, count",
    [
        ({"type": "constant", "value": 12}, 4),
        ({"type": "int", "low": 11, "high": 13}, 5),
        ({"type": "categorical", "choices": (1, 12, 20)}, 8),
    ],
)
def test_trials_of_small_batches_stay_longer(bench, speeds, batches, count):
    speeds(100, 130, 160, 161)
    study = bench.study.model_dump()
    study["space"]["batch_size"] = batches
    study = type(bench.study).model_validate(study)
    assert choose_lanes(replace(bench, study=study), None).count == count


def test_one_trial_evaluates_in_passes_as_large_as_are_worth_it(bench, speeds):
    speeds(100, 150, 220, 300)
    assert choose_lanes(bench, None).eval_rows == 8 * 12
    speeds(100, 60, 50, 40)
    assert choose_lanes(bench, None).eval_rows == bench.eval_rows
    assert choose_lanes(bench, 4).eval_rows == bench.eval_rows, "nobody measured that it pays"


def test_a_trial_is_not_blamed_for_evaluation_in_large_passes(bench, speeds, monkeypatch):
    speeds(100, 150, 220, 300)
    monkeypatch.setattr(bench.gauge, "capacity_bytes", 1 << 30)
    assert choose_lanes(bench, None).eval_rows == bench.eval_rows


def test_measuring_leaves_base_and_rows_as_they_were(bench, order, ear):
    from tests.training.conftest import attempt

    before, after = ear(), ear()
    attempt(bench, order(0), before.listener)
    assert 1 <= choose_lanes(bench, None).count <= max(COUNTS)
    attempt(bench, order(1, seed_number=0), after.listener)
    assert before.losses == after.losses
