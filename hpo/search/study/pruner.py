"""Optuna's median pruner, for many trials at a time."""

import math
from dataclasses import dataclass

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.search.study.curves import Curves


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a trial compares with others at its last step."""

    prunes: bool
    median: float
    count: int
    """Trials that it is the median of."""


class MedianPruner(optuna.pruners.BasePruner):
    """Prunes a trial whose best value so far is worse than the median of the others' at its step.

    Decides as `optuna.pruners.MedianPruner` does, which sorts the values of all COMPLETE trials
    anew at every report (Golovin et al. 2017). But while too few are COMPLETE, RUNNING ones that
    have got as far count, too: of a hundred trials that start together all would else go on to
    their ends. Of one study.
    """

    def __init__(self, *, startup_trials: int, min_trials: int, warmup_steps: int) -> None:
        self._startup_trials = startup_trials
        self._min_trials = min_trials
        self._warmup_steps = warmup_steps
        self.curves = Curves()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to stop after its last report."""
        verdict = self.verdict(study, trial)
        return verdict is not None and verdict.prunes

    def verdict(self, study: Study, trial: FrozenTrial) -> Verdict | None:
        """What is to be said of the trial after its last report; None while that is nothing."""
        step = trial.last_step
        if step is None or step < self._warmup_steps:
            return None
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        others = self.curves.learn(complete).at(step)
        maximize = study.direction == StudyDirection.MAXIMIZE
        best = _best(trial, maximize=maximize)
        is_nan, few = math.isnan(best), len(complete) < max(1, self._startup_trials)
        if few or (others.count < self._min_trials and not is_nan):
            others = others.with_more(_running(study, trial, step))
            if others.count < max(self._startup_trials, self._min_trials):
                return None
        middle = others.median()
        worse = best < middle if maximize else best > middle
        return Verdict(prunes=worse or is_nan, median=middle, count=others.count)


def _running(study: Study, trial: FrozenTrial, step: int) -> list[float]:
    """What others have reported at this step that are still RUNNING."""
    others = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    curves = [other.intermediate_values for other in others if other.number != trial.number]
    return [curve[step] for curve in curves if step in curve]


def _best(trial: FrozenTrial, *, maximize: bool) -> float:
    values = [v for v in trial.intermediate_values.values() if not math.isnan(v)]
    if not values:
        return math.nan
    return max(values) if maximize else min(values)
