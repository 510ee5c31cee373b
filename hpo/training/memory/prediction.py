"""Whether a trial can fit into the memory, known before it starts. Knows no torch.

Three things tell, and none of them refuses what fits:

- the footprint: what a trial holds at once for certain, counted in advance;
- experience: what asks for at least as much as a trial that failed fails too, and what asks for
  at most as much as one that fitted fits;
- where peaks are exact, as those of a GPU's allocator are, a line through the peaks so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import linear_regression

from hpo.specs import Demand, Observation
from hpo.training.memory.footprint import OPTIMIZER_BYTES, Footprint

MORE = 1.05  # so much more than what failed surely fails, whatever the rank adds or saves
FIT_POINTS = 6  # peaks before the line through them is trusted
FIT_ERROR = 0.01  # of a peak: its distance from the line, at most
FIT_MARGIN = 0.05  # of a peak: how far beyond the capacity the line must point


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a trial is not tried."""

    needed_bytes: int
    """About; at least the capacity."""
    reason: str


@dataclass(kw_only=True)
class MemoryModel:
    """What one runner knows of the memory of its trials; it learns from every one of them."""

    footprint: Footprint = field(default_factory=Footprint)
    capacity_bytes: int | None = None
    """None where nobody knows: then nothing is refused."""
    parameter_bytes: int = 4
    """Of one trainable parameter at rest."""
    exact_peaks: bool = False
    """Whether measured peaks are exact, and are what the capacity bounds."""
    _seen: dict[Observation, None] = field(default_factory=dict)

    def learn(self, *observations: Observation) -> None:
        """Takes in what trials have shown here, or on devices like this; twice does no harm.

        What did not fit elsewhere into less memory or beside a larger base, or fitted there into
        more or beside a smaller one, shows nothing here.
        """
        for seen in observations:
            more = seen.base_bytes - self.footprint.base_bytes
            if more < 0 if seen.fitted else more > 0:
                continue
            smaller, larger = seen.capacity_bytes, self.capacity_bytes
            if not seen.fitted:
                smaller, larger = larger, smaller
            if smaller is not None and larger is not None and smaller <= larger:
                self._seen[seen] = None

    def refusal(self, demand: Demand) -> Refusal | None:
        """Why a trial surely cannot fit; None if it may."""
        capacity = self.capacity_bytes
        if capacity is None or not demand.activation_bytes or self._fitted(demand):
            return None
        why = self._why(demand, capacity)
        if why is None:
            return None
        needed = self.needed_bytes(demand)
        about = "about" if needed > capacity else "more than"
        reason = (
            f"out of memory, foreseen and not tried: it would need {about} "
            f"{needed / 2**30:.2f} GiB of {capacity / 2**30:.2f} GiB, {why}"
        )
        return Refusal(needed_bytes=needed, reason=reason)

    def needed_bytes(self, demand: Demand) -> int:
        """About what a trial that does not fit would have taken: at least the capacity."""
        predicted = self.predicted_peak(demand) if self.exact_peaks else None
        estimate = self.footprint.estimate(demand) if predicted is None else predicted
        return max(estimate, self.capacity_bytes or 0)

    def predicted_peak(self, demand: Demand) -> int | None:
        """The peak by the line through those so far; None while it cannot be trusted."""
        fits = [seen for seen in self._seen if seen.fitted]
        points = [(s.demand.activation_bytes, s.peak_bytes - self._rest(s.demand)) for s in fits]
        line = _line(points)
        if line is None:
            return None
        slope, constant = line
        return round(slope * demand.activation_bytes + constant) + self._rest(demand)

    def _why(self, demand: Demand, capacity: int) -> str | None:
        floor = self.footprint.floor(demand, self.parameter_bytes)
        if floor > capacity:
            return f"at least {floor / 2**30:.2f} GiB of it at once"
        if any(self._exceeds(demand, s.demand) for s in self._seen if not s.fitted):
            return "no less than what did not fit before"
        predicted = self.predicted_peak(demand) if self.exact_peaks else None
        if predicted is not None and predicted * (1 - FIT_MARGIN) > capacity:
            return "by the peaks of the trials before"
        return None

    def _exceeds(self, demand: Demand, failed: Demand) -> bool:
        more = self.footprint.estimate(demand) >= MORE * self.footprint.estimate(failed)
        return more or demand.covers(failed)

    def _fitted(self, demand: Demand) -> bool:
        return any(seen.demand.covers(demand) for seen in self._seen if seen.fitted)

    def _rest(self, demand: Demand) -> int:
        return self.footprint.base_bytes + demand.trainable * OPTIMIZER_BYTES


def _line(points: Sequence[tuple[int, int]]) -> tuple[float, float] | None:
    """(slope, constant) of the least-squares line; None if there are few points, or far from it."""
    x, y = [float(x) for x, _ in points], [float(y) for _, y in points]
    if len(x) < FIT_POINTS or len(set(x)) < 3:
        return None
    slope, constant = linear_regression(x, y)
    far = max(abs(slope * a + constant - b) / max(1.0, abs(b)) for a, b in points)
    return (slope, constant) if slope > 0 and far <= FIT_ERROR else None
