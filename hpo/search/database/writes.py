"""What is written of one trial: together, in one transaction, and only by who holds its lease."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, Table, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from hpo.search.database.rows import (
    PARAMS,
    REPORTS,
    STUDIES,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    VALUES,
)
from hpo.search.database.tables import LEASES

# made once: to build a statement takes as long as to run it
_HOLD = (
    update(LEASES)
    .where(LEASES.c.trial_id == bindparam("trial"), LEASES.c.worker == bindparam("holder"))
    .values(worker=bindparam("holder"))
)
_STATE = select(TRIALS.c.state).where(TRIALS.c.trial_id == bindparam("trial")).with_for_update()
_TOLD = update(TRIALS).where(TRIALS.c.trial_id == bindparam("trial"))
_BEGUN = _TOLD.values(state=bindparam("new"), datetime_start=bindparam("now"))
_ENDED = _TOLD.values(state=bindparam("new"), datetime_complete=bindparam("now"))
_KEYS = {
    USER_ATTRS: USER_ATTRS.c.key,
    SYSTEM_ATTRS: SYSTEM_ATTRS.c.key,
    PARAMS: PARAMS.c.param_name,
    REPORTS: REPORTS.c.step,
    VALUES: VALUES.c.objective,
}
_THERE = {
    table: select(key).where(table.c.trial_id == bindparam("trial")) for table, key in _KEYS.items()
}
_INSERT = {table: insert(table) for table in _KEYS}
_STUDY = (
    select(STUDIES.c.study_id).where(STUDIES.c.study_id == bindparam("study")).with_for_update()
)
_CREATED = insert(TRIALS).values(study_id=bindparam("study"), state=TrialState.WAITING)
_BEFORE = (
    select(func.count())
    .select_from(TRIALS)
    .where(TRIALS.c.study_id == bindparam("study"), TRIALS.c.trial_id < bindparam("trial"))
)
_NUMBERED = _TOLD.values(number=bindparam("count"))


class LeaseLostError(Exception):
    """The trial is another worker's by now; nothing was written."""


def create_waiting(engine: Engine, study_id: int) -> tuple[int, int]:
    """(id, number) of a new trial that waits, the last one of its study.

    Raises:
        KeyError: the study was deleted.
    """
    with engine.begin() as connection:
        # one at a time, as Optuna does: the number is a count
        if connection.execute(_STUDY, {"study": study_id}).scalar() is None:
            raise KeyError(models.NOT_FOUND_MSG)
        key = connection.execute(_CREATED, {"study": study_id}).inserted_primary_key
        assert key is not None
        trial_id = int(key[0])
        before = connection.execute(_BEFORE, {"study": study_id, "trial": trial_id})
        number = int(before.scalar_one())
        connection.execute(_NUMBERED, {"trial": trial_id, "count": number})
    return trial_id, number


class Writes:
    """Collects what is to be written of one trial."""

    def __init__(self, trial_id: int) -> None:
        self.trial_id = trial_id
        self._rows: dict[Table, dict[Any, dict[str, Any]]] = {table: {} for table in _KEYS}
        self._state: TrialState | None = None

    def attribute(self, key: str, value: Any, *, system: bool = False) -> None:
        """A user or system attribute."""
        self._put(SYSTEM_ATTRS if system else USER_ATTRS, key, value_json=json.dumps(value))

    def param(self, name: str, internal: float, distribution: BaseDistribution) -> None:
        """A parameter, as its distribution represents it."""
        described = distribution_to_json(distribution)
        self._put(PARAMS, name, param_value=internal, distribution_json=described)

    def report(self, step: int, value: float) -> None:
        """An intermediate value."""
        kind = models.TrialIntermediateValueModel
        stored, value_type = kind.intermediate_value_to_stored_repr(value)
        self._put(REPORTS, step, intermediate_value=stored, intermediate_value_type=value_type)

    def state(self, state: TrialState, values: Sequence[float] | None) -> None:
        """A new state: RUNNING for a trial that waits, or one that ends it, with its values."""
        self._state = state
        for objective, value in enumerate(values or ()):
            stored, value_type = models.TrialValueModel.value_to_stored_repr(value)
            self._put(VALUES, objective, value=stored, value_type=value_type)

    def _put(self, table: Table, key: Any, **columns: Any) -> None:
        row = {"trial_id": self.trial_id, _KEYS[table].name: key, **columns}
        self._rows[table][key] = row

    def commit(self, engine: Engine, worker: str) -> None:
        """Writes all of it, or nothing. What is there already is written over.

        Raises:
            LeaseLostError: the trial is not this worker's.
            UpdateFinishedTrialError: it has ended.
            KeyError: it was deleted.
        """
        try:
            self._commit(engine, worker, anew=True)
        except IntegrityError:  # some is there, after a commit that nobody heard of
            self._commit(engine, worker, anew=False)

    def _commit(self, engine: Engine, worker: str, *, anew: bool) -> None:
        with engine.begin() as connection:
            # first, and an update: it locks the lease on every kind of database until the commit
            held = connection.execute(_HOLD, {"trial": self.trial_id, "holder": worker})
            if held.rowcount == 0:
                raise LeaseLostError
            state = self._updatable(connection)
            for table, rows in self._rows.items():
                if rows and anew:
                    connection.execute(_INSERT[table], list(rows.values()))
                elif rows:
                    self._write_over(connection, table, rows)
            self._tell(connection, state)

    def annotate(self, engine: Engine) -> None:
        """Writes attributes of a trial that has ended: nobody holds its lease any more.

        Raises:
            KeyError: it was deleted.
        """
        with engine.begin() as connection:
            if connection.execute(_STATE, {"trial": self.trial_id}).scalar() is None:
                raise KeyError(models.NOT_FOUND_MSG)
            self._write_over(connection, USER_ATTRS, self._rows[USER_ATTRS])

    def _updatable(self, connection: Connection) -> TrialState:
        state: TrialState | None = connection.execute(_STATE, {"trial": self.trial_id}).scalar()
        if state is None:
            raise KeyError(models.NOT_FOUND_MSG)
        if state.is_finished():
            raise UpdateFinishedTrialError(f"Trial {self.trial_id} has already finished.")
        return state

    def _write_over(
        self, connection: Connection, table: Table, rows: dict[Any, dict[str, Any]]
    ) -> None:
        """Inserts rows, and updates those that are there."""
        there = set(connection.execute(_THERE[table], {"trial": self.trial_id}).scalars())
        new = [row for key, row in rows.items() if key not in there]
        if new:
            connection.execute(_INSERT[table], new)
        for key in rows.keys() & there:
            same = (table.c.trial_id == self.trial_id) & (_KEYS[table] == key)
            connection.execute(update(table).where(same).values(rows[key]))

    def _tell(self, connection: Connection, before: TrialState) -> None:
        begins = self._state == TrialState.RUNNING
        if self._state is None or (begins and before == TrialState.RUNNING):
            return
        now = datetime.now(UTC).replace(tzinfo=None)
        told = {"trial": self.trial_id, "new": self._state, "now": now}
        connection.execute(_BEGUN if begins else _ENDED, told)
