"""The run itself: drivers kept up, faults injected one after the other, until all is done."""

import asyncio
import time
from collections import Counter

from tests.chaos.faults import FAULTS, Striking
from tests.chaos.plan import MIN_PAUSE_S, Draw
from tests.chaos.processes import kill_all
from tests.chaos.world import World

PATIENCE_S = 120.0  # how long a fault may wait for something to hit
AFTERWARDS_S = 0.5
STUCK_S = 240.0  # without a finished trial or a fault


class Run:
    """A plan as it is carried out."""

    def __init__(self, world: World, plan: list[Draw]) -> None:
        self._world, self._plan = world, plan
        self._pace = world.trials / len(plan)
        """Trials from one fault to the next."""
        self._began = self._struck_at = time.monotonic()
        self.injected: Counter[str] = Counter()

    async def to_the_end(self) -> None:
        """Until every driver has said that the study is complete, or nothing goes on any more."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._drive(group)
        except BaseException:
            kill_all(self._world.mark)
            await asyncio.sleep(AFTERWARDS_S)  # in which their deaths are heard of
            raise

    async def _drive(self, group: asyncio.TaskGroup) -> None:
        drivers = [group.create_task(self._world.keep_up(driver)) for driver in self._world.drivers]
        faults = group.create_task(self._inject(group))
        watch = group.create_task(self._give_up_when_stuck(drivers))
        await asyncio.wait(drivers)
        faults.cancel()
        watch.cancel()

    async def _inject(self, group: asyncio.TaskGroup) -> None:
        """One fault after the other; each mends what it broke beside the next ones."""
        for draw in self._plan:
            while not self._is_due(draw):
                await asyncio.sleep(0.05)
            striking = FAULTS[draw.kind](self._world, draw)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    text = await anext(striking)
            except TimeoutError:
                text = "there was nothing to hit"
            else:
                self.injected[draw.kind] += 1
                group.create_task(_mend(striking))
            self._struck_at = time.monotonic()
            self._say(draw, text)
        self._world.struck_all = True

    def _is_due(self, draw: Draw) -> bool:
        """After its pause, or the shortest one where the study is ahead of the plan."""
        ahead = self._world.finished >= draw.index * self._pace
        pause_s = MIN_PAUSE_S if ahead else draw.pause_s
        return time.monotonic() - self._struck_at >= pause_s

    def _say(self, draw: Draw, text: str) -> None:
        seconds = time.monotonic() - self._began
        done = f"{self._world.finished} of {self._world.trials}"
        print(f"{seconds:6.1f} s  {done}  fault {draw.index + 1}: {text}", flush=True)

    async def _give_up_when_stuck(self, drivers: list[asyncio.Task[None]]) -> None:
        """Ends a run in which nothing has happened for long."""
        seen, since = -1, time.monotonic()
        while time.monotonic() - max(since, self._struck_at) < STUCK_S:
            if self._world.finished > seen:
                seen, since = self._world.finished, time.monotonic()
            await asyncio.sleep(1.0)
        self._world.surprises.append(f"nothing went on for {STUCK_S:.0f} s")
        for task in drivers:
            task.cancel()
        kill_all(self._world.mark)


async def _mend(striking: Striking) -> None:
    async for _ in striking:
        pass
