"""A trial that goes on elsewhere is, to the bit, the one that was never interrupted."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hpo.specs import Outcome
from hpo.training.trial import checkpoint
from hpo.training.trial.trial import Run, new_adapter
from tests.training.conftest import Ear, attempt, make_bench, train_run

SETTINGS = ("trial.evals=2", "trial.eval_batch_size=3")
SIGNS = 10  # 4 steps, and at each of 2 eval points 2 batches before the last and the point
MEASURED = ("samples_per_s", "memory_bytes")


@pytest.fixture(scope="module")
def bench():
    return make_bench(*SETTINGS)[0]


def curve(folder):
    """The lines of metrics.csv without what differs from run to run."""
    with open(f"{folder}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def assert_same(folder, expected):
    """Curve and exported adapter, to the bit."""
    assert curve(folder) == curve(expected)
    ours, theirs = (load_file(f"{f}/adapter/adapter_model.safetensors") for f in (folder, expected))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any(bool(tensor.any()) for name, tensor in theirs.items() if "lora_B" in name)


class Crash(Ear):
    """Fails at a sign of life."""

    def _progress(self, *what):
        super()._progress(*what)
        if self.signs == self._stop_after:
            raise RuntimeError("pulled the plug")

    def _stop(self):
        return None


def test_its_curve_is_on_disk_before_its_points_are_reported(bench, order, ear):
    whole, heard = order(0), ear(9, checkpoint=True)
    attempt(bench, whole, heard.listener)
    assert heard.points and heard.checkpoints
    expected, seen = curve(whole.folder), []
    again = order(1, seed_number=0, earlier=[whole.folder])
    listener = replace(ear(1).listener, evaluated=lambda *_: seen.append(curve(again.folder)))
    attempt(bench, again, listener)
    assert seen and seen[0] == expected


def test_stopped_at_any_sign_of_life_it_goes_on_to_the_bit(bench, order, ear):
    changes = {"lora_dropout": 0.2, "batch_size": 8}
    whole = order(0, **changes)
    heard = ear()
    attempt(bench, whole, heard.listener)
    assert heard.signs == SIGNS
    seen = set()
    for sign in range(1, SIGNS + 1):
        first = order(2 * sign, seed_number=0, **changes)
        before, after = ear(sign, checkpoint=True), ear()
        stopped = attempt(bench, first, before.listener)
        assert stopped.stopped and stopped.fault is None
        assert not Path(first.folder, "adapter").exists()
        seen.add((stopped.stats.steps, len(before.points)))
        second = order(2 * sign + 1, seed_number=0, earlier=[first.folder], **changes)
        finished = attempt(bench, second, after.listener)
        assert finished.fault is None and not finished.stopped
        ((samples, seconds),) = after.resumed
        assert samples == finished.stats.resumed_at_samples == before.checkpoints[-1][0]
        assert 0 < seconds <= stopped.stats.seconds
        assert after.replayed == before.points
        assert [*after.replayed, *after.points] == heard.points
        assert_same(second.folder, whole.folder)
    assert seen == {(1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (4, 2)}


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
def test_interrupted_five_times_in_five_ways(order, scheduler):
    def trial(number, earlier=()):
        changes = {"lora_dropout": 0.1, "scheduler": scheduler, "batch_size": 3}
        return order(number, seed_number=0, earlier=earlier, **changes)

    def fresh():
        return make_bench(*SETTINGS, "trial.warmup_share=0.3")[0]

    whole, heard = trial(0), Ear()
    attempt(fresh(), whole, heard.listener)
    ways = [
        Ear(2, checkpoint=True),  # in mid-epoch
        Crash(9),  # a step after the checkpoint of the first eval point: that step is done again
        Crash(1),  # before there is a checkpoint of its own
        Ear(1, checkpoint=True),  # in mid-epoch again
        Ear(4, checkpoint=True),  # in the second evaluation
        Ear(),
    ]
    earlier, ended = [], []
    for number, way in enumerate(ways, 1):
        order_ = trial(number, reversed(earlier))
        ended.append(attempt(fresh(), order_, way.listener))
        earlier.append(order_.folder)
    assert [e.stopped for e in ended] == [True, False, False, True, True, False]
    assert [e.fault and e.fault.outcome for e in ended] == [
        *(None, Outcome.CRASHED, Outcome.CRASHED, None, None, None)
    ]
    assert [way.resumed[0][0] for way in ways[1:]] == [6, 18, 18, 21, 32]
    assert len(ways[-1].replayed) == 1, "the second evaluation is done again"
    assert [*ways[-1].replayed, *ways[-1].points] == heard.points
    assert_same(order_.folder, whole.folder)


def test_checkpoints_come_at_every_eval_point_but_the_last(bench, order, ear):
    heard = ear()
    attempt(bench, order(), heard.listener)
    assert [seen for seen, _ in heard.checkpoints] == [16]
    heard = ear()
    finished = attempt(bench, order(1, checkpoints=False), heard.listener)
    assert heard.checkpoints == [] and not finished.stopped
    heard = ear(3, checkpoint=True)
    attempt(bench, order(2, checkpoints=False), heard.listener)
    assert [seen for seen, _ in heard.checkpoints] == [12]


class Timed(Ear):
    """Sets a clock forward at every step."""

    def __init__(self, step_s):
        super().__init__()
        self.now, self._step_s = 0.0, step_s

    def _progress(self, seen, *rest):
        self.now += self._step_s * (seen != self._seen)
        super()._progress(seen, *rest)


def timed_trial(bench, order, step_s, save_s, monkeypatch):
    """Samples seen at the checkpoints of a trial whose steps and checkpoints take so long."""
    heard, save = Timed(step_s), checkpoint.save

    def slow(*arguments):
        heard.now += save_s
        return save(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow)
    adapter = new_adapter(bench, order)
    train_run(
        Run(bench=bench, order=order, adapter=adapter, clock=lambda: heard.now), heard.listener
    )
    return [seen for seen, _ in heard.checkpoints]


@pytest.mark.parametrize(
    "evals, step_s, save_s, expected",
    [
        (8, 1, 0.9, [4, 8, 12, 16, 20, 24, 28]),  # cheap: at every point
        (8, 100, 30, [4, 28]),  # 30 s are a twentieth of 600 s
        (8, 100, 4.9, [4, 8, 12, 16, 20, 24, 28]),
        (8, 60, 4.9, [4, 12, 20, 28]),
        (1, 200, 0, [8, 16, 24]),  # points are far apart: all 300 s
        (1, 200, 30, [8, 20]),
        (1, 10, 0, []),
    ],
)
def test_checkpoints_come_by_time_as_far_as_they_are_cheap(
    order, monkeypatch, evals, step_s, save_s, expected
):
    bench, _ = make_bench(f"trial.evals={evals}")
    assert timed_trial(bench, order(), step_s, save_s, monkeypatch) == expected


def test_a_trial_goes_on_to_the_bit_from_a_checkpoint_between_eval_points(order, monkeypatch):
    bench, _ = make_bench("trial.evals=1")
    whole, first = order(0, lora_dropout=0.1), order(1, seed_number=0, lora_dropout=0.1)
    attempt(bench, whole, Ear().listener)
    timed_trial(bench, first, 200, 0, monkeypatch)
    again, heard = order(2, seed_number=0, lora_dropout=0.1, earlier=[first.folder]), Ear()
    attempt(bench, again, heard.listener)
    assert [seen for seen, _ in heard.resumed] == [24]
    assert_same(again.folder, whole.folder)


def test_a_stop_without_a_checkpoint_writes_none(bench, order, ear):
    trial = order()
    finished = attempt(bench, trial, ear(2).listener)
    assert finished.stopped and finished.stats.steps == 2
    assert [path.name for path in Path(trial.folder).iterdir()] == ["metrics.csv"]
    assert [row["step"] for row in curve(trial.folder)] == ["1", "2"]


def test_rate_and_seconds_are_of_this_attempt_alone(bench, order, ear):
    first = order(0)
    attempt(bench, first, ear(9, checkpoint=True).listener)
    finished = attempt(bench, order(1, seed_number=0, earlier=[first.folder]), ear().listener)
    stats = finished.stats
    assert stats.steps == 8 and stats.resumed_at_samples == 24
    rate = (32 - stats.resumed_at_samples) / stats.seconds
    assert math.isclose(stats.samples_per_s, rate, rel_tol=0.5)


def test_an_attempt_in_its_own_folder_goes_on_from_there(bench, order, ear):
    whole, trial = order(1, seed_number=0), order(0)
    attempt(bench, whole, ear().listener)
    attempt(bench, trial, ear(7, checkpoint=True).listener)
    again, heard = order(0, earlier=[trial.folder]), ear()
    attempt(bench, again, heard.listener)
    assert len(heard.resumed) == 1
    assert_same(again.folder, whole.folder)


def test_adapters_of_epochs_are_kept_and_taken_along_by_a_retry(order):
    bench, _ = make_bench("trial.epochs=4", "trial.keep_epochs=2")
    whole = order(0)
    attempt(bench, whole, Ear().listener)
    first = order(1, seed_number=0)
    assert attempt(bench, first, Ear(stop_after=25, checkpoint=True).listener).stopped
    again = order(2, seed_number=0, earlier=[first.folder])
    assert attempt(bench, again, Ear().listener).fault is None
    for trial in (whole, again):
        assert sorted(path.name for path in Path(trial.folder, "adapter").glob("epoch-*")) == [
            "epoch-2",
            "epoch-4",
        ]
    for epoch in ("epoch-2", "epoch-4"):
        ours, theirs = (
            load_file(f"{trial.folder}/adapter/{epoch}/adapter_model.safetensors")
            for trial in (again, whole)
        )
        assert all((ours[name] == tensor).all() for name, tensor in theirs.items())
