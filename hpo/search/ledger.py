"""The only writer of trials: admission, reports, and the end of each with all its attributes.

Several drivers share one study. The total is exact without locks: a trial is admitted by its
rank among all that have not failed, and whoever is one too many hands its trial back.
Attributes and constraint are written before a trial is told; what is told stays.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from hpo.protocol import BaseFacts
from hpo.search.leases import Leases
from hpo.search.outcomes import CONSEQUENCES
from hpo.search.revision import revision
from hpo.search.space import suggest
from hpo.specs import EvalPoint, Fault, Outcome, StudySpec, TrialConfig, TrialStats

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
SMALLEST_VIOLATION = 0.01  # an OOM is never feasible, however little was missing
ZERO_SHOT = "zero_shot"  # study attribute
UNKNOWN_VIOLATION = 1.0  # where nobody knows the capacity


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trial that this driver is to train."""

    trial: optuna.Trial
    config: TrialConfig
    seed_number: int
    """Number of the first attempt, from which all seeds derive."""
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trial ended, as far as anyone knows."""

    outcome: Outcome
    reason: str
    value: float | None = None
    """Best val loss of the grid; only with COMPLETE."""
    stats: TrialStats | None = None
    fault: Fault | None = None
    capacity_bytes: int | None = None
    details: dict[str, Any] | None = None


class Ledger:
    """The trials of one study, as this driver sees and changes them. Not thread-safe."""

    def __init__(self, study: optuna.Study, spec: StudySpec, leases: Leases) -> None:
        self.study = study
        self._spec = spec
        self._leases = leases
        self._common = {"host": leases.host, "worker": leases.worker, "git_revision": revision()}

    def note_base(self, facts: BaseFacts) -> None:
        """Keeps the val loss of the base alone, as the study's yardstick."""
        if facts.zero_shot is not None and not self.knows_zero_shot():
            self.study.set_user_attr(ZERO_SHOT, facts.zero_shot)

    def knows_zero_shot(self) -> bool:
        """Whether the base alone has been evaluated."""
        return ZERO_SHOT in self.study.user_attrs

    def finished(self) -> int:
        """Trials that count towards the total."""
        return sum(trial.state in FINISHED for trial in self._trials())

    def is_complete(self) -> bool:
        """Whether the study has its total."""
        return self.finished() >= self._spec.search.trials

    def ask(self) -> Asked | None:
        """The next trial, all parameters suggested; None while there is none to start."""
        trials = self._trials()
        busy = sum(t.state in FINISHED or t.state == TrialState.RUNNING for t in trials)
        if busy >= self._spec.search.trials:
            return None
        trial = self.study.ask()
        self._leases.take(trial._trial_id)
        config = suggest(trial, self._spec.space)
        attributes = trial.user_attrs
        asked = Asked(
            trial=trial,
            config=config,
            seed_number=attributes.get("seed_number", trial.number),
            attempt=attributes.get("attempt", 1),
        )
        if self._is_one_too_many(trial.number):
            reason = f"the study had its {self._spec.search.trials} trials already"
            self.finish(asked, Ending(outcome=Outcome.OVER_BUDGET, reason=reason))
            if "retry_of" in attributes:  # its first attempt was still on its way out
                self._enqueue_retry(asked, spends=False)
            return None
        return asked

    def _is_one_too_many(self, number: int) -> bool:
        ahead = sum(t.number < number and t.state != TrialState.FAIL for t in self._trials())
        return ahead >= self._spec.search.trials

    def report(self, asked: Asked, point: EvalPoint) -> Ending | None:
        """Reports a point; an ending if the pruner wants the trial to stop here."""
        try:
            asked.trial.report(point.val_loss, point.samples_seen)
        except UpdateFinishedTrialError:
            return Ending(outcome=Outcome.LOST, reason="it was ended by hand, in the dashboard")
        if point.last or not asked.trial.should_prune():
            return None
        others = [
            t.intermediate_values[point.samples_seen]
            for t in self._trials()
            if t.state == TrialState.COMPLETE and point.samples_seen in t.intermediate_values
        ]
        middle = median(others)
        return Ending(
            outcome=Outcome.PRUNED,
            reason=f"val loss {point.val_loss:.4f} at {point.samples_seen} samples is above the "
            f"median {middle:.4f} of {len(others)} trials",
            details={
                "pruner": "median",
                "pruned_at_samples": point.samples_seen,
                "pruned_val_loss": point.val_loss,
                "pruned_median": middle,
            },
        )

    def finish(
        self, asked: Asked, ending: Ending, *, environment: dict[str, Any] | None = None
    ) -> None:
        """Writes everything about the end of a trial, enqueues its retry, and tells it.

        Args:
            environment: attributes of where it was trained.
        """
        trial_id = asked.trial._trial_id
        if self._leases.renew([trial_id]):
            return  # somebody else has declared it lost and told it
        try:
            self._tell(asked, ending, environment or {})
        except UpdateFinishedTrialError:
            pass  # ended by hand, in the dashboard
        self._leases.drop(trial_id)

    def _tell(self, asked: Asked, ending: Ending, environment: dict[str, Any]) -> None:
        consequence = CONSEQUENCES[ending.outcome]
        attributes = self._common | environment | _attributes(ending)
        for key, value in attributes.items():
            asked.trial.set_user_attr(key, value)
        if consequence.state in FINISHED:
            violation = _violation(ending)
            asked.trial.set_constraint("memory", violation)
            asked.trial.set_user_attr("constraint_memory", violation)
        if consequence.retry:
            self._enqueue_retry(asked, spends=consequence.spends_attempt)
        self.study.tell(
            asked.trial,
            ending.value,
            state=consequence.state,
            skip_if_finished=True,
        )

    def reap(self) -> list[int]:
        """Ends the trials that nobody trains any more; their numbers."""
        numbers = []
        for frozen in self._leases.claim_lost():
            if self.study._storage.get_trial(frozen._trial_id).state.is_finished():
                self._leases.drop(frozen._trial_id)
                continue
            reason = "its worker is gone: killed, or its node is down"
            self.finish(self._asked_before(frozen), Ending(outcome=Outcome.LOST, reason=reason))
            numbers.append(frozen.number)
        return numbers

    def close(self) -> None:
        """Once the study has its total: retries that nobody needs any more are over budget."""
        for frozen in self._trials():
            if frozen.state == TrialState.WAITING and "retry_of" in frozen.user_attrs:
                storage, trial_id = self.study._storage, frozen._trial_id
                with suppress(UpdateFinishedTrialError):  # another driver closes it too
                    storage.set_trial_user_attr(trial_id, "outcome", str(Outcome.OVER_BUDGET))
                    storage.set_trial_state_values(trial_id, state=TrialState.FAIL)

    def _asked_before(self, frozen: FrozenTrial) -> Asked:
        trial = optuna.Trial(self.study, frozen._trial_id)
        return Asked(
            trial=trial,
            config=suggest(trial, self._spec.space),
            seed_number=frozen.user_attrs.get("seed_number", frozen.number),
            attempt=frozen.user_attrs.get("attempt", 1),
        )

    def renew(self, running: list[Asked]) -> list[Asked]:
        """Renews the leases of these trials; those that are no longer this driver's."""
        lost = self._leases.renew([asked.trial._trial_id for asked in running])
        return [asked for asked in running if asked.trial._trial_id in lost]

    def _enqueue_retry(self, asked: Asked, *, spends: bool) -> None:
        attempt = asked.attempt + spends
        if attempt > self._spec.search.attempts:
            return
        self.study.enqueue_trial(
            asked.trial.params,
            user_attrs={
                "retry_of": asked.trial.number,
                "attempt": attempt,
                "seed_number": asked.seed_number,
            },
        )

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


def _attributes(ending: Ending) -> dict[str, Any]:
    found: dict[str, Any] = {"outcome": str(ending.outcome), "reason": ending.reason}
    if ending.stats is not None:
        found |= ending.stats.model_dump()
    if ending.fault is not None:
        found |= _fault_attributes(ending.fault)
    return found | (ending.details or {})


def _fault_attributes(fault: Fault) -> dict[str, Any]:
    kind = str(fault.outcome)
    named = {
        f"{kind}_step": fault.step,
        f"{kind}_where": fault.where,
        "needed_bytes": fault.needed_bytes,
        "capacity_bytes": fault.capacity_bytes,
        "traceback": fault.traceback,
    }
    return {key: value for key, value in named.items() if value is not None}


def _violation(ending: Ending) -> float:
    """log2(memory needed / memory there): above 0 for an OOM, at most 0 for all others."""
    if ending.outcome == Outcome.OOM:
        fault = ending.fault
        if fault is None or not fault.needed_bytes or not fault.capacity_bytes:
            return UNKNOWN_VIOLATION
        return max(SMALLEST_VIOLATION, math.log2(fault.needed_bytes / fault.capacity_bytes))
    if ending.capacity_bytes is None or ending.stats is None or not ending.stats.peak_memory_bytes:
        return 0.0
    return min(0.0, math.log2(ending.stats.peak_memory_bytes / ending.capacity_bytes))
