"""Retries: the next attempt of a configuration, which keeps its seeds and knows its earlier ones.

A trial that ends is retried at once, as often as its outcome allows. What failed for something
that a user may have mended since is retried once more by every later command.
"""

from collections import defaultdict
from collections.abc import Mapping

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Outcome, Scalar

MENDABLE = {outcome.value for outcome, what in CONSEQUENCES.items() if what.mendable}
WORKER = "worker"  # attribute of every trial that a worker ended; others never reached a runner


def first_number(trial: optuna.Trial | FrozenTrial) -> int:
    """Number of the first attempt of a trial's configuration."""
    return int(trial.user_attrs.get("seed_number", trial.number))


def enqueue_retry(
    study: optuna.Study,
    params: Mapping[str, Scalar],
    *,
    seed_number: int,
    attempt: int,
    spent: Mapping[str, int],
    earlier: tuple[int, ...],
    alone: bool,
) -> None:
    """Enqueues the next attempt of a configuration.

    Args:
        seed_number: number of the first attempt, from which all seeds derive.
        attempt: which one it is, 2 for the first retry.
        spent: how often earlier attempts have ended, by outcome.
        earlier: numbers of the earlier attempts, the latest first.
        alone: whether it is to have its runner for itself.
    """
    study.enqueue_trial(
        dict(params),
        user_attrs={
            "retry_of": earlier[0],
            "attempt": attempt,
            "seed_number": seed_number,
            "spent": dict(spent),
            "earlier": list(earlier),
            "alone": alone,
        },
    )


def enqueue_mended(study: optuna.Study, total: int) -> None:
    """Enqueues again what failed for good for a cause that may be mended by now.

    Known configurations come first; no more than `total` leaves room for next to all trials that
    have finished, run or wait.
    """
    trials = study.get_trials(deepcopy=False)
    room = total - sum(trial.state != TrialState.FAIL for trial in trials)
    attempts: defaultdict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        attempts[first_number(trial)].append(trial)
    failed = [found for found in attempts.values() if _is_mendable(found)]
    failed.sort(key=lambda found: ("known" not in found[0].user_attrs, found[0].number))
    for found in failed[: max(0, room)]:
        _enqueue_again(study, found)


def _is_mendable(attempts: list[FrozenTrial]) -> bool:
    """Whether no attempt of a configuration is left, and the last one failed for such a cause.

    What somebody enqueued with parameters that cannot be trained never reached a runner.
    """
    if not (started := _started(attempts)) or any(t.state != TrialState.FAIL for t in attempts):
        return False
    attributes = started[-1].user_attrs
    return WORKER in attributes and attributes.get("outcome") in MENDABLE


def _started(attempts: list[FrozenTrial]) -> list[FrozenTrial]:
    """The attempts without those that the study had no room for, the latest last."""
    surplus = Outcome.OVER_BUDGET.value
    return [trial for trial in attempts if trial.user_attrs.get("outcome") != surplus]


def _enqueue_again(study: optuna.Study, attempts: list[FrozenTrial]) -> None:
    """The next attempt, which has all its tries for such causes before it."""
    last = _started(attempts)[-1]
    spent = last.user_attrs.get("spent", {})
    enqueue_retry(
        study,
        last.params,
        seed_number=first_number(last),
        attempt=int(last.user_attrs.get("attempt", 1)) + 1,
        spent={kind: count for kind, count in spent.items() if kind not in MENDABLE},
        earlier=tuple(trial.number for trial in reversed(attempts)),
        alone=bool(last.user_attrs.get("alone", False)),
    )
