"""`python -m tests.benchmarks.night`: what a fault in the night costs.

- PostgreSQL is killed in the middle of a study with four runners, and comes back after 30 s: how
  much longer the study takes than without, and that no trial is lost and no step trained twice.
- A runner is stopped by SIGSTOP: when that is found, and when its trial is finished elsewhere.

Needs PostgreSQL's cluster commands, as root, for a server of its own to kill.
"""

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from tests.benchmarks.report import table, write
from tests.chaos.databases import PostgresCluster
from tests.commands import Running, assert_exact, assert_whole, gone, in_states, stored

OVERHEAD_S, LATER_S = 40.0, 10.0  # goals: of an outage; beyond the lease
LEASE_S = 10.0
STUDY = ("data.samples=160", "trial.epochs=3", "trial.evals=4")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; 1 if a goal is missed."""
    options = _parser().parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = [_outage(options.outage)] if options.outage else []
    rows += [_stopped() for _ in range(options.stops)]
    print(table([{key: str(row[key]) for key in ("what", "seconds", "goal")} for row in rows]))
    if options.json:
        write(options.json, {"benchmark": "night", "lease_s": LEASE_S, "rows": rows})
    return int(any(row["seconds"] > row["goal"] for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.night")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--outage", type=float, default=30.0, help="seconds; 0 to leave it out")
    parser.add_argument("--stops", type=int, default=3, help="runners that are stopped")
    return parser


def _outage(outage_s: float) -> dict[str, Any]:
    with _cluster() as cluster:
        plain = _study(cluster, 0.0)
    with _cluster() as cluster:
        hit = _study(cluster, outage_s)
    return {
        "what": f"longer by an outage of {outage_s:.0f} s, of {plain:.1f} s without one",
        "seconds": round(hit - plain, 1),
        "goal": OVERHEAD_S,
    }


def _study(cluster: PostgresCluster, outage_s: float) -> float:
    """Seconds from the first runner that is ready to the end."""
    with tempfile.TemporaryDirectory(prefix="night-") as folder:
        options = ("--trials", "16", "--runners", "4", "--storage", cluster.storage)
        running = Running(folder, *options, settings=STUDY)
        running.wait_for("runner_ready")
        began = time.monotonic()
        running.wait_for("trial_ended", 2)
        if outage_s:
            cluster.down()
            time.sleep(outage_s)
            cluster.up()
        assert running.finish() == 0
        seconds = time.monotonic() - began
        trials = stored(str(cluster.url))
        assert_exact(trials, 16)
        assert in_states(trials, TrialState.FAIL) == [], "a trial was lost"
        assert_whole(Path(folder) / "runs", trials)
    return seconds


@contextmanager
def _cluster() -> Iterator[PostgresCluster]:
    cluster = PostgresCluster()
    cluster.open()
    try:
        yield cluster
    finally:
        cluster.close()


def _stopped() -> dict[str, Any]:
    """Stops one of two runners under a trial."""
    with tempfile.TemporaryDirectory(prefix="night-") as folder:
        settings = (*STUDY, f"limits.hang_seconds={LEASE_S}")
        running = Running(folder, "--trials", "8", "--runners", "2", settings=settings)
        running.wait_for("trial_evaluated", 2)
        runner = running.runners()[0]
        os.kill(runner, signal.SIGSTOP)
        stopped = time.monotonic()
        ended = {}
        for line in running.process.stdout:
            event = json.loads(line)
            if event["event"] == "trial_ended":
                ended[event["number"]] = time.monotonic() - stopped
        assert running.finish() == 0
        assert gone(runner), "it was killed: there is nothing that SIGCONT could wake"
        trials = stored(f"sqlite:///{folder}/hpo.db")
        assert_exact(trials, 8)
        assert_whole(Path(folder) / "runs", trials)
    (hung,) = in_states(trials, TrialState.FAIL)
    (retry,) = [t for t in trials if t.user_attrs.get("retry_of") == hung.number]
    return {
        "what": f"until a stopped runner's trial ends elsewhere; found after "
        f"{ended[hung.number]:.1f} s",
        "seconds": round(ended[retry.number], 1),
        "goal": LEASE_S + LATER_S,
    }


if __name__ == "__main__":
    raise SystemExit(main())
