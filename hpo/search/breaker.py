"""Ends a study whose trials keep failing: nothing is gained by failing all night."""

from hpo.search.outcomes import CONSEQUENCES
from hpo.specs import Outcome

LIMIT = 5  # failures in a row


class Breaker:
    """Counts failures in a row; a finished trial starts the count anew."""

    def __init__(self) -> None:
        self._count = 0
        self.reason = ""

    def note(self, outcome: Outcome, reason: str) -> None:
        """A trial has ended."""
        consequence = CONSEQUENCES[outcome]
        if consequence.counts:
            self._count = 0
        elif consequence.trips_breaker:
            self._count += 1
            self.reason = (
                f"{self._count} trials failed in a row, the last one by {outcome}: {reason}"
            )

    @property
    def tripped(self) -> bool:
        """Whether it is enough."""
        return self._count >= LIMIT
