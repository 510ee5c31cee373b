"""Processor time that sampling and the database take of the driver, per trial, on SQLite.

A study with so many finished trials is made once, as the ledger would have left it, and copied
for every round. Each round drives trials through the real ledger as `hpo.search.driver` and
`hpo.search.trials` do, and the same number of trials through Optuna alone: ask, suggest, the same
reports with the pruner asked after each, tell. Ours does more: leases, attributes, constraint,
usage, budget.
"""

import argparse
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, update

from hpo.files import Options, load_study
from hpo.search.database.leases import Leases, Sign
from hpo.search.database.tables import USAGE
from hpo.search.database.urls import parse_url
from hpo.search.ledger.endings import Ending
from hpo.search.ledger.keeper import EVERY_S, Keeper, own_folder
from hpo.search.ledger.ledger import Ledger
from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.search.opening import open_study
from hpo.search.study.space import distributions, suggest
from hpo.specs import EvalPoint, Outcome, StudySpec, TrialStats
from tests.benchmarks.report import table, write

REPORTS = 15
SAMPLES = 1500  # that a trial sees
LOOKS = 1  # per trial: of 20 s each on four runners, one ends every 5 s, when leases are looked at
SWEEP_EVERY = 2  # trials: the runs folder is tidied every 10 s
ROUNDS = 3
LIMIT_MS = 25.0
CAPACITY = 48 << 30
PARTS = ("ask", "reports", "finish", "reads")
ENVIRONMENT = {
    "device": "NVIDIA H200",
    "versions": {"torch": "2.11.0", "transformers": "5.17.0", "peft": "0.19.0"},
}
Seconds = dict[str, float]


def main() -> None:
    """Measures, prints, and says by the exit status whether the limit is kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.storage", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--trials", type=int, default=1000, help="finished before (1000)")
    parser.add_argument("--driven", type=int, default=50, help="measured in each round (50)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), finished=options.trials, driven=options.driven)
    print(_shown(figures, options.trials))
    settings = {"finished": options.trials, "driven": options.driven, "rounds": ROUNDS}
    if options.json:
        write(options.json, {"benchmark": "storage", **settings, "cpu_ms_per_trial": figures})
    sys.exit(figures["ours"]["total"] > LIMIT_MS)


def measure(folder: Path, *, finished: int, driven: int) -> dict[str, dict[str, float]]:
    """Milliseconds per trial and part, medians of the rounds: ours, and Optuna alone."""
    spec = study_spec(finished + driven)
    seeded = folder / "seeded.db"
    seed(spec, seeded, finished)
    rounds: dict[str, list[Seconds]] = {"ours": [], "optuna": []}
    for number in range(ROUNDS):
        ends = []
        for name, drive in (("optuna", drive_optuna), ("ours", drive_ours)):
            place = folder / f"{name}{number}"
            place.mkdir()
            shutil.copy(seeded, place / "hpo.db")
            seconds, trials = drive(spec, place, driven)
            rounds[name].append(seconds)
            ends.append([work_of(trial) for trial in trials[finished:]])
        assert ends[0] == ends[1] == [(TrialState.COMPLETE, 6, REPORTS)] * driven
    return {name: _medians(found, driven) for name, found in rounds.items()}


def work_of(trial: FrozenTrial) -> tuple[TrialState, int, int]:
    """State, number of parameters, number of reports."""
    return trial.state, len(trial.params), len(trial.intermediate_values)


def study_spec(total: int) -> StudySpec:
    """The shipped study at its mini scale, with a longer curve and no known configurations."""
    spec = load_study("rsicap", Options(scale="mini", assignments=(f"trial.evals={REPORTS}",)))
    search = spec.search.model_copy(update={"trials": total})
    return spec.model_copy(update={"search": search, "known": ()})


def opened(spec: StudySpec, path: Path) -> tuple[optuna.Study, Leases]:
    """The study in a SQLite file, as a run opens it."""
    return open_study(spec, parse_url(f"sqlite:///{path}"), {"data": "d"}, samples=SAMPLES)


def seed(spec: StudySpec, path: Path, count: int) -> None:
    """Puts finished trials into a study that is not there yet: COMPLETE, pruned, out of memory."""
    study, leases = opened(spec, path)
    ledger = Ledger(study, spec, leases)
    random = np.random.default_rng(0)
    for number in range(count):
        study.add_trial(_finished(ledger, spec, number, random))
    _book(leases, count)
    engine(study).dispose()


def _finished(
    ledger: Ledger, spec: StudySpec, number: int, random: np.random.Generator
) -> FrozenTrial:
    """A trial that has ended: every fifth is pruned half-way, every twentieth out of memory."""
    space = distributions(spec.space)
    sampler = optuna.samplers.RandomSampler(seed=number)
    empty = create_trial(state=TrialState.RUNNING)
    params = {
        name: sampler.sample_independent(ledger.study, empty, name, space[name]) for name in space
    }
    losses = curve(random.uniform(1.0, 2.0), random)
    end = ending(Outcome.COMPLETE, value=min(losses.values()))
    if number % 20 == 19:
        end, losses = ending(Outcome.OOM), {}
    elif number % 5 == 4:
        end, losses = ending(Outcome.PRUNED), dict(list(losses.items())[: REPORTS // 2])
    violation = end.violation()
    return create_trial(
        state=CONSEQUENCES[end.outcome].state,
        value=end.value,
        params=params,
        distributions=space,
        user_attrs=ledger._common
        | ENVIRONMENT
        | end.attributes()
        | {"constraint_memory": violation},
        constraints={"memory": violation},
        intermediate_values=losses,
    )


def _book(leases: Leases, count: int) -> None:
    """The device time of the trials that were put there."""
    row = (USAGE.c.study_id == leases._study_id) & (USAGE.c.outcome == Outcome.COMPLETE.value)
    with leases._engine.begin() as connection:
        connection.execute(
            update(USAGE).where(row).values(trials=count, device_seconds=20.0 * count)
        )


def curve(end: float, random: np.random.Generator) -> dict[int, float]:
    """Val loss by samples seen, falling to about `end`."""
    steps = np.arange(1, REPORTS + 1)
    losses = end * (1 + np.exp(-steps / 4)) + 0.02 * random.standard_normal(REPORTS)
    return {int(k) * SAMPLES // REPORTS: float(x) for k, x in zip(steps, losses, strict=True)}


def ending(outcome: Outcome, value: float | None = None) -> Ending:
    """An end with everything that is known of a real one."""
    stats = TrialStats(
        seconds=20.0,
        samples_per_s=75.0,
        peak_memory_bytes=20 << 30,
        held_memory_bytes=8 << 30,
        trainable_parameters=7_300_000,
        steps=190,
    )
    return Ending(
        outcome=outcome,
        reason=f"ended as {outcome}",
        value=value,
        stats=stats,
        capacity_bytes=CAPACITY,
    )


@contextmanager
def part(seconds: Seconds, name: str) -> Iterator[None]:
    """Adds the processor time of what is inside."""
    began = time.process_time()
    yield
    seconds[name] += time.process_time() - began


def drive_ours(spec: StudySpec, folder: Path, count: int) -> tuple[Seconds, list[FrozenTrial]]:
    """Trials through the ledger, and what the driver reads meanwhile; the study's trials."""
    study, leases = opened(spec, folder / "hpo.db")
    ledger = Ledger(study, spec, leases)
    keeper = _keeper(ledger, folder / "runs")
    ledger.reap()  # reads all trials, once at the start
    keeper.sweep(ledger.trials, now=True)
    seconds = dict.fromkeys(PARTS, 0.0)
    random = np.random.default_rng(1)
    for _ in range(count):
        _one_of_ours(ledger, keeper, curve(0.5, random), seconds)
    assert ledger.is_complete()
    trials = study.get_trials()
    engine(study).dispose()
    return seconds, trials


def _keeper(ledger: Ledger, runs: Path) -> Keeper:
    own_folder(runs, ledger.identity)
    ticks = itertools.count(0.0, EVERY_S / SWEEP_EVERY)
    keeper = Keeper(runs, adapters=5, quota_bytes=1 << 40, monotonic=lambda: next(ticks))
    for trial in ledger.trials():
        keeper.folder(trial.number).mkdir()
    return keeper


def _one_of_ours(
    ledger: Ledger, keeper: Keeper, losses: dict[int, float], seconds: Seconds
) -> None:
    """The calls of one trial, as the driver makes them."""
    with part(seconds, "ask"):
        asked = ledger.ask()
    assert asked is not None
    with part(seconds, "reports"):
        for step, (samples, loss) in enumerate(losses.items(), 1):
            last = samples == SAMPLES
            point = EvalPoint(samples_seen=samples, step=step, val_loss=loss, last=last)
            assert ledger.report(asked, point, replayed=False) is None
    sign = Sign(alive=True, samples_seen=SAMPLES, checkpoint_at=SAMPLES, device_seconds=20.0)
    with part(seconds, "reads"):
        for _ in range(LOOKS):
            assert not ledger.leases.renew({asked.trial_id: sign})
            assert ledger.reap() == []
            assert not ledger.exhausted()[0]
        keeper.sweep(ledger.trials)
    with part(seconds, "finish"):
        best = ending(Outcome.COMPLETE, value=min(losses.values()))
        ledger.finish(asked, best, device_seconds=20.0, environment=ENVIRONMENT, curve=losses)
        ledger.finished()


def drive_optuna(spec: StudySpec, folder: Path, count: int) -> tuple[Seconds, list[FrozenTrial]]:
    """The same number of trials and reports through Optuna alone; the study's trials."""
    study = optuna.load_study(
        study_name=spec.name,
        storage=RDBStorage(f"sqlite:///{folder / 'hpo.db'}"),
        sampler=TPESampler(multivariate=True, constant_liar=True, seed=0),
        pruner=optuna.pruners.MedianPruner(
            spec.pruner.startup_trials, 1, n_min_trials=spec.pruner.min_trials
        ),
    )
    study.get_trials(deepcopy=False)  # reads all trials, once at the start
    seconds = dict.fromkeys(PARTS, 0.0)
    random = np.random.default_rng(1)
    for _ in range(count):
        losses = curve(0.5, random)
        with part(seconds, "ask"):
            trial = study.ask()
            suggest(trial, spec.space)
        with part(seconds, "reports"):
            for samples, loss in losses.items():
                trial.report(loss, samples)
                assert not trial.should_prune()
        with part(seconds, "finish"):
            study.tell(trial, min(losses.values()))
    trials = study.get_trials()
    engine(study).dispose()
    return seconds, trials


def engine(study: optuna.Study) -> Engine:
    """The connections of a study."""
    storage = study._storage
    assert isinstance(storage, _CachedStorage)
    return storage._backend.engine


def _medians(rounds: list[Seconds], driven: int) -> dict[str, float]:
    """Milliseconds per trial, by part and in total."""
    found = [{**one, "total": sum(one.values())} for one in rounds]
    return {
        name: round(1000 * statistics.median(one[name] for one in found) / driven, 2)
        for name in (*PARTS, "total")
    }


def _shown(figures: dict[str, dict[str, float]], finished: int) -> str:
    ours, peer = figures["ours"], figures["optuna"]
    rows = [
        {
            "CPU ms per trial": name,
            "ours": f"{ours[name]:.1f}",
            "Optuna alone": f"{peer[name]:.1f}",
            "ratio": _ratio(peer[name], ours[name]),
        }
        for name in (*PARTS, "total")
    ]
    return (
        f"{REPORTS} reports a trial, {finished:,} trials finished before, SQLite\n"
        f"{table(rows)}\nlimit: {LIMIT_MS:g} ms in total"
    )


def _ratio(peer: float, ours: float) -> str:
    return f"{peer / ours:.2f}x" if peer and ours else "-"


if __name__ == "__main__":
    main()
