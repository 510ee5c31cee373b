"""What the COMPLETE trials of a study have reported, step by step; each curve is read once."""

import math
from bisect import insort

from optuna.trial import FrozenTrial


class Column:
    """The values of trials at one step."""

    def __init__(self, ascending: list[float]) -> None:
        self.count = len(ascending)
        """NaNs, too."""
        self._sorted = ascending

    def with_more(self, values: list[float]) -> "Column":
        """Another one."""
        more = Column(self._sorted.copy())
        more.count = self.count
        for value in values:
            more.add(value)
        return more

    def add(self, value: float) -> None:
        """Takes one more in."""
        self.count += 1
        if not math.isnan(value):
            insort(self._sorted, value)

    def lowest(self) -> float:
        """Infinity if there is none."""
        return self._sorted[0] if self._sorted else math.inf

    def median(self) -> float:
        """Rounded as `numpy.nanpercentile` rounds; NaN if there is none."""
        if not self._sorted:
            return math.nan
        upper = self._sorted[len(self._sorted) // 2]
        lower = self._sorted[(len(self._sorted) - 1) // 2]
        return upper - (upper - lower) * 0.5


class Curves:
    """The reports of the COMPLETE trials of one study."""

    def __init__(self) -> None:
        self._learnt: set[int] = set()
        """Ids of the trials that are in the columns."""
        self._columns: dict[int, Column] = {}
        """By step."""

    def learn(self, complete: list[FrozenTrial]) -> "Curves":
        """Takes in those that were not COMPLETE before; none is ever un-told."""
        if len(complete) > len(self._learnt):
            for trial in complete:
                if trial._trial_id not in self._learnt:
                    self._learn(trial)
        return self

    def _learn(self, trial: FrozenTrial) -> None:
        self._learnt.add(trial._trial_id)
        for step, value in trial.intermediate_values.items():
            self._columns.setdefault(step, Column([])).add(value)

    def at(self, step: int) -> Column:
        """The values at a step."""
        return self._columns.get(step, Column([]))

    def lowest(self, *, until: int) -> float | None:
        """The lowest value at any step up to one; None without reports, infinity if all are NaN."""
        columns = (column for step, column in self._columns.items() if step <= until)
        return min((column.lowest() for column in columns), default=None)
