"""Wires one scoring of a study: plan, find, choose, let a runner answer, keep the scores."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy import URL

from hpo.errors import HpoError, MissingError
from hpo.plan import Plan
from hpo.protocol import ANSWERS, Score, Scored
from hpo.search.database.storage import translated
from hpo.search.ledger import scores
from hpo.search.ledger.keeper import hold_owner, trial_folder
from hpo.search.opening import find_study
from hpo.search.runners.consult import consult
from hpo.search.study import portable
from hpo.search.study.budget import IDENTITY
from hpo.search.study.fingerprint import fingerprint
from hpo.search.study.loss import loss_explained


@dataclass(frozen=True, kw_only=True)
class ScoredTrial:
    """One of the best trials, and how well it answers."""

    number: int
    objective: str
    """In words."""
    value: float
    """Of the objective."""
    samples: int
    scores: dict[str, float]
    answers: str
    """File of its answers, one a line."""


def score_study(
    plan: Plan, url: URL, *, count: int, say: Callable[[str], None] = lambda text: None
) -> Iterator[ScoredTrial]:
    """Scores the best `count` trials whose adapters are on this disk, best first.

    Args:
        say: receives one line if the study does not store all that should be compared.

    Raises:
        HpoError: what the user can mend.
    """
    with translated(url):
        yield from _score_study(plan, url, count, say)


def _score_study(
    plan: Plan, url: URL, count: int, say: Callable[[str], None]
) -> Iterator[ScoredTrial]:
    spec = plan.spec
    contents = plan.contents
    prints = fingerprint(
        spec, data_digest=contents.data, weights_digest=contents.weights, whole=contents.whole
    )
    study = find_study(spec, url, prints, former=contents.former, say=say)
    with loss_explained(study, url, plan.runs_dir):
        yield from _scored(plan, study, count)


def _scored(plan: Plan, study: optuna.Study, count: int) -> Iterator[ScoredTrial]:
    spec = plan.spec
    chosen = {trial.number: trial for trial in _chosen(plan, study)[:count]}
    asked = [
        Score(order=scores.order_of(trial, spec, trial_folder(plan.runs_dir, number)))
        for number, trial in chosen.items()
    ]
    with closing(consult(spec, plan.placement, plan.runs_dir, asked)) as events:
        for event in events:
            if isinstance(event, Scored):
                yield _kept(plan, study, chosen.pop(event.number), event)
            if not chosen:
                break
    portable.write_copy(study, plan.runs_dir)


def _chosen(plan: Plan, study: optuna.Study) -> list[FrozenTrial]:
    """The trials that can be scored, best first."""
    hold_owner(plan.runs_dir, str(study.user_attrs[IDENTITY]))
    trials = study.get_trials(deepcopy=False)
    found = scores.with_adapters(trials, plan.spec, lambda n: trial_folder(plan.runs_dir, n))
    if not found:
        raise MissingError(
            f"study {plan.spec.name}: no COMPLETE trial has its adapter in {plan.runs_dir}; run "
            "the study until one is complete, or give the --runs-dir that it was run with"
        )
    return found


def _kept(plan: Plan, study: optuna.Study, trial: FrozenTrial, event: Scored) -> ScoredTrial:
    if event.problem is not None:
        raise HpoError(event.problem)
    scores.keep(study, trial, event.scores)
    return ScoredTrial(
        number=trial.number,
        objective=plan.spec.objective.words,
        value=float(trial.value or 0.0),
        samples=event.samples,
        scores=event.scores,
        answers=str(Path(trial_folder(plan.runs_dir, trial.number)) / ANSWERS),
    )
