"""A live table: one line a running trial, the study below it."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo import streams
from hpo.plan import Plan
from hpo.screen.plain import PlainScreen
from hpo.screen.text import params
from hpo.search.events import (
    DriverEvent,
    TrialEnded,
    TrialEvaluated,
    TrialProgress,
    TrialStarted,
)
from hpo.units import show_duration


@dataclass(kw_only=True)
class Row:
    """A running trial."""

    params: str
    began: float = field(default_factory=time.monotonic)
    seen: int = 0
    samples: int = 0
    values: list[float] = field(default_factory=list)
    """Of the objective, at its eval points."""

    @property
    def left(self) -> str:
        """Time left, from the pace so far."""
        if not self.seen:
            return ""
        pace = (time.monotonic() - self.began) / self.seen
        return show_duration(pace * (self.samples - self.seen))


class LiveScreen(PlainScreen):
    """The plain screen's beginning and end, and a table in between."""

    def __init__(self, console: Console, trials: int) -> None:
        super().__init__(console, trials)
        self._rows: dict[int, Row] = {}
        self._counts: Counter[str] = Counter()
        self._finished = 0
        self._device_s = 0.0
        self._best: tuple[float, int] | None = None
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def plan(self, plan: Plan, finished: int | None) -> None:
        """Writes what will be done; the table begins with what earlier runs have finished."""
        self._finished = finished or 0
        super().plan(plan, finished)

    def show(self, event: DriverEvent) -> None:
        """Changes the table; what is worth keeping scrolls above it."""
        if streams.output_is_lost():
            super().show(event)
            return
        match event:
            case TrialStarted():
                self._rows[event.number] = Row(params=params(event.params))
            case TrialProgress() if row := self._rows.get(event.number):
                row.seen, row.samples = event.samples_seen, event.samples
            case TrialEvaluated() if row := self._rows.get(event.number):
                row.values.append(event.value)
            case TrialEnded():
                self._ended(event)
                super().show(event)
            case _:
                super().show(event)

    def _print(self, line: str) -> None:
        if streams.output_is_lost():
            self._live.stop()  # a log gets the lines of the plain screen alone
        super()._print(line)

    def _ended(self, event: TrialEnded) -> None:
        self._rows.pop(event.number, None)
        self._counts[str(event.outcome)] += 1
        self._finished = event.finished
        self._device_s += event.seconds or 0.0
        if event.value is not None and (
            self._best is None or self._objective.better(event.value, self._best[0])
        ):
            self._best = event.value, event.number

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "parameters", "progress", self._objective.words, "best", "left"):
            table.add_column(name, no_wrap=name != "parameters")
        for number, row in sorted(self._rows.items()):
            table.add_row(
                str(number),
                row.params,
                ProgressBar(total=row.samples or 1, completed=row.seen, width=16),
                f"{row.values[-1]:.4f}" if row.values else "",
                f"{self._objective.best(row.values):.4f}" if row.values else "",
                row.left,
            )
        return Group(table, Text(self._footer()))

    def _footer(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self._counts.most_common())
        best = f"best {self._best[0]:.4f} (trial {self._best[1]})" if self._best else "no best yet"
        spent = show_duration(self._device_s)
        parts = (f"{self._finished} of {self._trials}", counts, best, f"{spent} of device time")
        return " | ".join(part for part in parts if part)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Shows the table, and at the end the study without trials."""
        with self._live:
            try:
                yield
            finally:
                self._rows.clear()
