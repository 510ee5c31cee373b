"""Which trial comes next, and whether one may start at all.

Several drivers share one study. The total is exact without locks: a configuration, tried once or
several times, is admitted by its rank among all that have not failed, and whoever is one too many
hands its trial back. Ranks only improve, as new configurations come last. A trial is WAITING until
its lease is taken: a database that goes away in between leaves nothing behind that runs without
an owner.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from hpo.errors import StorageError
from hpo.search.database.cached import StudyStorage, storage_of
from hpo.search.database.leases import Leases
from hpo.search.database.writes import LeaseLostError
from hpo.search.ledger.retries import first_number
from hpo.search.study.enqueued import (
    REMEDY,
    distribution_conflict,
    parameter_problems,
    validation_problems,
)
from hpo.search.study.space import suggest
from hpo.specs import Param, TrialConfig

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
ENDED = (*FINISHED, TrialState.FAIL)
BEGUN = (*FINISHED, TrialState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trial that this driver is to train, or to tell."""

    trial: optuna.Trial
    config: TrialConfig
    seed_number: int
    """Number of the first attempt, from which all seeds derive."""
    attempt: int
    """1 for the first."""
    spent: dict[str, int] = field(default_factory=dict)
    """How often earlier attempts have ended, by outcome."""
    earlier: tuple[int, ...] = ()
    """Numbers of the earlier attempts, the latest first."""
    alone: bool = False
    """Whether it is to have its runner for itself."""

    @property
    def number(self) -> int:
        """Optuna's number of the trial."""
        return self.trial.number

    @property
    def trial_id(self) -> int:
        """The database's number of the trial."""
        return self.trial._trial_id


class UntrainableError(Exception):
    """A trial of the database has parameters that no trial can have; somebody enqueued it."""

    def __init__(self, trial_id: int, number: int, why: str) -> None:
        self.trial_id = trial_id
        self.reason = f"trial {number} was enqueued with parameters that cannot be trained: {why}"
        super().__init__(self.reason)


def asked_again(study: optuna.Study, space: dict[str, Param], trial_id: int) -> Asked:
    """A trial of the database with its configuration; what it lacks of it is sampled.

    Raises:
        UntrainableError: a parameter is outside of what the search space and LoRA allow.
        StorageError: a trial of the study has another distribution of a parameter.
    """
    trial = optuna.Trial(study, trial_id)
    if why := parameter_problems(trial._cached_frozen_trial, space):
        raise UntrainableError(trial_id, trial.number, f"{why}; {REMEDY}")
    try:
        config = suggest(trial, space)
    except ValidationError as error:
        why = validation_problems(error)
        raise UntrainableError(trial_id, trial.number, f"{why}; {REMEDY}") from error
    except ValueError as error:  # so would every other trial
        raise StorageError(distribution_conflict(study, space)) from error
    try:
        return _asked(trial, config)
    except (TypeError, ValueError, AttributeError) as error:
        why = (
            "one of its attributes attempt, seed_number, spent and earlier, which belong to hpo, "
            "has a wrong type; enqueue it without them"
        )
        raise UntrainableError(trial_id, trial.number, why) from error


def _asked(trial: optuna.Trial, config: TrialConfig) -> Asked:
    attributes = trial.user_attrs
    return Asked(
        trial=trial,
        config=config,
        seed_number=first_number(trial),
        attempt=int(attributes.get("attempt", 1)),
        spent={str(kind): int(count) for kind, count in attributes.get("spent", {}).items()},
        earlier=tuple(int(number) for number in attributes.get("earlier", ())),
        alone=bool(attributes.get("alone", False)),
    )


class Admission:
    """The way into the budget of trials."""

    def __init__(self, study: optuna.Study, space: dict[str, Param], leases: Leases) -> None:
        self._study, self._space, self._leases = study, space, leases
        self._pending: int | None = None
        """Trial that was being taken when the database went away."""

    def next(self, total: int) -> Asked | None:
        """A RUNNING trial with a lease of ours; None while there is none to start."""
        if self._pending is None:
            states = Counter(self._storage.states(self._study._study_id).values())
            begun = sum(states[state] for state in BEGUN)
            if begun >= total:
                return None
            self._pending = self._take(states[TrialState.WAITING], room=total - begun)
        asked = self._begin(self._pending) if self._pending is not None else None
        self._pending = None
        return asked

    def forget(self) -> None:
        """Takes no trial up again that was being taken."""
        self._pending = None

    def is_one_too_many(self, asked: Asked, total: int) -> bool:
        """Whether the configurations before this one fill the budget, or this one is there twice.

        A retry is there twice if the database committed it without saying so.
        """
        if not asked.earlier and asked.seed_number < total:
            return False  # there are not so many numbers before it
        trials = self._study.get_trials(deepcopy=False)
        older = (t for t in trials if t.number < asked.number)
        if asked.earlier and any(_makes_needless(t, asked) for t in older):
            return True
        alive = [t for t in trials if t.state != TrialState.FAIL]
        if len(alive) < total:
            return False
        return sum(number < asked.seed_number for number in set(map(first_number, alive))) >= total

    def _take(self, waiting: int, room: int) -> int | None:
        """A waiting trial of ours: retries come first, then the oldest; else a new one."""
        study_id = self._study._study_id
        for trial_id in self._storage.waiting(study_id, first="retry_of") if waiting else ():
            if self._leases.take(trial_id):
                return trial_id
        if waiting >= room:
            return None  # others are about to start them
        trial_id = self._storage.create_waiting(study_id)
        return trial_id if self._leases.take(trial_id) else None

    def _begin(self, trial_id: int) -> Asked | None:
        """Sets a trial of ours RUNNING with all its parameters.

        None if it is ours no more, or ended meanwhile.
        """
        with suppress(LeaseLostError):
            try:
                with self._storage.together(trial_id, self._leases.worker):
                    self._storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
                    return asked_again(self._study, self._space, trial_id)
            except UpdateFinishedTrialError:
                self._leases.drop(trial_id)
        return None

    @property
    def _storage(self) -> StudyStorage:
        return storage_of(self._study)


def _makes_needless(trial: FrozenTrial, asked: Asked) -> bool:
    """Whether an older trial is the same retry, or its configuration finished with it."""
    if first_number(trial) != asked.seed_number:
        return False
    return trial.state in FINISHED or trial.user_attrs.get("retry_of") in asked.earlier[:1]
