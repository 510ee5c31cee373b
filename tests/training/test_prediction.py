"""What surely cannot fit is refused before it starts, and what fits never is."""

import random
from dataclasses import replace
from itertools import product

import pytest
import torch
from optuna.trial import TrialState

from hpo.errors import DataError
from hpo.specs import Demand, Observation
from hpo.training.memory.footprint import BACKWARD, OPTIMIZER_BYTES, Footprint
from hpo.training.memory.prediction import FIT_POINTS, MORE, MemoryModel
from hpo.training.memory.probe import LiveBytes, count
from hpo.training.memory.refusal import demand_of
from hpo.training.trial.trial import new_adapter
from tests.commands import run, stored
from tests.training.conftest import SMALL, attempt
from tests.training.runners import Runner

MIB = 1 << 20
CAPACITY = 1000 * MIB
ROW = Footprint(base_bytes=100 * MIB, row_bytes=MIB, rank_bytes=0.01 * MIB)


def model(**changes):
    return MemoryModel(**({"footprint": ROW, "capacity_bytes": CAPACITY} | changes))


def demand(mib, trainable=0):
    return Demand(activation_bytes=round(mib * MIB), trainable=trainable)


def seen(mib, trainable=0, *, fitted, capacity=CAPACITY, peak=0, base=ROW.base_bytes):
    return Observation(
        demand=demand(mib, trainable),
        base_bytes=base,
        capacity_bytes=capacity,
        fitted=fitted,
        peak_bytes=peak,
    )


def test_what_failed_beside_a_larger_base_may_fit_beside_this_one():
    ours = model()
    ours.learn(seen(400, fitted=False, base=2 * ROW.base_bytes))
    assert ours.refusal(demand(500)) is None
    ours.learn(seen(400, fitted=False, base=ROW.base_bytes // 2))
    assert ours.refusal(demand(500)) is not None


def test_what_is_held_at_once_for_certain_is_refused_and_nothing_less():
    refusal = model().refusal(demand(901))
    assert model().refusal(demand(900)) is None
    assert refusal.needed_bytes == 100 * MIB + round(BACKWARD * 901 * MIB)
    assert "not tried" in refusal.reason and "1.51 GiB of 0.98 GiB" in refusal.reason
    assert model().refusal(demand(899, trainable=MIB)) is not None, "the adapter lies there too"


def test_nothing_is_refused_where_the_capacity_or_the_footprint_is_unknown():
    assert model(capacity_bytes=None).refusal(demand(10**6)) is None
    blind = model(footprint=Footprint())
    blind.learn(seen(0, 64, fitted=False))
    assert blind.refusal(demand(0, 64)) is None


def test_what_asks_for_as_much_as_a_failure_is_refused_and_less_is_tried():
    ours = model()
    ours.learn(seen(600, 64, fitted=False))
    assert ours.refusal(demand(600, 64)).needed_bytes >= CAPACITY
    assert ours.refusal(demand(600, 65)) and ours.refusal(demand(601, 64))
    assert ours.refusal(demand(599, 64)) is None
    assert ours.refusal(demand(600, 63)) is None, "a smaller rank might fit"
    assert ours.refusal(demand(601, 63)) is None, "what weighs more is not known so well"
    assert ours.refusal(demand(600 * MORE + 10, 0)) is not None


def test_what_fitted_once_is_never_refused_whatever_failed():
    ours = model()
    ours.learn(seen(500, 64, fitted=False), seen(600, 64, fitted=True))
    assert ours.refusal(demand(600, 64)) is None
    assert ours.refusal(demand(550, 32)) is None
    assert ours.refusal(demand(601, 64)) is not None
    ours.learn(seen(950, 64, fitted=True))
    assert ours.refusal(demand(950, 64)) is None, "not even by the count"


@pytest.mark.parametrize(
    "fitted, capacity, counts",
    [
        (False, CAPACITY + 1, True),
        (False, CAPACITY - 1, False),
        (True, CAPACITY - 1, True),
        (True, CAPACITY + 1, False),
        (True, None, False),
    ],
)
def test_observations_of_another_capacity_count_where_they_are_proof(fitted, capacity, counts):
    ours = model()
    if fitted:
        ours.learn(seen(500, fitted=False))
    ours.learn(seen(500, fitted=fitted, capacity=capacity))
    assert (ours.refusal(demand(500)) is None) == (fitted == counts)


def peaks(points, *, off=0):
    """Fits whose peaks lie on a line, but for `off` bytes on every second one."""
    for index in range(points):
        mib = 100 + 40 * index
        peak = 100 * MIB + 2 * mib * MIB + 7 * MIB + 64 * OPTIMIZER_BYTES + off * (index % 2)
        yield seen(mib, 64, fitted=True, peak=peak)


def test_exact_peaks_make_a_line_that_tells_the_next():
    ours = model(exact_peaks=True)
    ours.learn(*peaks(FIT_POINTS - 1), *peaks(FIT_POINTS - 1))
    assert ours.predicted_peak(demand(480, 64)) is None, "the same peak twice is one"
    ours.learn(*peaks(FIT_POINTS))
    assert ours.predicted_peak(demand(480, 64)) == 1067 * MIB + 64 * OPTIMIZER_BYTES
    assert ours.predicted_peak(demand(480, 128)) == 1067 * MIB + 128 * OPTIMIZER_BYTES
    assert ours.refusal(demand(460, 64)) is None, "it is not far enough beyond the capacity"
    assert ours.refusal(demand(480, 64)).needed_bytes == ours.predicted_peak(demand(480, 64))


def test_peaks_that_scatter_or_are_not_what_is_bounded_refuse_nothing():
    scattered, resident = model(exact_peaks=True), model()
    scattered.learn(*peaks(10, off=40 * MIB))
    resident.learn(*peaks(10))
    assert scattered.predicted_peak(demand(800, 64)) is None
    assert resident.predicted_peak(demand(800, 64)) is not None
    assert scattered.refusal(demand(800, 64)) is None
    assert resident.refusal(demand(800, 64)) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_random_night_refuses_nothing_that_fits_and_fails_rarely(seed):
    rng, ours, failures, refused = random.Random(seed), model(), 0, 0
    for _ in range(200):
        rows, rank = rng.choice((8, 64, 256, 270, 320, 480, 640)), rng.choice((4, 8, 16, 24, 32))
        asked = ROW.demand(rows=rows, length=0, rank=rank, dropout=0.0, trainable=rank * 16384)
        needed = 160 * MIB + 3.1 * asked.activation_bytes + 20 * asked.trainable
        if ours.refusal(asked) is not None:
            assert needed > CAPACITY
            refused += 1
        else:
            ours.learn(
                Observation(
                    demand=asked,
                    base_bytes=ROW.base_bytes,
                    capacity_bytes=CAPACITY,
                    fitted=needed <= CAPACITY,
                )
            )
            failures += needed > CAPACITY
    assert refused > 90 and failures < 10


@pytest.mark.parametrize("rank, dropout", list(product((1, 24), (0.0, 0.3))))
def test_a_batch_holds_what_its_rows_were_counted_to_hold(bench, order, rank, dropout):
    trial = order(batch_size=6, lora_r=rank, lora_dropout=dropout)
    rows = sorted(bench.train, key=lambda row: -row.length)[:6]
    adapter = new_adapter(bench, trial)
    batch = bench.task.collate(rows)
    known = [*bench.task.model.parameters(), adapter.flat, *batch.values()]
    with bench.base.attached([adapter], [6], learns=True), LiveBytes(known) as live:
        losses = bench.task.losses(batch)
        held = live.now
        adapter.begin()
        torch.autograd.backward(losses.rows.sum())
    counted = bench.memory.footprint.demand(
        rows=6, length=rows[0].length, rank=rank, dropout=dropout, trainable=0
    )
    assert counted.activation_bytes <= held <= 1.35 * counted.activation_bytes
    assert held <= live.peak <= BACKWARD * held


def test_counting_forgets_what_is_freed():
    known = torch.ones(1000)
    with LiveBytes([known]) as live:
        first = known * 2
        view = first[10:]
        del first
        assert live.now == 4000
        del view
        assert live.now == 0
        known.add_(1)
    assert (live.now, live.peak) == (0, 4000)


def test_the_count_is_the_same_every_time(bench):
    assert count(bench) == count(bench) == bench.memory.footprint


@pytest.mark.slow
def test_the_floor_is_below_every_peak_and_a_trial_tells_what_it_showed(bench, order):
    with Runner(*SMALL) as runner:
        for number, batch_size in enumerate((2, 8, 24)):
            trial = order(number, batch_size=batch_size, lora_dropout=0.1)
            finished = runner.train(trial)
            asked = demand_of(bench, trial)
            assert finished.observation.demand == asked and finished.observation.fitted
            assert finished.observation.peak_bytes == finished.stats.peak_memory_bytes
            assert bench.memory.footprint.floor(asked, 4) <= finished.stats.peak_memory_bytes


def test_a_batch_of_evaluation_that_cannot_fit_refuses_every_trial(bench, order, ear):
    row = bench.memory.footprint.eval_bytes / len(bench.val)
    spec = bench.study.trial.model_copy(update={"eval_batch_size": 64})
    shortest = min(bench.val, key=lambda row: row.length)
    large = replace(
        bench, study=bench.study.model_copy(update={"trial": spec}), val=[shortest] * 80
    )
    footprint = count(large)
    assert footprint.eval_bytes == pytest.approx(64 * row, rel=0.05)
    batch = bench.task.collate([shortest] * 64)
    known = [*bench.task.model.parameters(), *batch.values()]
    with torch.no_grad(), LiveBytes(known) as live:
        bench.task.losses(batch)
    assert 0.5 * live.peak <= footprint.eval_bytes <= live.peak
    for capacity, fits in ((footprint.eval_bytes, False), (4 * footprint.eval_bytes, True)):
        memory = MemoryModel(footprint=footprint, capacity_bytes=capacity)
        finished = attempt(
            replace(large, memory=memory), order(int(fits), batch_size=1), ear(1).listener
        )
        assert (finished.fault is None) == fits


@pytest.fixture
def tight(bench):
    """The bench with room for the base and three of its rows."""
    footprint = bench.memory.footprint
    capacity = footprint.base_bytes + 3 * (48 * footprint.token_bytes + footprint.row_bytes)
    return replace(bench, memory=MemoryModel(footprint=footprint, capacity_bytes=int(capacity)))


def test_a_refused_trial_touches_nothing(tight, order, ear, tmp_path):
    heard, trial = ear(), order(batch_size=16)
    finished = attempt(tight, trial, heard.listener)
    assert finished.fault.outcome == "oom" and finished.fault.predicted
    assert finished.fault.needed_bytes > finished.fault.capacity_bytes
    assert finished.fault.step is None and not finished.stopped and finished.clean
    assert finished.observation is None and finished.stats.peak_memory_bytes == 0
    assert finished.stats.trainable_parameters == tight.base.trainable(4)
    assert heard.losses == [] and list(tmp_path.iterdir()) == []


def test_one_that_goes_on_or_may_not_be_foreseen_is_tried(tight, order, ear):
    onward = order(1, batch_size=16, earlier=[order(0).folder])
    finished = attempt(tight, onward, ear().listener)
    assert finished.fault is None
    assert finished.observation is None, "its longest batch may have been trained elsewhere"
    limits = tight.study.limits.model_copy(update={"predict_oom": False})
    careless = replace(tight, study=tight.study.model_copy(update={"limits": limits}))
    assert attempt(careless, order(2, batch_size=16), ear().listener).fault is None


@pytest.mark.slow
def test_a_study_tries_what_cannot_fit_once_and_foresees_it_from_then_on(tmp_path):
    settings = (
        "data.samples=160",
        "trial.epochs=1",
        "trial.evals=1",
        "trial.eval_batch_size=4",
        "space.batch_size.choices=[4, 88, 110]",
        "space.lora_dropout=0.1",
        "known=[{batch_size=88, lora_r=8}, {batch_size=88, lora_r=8}, {batch_size=4}, "
        "{batch_size=110, lora_r=8}]",
    )
    options = ("--memory-limit", "272MB", "--trials", "4", "--runners", "1")
    output = run(tmp_path, *options, settings=settings)
    tried, again, small, larger = stored(f"sqlite:///{tmp_path}/hpo.db")
    assert small.state == TrialState.COMPLETE and "predicted" not in small.user_attrs
    assert tried.user_attrs["oom_step"] == 1 and "predicted" not in tried.user_attrs
    for foreseen in (again, larger):
        known = foreseen.user_attrs
        assert foreseen.state == TrialState.PRUNED and known["outcome"] == "oom"
        assert known["predicted"] is True and "oom_step" not in known
        assert known["constraint_memory"] == foreseen.constraints["memory"] > 0
        assert known["needed_bytes"] >= known["capacity_bytes"] == 272 << 20
        assert "not tried" in known["reason"] and "would need" in known["reason"]
    assert larger.constraints["memory"] > tried.constraints["memory"]
    assert "3 oom" in output


def test_rows_that_cannot_be_counted_leave_nothing_to_refuse(bench, monkeypatch):
    def fail(batch):
        raise DataError("images/gone.png: the image is gone; restore it")

    monkeypatch.setattr(bench.task, "collate", fail)
    assert count(bench) == Footprint()
