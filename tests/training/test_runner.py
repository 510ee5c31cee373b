"""Real runner processes, stopped, killed and signalled as a night does it."""

import csv
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hpo.protocol import (
    CHECKPOINT,
    HUNG,
    Checkpointed,
    Evaluated,
    Finished,
    Lanes,
    Progress,
    Quit,
    Resumed,
    Stop,
)
from tests.training.conftest import Ear, attempt, make_bench
from tests.training.runners import Runner

SETTINGS = ("data.samples=60", "trial.epochs=3", "trial.evals=6", "trial.eval_batch_size=2")
CHANGES = {"lora_dropout": 0.1, "batch_size": 3}


def files(folder):
    """Path -> content of everything below a folder."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def curve(folder):
    with open(f"{folder}/metrics.csv", newline="") as file:
        kept = ("step", "samples_seen", "train_loss", "val_loss", "learning_rate", "gradient_norm")
        return [[row[name] for name in kept] for row in csv.DictReader(file)]


def wait_until_stopped(runner):
    until = time.monotonic() + 30
    stat = Path(f"/proc/{runner.process.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_a_runner_is_told_to_take_at_a_time_is_not_measured():
    lanes = Lanes(count=3, rows=17, eval_rows=5)
    with Runner(*SETTINGS, pack=None, lanes=lanes) as runner:
        assert runner.ready.facts.lanes == lanes


@pytest.mark.slow
def test_a_trial_that_wanders_over_three_processes_is_the_same_to_the_bit(order):
    whole, heard = order(0, **CHANGES), Ear()
    attempt(make_bench(*SETTINGS)[0], whole, heard.listener)
    first = order(1, seed_number=0, **CHANGES)
    with Runner(*SETTINGS) as runner:
        runner.start(first)
        runner.wait_for(Checkpointed)
        runner.wait_for(Progress)
    second = order(2, seed_number=0, earlier=[first.folder], **CHANGES)
    with Runner(*SETTINGS) as runner:
        runner.start(second)
        resumed = runner.wait_for(Resumed)
        runner.wait_for(Checkpointed)
        runner.stop(second)
        stopped = runner.wait_for(Finished)
        assert stopped.stopped and stopped.fault is None and stopped.clean
        replayed = [e.replayed for e in runner.of(Evaluated)]
        assert replayed[0] and not replayed[-1] and resumed.samples_seen >= 24
        assert replayed.count(True) == resumed.samples_seen // 24, "every point, and none twice"
        assert replayed == sorted(replayed, reverse=True), "those of the attempt before come first"
    last = order(3, seed_number=0, earlier=[second.folder, first.folder], **CHANGES)
    with Runner(*SETTINGS) as runner:
        finished = runner.train(last)
        assert not finished.stopped and finished.stats.resumed_at_samples > resumed.samples_seen
        assert finished.stats.peak_memory_bytes > 1 << 20
        assert [event.point for event in runner.of(Evaluated)] == heard.points
    assert curve(last.folder) == curve(whole.folder)
    ours, theirs = (
        load_file(f"{t.folder}/adapter/adapter_model.safetensors") for t in (last, whole)
    )
    assert all((ours[name] == tensor).all() for name, tensor in theirs.items())


@pytest.mark.slow
def test_a_runner_that_was_stopped_for_too_long_ends_and_writes_nothing(order):
    settings = (*SETTINGS, "data.samples=240", "limits.hang_seconds=3.0")
    trial = order(**CHANGES)
    with Runner(*settings) as runner:
        runner.start(trial)
        runner.wait_for(Checkpointed)
        runner.signal(signal.SIGSTOP)
        wait_until_stopped(runner)
        before = files(trial.folder)
        time.sleep(3.5)
        runner.signal(signal.SIGCONT)
        assert runner.process.wait(30) == HUNG
        assert files(trial.folder) == before and Path(trial.folder, CHECKPOINT) in before
        said = runner.pipes.events.read()
        assert b"finished" not in said


@pytest.mark.slow
def test_a_runner_lives_through_a_short_stop_idle_time_and_its_drivers_signals(order):
    with Runner(*SETTINGS, "limits.hang_seconds=6.0") as runner:
        runner.signal(signal.SIGSTOP)
        wait_until_stopped(runner)
        time.sleep(6.5)
        runner.signal(signal.SIGCONT)  # it has no trial that could be another's
        first = order(0, **CHANGES)
        runner.start(first)
        runner.wait_for(Progress)
        runner.signal(signal.SIGSTOP)
        wait_until_stopped(runner)
        runner.signal(signal.SIGCONT)
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            runner.signal(getattr(signal, name))
        assert runner.wait_for(Finished).fault is None
        again = order(0, earlier=[first.folder], **CHANGES)
        runner.send(Stop(number=0))  # too late for the attempt that is over, not for the next
        finished = runner.train(again)
        assert not finished.stopped and finished.fault is None
        runner.send(Quit())
        assert runner.process.wait(30) == 0
