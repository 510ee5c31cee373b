"""A driver that is started again whenever it ends before the study is complete."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.processes import runner_of

LINE_BYTES = 1 << 24


class Driver:
    """One place for a driver process, and what its output says about it."""

    def __init__(
        self, index: int, words: Callable[[], list[str]], environment: dict[str, str], log: Path
    ):
        self.index = index
        self._live: list[int] = []
        """Trials on its runner, the latest last."""
        self.points = 0
        """Eval points of that trial, as far as they are told."""
        self.fresh = False
        """Whether its runner has measured nothing yet."""
        self.finished = 0
        """Trials of the study that count, as far as it knows."""
        self.stopped = False
        """Whether a fault holds it still."""
        self.leaving = False
        """Whether a fault has ended it, or told it to end."""
        self.error = ""
        """The last message about something that a user has to mend."""
        self.exits: Counter[int] = Counter()
        self._words, self._environment, self._log = words, environment, log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def trial(self) -> int | None:
        """The latest trial on its runner."""
        return self._live[-1] if self._live else None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def runner(self) -> int | None:
        """The process of its runner."""
        return runner_of(self.pid) if self._process is not None else None

    def trains(self) -> bool:
        """Whether a trial is under way on its runner."""
        usable = not (self.stopped or self.leaving)
        return usable and self.trial is not None and self.runner is not None

    async def run_once(self) -> int:
        """Runs the command to its end; its exit code."""
        with self._log.with_suffix(".err").open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *self._words(),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                start_new_session=True,
                limit=LINE_BYTES,
            )
        assert self._process.stdout is not None
        with self._log.open("ab") as log:
            async for line in self._process.stdout:
                log.write(line)
                log.flush()
                self._heed(line)
        code = await self._process.wait()
        self._process, self.leaving = None, False
        self._live.clear()
        self.exits[code] += 1
        return code

    def _heed(self, line: bytes) -> None:
        """Takes in one line; the last one of a killed driver may be cut off."""
        if not line.endswith(b"\n"):
            return
        said: dict[str, Any] = json.loads(line)
        match said["event"]:
            case "runner_ready":
                self.fresh = True
            case "trial_started":
                self._live.append(said["number"])
                self.points = 0
            case "trial_evaluated":
                self.points += 1
                self.fresh = False
            case "trial_ended":
                self._live = [number for number in self._live if number != said["number"]]
                self.finished = max(self.finished, said["finished"])
            case "error":
                self.error = said["message"]
