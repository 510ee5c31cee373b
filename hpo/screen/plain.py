"""Plain lines: what is worth keeping in a log file."""

from contextlib import AbstractContextManager, nullcontext

from rich.console import Console

from hpo.plan import Plan
from hpo.protocol import Cost
from hpo.screen import text
from hpo.search.events import (
    DriverEvent,
    Note,
    RunnerReady,
    TrialEnded,
    TrialStarted,
)
from hpo.search.ledger.summary import Summary
from hpo.specs import VAL_LOSS


class PlainScreen:
    """Writes one line for everything that begins or ends."""

    def __init__(self, console: Console, trials: int) -> None:
        self._console = console
        self._trials = trials
        self._ready = False
        self._objective = VAL_LOSS

    def show(self, event: DriverEvent) -> None:
        """Writes a line, if the event is worth one."""
        match event:
            case RunnerReady() if not self._ready:
                self._ready = True
                for line in text.base_lines(event.facts, self._objective.words):
                    self._print(line)
            case TrialStarted():
                again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
                self._print(f"trial {event.number} starts{again}: {text.params(event.params)}")
            case TrialEnded():
                self._print(text.ended_line(event, self._trials))
            case Note():
                self._print(event.text)

    def plan(self, plan: Plan, finished: int | None) -> None:
        """Writes what will be done."""
        self._objective = plan.spec.objective
        for line in text.plan_lines(plan, finished):
            self._print(line)

    def costs(self, plan: Plan, costs: tuple[Cost, ...], checks: tuple[str, ...]) -> None:
        """Writes what a trial would cost."""
        for line in text.cost_lines(plan, costs, checks):
            self._print(line)

    def summary(self, summary: Summary, commands: list[str], verdict: str) -> None:
        """Writes what came out."""
        self._print("")
        for line in text.summary_lines(summary, commands, verdict):
            self._print(line)

    def running(self) -> AbstractContextManager[None]:
        """Nothing to begin or end."""
        return nullcontext()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False)
