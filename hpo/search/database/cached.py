"""Optuna's cached storage, made for many reads a trial and few writes.

A read costs one statement unless something has changed: trials that have ended are read once,
and those that have not only by who asks for them. What is written of one trial at one moment is
one transaction, which is void if the trial is another worker's by then.
"""

import copy
from bisect import insort
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

from optuna._typing import JSONSerializable
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.study import Study
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine

from hpo.search.database import rows
from hpo.search.database.limits import fitting
from hpo.search.database.writes import Writes, create_waiting

NUMBER = attrgetter("_number")


class _Known:
    """The trials of one study that have ended, as far as they were read."""

    def __init__(self) -> None:
        self.ended: dict[int, FrozenTrial] = {}
        """By id."""
        self._by_number: list[FrozenTrial] = []
        self.oldest = 0
        """Id before which all have ended and are known; of a trial, once there is one."""
        self._lists: dict[frozenset[TrialState], list[FrozenTrial]] = {}

    def in_states(self, wanted: frozenset[TrialState]) -> list[FrozenTrial]:
        """Those in certain states, by number; not to be changed."""
        if wanted not in self._lists:
            self._lists[wanted] = [trial for trial in self._by_number if trial.state in wanted]
        return self._lists[wanted]

    def due(self, now: dict[int, TrialState], wanted: frozenset[TrialState]) -> list[int]:
        """Which trials of a look at the study's states must be read."""
        return [
            trial_id
            for trial_id, state in now.items()
            if trial_id not in self.ended and (state.is_finished() or state in wanted)
        ]

    def add(self, now: dict[int, TrialState], found: list[FrozenTrial]) -> None:
        """Keeps what was read after such a look."""
        ended = {trial._trial_id: trial for trial in found if trial.state.is_finished()}
        if ended:
            self.ended |= ended
            self._by_number = sorted(self.ended.values(), key=NUMBER)
            self._lists.clear()
        live = [trial_id for trial_id in now if trial_id not in self.ended]
        self.oldest = min(live, default=max(now, default=self.oldest))


class StudyStorage(_CachedStorage):
    """Optuna's storage on a database, as one process uses it. Not thread-safe."""

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._known: dict[int, _Known] = defaultdict(_Known)
        self._writes: Writes | None = None

    @property
    def engine(self) -> Engine:
        """The way to the database."""
        return self._backend.engine

    @contextmanager
    def together(self, trial_id: int, worker: str) -> Iterator[None]:
        """Writes at its end, in one transaction, what is written of a trial inside.

        Raises:
            LeaseLostError: the trial is not this worker's; nothing is written.
            UpdateFinishedTrialError: it has ended; nothing is written.
        """
        writes = self._writes = Writes(trial_id)
        try:
            yield
        finally:
            self._writes = None
        writes.commit(self._backend.engine, worker)

    def report(self, trial_id: int, worker: str, step: int, value: float) -> None:
        """Writes one intermediate value.

        Raises:
            LeaseLostError: the trial is not this worker's.
            UpdateFinishedTrialError: it has ended.
        """
        writes = Writes(trial_id)
        writes.report(step, value)
        writes.commit(self._backend.engine, worker)

    def check(self, trial_id: int, worker: str) -> None:
        """Writes nothing, and raises what `report` would."""
        Writes(trial_id).commit(self._backend.engine, worker)

    def annotate(self, trial_id: int, attributes: dict[str, Any]) -> None:
        """Writes user attributes of a trial that has ended, which Optuna itself refuses to."""
        writes = Writes(trial_id)
        for key, value in attributes.items():
            writes.attribute(key, fitting(value, self.engine))
        writes.annotate(self._backend.engine)

    def create_waiting(self, study_id: int) -> int:
        """Id of a new trial that waits."""
        trial_id, number = create_waiting(self._backend.engine, study_id)
        self._introduce(study_id, trial_id, number)
        return trial_id

    def _collected(self, trial_id: int) -> Writes | None:
        writes = self._writes
        return writes if writes is not None and writes.trial_id == trial_id else None

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """A parameter; the first one of its name is checked against the database by Optuna."""
        writes = self._collected(trial_id)
        study_id, _ = self._trial_id_to_study_id_and_number[trial_id]
        known = self._studies[study_id].param_distribution.get(param_name)
        if writes is None or known is None:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        else:
            check_distribution_compatibility(known, distribution)
            writes.param(param_name, param_value_internal, distribution)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """An attribute."""
        value = fitting(value, self.engine)
        if writes := self._collected(trial_id):
            writes.attribute(key, value)
        else:
            super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: JSONSerializable) -> None:
        """An attribute of Optuna's."""
        if writes := self._collected(trial_id):
            writes.attribute(key, value, system=True)
        else:
            super().set_trial_system_attr(trial_id, key, value)

    def set_constraint(self, trial_id: int, name: str, value: float) -> None:
        """A constraint as `optuna.Trial` sets it, which looks first whether it is there."""
        self.set_trial_system_attr(trial_id, f"{_CONSTRAINTS_KEY}:{name}", value)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """A new state, with the values that a trial ends with."""
        if writes := self._collected(trial_id):
            writes.state(state, values)
            return True
        return super().set_trial_state_values(trial_id, state, values)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial as it is now."""
        with self._backend.engine.connect() as connection:
            found = rows.load(connection, [trial_id])
        return found[0] if found else self._backend.get_trial(trial_id)  # says that it is gone

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """Optuna's attributes of a trial as they are now."""
        with self._backend.engine.connect() as connection:
            found = rows.system_attrs(connection, trial_id)
        return found or self._backend.get_trial_system_attrs(trial_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Attributes of a study as they are now."""
        with self._backend.engine.connect() as connection:
            found = rows.study_attrs(connection, study_id)
        return found or self._backend.get_study_user_attrs(study_id)  # which says if it is gone

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """The study's trials as they are now, by number; those in certain states, or all."""
        wanted = frozenset(s for s in TrialState if states is None or s in states)
        live = self._read(study_id, wanted)
        found = self._known[study_id].in_states(wanted).copy()
        for trial in live:
            insort(found, trial, key=NUMBER)
        return copy.deepcopy(found) if deepcopy else found

    def states(self, study_id: int) -> dict[int, TrialState]:
        """States of the study's trials as they are now, by id."""
        with self._backend.engine.connect() as connection:
            now = self._look(connection, study_id)
        ended = self._known[study_id].ended
        return {trial_id: trial.state for trial_id, trial in ended.items()} | now

    def waiting(self, study_id: int, *, first: str) -> list[int]:
        """Ids of the study's WAITING trials: those with a user attribute first, then by age."""
        with self._backend.engine.connect() as connection:
            found = rows.waiting(connection, study_id, first)
        for trial_id, number in found:
            self._introduce(study_id, trial_id, number)
        return [trial_id for trial_id, _ in found]

    def _introduce(self, study_id: int, trial_id: int, number: int) -> None:
        """Tells Optuna's cache of a trial, before parameters are set."""
        self._studies.setdefault(study_id, _StudyInfo())
        self._trial_id_to_study_id_and_number[trial_id] = study_id, number

    def _look(self, connection: Connection, study_id: int) -> dict[int, TrialState]:
        """States of the study's trials as they are now, but for the oldest that are known."""
        now = rows.states(connection, study_id, self._known[study_id].oldest)
        if not now:
            self._backend.get_study_name_from_id(study_id)  # raises if the study was deleted
        return now

    def _read(self, study_id: int, wanted: frozenset[TrialState]) -> list[FrozenTrial]:
        """Reads what has ended since the last time; the wanted trials that have not."""
        known = self._known[study_id]
        with self._backend.engine.connect() as connection:
            now, found = self._moment(connection, study_id, wanted)
        known.add(now, found)
        self._studies.setdefault(study_id, _StudyInfo())
        self._add_trials_to_cache(study_id, found)
        return [t for t in found if t.state in wanted and not t.state.is_finished()]

    def _moment(
        self, connection: Connection, study_id: int, wanted: frozenset[TrialState]
    ) -> tuple[dict[int, TrialState], list[FrozenTrial]]:
        """A look, and the trials that are due after it, as they were then.

        Again if one of them has moved on meanwhile: what was made before that, such as its retry,
        would be missing.
        """
        while True:
            now = self._look(connection, study_id)
            due = self._known[study_id].due(now, wanted)
            found = rows.load(connection, due) if due else []
            if all(trial.state == now[trial._trial_id] for trial in found):
                return now, found


def storage_of(study: Study) -> StudyStorage:
    """The storage of a study that was opened by us."""
    storage = study._storage
    assert isinstance(storage, StudyStorage)
    return storage
