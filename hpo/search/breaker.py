"""Ends a study whose trials keep failing for one reason: nothing is gained by failing all night."""

from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Outcome

LIMIT = 5  # failures in a row


class Breaker:
    """Counts failures of one kind in a row; a finished trial starts the count anew."""

    def __init__(self) -> None:
        self._count = 0
        self._kind: Outcome | None = None
        self.reason = ""

    def note(self, outcome: Outcome, reason: str) -> None:
        """A trial has ended."""
        consequence = CONSEQUENCES[outcome]
        if consequence.counts:
            self._count = 0
        elif consequence.trips_breaker:
            self._count = self._count + 1 if outcome == self._kind else 1
            self._kind = outcome
            self.reason = (
                f"{self._count} trials in a row ended as {outcome}, the last one so: {reason}; "
                f"{consequence.advice}"
            )

    @property
    def tripped(self) -> bool:
        """Whether it is enough."""
        return self._count >= LIMIT
