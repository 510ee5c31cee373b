"""The ways to run the same trials, each from its first process to its last one's end."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.specs import LimitsSpec
from tests.benchmarks.peers.search import enqueue, open_journal
from tests.benchmarks.work import NAME, STUDY, Work
from tests.commands import REPOSITORY, environment

CORES = 2
INTERRUPTED = 130
TAIL = 2000  # characters of a failed process's log
RUNNING: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one trial did."""

    steps: int
    losses: tuple[float, ...]
    """Val loss at each point of the grid."""
    rows: int
    """Rows evaluated, over all points."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One way's turn: what it trained, and how long that took."""

    trials: dict[int, Trained]
    steady_s: float
    """From the start of the first trial to the end of the last."""
    total_s: float
    """From the start of the first process to the end of the last."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to run the trials."""

    what: str
    run: Callable[[Work, Path], Round]
    missing: str = ""
    """Why it cannot be run here, or empty."""
    doubtful: bool = False
    """Whether it may turn out not to do equal work; it is then left out with a note."""


def contenders(pack: str, runners: int) -> dict[str, Contender]:
    """All ways by name, ours first.

    Args:
        pack: what ours gets as `--pack`, where the command knows it.
    """
    packs = "--pack" in _help()
    caches = "cache_gb" in LimitsSpec.model_fields
    usual = ("--runners", str(runners), *(("--pack", pack) if packs else ()))
    return {
        "ours": Contender(what=f"hpo.run {' '.join(usual)}", run=_ours(*usual)),
        "fresh": Contender(
            what=f"a fresh process per trial, one at a time, {CORES} threads", run=_fresh(1, CORES)
        ),
        "fresh-processes": Contender(
            what=f"a fresh process per trial, {CORES} at a time", run=_fresh(CORES, 1)
        ),
        "search": Contender(
            what=f"hyperparameter_search, {CORES} threads", run=_search(1, CORES, 1)
        ),
        "search-jobs": Contender(
            what=f"hyperparameter_search, n_jobs={CORES}",
            run=_search(1, 1, CORES),
            doubtful=True,  # its threads share one Trainer, and with it model and arguments
        ),
        "search-processes": Contender(
            what=f"hyperparameter_search, {CORES} processes on one study", run=_search(CORES, 1, 1)
        ),
        "no-cache": Contender(
            what="ours without the feature cache",
            run=_ours(*usual, "--set", "limits.cache_gb=0"),
            missing="" if caches else "limits.cache_gb is not a setting of this version",
        ),
        "no-packing": Contender(
            what="ours without packing",
            run=_ours(*usual[:2], "--pack", "1"),
            missing="" if packs else "--pack is not an option of this version",
        ),
        "one-by-one": Contender(
            what="ours with one runner, without packing and the feature cache",
            run=_ours("--runners", "1", "--pack", "1", "--set", "limits.cache_gb=0"),
            missing="" if packs and caches else "--pack is not an option of this version",
        ),
        "one-runner": Contender(
            what="ours with one runner", run=_ours("--runners", "1", *usual[2:])
        ),
    }


def _help() -> str:
    command = [sys.executable, "-m", "hpo.run", "--help"]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True
    ).stdout


def _process(words: list[str], folder: Path, threads: int | None = None) -> str:
    """Runs a process to its end; what it printed.

    Raises:
        RuntimeError: it failed.
    """
    extra = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with (folder / f"{time.monotonic_ns()}.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=environment(**extra),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        RUNNING.add(process)
        printed, _ = process.communicate()
        RUNNING.discard(process)
        log.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"{words[0]} ended with {process.returncode}: {log.read()[-TAIL:]}")
    return printed


def interruptible(main: Callable[[], int]) -> int:
    """Runs a benchmark; on SIGINT or SIGTERM everything that it has started is asked to end."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _end)
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted; nothing of it is left", file=sys.stderr)
        return INTERRUPTED


def _end(number: int, frame: FrameType | None) -> None:
    for process in list(RUNNING):
        process.terminate()
    raise KeyboardInterrupt


def run_ours(work: Work, folder: Path, options: Sequence[str]) -> tuple[list[FrozenTrial], int]:
    """Runs the study by the command; its trials, and the rows of an evaluation.

    Raises:
        RuntimeError: the command failed.
    """
    sets = [word for setting in work.settings for word in ("--set", setting)]
    words = ["hpo.run", "--study", STUDY, "--scale", "mini", "--name", NAME, "--json"]
    storage = f"sqlite:///{folder}/hpo.db"
    printed = _process([*words, "--storage", storage, *options, *sets], folder)
    events = [json.loads(line) for line in printed.splitlines()]
    val = next(e["facts"]["val_samples"] for e in events if e["event"] == "runner_ready")
    return optuna.load_study(study_name=NAME, storage=storage).get_trials(), val


def _ours(*options: str) -> Callable[[Work, Path], Round]:
    def run(work: Work, folder: Path) -> Round:
        began = time.monotonic()
        frozen, val = run_ours(work, folder, options)
        total_s = time.monotonic() - began
        if [t.state for t in frozen] != [TrialState.COMPLETE] * len(work.spec.known):
            raise RuntimeError(f"not all trials are complete: {[t.state.name for t in frozen]}")
        return Round(
            trials={t.number: trained(t, val) for t in frozen},
            steady_s=_span(frozen),
            total_s=total_s,
        )

    return run


def trained(trial: FrozenTrial, val_rows: int) -> Trained:
    """What a trial of ours did."""
    losses = tuple(loss for _, loss in sorted(trial.intermediate_values.items()))
    return Trained(steps=trial.user_attrs["steps"], losses=losses, rows=len(losses) * val_rows)


def _span(trials: list[FrozenTrial]) -> float:
    began = min(t.datetime_start for t in trials if t.datetime_start)
    return (max(t.datetime_complete for t in trials if t.datetime_complete) - began).total_seconds()


def _write_job(work: Work, folder: Path, threads: int) -> str:
    path = folder / "job.json"
    path.write_text(json.dumps({**work.job, "threads": threads}))
    return str(path)


def _fresh(at_a_time: int, threads: int) -> Callable[[Work, Path], Round]:
    """A process for every trial."""

    def run(work: Work, folder: Path) -> Round:
        job = _write_job(work, folder, threads)

        def one(number: int) -> dict[str, Any]:
            out = folder / f"{number}.json"
            _process(["tests.benchmarks.peers.plain", job, str(number), str(out)], folder, threads)
            return json.loads(out.read_text())

        began = time.monotonic()
        with ThreadPoolExecutor(at_a_time) as pool:
            parts = list(pool.map(one, range(len(work.spec.known))))
        total_s = time.monotonic() - began
        return Round(trials=merge(parts), steady_s=total_s, total_s=total_s)

    return run


def _search(processes: int, threads: int, n_jobs: int) -> Callable[[Work, Path], Round]:
    """`hyperparameter_search`; several processes share the trials by a journal file."""

    def run(work: Work, folder: Path) -> Round:
        began = time.monotonic()
        parts = run_search(work, folder, processes, threads, n_jobs)
        total_s = time.monotonic() - began
        steady_s = max(part["ended"] for part in parts) - min(part["began"] for part in parts)
        trials = merge([part["trials"] for part in parts])
        return Round(trials=trials, steady_s=steady_s, total_s=total_s)

    return run


def run_search(
    work: Work, folder: Path, processes: int, threads: int, n_jobs: int
) -> list[dict[str, Any]]:
    """Runs the study by `hyperparameter_search`; what each of its processes wrote.

    Raises:
        RuntimeError: a process failed.
    """
    job = _write_job(work, folder, threads)
    storage = "memory" if processes == 1 else str(folder / "journal")
    if processes > 1:
        enqueue(open_journal(storage), [trial["config"] for trial in work.job["trials"]])

    def one(index: int) -> dict[str, Any]:
        count = (work.spec.search.trials + index) // processes
        out = folder / f"{index}.json"
        words = [job, str(count), str(n_jobs), storage, str(out)]
        _process(["tests.benchmarks.peers.search", *words], folder, threads)
        return json.loads(out.read_text())

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(one, range(processes)))


def merge(parts: list[dict[str, Any]]) -> dict[int, Trained]:
    """Trials by number, from what processes of peers wrote."""
    return {
        int(number): Trained(steps=t["steps"], losses=tuple(t["losses"]), rows=t["rows"])
        for part in parts
        for number, t in part.items()
    }
