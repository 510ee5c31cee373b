"""What came out of a study: best configurations, outcomes, failures with their reasons."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search.database.leases import Usage
from hpo.search.ledger.admission import FINISHED
from hpo.search.ledger.diagnosis import DIAGNOSIS
from hpo.search.ledger.endings import ID2LABEL
from hpo.search.ledger.keeper import best
from hpo.search.ledger.ledger import GENERATES
from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.search.study.budget import ZERO_SHOT
from hpo.specs import Outcome, StudySpec

TOP = 5
QUIET = {Outcome.COMPLETE, Outcome.PRUNED, Outcome.OVER_BUDGET, Outcome.PREEMPTED}


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A trial among the best."""

    number: int
    value: float
    """Of the objective."""
    params: dict[str, Any]
    seconds: float | None
    peak_memory_bytes: int | None
    diagnosis: str | None = None
    """What is wrong with its curve, if anything."""
    id2label: dict[str, str] = field(default_factory=dict)
    """Label by output of its head, as in `labels.json` of its adapter; empty without labels."""


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
    objective: str
    """In words."""
    trials: int
    finished: int
    running: int
    counts: dict[str, int]
    best: tuple[Ranked, ...]
    failures: tuple[Failure, ...]
    zero_shot: float | None
    generates: bool
    """Whether its trials answer with texts, which can be scored."""
    usage: Usage
    folder: str
    diagnoses: dict[str, int] = field(default_factory=dict)
    """Trials by what is wrong with their curves."""
    copy: str = ""
    """The study as one file that opens without its database, if it could be written."""


def summarise(
    study: optuna.Study, spec: StudySpec, usage: Usage, *, total: int, folder: str
) -> Summary:
    """Reads the study's trials."""
    trials = study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished()]
    return Summary(
        name=study.study_name,
        objective=spec.objective.words,
        trials=total,
        finished=sum(trial.state in FINISHED for trial in trials),
        running=sum(trial.state == TrialState.RUNNING for trial in trials),
        counts=dict(Counter(_outcome(trial) for trial in ended).most_common()),
        best=_best(trials, spec),
        failures=_failures(ended),
        zero_shot=study.user_attrs.get(ZERO_SHOT),
        generates=GENERATES in study.user_attrs,
        usage=usage,
        folder=folder,
        diagnoses=dict(Counter(_diagnoses(ended)).most_common()),
    )


def _outcome(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("outcome", trial.state.name.lower()))


def _diagnoses(ended: list[FrozenTrial]) -> list[str]:
    """The kind of each diagnosis, which stands before its colon."""
    found = (trial.user_attrs.get(DIAGNOSIS) for trial in ended)
    return [str(text).partition(":")[0] for text in found if text]


def _best(trials: list[FrozenTrial], spec: StudySpec) -> tuple[Ranked, ...]:
    constants = {n: p.value for n, p in spec.space.items() if p.type == "constant"}
    return tuple(
        Ranked(
            number=trial.number,
            value=float(trial.value or 0.0),
            params={**trial.params, **constants},
            seconds=trial.user_attrs.get("seconds"),
            peak_memory_bytes=trial.user_attrs.get("peak_memory_bytes"),
            diagnosis=trial.user_attrs.get(DIAGNOSIS),
            id2label=trial.user_attrs.get(ID2LABEL, {}),
        )
        for trial in best(trials, spec.objective)[:TOP]
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
