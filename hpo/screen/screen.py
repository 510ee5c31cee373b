"""What every screen can do."""

from contextlib import AbstractContextManager
from typing import Protocol

from hpo.plan import Plan
from hpo.protocol import Cost
from hpo.search.events import Watcher
from hpo.search.ledger.summary import Summary


class Screen(Watcher, Protocol):
    """A way to show a study."""

    def plan(self, plan: Plan, finished: int | None) -> None:
        """Says what will be done, before anything starts; `finished` is None if nobody looked."""

    def costs(self, plan: Plan, costs: tuple[Cost, ...], checks: tuple[str, ...]) -> None:
        """Says what a trial would cost: the end of a dry run."""

    def summary(self, summary: Summary, commands: list[str], verdict: str) -> None:
        """Says what came out, and what to type next."""

    def running(self) -> AbstractContextManager[None]:
        """Entered while trials run."""
