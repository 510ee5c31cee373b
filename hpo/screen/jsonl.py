"""One JSON object a line, with the event's name in `event`."""

import dataclasses
import json
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TextIO

from pydantic import BaseModel

from hpo.plan import Plan
from hpo.protocol import Cost
from hpo.search.events import DriverEvent
from hpo.search.ledger.summary import Summary


class JsonScreen:
    """Writes events for machines."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, event: DriverEvent) -> None:
        """Writes the event's fields."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        self._write(name, {f.name: getattr(event, f.name) for f in dataclasses.fields(event)})

    def plan(self, plan: Plan, finished: int | None) -> None:
        """Writes what will be done."""
        self._write("plan", {**plan.as_dict(), "finished": finished})

    def costs(self, plan: Plan, costs: tuple[Cost, ...], checks: tuple[str, ...]) -> None:
        """Writes what a trial would cost."""
        self._write("costs", {"checks": checks, "costs": costs})

    def summary(self, summary: Summary, commands: list[str], verdict: str) -> None:
        """Writes what came out."""
        found = dataclasses.asdict(summary)
        self._write("summary", {**found, "verdict": verdict, "commands": commands})

    def running(self) -> AbstractContextManager[None]:
        """Nothing to begin or end."""
        return nullcontext()

    def _write(self, name: str, fields: dict[str, Any]) -> None:
        self._out.write(json.dumps({"event": name, **fields}, default=_plain) + "\n")
        self._out.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)
