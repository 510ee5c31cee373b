"""The only writer of trials: reports, retries, and the end of each with all its attributes.

A retry is there before its trial is told. Attributes, constraint, values and state are told in one
transaction, all or nothing, and what is told stays.
Every method may be called again after the database went away in the middle of it, with the same
arguments: what is there already is not written twice. Whoever has lost a trial's lease writes
nothing more about it.
"""

import math
from collections.abc import Container, Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Row

from hpo.protocol import BaseFacts
from hpo.search.database.cached import StudyStorage, storage_of
from hpo.search.database.leases import Leases
from hpo.search.database.writes import LeaseLostError
from hpo.search.ledger.admission import (
    ENDED,
    FINISHED,
    Admission,
    Asked,
    UntrainableError,
    asked_again,
)
from hpo.search.ledger.diagnosis import DIAGNOSIS, diagnose
from hpo.search.ledger.endings import OBSERVATION, Ending
from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.search.ledger.retries import enqueue_retry
from hpo.search.ledger.revision import revision
from hpo.search.study.budget import CONTENTS, IDENTITY, ZERO_SHOT, Budget, read_budget, wall_clock
from hpo.search.study.pruner import MedianPruner, Verdict
from hpo.specs import EvalPoint, Observation, Outcome, StudySpec

GENERATES = "generates"  # study attribute


class Ledger:
    """The trials of one study, as this driver sees and changes them. Not thread-safe."""

    def __init__(self, study: optuna.Study, spec: StudySpec, leases: Leases) -> None:
        self.study = study
        self.leases = leases
        self.identity = str(study.user_attrs[IDENTITY])
        self.checkpoint_key = self.identity + str(study.user_attrs.get(CONTENTS, ""))
        """What its checkpoints carry: none of another study or of other contents is used."""
        self.budget: Budget = read_budget(study, self.identity)
        self.objective = spec.objective
        self._spec = spec
        self._admission = Admission(study, spec.space, leases)
        self._asked: Asked | None = None
        """A trial of which it was not known yet whether it may start, when the database went."""
        self._orphans: dict[int, tuple[str, float]] = {}
        """Trials that are being taken over to be ended: why, and what they took of a device."""
        self._closing: set[int] = set()
        self._refused: list[str] = []
        self._held_at_first: dict[int, tuple[str, int]] | None = None
        self._common = {"host": leases.host, "worker": leases.worker, "git_revision": revision()}

    def note_base(self, facts: BaseFacts) -> None:
        """Keeps the objective of the base alone, the study's yardstick, and what it can do."""
        if facts.generates and GENERATES not in self.study.user_attrs:
            self.study.set_user_attr(GENERATES, True)
        if facts.zero_shot is not None and not self.knows_zero_shot():
            self.study.set_user_attr(ZERO_SHOT, facts.zero_shot)

    def knows_zero_shot(self) -> bool:
        """Whether the base alone has been evaluated."""
        return self.study.user_attrs.get(ZERO_SHOT) is not None

    def exhausted(self) -> tuple[str, float]:
        """(which bound of time the study has reached, or nothing; seconds until then).

        The budget is read again: another command may have changed it.
        """
        self.budget = read_budget(self.study, self.identity)
        usage, now = self.leases.usage(), wall_clock()
        return (
            self.budget.exhausted(now=now, device_seconds=usage.total_s),
            self.budget.left_s(now=now, device_seconds=usage.total_s, running=usage.running),
        )

    def finished(self) -> int:
        """Trials that count towards the total."""
        states = self._storage.states(self.study._study_id).values()
        return sum(state in FINISHED for state in states)

    def is_complete(self) -> bool:
        """Whether the study has its total."""
        return self.finished() >= self.budget.trials

    def ask(self) -> Asked | None:
        """The next trial, all parameters suggested; None while there is none to start."""
        try:
            self._asked = self._asked or self._admission.next(self.budget.trials)
        except UntrainableError as error:
            self._refuse(error)
            self._admission.forget()
            return None
        asked = self._asked
        if asked is not None and self._admission.is_one_too_many(asked, self.budget.trials):
            reason = f"the study has {self.budget.trials} trials without it"
            self.finish(asked, Ending(outcome=Outcome.OVER_BUDGET, reason=reason))
            asked = None
        self._asked = None
        return asked

    def give_back(self) -> None:
        """Ends a trial that was begun when the database went away, and never reached a runner."""
        if self._asked is not None:
            reason = "its driver ended before it could start it"
            self.finish(self._asked, Ending(outcome=Outcome.PREEMPTED, reason=reason))
            self._asked = None

    def _refuse(self, error: UntrainableError) -> None:
        """Ends a trial that somebody enqueued and nobody can train."""
        self._fail(error.trial_id, Outcome.DATA_ERROR, error.reason)
        self._refused.append(error.reason)

    def refused(self) -> list[str]:
        """Why trials were refused since the last call."""
        reasons, self._refused = self._refused, []
        return reasons

    def report(self, asked: Asked, point: EvalPoint, *, replayed: bool) -> Ending | None:
        """Reports a point; an ending if the trial is to stop here.

        Args:
            replayed: it was measured by an earlier attempt, and not pruned then.
        """
        if point.samples_seen not in self._reported(asked):
            try:
                self._write_report(asked, point)
            except LeaseLostError:
                return Ending(outcome=Outcome.LOST, reason="its lease was lost: another has it")
            except UpdateFinishedTrialError:
                reason = "it was ended by hand, in the dashboard"
                return Ending(outcome=Outcome.LOST, reason=reason)
        verdict = None if replayed or point.last else self._verdict(asked)
        return self._pruned(point, verdict) if verdict is not None and verdict.prunes else None

    def _write_report(self, asked: Asked, point: EvalPoint) -> None:
        step, value = point.samples_seen, self.objective.of(point)
        self._storage.report(asked.trial_id, self.leases.worker, step, value)
        self._reported(asked)[step] = value

    def _reported(self, asked: Asked) -> dict[int, float]:
        """What the trial's pruner sees of it."""
        return asked.trial._cached_frozen_trial.intermediate_values

    def _verdict(self, asked: Asked) -> Verdict | None:
        return self._pruner.verdict(self.study, asked.trial._cached_frozen_trial)

    @property
    def _pruner(self) -> MedianPruner:
        pruner = self.study.pruner
        assert isinstance(pruner, MedianPruner)
        return pruner

    def _pruned(self, point: EvalPoint, verdict: Verdict) -> Ending:
        step, value = point.samples_seen, self.objective.of(point)
        beyond = "above" if self.objective.direction == "minimize" else "below"
        return Ending(
            outcome=Outcome.PRUNED,
            reason=f"{self.objective.words} {value:.4f} at {step} samples is {beyond} the "
            f"median {verdict.median:.4f} of {verdict.count} trials",
            details={
                "pruner": "median",
                "pruned_at_samples": step,
                "pruned_value": value,
                "pruned_median": verdict.median,
            },
        )

    def finish(
        self,
        asked: Asked,
        ending: Ending,
        *,
        device_seconds: float = 0.0,
        environment: dict[str, Any] | None = None,
        curve: Mapping[int, float] | None = None,
    ) -> None:
        """Writes everything about the end of a trial, enqueues its retry, tells and settles it.

        Args:
            device_seconds: what it took of a device, for the usage of the study.
            environment: attributes of where it was trained.
            curve: its val losses by samples seen.
        """
        outcome = ending.outcome
        try:
            self._tell(asked, ending, (environment or {}) | self._diagnosis(outcome, curve or {}))
        except LeaseLostError:
            return  # somebody else has declared it lost and told it
        except UpdateFinishedTrialError:  # by hand, in the dashboard, or before the database went
            outcome = self._stored_outcome(asked, ending)
        self.leases.settle(asked.trial_id, outcome, device_seconds)

    def _diagnosis(self, outcome: Outcome, curve: Mapping[int, float]) -> dict[str, str]:
        """What the curve of a trial says, if it is one that counts."""
        if not curve or CONSEQUENCES[outcome].state not in FINISHED:
            return {}
        best = None
        if self.objective.metric == "val_loss":
            complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            best = self._pruner.curves.learn(complete).lowest(until=max(curve))
        found = diagnose(sorted(curve.items()), best)
        return {DIAGNOSIS: str(found)} if found is not None else {}

    def _stored_outcome(self, asked: Asked, ending: Ending) -> Outcome:
        """How the trial has ended in the database."""
        attributes = self._storage.get_trial_user_attrs(asked.trial_id)
        return Outcome(attributes.get("outcome", ending.outcome))

    def _tell(self, asked: Asked, ending: Ending, environment: dict[str, Any]) -> None:
        """Everything in one transaction, but for the retry, which is there before."""
        state = CONSEQUENCES[ending.outcome].state
        if state not in FINISHED:
            self._storage.check(asked.trial_id, self.leases.worker)
            self._enqueue_retry(asked, ending)
        with self._storage.together(asked.trial_id, self.leases.worker):
            for key, value in (self._common | environment | ending.attributes()).items():
                asked.trial.set_user_attr(key, value)
            if state in FINISHED:
                violation = ending.violation()
                self._storage.set_constraint(asked.trial_id, "memory", violation)
                asked.trial.set_user_attr("constraint_memory", violation)
            value = self._last_report(asked) if state == TrialState.PRUNED else ending.value
            values = None if value is None else [value]
            self._storage.set_trial_state_values(asked.trial_id, state, values)

    def _last_report(self, asked: Asked) -> float | None:
        """What a PRUNED trial has for a value in Optuna, which would read all of it to know."""
        reports = self._reported(asked)
        last = reports[max(reports)] if reports else math.nan
        return None if math.isnan(last) else last

    def _enqueue_retry(self, asked: Asked, ending: Ending) -> None:
        """Enqueues the same configuration, to go on where it was; not too often for one reason."""
        outcome = ending.outcome
        spent = asked.spent | {outcome.value: asked.spent.get(outcome.value, 0) + 1}
        if spent[outcome.value] >= self._tries(outcome):
            return
        if any(t.user_attrs.get("retry_of") == asked.number for t in self.trials()):
            return  # enqueued before the database went away
        enqueue_retry(
            self.study,
            asked.trial.params,
            seed_number=asked.seed_number,
            attempt=asked.attempt + 1,
            spent=spent,
            earlier=(asked.number, *asked.earlier),
            alone=ending.retry_alone or asked.alone,
        )

    def _tries(self, outcome: Outcome) -> float:
        if outcome == Outcome.LOST:
            return self._spec.search.attempts
        return CONSEQUENCES[outcome].tries

    def reap(self) -> list[int]:
        """Ends the trials that nobody trains any more; their numbers."""
        for row in self.leases.abandoned():
            self._orphans.setdefault(row.trial_id, (_silent(row), row.device_seconds))
            if not self.leases.claim(row):
                del self._orphans[row.trial_id]
        states = self._storage.states(self.study._study_id)
        running = [trial_id for trial_id, state in states.items() if state == TrialState.RUNNING]
        for trial_id in self.leases.leaseless(running):
            reason = "it was RUNNING, and no worker of this study had it"
            self._orphans.setdefault(trial_id, (reason, 0.0))
            if not self.leases.take(trial_id):
                del self._orphans[trial_id]
        return self._reap_orphans() if self._orphans else []

    def _reap_orphans(self) -> list[int]:
        """Ends what was taken over; the numbers of what was running."""
        trials = {trial._trial_id: trial for trial in self.trials()}
        reaped = []
        for trial_id in list(self._orphans):
            if self._reap(trial_id, trials.get(trial_id)):
                reaped.append(trials[trial_id].number)
            del self._orphans[trial_id]
        return reaped

    def _reap(self, trial_id: int, trial: FrozenTrial | None) -> bool:
        """Ends an orphan; False if it is another's, had not begun, or ended before."""
        reason, device_seconds = self._orphans[trial_id]
        if not self.leases.owns(trial_id):
            return False
        if trial is None or trial.state == TrialState.WAITING:
            self.leases.drop(trial_id)
            return False
        if trial.state.is_finished():
            outcome = Outcome(trial.user_attrs.get("outcome", Outcome.LOST))
            self.leases.settle(trial_id, outcome, device_seconds)
            return False
        self._end_lost(trial_id, reason, device_seconds)
        return True

    def _end_lost(self, trial_id: int, reason: str, device_seconds: float) -> None:
        try:
            asked = asked_again(self.study, self._spec.space, trial_id)
        except UntrainableError as error:
            self._refuse(error)
            return
        ending = Ending(outcome=Outcome.LOST, reason=reason)
        self.finish(asked, ending, device_seconds=device_seconds)

    def close(self) -> None:
        """Once the study has its total: what still waits is over budget."""
        waiting = {t._trial_id for t in self.trials() if t.state == TrialState.WAITING}
        self._closing |= waiting
        for trial_id in sorted(self._closing):
            if trial_id in waiting:
                self.leases.take(trial_id)
            if self.leases.owns(trial_id):
                reason = f"the study has {self.budget.trials} trials without it"
                self._fail(trial_id, Outcome.OVER_BUDGET, reason)
            self._closing.remove(trial_id)

    def _fail(self, trial_id: int, outcome: Outcome, reason: str) -> None:
        """Ends a trial of ours that never reached a runner."""
        with suppress(UpdateFinishedTrialError):  # before the database went away, or by another
            self._storage.set_trial_user_attr(trial_id, "outcome", outcome.value)
            self._storage.set_trial_user_attr(trial_id, "reason", reason)
            self._storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
        self.leases.settle(trial_id, outcome, 0.0)

    def others_are_alive(self) -> bool:
        """Whether every trial that another worker holds has got on since this was first asked."""
        held = {r.trial_id: (r.worker, r.renewals) for r in self.leases.all()}
        if self._held_at_first is None:
            self._held_at_first = held
        running = {t._trial_id for t in self.trials() if t.state == TrialState.RUNNING}
        silent = any(self._held_at_first.get(i) == state for i, state in held.items())
        return not silent and running <= held.keys()

    @property
    def _storage(self) -> StudyStorage:
        return storage_of(self.study)

    def observations(self, device: str, *, besides: Container[int]) -> dict[int, Observation]:
        """What trials have shown of the memory of such a device, by number; not of `besides`."""
        return {
            trial.number: Observation.model_validate(trial.user_attrs[OBSERVATION])
            for trial in self.study.get_trials(deepcopy=False, states=ENDED)
            if trial.number not in besides
            and OBSERVATION in trial.user_attrs
            and trial.user_attrs.get("device") == device
        }

    def trials(self) -> list[FrozenTrial]:
        """All trials of the study as they are now; not to be changed."""
        return self.study.get_trials(deepcopy=False)


def _silent(row: Row[Any]) -> str:
    return (
        f"its worker {row.worker} is gone or silent: killed, hung, or its node is down; "
        f"it had seen {row.samples_seen} samples"
    )
