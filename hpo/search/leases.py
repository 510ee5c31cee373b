"""Who trains which trial: a table beside Optuna's, so that no trial stays RUNNING for ever.

Optuna's heartbeat beats only inside `study.optimize`. A lease is taken when a trial starts,
renewed while its runner lives, and dropped when it ends. A RUNNING trial whose lease has expired,
whose owner is a dead process of this host, or that never got a lease, is lost: whoever claims it
first tells so. A claim deletes or inserts one row, so that only one process wins it.
"""

import os
import socket
import time
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
    Column("host", String(255), nullable=False),
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
        self.worker = f"{self.host}:{os.getpid()}"
        METADATA.create_all(self._engine)

    def take(self, trial_id: int) -> None:
        """Becomes the owner of a trial that was just asked for."""
        row = {
            "trial_id": trial_id,
            "study_id": self._study._study_id,
            "worker": self.worker,
            "host": self.host,
            "pid": os.getpid(),
            "process_started": process_started(os.getpid()),
            "expires_at": self._clock() + self._lease_s,
        }
        with self._engine.begin() as connection:
            connection.execute(insert(LEASES).values(row))

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

    def drop(self, trial_id: int) -> bool:
        """Gives a lease up before the trial is told; False if it was no longer this worker's."""
        ours = (LEASES.c.trial_id == trial_id) & (LEASES.c.worker == self.worker)
        with self._engine.begin() as connection:
            return connection.execute(delete(LEASES).where(ours)).rowcount == 1

    def claim_lost(self) -> list[FrozenTrial]:
        """The RUNNING trials that nobody trains, now this worker's to tell."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if not running:
            return []
        with self._engine.connect() as connection:
            found = connection.execute(
                select(LEASES).where(LEASES.c.study_id == self._study._study_id)
            )
            rows = {row.trial_id: row for row in found}
        lost = []
        for trial in running:
            row = rows.get(trial._trial_id)
            if self._claim_leaseless(trial) if row is None else self._claim(row):
                lost.append(trial)
        return lost

    def _claim(self, row: Row[Any]) -> bool:
        expired = row.expires_at < self._clock()
        if not expired and not self._is_dead(row):
            return False
        same = (LEASES.c.trial_id == row.trial_id) & (LEASES.c.worker == row.worker)
        with self._engine.begin() as connection:
            if connection.execute(delete(LEASES).where(same)).rowcount != 1:
                return False
        self.take(row.trial_id)
        return True

    def _is_dead(self, row: Row[Any]) -> bool:
        here = row.host == self.host
        started = row.process_started
        return bool(here and process_started(row.pid) != started)

    def _claim_leaseless(self, trial: FrozenTrial) -> bool:
        """A trial whose worker died between asking and taking the lease."""
        begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        if self._clock() - begun < self._lease_s:
            return False
        try:
            self.take(trial._trial_id)
        except IntegrityError:
            return False
        return True


def process_started(pid: int) -> int:
    """When a process of this host began, in clock ticks since boot; 0 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])
