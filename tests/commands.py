"""Runs `hpo.run` as a user does: a process of its own, in a folder of its own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
from optuna.trial import TrialState

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL = ("data.samples=60", "trial.epochs=1", "trial.evals=3")
LONGER = ("data.samples=100", "trial.epochs=3", "trial.evals=3")
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def words(*options, settings=SMALL, study="rsicap"):
    """The words of a command; one trial at a time on a runner, where nothing else is asked for."""
    pack = () if "--pack" in options else ("--pack", "1")
    sets = [word for setting in settings for word in ("--set", setting)]
    scale = () if "--scale" in options else ("--scale", "mini")
    return [sys.executable, "-m", "hpo.run", "--study", study, *scale, *pack, *sets, *options]


def environment(**extra):
    """The environment without what a developer may have set, and without GPUs.

    Counts of runners and limits of memory mean other things on a GPU.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HPO_STORAGE", "SLURM_"))}
    fixed = {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}
    return {**kept, **fixed, **extra}


def run(cwd, *options, settings=SMALL, study="rsicap", expect=0, **extra):
    """Runs the command to its end and returns its output and errors."""
    return ran(cwd, words(*options, settings=settings, study=study), expect=expect, **extra)


def ran(cwd, command, *, expect=0, **extra):
    """What a command prints that ends as expected, and without a traceback."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == expect, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


class Running:
    """A command under way, with `--json`."""

    def __init__(self, cwd, *options, settings=LONGER, **extra):
        self.process = subprocess.Popen(
            words("--json", *options, settings=settings),
            cwd=cwd,
            env=environment(**extra),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.events = []

    def wait_for(self, event, count=1):
        """Reads until `count` events of this name have come."""
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if sum(e["event"] == event for e in self.events) >= count:
                return
        raise AssertionError(f"ended without {count} x {event}: {self.events[-3:]}")

    def runners(self):
        """Process ids of its runners."""
        driver = self.process.pid
        return [int(p) for p in Path(f"/proc/{driver}/task/{driver}/children").read_text().split()]

    def signal(self, number):
        """Sends a signal to the driver alone."""
        self.process.send_signal(number)

    def finish(self):
        """Reads the rest; the exit code."""
        self.events += [json.loads(line) for line in self.process.stdout]
        return self.process.wait(60)


def kill(pid):
    """kill -9."""
    os.kill(pid, signal.SIGKILL)


def gone(pid, timeout_s=20):
    """Whether a process ends within a while."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def stored(url, name="rsicap-mini"):
    """The trials in the database."""
    return optuna.load_study(study_name=name, storage=url).get_trials()


def in_states(trials, *states):
    """Those in one of the states."""
    return [trial for trial in trials if trial.state in states]


def assert_exact(trials, total):
    """Exactly so many finished, and none left over."""
    assert len(in_states(trials, *FINISHED)) == total
    assert in_states(trials, TrialState.RUNNING, TrialState.WAITING) == []
    assert all(trial.user_attrs["outcome"] for trial in trials)


def curve(folder, number):
    """The lines of a trial's metrics.csv."""
    with (folder / f"trial-{number:05d}" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_whole(runs, trials):
    """Every finished trial has each step once, and the val losses of the database."""
    for trial in in_states(trials, TrialState.COMPLETE, TrialState.PRUNED):
        lines = curve(runs / "rsicap-mini", trial.number)
        assert [int(line["step"]) for line in lines] == list(range(1, len(lines) + 1))
        losses = [float(line["val_loss"]) for line in lines if line["val_loss"]]
        told = list(
            dict.fromkeys(trial.intermediate_values.values())
        )  # a step may reach two points
        assert losses[: len(told)] == told
        assert len(losses) == len(told) or trial.state == TrialState.PRUNED  # measured too late
