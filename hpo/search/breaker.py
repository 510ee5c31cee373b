"""Ends a study whose trials keep failing for one reason: nothing is gained by failing all night."""

from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Outcome

LIMIT = 5  # failures in a row


class Breaker:
    """Counts failures of one kind in a row; a finished trial starts the count anew."""

    def __init__(self) -> None:
        self._count = 0
        self._kind: Outcome | None = None
        self._failed = 0.0
        self.reason = ""

    def note(self, outcome: Outcome, reason: str, *, began: float, ended: float) -> None:
        """A trial has ended.

        Of trials that trained side by side and failed together, one counts: a storage that pauses
        for a moment is one failure, however many runners there are.

        Args:
            began, ended: by one clock.
        """
        consequence = CONSEQUENCES[outcome]
        if consequence.counts:
            self._count, self._kind = 0, None
        elif consequence.trips_breaker and (outcome != self._kind or began >= self._failed):
            self._count = self._count + 1 if outcome == self._kind else 1
            self._kind, self._failed = outcome, ended
            self.reason = (
                f"{self._count} trials in a row ended as {outcome}, the last one so: {reason}; "
                f"{consequence.advice}"
            )

    @property
    def tripped(self) -> bool:
        """Whether it is enough."""
        return self._count >= LIMIT
