"""Curriculum: stage after stage on one adapter, and a val loss for each."""

import csv
from dataclasses import replace

import pytest

from hpo.protocol import Stop
from hpo.training.base.forward import compute
from hpo.training.trial.loop import learning
from hpo.training.trial.trial import Run, new_adapter
from tests.training.conftest import Ear, attempt, make_bench, train_run

STAGES = 'data.stages=["presence+quantity", "size+area_comp", "ab_position"]'
REAL = ("data.format=vqa", STAGES, "data.samples=120", "trial.epochs=1", "trial.evals=4")
CHANGES = {"batch_size": 4, "learning_rate": 3e-3, "scheduler": "constant"}


@pytest.fixture(scope="module")
def bench(shared):
    return make_bench(*REAL, f"data.root={shared / 'kvasir_mini_vqa'}", study="kvasir")[0]


def first_loss(run, step):
    """Mean loss of the batch that a step trains on, with the adapter as it is."""
    batch = list(run.course.batches())[step]
    (asked,) = learning(run, [run.bench.train[i] for i in batch])
    losses = compute(run.bench.task, run.bench.base, [asked])[0]
    run.adapter.flat.grad = None
    return float(losses.rows.sum()) / asked.targets


def test_a_stage_starts_from_the_adapter_of_the_one_before(bench, order):
    whole, trial = Ear(), order(**CHANGES)
    assert attempt(bench, trial, whole.listener).fault is None
    run = Run(
        bench=bench, order=order(1, seed_number=0, **CHANGES), adapter=new_adapter(bench, trial)
    )
    stages = [bench.train[batch[0]].stage for batch in run.course.batches()]
    for first in (stages.index(1), stages.index(2)):
        run = Run(bench=bench, order=run.order, adapter=new_adapter(bench, run.order))
        fresh = first_loss(run, first)
        listener = replace(
            Ear().listener,
            stop=lambda run=run, first=first: Stop(number=1) if run.step == first else None,
        )
        assert not train_run(run, listener) and run.step == first
        assert first_loss(run, first) == pytest.approx(whole.losses[first], abs=1e-6)
        assert abs(whole.losses[first] - fresh) > 0.1, "a fresh adapter would begin elsewhere"


def test_every_stage_has_a_val_loss_and_the_last_is_the_objective(bench, order):
    heard, trial = Ear(), order(stage_1=0.0, **CHANGES)
    assert attempt(bench, trial, heard.listener).fault is None
    for point in heard.points:
        assert {"val_loss_1", "val_loss_2", "val_loss_3"} <= set(point.metrics)
        assert point.val_loss == point.metrics["val_loss_3"]
    with open(f"{trial.folder}/metrics.csv") as file:
        measured = [row for row in csv.DictReader(file) if row["val_loss"]]
    assert [float(row["val_loss_1"]) for row in measured] == pytest.approx(
        [point.metrics["val_loss_1"] for point in heard.points]
    )


def test_a_stage_that_weighs_nothing_is_not_trained_on(bench, order):
    trial = order(stage_1=0.0, **CHANGES)
    run = Run(bench=bench, order=trial, adapter=new_adapter(bench, trial))
    assert {bench.train[i].stage for batch in run.course.batches() for i in batch} == {1, 2}
