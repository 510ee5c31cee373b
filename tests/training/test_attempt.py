"""One trial, whatever happens to it: the base stays as it was, to the bit."""

import csv
import hashlib
from dataclasses import replace

import pytest

from hpo.data import Example
from hpo.errors import DataError
from hpo.specs import Outcome
from hpo.training.trial.curve import COLUMNS
from tests.training.conftest import attempt, make_bench, val_loss_of


def checksum(model):
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def test_a_trial_learns_and_leaves_the_base_bit_for_bit(bench, order, ear):
    before, heard = checksum(bench.task.model), ear()
    finished = attempt(bench, order(), heard.listener)
    assert finished.fault is None and not finished.stopped and finished.clean
    assert [(point.samples_seen, point.last) for point in heard.points] == [(16, False), (32, True)]
    assert heard.points[-1].val_loss < heard.points[0].val_loss
    assert checksum(bench.task.model) == before


def test_the_same_trial_twice_is_the_same_to_the_bit(bench, order, ear):
    def curve():
        heard = ear()
        attempt(bench, order(7, lora_dropout=0.1), heard.listener)
        return [point.val_loss for point in heard.points]

    assert curve() == curve()


def test_stats_and_curve_are_complete(bench, order, ear):
    trial = order(lora_r=8)
    finished = attempt(bench, trial, ear().listener)
    assert finished.stats.steps == 8
    assert finished.stats.trainable_parameters == bench.base.trainable(8)
    with open(f"{trial.folder}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 9)]
    assert sum(row["val_loss"] != "" for row in rows) == 2
    assert all(float(row["gradient_norm"]) > 0 for row in rows)


def test_a_stop_ends_a_trial_at_the_next_step(bench, order, ear):
    finished = attempt(bench, order(), ear(stop_after=3).listener)
    assert finished.stopped and finished.fault is None
    assert finished.stats.steps == 3


def test_float16_is_nan_in_step_2_where_the_notes_saw_it(order, ear):
    half, _ = make_bench("model.precision=float16")
    heard = ear()
    finished = attempt(half, order(), heard.listener)
    assert finished.fault.outcome == Outcome.NAN
    assert (finished.fault.step, finished.fault.where) == (2, "query embeddings")
    assert heard.points == []
    assert finished.clean


def test_bf16_base_with_fp32_adapter_is_close_to_fp32(bench, order, ear):
    brain, _ = make_bench("model.precision=bf16")
    exact, rounded = ear(), ear()
    attempt(bench, order(), exact.listener)
    finished = attempt(brain, order(), rounded.listener)
    assert finished.fault is None
    assert rounded.points[-1].val_loss == pytest.approx(exact.points[-1].val_loss, abs=0.02)


def test_a_broken_image_is_a_data_error_with_its_name(order, ear):
    bench, _ = make_bench("limits.cache_gb=0")

    def gone():
        raise DataError("images/P0001_0001.png: the image is gone; restore it")

    example = Example(name="never seen", group="g", prompt="p", target="t", content=str, image=gone)
    broken = replace(bench, train=bench.task.encode([example]) + list(bench.train))
    finished = attempt(broken, order(), ear().listener)
    assert finished.fault.outcome == Outcome.DATA_ERROR
    assert finished.fault.reason == "images/P0001_0001.png: the image is gone; restore it"


def test_a_bug_is_a_crash_with_its_traceback(bench, order, ear):
    heard = ear()

    def broken(*_):
        raise ZeroDivisionError("oh")

    finished = attempt(bench, order(), replace(heard.listener, progress=broken))
    assert finished.fault.outcome == Outcome.CRASHED
    assert "ZeroDivisionError" in finished.fault.reason
    assert "test_attempt.py" in finished.fault.traceback


def test_zero_shot_is_the_val_loss_of_the_base_alone(bench):
    _, facts = make_bench(zero_shot=True)
    assert facts.zero_shot == val_loss_of(bench, None, 40)
