"""Who trains which trial: a table beside Optuna's, so that no trial stays RUNNING for ever.

Optuna's heartbeat beats only inside `study.optimize`. A lease is taken when a trial starts,
renewed while its runner lives, and dropped when it ends. A RUNNING trial whose lease has expired,
whose owner is a dead process of this host, or that never got a lease, is lost: whoever claims it
first tells so. A claim changes or inserts one row, so that only one process wins it.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

LEASE_S = 120.0
METADATA = MetaData()
LEASES = Table(
    "hpo_leases",
    METADATA,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("study_id", Integer, nullable=False, index=True),
    Column("worker", String(255), nullable=False),
    Column("place", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", BigInteger, nullable=False),
    Column("expires_at", Double, nullable=False),
)


class Leases:
    """The leases of one study; this process is one worker. Not thread-safe."""

    def __init__(
        self,
        storage: RDBStorage,
        study: optuna.Study,
        *,
        clock: Callable[[], float] = time.time,
        lease_s: float = LEASE_S,
    ) -> None:
        self._engine = storage.engine
        self._study = study
        self._clock = clock
        self._lease_s = lease_s
        self.host = socket.gethostname()
        self.worker = f"{self.host}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        METADATA.create_all(self._engine)

    def take(self, trial_id: int) -> None:
        """Becomes the owner of a trial that was just asked for.

        A lease that is there already belonged to a trial that was deleted: SQLite gives ids again.
        """
        if not self._insert(trial_id):
            stale = LEASES.c.trial_id == trial_id
            with self._engine.begin() as connection:
                connection.execute(update(LEASES).where(stale).values(**self._mark()))

    def _insert(self, trial_id: int) -> bool:
        """Makes a lease; False if there is one."""
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(LEASES).values(trial_id=trial_id, **self._mark()))
        except IntegrityError:
            return False
        return True

    def _mark(self) -> dict[str, Any]:
        """What this worker writes into a lease of its own."""
        return {
            "study_id": self._study._study_id,
            "worker": self.worker,
            "place": place(),
            "pid": os.getpid(),
            "process_started": process_started(os.getpid()),
            "expires_at": self._clock() + self._lease_s,
        }

    def renew(self, trial_ids: Iterable[int]) -> set[int]:
        """Extends leases; the trials that are no longer this worker's."""
        lost = set()
        with self._engine.begin() as connection:
            for trial_id in trial_ids:
                ours = (LEASES.c.trial_id == trial_id) & (LEASES.c.worker == self.worker)
                until = self._clock() + self._lease_s
                result = connection.execute(update(LEASES).where(ours).values(expires_at=until))
                if result.rowcount == 0:
                    lost.add(trial_id)
        return lost

    def drop(self, trial_id: int) -> None:
        """Gives a lease up, once the trial is told."""
        ours = (LEASES.c.trial_id == trial_id) & (LEASES.c.worker == self.worker)
        with self._engine.begin() as connection:
            connection.execute(delete(LEASES).where(ours))

    def claim_lost(self) -> list[FrozenTrial]:
        """The RUNNING trials that nobody trains, now this worker's to tell.

        Leases are read before trials: a trial that ends in between is then not RUNNING any more.
        """
        with self._engine.connect() as connection:
            found = connection.execute(
                select(LEASES).where(LEASES.c.study_id == self._study._study_id)
            )
            rows = {row.trial_id: row for row in found}
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in running if self._claim(trial, rows.get(trial._trial_id))]

    def _claim(self, trial: FrozenTrial, row: Row[Any] | None) -> bool:
        if row is None:
            return self._claim_leaseless(trial)
        if row.expires_at >= self._clock() and not self._is_dead(row):
            return False
        same = (
            (LEASES.c.trial_id == row.trial_id)
            & (LEASES.c.worker == row.worker)
            & (LEASES.c.expires_at == row.expires_at)
        )
        with self._engine.begin() as connection:
            done = connection.execute(update(LEASES).where(same).values(**self._mark()))
            return done.rowcount == 1

    def _is_dead(self, row: Row[Any]) -> bool:
        """Whether its owner was a process beside this one that is gone."""
        return bool(row.place == place() and process_started(row.pid) != row.process_started)

    def _claim_leaseless(self, trial: FrozenTrial) -> bool:
        """A trial whose worker died between asking and taking the lease."""
        begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        if self._clock() - begun < self._lease_s:
            return False
        return self._insert(trial._trial_id)


def place() -> str:
    """Host and process namespace: where a process id means one process."""
    return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"


def process_started(pid: int) -> int:
    """When a process of this host began, in clock ticks since boot; 0 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])
