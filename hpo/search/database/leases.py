"""Who trains which trial, so that none stays RUNNING for ever and none is trained twice.

Optuna's heartbeat beats only inside `study.optimize`, and beats on while CUDA hangs. A lease is
taken before a trial becomes RUNNING, renewed from the progress of its training, and settled when
the trial is told. Whoever sees a lease unchanged for its length may claim it, as may a process of
the same host that finds its owner dead. Every change of hands is one row changed by one
statement, so that only one process wins it.

No clock of another host counts: a lease's age is how long this process itself has seen it
unchanged, from look to look (Gray and Cheriton 1989 ask for bounded clocks; we cannot).
"""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import BindParameter, Row, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from hpo import slurm
from hpo.errors import StorageError
from hpo.machine import process_stat
from hpo.search.database.redaction import redacted
from hpo.search.database.sightings import Sightings
from hpo.search.database.tables import LEASES, USAGE
from hpo.specs import Outcome

# made once: to build a statement takes as long as to run it
_OURS = (LEASES.c.trial_id == bindparam("trial")) & (LEASES.c.worker == bindparam("holder"))
_OWNED = select(LEASES.c.trial_id).where(_OURS)
_TAKE, _DROP = insert(LEASES), delete(LEASES).where(_OURS)
_SEEN: dict[str, BindParameter[Any]] = {
    name: bindparam(f"new_{name}") for name in ("samples_seen", "checkpoint_at", "device_seconds")
}
_TOLD = update(LEASES).where(_OURS).values(_SEEN)
_RENEW = _TOLD.values(expires_at=bindparam("until"), renewals=LEASES.c.renewals + 1)
_ALL = select(LEASES).where(LEASES.c.study_id == bindparam("study"))
_BOOK = (
    update(USAGE)
    .where(USAGE.c.study_id == bindparam("study"), USAGE.c.outcome == bindparam("ended"))
    .values(trials=USAGE.c.trials + 1, device_seconds=USAGE.c.device_seconds + bindparam("seconds"))
)
_USED = select(USAGE.c.outcome, USAGE.c.device_seconds).where(
    USAGE.c.study_id == bindparam("study")
)
_RUNNING = select(LEASES.c.device_seconds).where(LEASES.c.study_id == bindparam("study"))


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What is known of a trial of ours when its lease is renewed."""

    alive: bool
    """Whether it got on since the last renewal; if not, its lease gets no younger."""
    samples_seen: int
    checkpoint_at: int
    """Samples seen at its last checkpoint."""
    device_seconds: float


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Device time of a study, in seconds."""

    by_outcome: dict[str, float]
    """Of attempts that have ended."""
    running_s: float
    """Of those that have not, as their leases last told."""
    running: int

    @property
    def total_s(self) -> float:
        """All of it."""
        return sum(self.by_outcome.values()) + self.running_s


class Leases:
    """The leases of one study; this process is one worker. Not thread-safe."""

    def __init__(
        self,
        storage: RDBStorage,
        study: optuna.Study,
        *,
        lease_s: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = storage.engine
        self._study_id = study._study_id
        self._clock = clock
        self._lease_s = lease_s
        self._sightings = Sightings(monotonic)
        self._leaseless = Sightings(monotonic)
        self.host = socket.gethostname()
        self.worker = f"{self.host}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def take(self, trial_id: int) -> bool:
        """Becomes the owner of a trial that nobody owns; False if somebody does."""
        fresh = {"renewals": 0, "samples_seen": 0, "checkpoint_at": 0, "device_seconds": 0.0}
        values = {"trial_id": trial_id, "study_id": self._study_id, **self._mark(), **fresh}
        try:
            with self._engine.begin() as connection:
                connection.execute(_TAKE, values)
        except IntegrityError:
            return self.owns(trial_id)
        return True

    def owns(self, trial_id: int) -> bool:
        """Whether the trial is this worker's."""
        with self._engine.connect() as connection:
            return connection.execute(_OWNED, self._ours(trial_id)).first() is not None

    def _mark(self) -> dict[str, Any]:
        """What this worker writes into a lease of its own."""
        return {
            "worker": self.worker,
            "place": place(),
            "pid": os.getpid(),
            "process_started": process_started(os.getpid()),
            "job": slurm.job(),
            "restarts": slurm.restarts(),
            "lease_s": self._lease_s,
            "expires_at": self._clock() + self._lease_s,
        }

    def _ours(self, trial_id: int) -> dict[str, Any]:
        return {"trial": trial_id, "holder": self.worker}

    def renew(self, signs: Mapping[int, Sign]) -> set[int]:
        """Writes signs of life by trial id; the trials that are no longer this worker's."""
        lost = set()
        with self._engine.begin() as connection:
            for trial_id, sign in signs.items():
                values = self._ours(trial_id)
                values |= {f"new_{name}": getattr(sign, name) for name in _SEEN}
                if sign.alive:
                    values["until"] = self._clock() + self._lease_s
                done = connection.execute(_RENEW if sign.alive else _TOLD, values)
                if done.rowcount == 0:
                    lost.add(trial_id)
        return lost

    def settle(self, trial_id: int, outcome: Outcome, device_seconds: float) -> None:
        """Gives a lease up and books its device time, both or neither, and only once."""
        with self._engine.begin() as connection:
            done = connection.execute(_DROP, self._ours(trial_id))
            if done.rowcount == 0:
                return
            booked = {"study": self._study_id, "ended": outcome.value, "seconds": device_seconds}
            connection.execute(_BOOK, booked)

    def drop(self, trial_id: int) -> None:
        """Gives up the lease of a trial that was not trained."""
        with self._engine.begin() as connection:
            connection.execute(_DROP, self._ours(trial_id))

    def all(self) -> list[Row[Any]]:
        """Every lease of the study.

        Raises:
            StorageError: the database is SQLite and another host works on it.
        """
        with self._engine.connect() as connection:
            rows = list(connection.execute(_ALL, {"study": self._study_id}))
        if self._engine.dialect.name == "sqlite":
            self._refuse_other_hosts(rows)
        return rows

    def _refuse_other_hosts(self, rows: list[Row[Any]]) -> None:
        for row in rows:
            host = row.worker.split(":")[0]
            elsewhere = host != self.host and _boot(row.place) != _boot(place())
            if elsewhere and row.expires_at > self._clock():
                raise StorageError(
                    f"database {redacted(self._engine.url)}: host {host} works "
                    "on it too, and SQLite serves one host; use PostgreSQL or MariaDB "
                    "(--storage), or, if that host has ended, try again in "
                    f"{row.expires_at - self._clock():.0f} s"
                )

    def abandoned(self) -> list[Row[Any]]:
        """The leases whose owners are dead, or have been silent for the length of the lease."""
        rows = self.all()
        ages = self._sightings.ages({r.trial_id: (r.worker, r.renewals) for r in rows})
        return [r for r in rows if ages[r.trial_id] >= self._patience_s(r) or self._is_dead(r)]

    def _patience_s(self, row: Row[Any]) -> float:
        """The lease's length; twice that for our own, whose runner is killed as hung before."""
        return float(row.lease_s) * (2 if row.worker == self.worker else 1)

    def leaseless(self, running: Iterable[int]) -> list[int]:
        """Those of the RUNNING trials that nobody has held for the length of a lease."""
        held = {row.trial_id for row in self.all()}
        ages = self._leaseless.ages({trial_id: None for trial_id in set(running) - held})
        return [trial_id for trial_id, age in ages.items() if age >= self._lease_s]

    def _is_dead(self, row: Row[Any]) -> bool:
        """Whether its owner was a process beside this one, or this job before it was requeued."""
        if row.place == place():
            return process_started(row.pid) != int(row.process_started)
        return bool(row.job and row.job == slurm.job() and row.restarts < slurm.restarts())

    def forget(self) -> None:
        """The database was away: what was unchanged meanwhile says nothing about its owner."""
        self._sightings.forget()
        self._leaseless.forget()

    def claim(self, row: Row[Any]) -> bool:
        """Becomes the owner of an abandoned lease; False if another was faster."""
        same = (
            (LEASES.c.trial_id == row.trial_id)
            & (LEASES.c.worker == row.worker)
            & (LEASES.c.renewals == row.renewals)
        )
        with self._engine.begin() as connection:
            done = connection.execute(
                update(LEASES).where(same).values(renewals=row.renewals + 1, **self._mark())
            )
            return done.rowcount == 1

    def usage(self) -> Usage:
        """Device time of the study, in one reading of the database."""
        ours = {"study": self._study_id}
        with self._engine.connect() as connection:
            rows = connection.execute(_USED, ours).all()
            running = [float(row.device_seconds) for row in connection.execute(_RUNNING, ours)]
        return Usage(
            by_outcome={row.outcome: row.device_seconds for row in rows if row.device_seconds},
            running_s=sum(running),
            running=len(running),
        )


def place() -> str:
    """Host and process namespace: where a process id means one process.

    Containers of one host share its boot id; another host, or this one after a reboot, has another.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    host = boot.read_text().strip() if boot.exists() else socket.gethostname()
    return f"{host} {os.readlink('/proc/self/ns/pid')}"


def _boot(where: str) -> str:
    return where.split(" ")[0]


def process_started(pid: int) -> int:
    """When a process of this host began, in clock ticks since boot; 0 if it is not running."""
    stat = process_stat(pid)
    return int(stat[19]) if stat and stat[0] not in "ZX" else 0
