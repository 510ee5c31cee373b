"""What came out of a study: best configurations, outcomes, failures with their reasons."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search.database.leases import Usage
from hpo.search.ledger.admission import FINISHED
from hpo.search.ledger.ledger import ZERO_SHOT
from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Outcome, StudySpec

TOP = 5
QUIET = {Outcome.COMPLETE, Outcome.PRUNED, Outcome.OVER_BUDGET, Outcome.PREEMPTED}


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A trial among the best."""

    number: int
    val_loss: float
    params: dict[str, Any]
    seconds: float | None
    peak_memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Trials that ended for one reason."""

    outcome: str
    count: int
    numbers: tuple[int, ...]
    reason: str
    """Of the first of them."""
    advice: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A study as it stands."""

    name: str
    trials: int
    finished: int
    running: int
    counts: dict[str, int]
    best: tuple[Ranked, ...]
    failures: tuple[Failure, ...]
    zero_shot: float | None
    usage: Usage
    folder: str


def summarise(
    study: optuna.Study, spec: StudySpec, usage: Usage, *, total: int, folder: str
) -> Summary:
    """Reads the study's trials."""
    trials = study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished()]
    return Summary(
        name=study.study_name,
        trials=total,
        finished=sum(trial.state in FINISHED for trial in trials),
        running=sum(trial.state == TrialState.RUNNING for trial in trials),
        counts=dict(Counter(_outcome(trial) for trial in ended).most_common()),
        best=_best(trials, spec),
        failures=_failures(ended),
        zero_shot=study.user_attrs.get(ZERO_SHOT),
        usage=usage,
        folder=folder,
    )


def _outcome(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("outcome", trial.state.name.lower()))


def _best(trials: list[FrozenTrial], spec: StudySpec) -> tuple[Ranked, ...]:
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    ranked = sorted(complete, key=lambda trial: (trial.value, trial.number))
    constants = {n: p.value for n, p in spec.space.items() if p.type == "constant"}
    return tuple(
        Ranked(
            number=trial.number,
            val_loss=float(trial.value or 0.0),
            params={**trial.params, **constants},
            seconds=trial.user_attrs.get("seconds"),
            peak_memory_bytes=trial.user_attrs.get("peak_memory_bytes"),
        )
        for trial in ranked[:TOP]
    )


def _failures(ended: list[FrozenTrial]) -> tuple[Failure, ...]:
    groups: dict[str, list[FrozenTrial]] = {}
    for trial in ended:
        groups.setdefault(_outcome(trial), []).append(trial)
    return tuple(
        Failure(
            outcome=outcome,
            count=len(group),
            numbers=tuple(trial.number for trial in group),
            reason=str(group[0].user_attrs.get("reason", "no reason was recorded")),
            advice=_advice(outcome),
        )
        for outcome, group in groups.items()
        if outcome not in QUIET
    )


def _advice(outcome: str) -> str:
    return CONSEQUENCES[Outcome(outcome)].advice if outcome in set(Outcome) else ""
