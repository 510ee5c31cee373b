"""Optuna's median pruner, which reads each curve once instead of all of them at every report."""

import math
from bisect import insort

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState


class MedianPruner(optuna.pruners.BasePruner):
    """Prunes a trial whose best value so far is worse than the median of the others' at its step.

    Decides as `optuna.pruners.MedianPruner` does, which sorts the values of all COMPLETE trials
    anew at every report (Golovin et al. 2017). Of one study.
    """

    def __init__(self, *, startup_trials: int, min_trials: int, warmup_steps: int) -> None:
        self._startup_trials = startup_trials
        self._min_trials = min_trials
        self._warmup_steps = warmup_steps
        self._seen: set[int] = set()
        """Ids of the COMPLETE trials that are in the columns."""
        self._columns: dict[int, _Column] = {}
        """By step."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to stop after its last report."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        step = trial.last_step
        if not complete or len(complete) < self._startup_trials or step is None:
            return False
        if step < self._warmup_steps:
            return False
        maximize = study.direction == StudyDirection.MAXIMIZE
        best = _best(trial, maximize=maximize)
        if math.isnan(best):
            return True
        self._learn(complete)
        column = self._columns.get(step)
        if column is None or column.count < self._min_trials:
            return False
        middle = column.median()
        return best < middle if maximize else best > middle

    def _learn(self, complete: list[FrozenTrial]) -> None:
        """Takes in the curves of trials that were not COMPLETE before; none is ever un-told."""
        if len(complete) == len(self._seen):
            return
        for trial in complete:
            if trial._trial_id not in self._seen:
                self._seen.add(trial._trial_id)
                for step, value in trial.intermediate_values.items():
                    self._columns.setdefault(step, _Column()).add(value)


class _Column:
    """The values of COMPLETE trials at one step."""

    def __init__(self) -> None:
        self.count = 0
        """NaNs, too."""
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        self.count += 1
        if not math.isnan(value):
            insort(self._sorted, value)

    def median(self) -> float:
        """Rounded as `numpy.nanpercentile` rounds; NaN if there is none."""
        if not self._sorted:
            return math.nan
        upper = self._sorted[len(self._sorted) // 2]
        lower = self._sorted[(len(self._sorted) - 1) // 2]
        return upper - (upper - lower) * 0.5


def _best(trial: FrozenTrial, *, maximize: bool) -> float:
    values = [v for v in trial.intermediate_values.values() if not math.isnan(v)]
    if not values:
        return math.nan
    return max(values) if maximize else min(values)
