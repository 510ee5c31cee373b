"""Bears a database that goes away: tries again, less and less often, until patience ends."""

import time
from collections.abc import Callable
from typing import TypeVar

import optuna
import sqlalchemy

from hpo.search.database.errors import cause
from hpo.units import show_duration

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 2.0
AWAY = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.InternalError,
    sqlalchemy.exc.PendingRollbackError,
    sqlalchemy.exc.TimeoutError,
)


def is_away(error: BaseException) -> bool:
    """Whether an error means that the database cannot be reached, or used, just now."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    if isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.connection_invalidated:
        return True
    return isinstance(cause, AWAY)


def insist(work: Callable[[], T], *, patience_s: float, say: Callable[[str], None]) -> T:
    """Does the work, again and again while the database is away.

    Args:
        say: takes what there is to say of it.

    Raises:
        SQLAlchemyError, StorageInternalError: it is away for too long.
    """
    outage = Outage(patience_s=patience_s)
    results: list[T] = []
    while not results:
        if text := outage.attempt(lambda: results.append(work())):
            say(text)
        if not results and outage.error is not None:
            if outage.is_over_patience:
                raise outage.error
            time.sleep(FIRST_WAIT_S)
    return results[0]


class Outage:
    """Does work that needs the database, now or later. Not thread-safe."""

    def __init__(
        self, *, patience_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._since: float | None = None
        self._again = 0.0
        self._wait_s = FIRST_WAIT_S
        self.error: Exception | None = None
        """What the database last said, while it is away."""

    @property
    def is_over_patience(self) -> bool:
        """Whether it has been away for too long."""
        return self._since is not None and self._monotonic() - self._since > self._patience_s

    def attempt(self, work: Callable[[], None], *, now: bool = False) -> str:
        """Does the work, unless the database is away; what there is to say of it, or nothing.

        Work that stopped in the middle is called again as a whole.

        Args:
            now: whether to try even if it was away a moment ago.
        """
        if not now and self.error is not None and self._monotonic() < self._again:
            return ""
        try:
            work()
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            if not is_away(error):
                raise
            return self._failed(error)
        return self._succeeded()

    def _failed(self, error: Exception) -> str:
        now = self._monotonic()
        first = self.error is None
        self.error = error
        self._since = now if self._since is None else self._since
        self._again = now + self._wait_s
        self._wait_s = min(LONGEST_WAIT_S, 2 * self._wait_s)
        why = f" ({what})" if (what := cause(error)) else ""
        return f"the database cannot be used now{why}; training goes on meanwhile" if first else ""

    def _succeeded(self) -> str:
        if self._since is None:
            return ""
        away = show_duration(self._monotonic() - self._since)
        self._since, self.error, self._wait_s = None, None, FIRST_WAIT_S
        return f"the database is back after {away}"
