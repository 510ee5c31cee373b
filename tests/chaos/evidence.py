"""What a chaos run has left: trials, leases, the ledger of usage, files, processes."""

import csv
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

from hpo.data import read_examples
from hpo.specs import Outcome, StudySpec
from tests.chaos import study
from tests.chaos.processes import command, marked
from tests.chaos.world import World

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
GRACE_S = 10.0  # how long a process may take to end after its driver


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the audit looks at."""

    spec: StudySpec
    grid: tuple[int, ...]
    pack: int
    """Trials at a time on a runner: with several, losses repeat to rounding only."""
    trials: tuple[FrozenTrial, ...]
    leases: int
    usage: Counter[str]
    """Ended attempts by outcome, as the ledger has them."""
    runs: Path
    """The study's folder."""
    logs: Path
    strays: tuple[str, ...]
    """Processes that are still there."""
    surprises: tuple[str, ...]
    injected: int
    planned: int

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that count."""
        return [trial for trial in self.trials if trial.state in FINISHED]

    def folder(self, number: int) -> Path:
        """A trial's files."""
        return self.runs / f"trial-{number:05d}"


def gather(world: World, *, injected: int, planned: int) -> Evidence:
    """Looks at everything, once all drivers have ended."""
    spec, opened = world.spec, world.open_study()
    samples = len(read_examples(spec.data).train) * spec.trial.epochs
    leases, usage = _tables(world, opened._study_id)
    return Evidence(
        spec=spec,
        grid=tuple(spec.trial.eval_grid(samples)),
        pack=world.pack,
        trials=tuple(opened.get_trials()),
        leases=leases,
        usage=usage,
        runs=world.runs / study.NAME,
        logs=world.folder,
        strays=_strays(world.mark),
        surprises=tuple(world.surprises),
        injected=injected,
        planned=planned,
    )


def _tables(world: World, study_id: int) -> tuple[int, Counter[str]]:
    """(leases that are left, ended attempts by outcome)"""
    engine = sqlalchemy.create_engine(world.database.url, poolclass=sqlalchemy.NullPool)
    ours = {"study": study_id}
    with engine.connect() as connection:
        leases = connection.execute(
            text("SELECT COUNT(*) FROM hpo_leases WHERE study_id = :study"), ours
        ).scalar_one()
        usage = connection.execute(
            text("SELECT outcome, trials FROM hpo_usage WHERE study_id = :study"), ours
        ).all()
    return int(leases), Counter({str(outcome): int(trials) for outcome, trials in usage if trials})


def _strays(mark: str) -> tuple[str, ...]:
    until = time.monotonic() + GRACE_S
    while (pids := marked(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    return tuple(f"{pid}: {command(pid)}" for pid in pids)


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended, or what is wrong with that."""
    found = trial.user_attrs.get("outcome")
    return str(found) if found in set(Outcome) else f"no outcome ({found})"


def is_retry(trial: FrozenTrial) -> bool:
    """Whether it goes on where an earlier attempt ended."""
    return "retry_of" in trial.user_attrs


def resumption(trial: FrozenTrial) -> str:
    """Where a retry began, if it lived to tell."""
    at = trial.user_attrs.get("resumed_at_samples")
    return "killed again" if at is None else "from a checkpoint" if at else "from the start"


def curve(folder: Path) -> list[dict[str, str]]:
    """The lines of a trial's metrics.csv."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def losses(rows: list[dict[str, str]], grid: tuple[int, ...]) -> dict[int, float]:
    """Val loss at each grid point that the curve has reached."""
    found = {}
    for point in grid:
        row = next((row for row in rows if int(row["samples_seen"]) >= point), None)
        if row is not None and row["val_loss"]:
            found[point] = float(row["val_loss"])
    return found


def dump(trials: tuple[FrozenTrial, ...], path: Path) -> None:
    """Writes the trials, one a line, for whoever looks into a failed audit."""
    with path.open("w") as file:
        for trial in trials:
            told = {
                "number": trial.number,
                "state": trial.state.name,
                "value": trial.value,
                "params": trial.params,
                "reports": trial.intermediate_values,
                **trial.user_attrs,
            }
            file.write(json.dumps(told, default=str) + "\n")
