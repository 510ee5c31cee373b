"""Runner processes: start, watch, kill, replace. Each takes one trial at a time, or several."""

import os
import selectors
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.errors import HpoError
from hpo.placement import Placement
from hpo.protocol import BaseFacts, Event, Lanes, Quit, Ready, Run, Setup, SetupFailed, Stop
from hpo.search.runners.process import Death, RunnerProcess
from hpo.specs import Observation, StudySpec, TrialOrder

CACHE = ".features"  # beside the folders of all studies, whose names begin otherwise
SETUP_DEATHS = 3  # runners in a row that die before they are ready
SETUP_LIMIT_S = 3600.0  # a large base from a slow disk takes many minutes


@dataclass(kw_only=True)
class Slot:
    """A place for one runner, and the trials on it."""

    index: int
    process: RunnerProcess
    facts: BaseFacts | None = None
    lanes: Lanes | None = None
    """What its runners take at a time; those that replace the first need not measure it."""
    trials: set[int] = field(default_factory=set)
    alone: bool = False
    """Whether its last trial is to have the runner for itself."""
    worn: bool = False
    """Whether its runner is to be replaced once its trials are over."""
    told: set[int] = field(default_factory=set)
    """Trials whose observations of the memory its runner knows."""
    dead: bool = False
    """Its runner has ended, and is not replaced yet."""
    setup_deaths: int = 0
    """Runners in a row that died here before they were ready."""
    spawned: float = field(default_factory=time.monotonic)
    cpu_seconds: float = 0.0
    cpu_moved: float = field(default_factory=time.monotonic)
    """When its processor time was last seen to grow, while it sets up."""

    @property
    def device(self) -> str:
        """What its runner trains on; nothing before it is ready."""
        return self.facts.device if self.facts else ""

    @property
    def room(self) -> int:
        """How many more trials it can take now; none before it is ready."""
        if self.facts is None or self.worn or (self.alone and self.trials):
            return 0
        return self.facts.lanes.count - len(self.trials)


class Pool:
    """All runners of this driver."""

    def __init__(
        self,
        study: StudySpec,
        placement: Placement,
        runs_dir: Path,
        *,
        zero_shot_known: bool,
        contents: Mapping[str, Any] | None = None,
    ) -> None:
        self._study = study
        self._placement = placement
        self._runs_dir = runs_dir
        self._contents = dict(contents) if contents else None
        self._selector = selectors.DefaultSelector()
        self._closing = False
        self.zero_shot_known = zero_shot_known
        self.slots: list[Slot] = []

    def start(self) -> None:
        """Starts all runners; they report themselves ready later."""
        for index in range(len(self._placement.gpus)):
            slot = Slot(index=index, process=self._spawn(index))
            self._selector.register(slot.process, selectors.EVENT_READ, slot)
            self.slots.append(slot)

    def run(self, slot: Slot, order: TrialOrder, seen: dict[int, Observation]) -> None:
        """Gives a trial to a slot that has room, with what the trials in `seen` have shown."""
        slot.trials.add(order.number)
        slot.alone = order.alone
        slot.told |= seen.keys()
        slot.process.send(Run(order=order, observations=tuple(seen.values())))

    def may_take(self, slot: Slot) -> bool:
        """Whether a trial that is under way may be given to it now."""
        return slot.room > 0 and not self._closing

    def emptiest_first(self) -> Iterator[Slot]:
        """A slot with room, again and again while there is one, the emptiest at each moment."""
        while with_room := [slot for slot in self.slots if slot.room > 0]:
            slot = min(with_room, key=lambda one: (len(one.trials), one.index))
            before = len(slot.trials)
            yield slot
            if len(slot.trials) == before:
                return

    def stop(self, slot: Slot, number: int, *, checkpoint: bool) -> None:
        """Asks a trial of the slot to end at its next step."""
        slot.process.send(Stop(number=number, checkpoint=checkpoint))

    def kill_hung(self, slot: Slot, silent_s: float) -> None:
        """Kills a runner that says nothing any more; its death shows up in `poll`."""
        slot.process.kill_hung(silent_s)

    def kill_hung_setups(self, hang_s: float) -> None:
        """Kills runners that do not get on with loading the base."""
        now = time.monotonic()
        for slot in self.slots:
            if slot.facts is not None:
                continue
            cpu_seconds = slot.process.cpu_seconds()
            if cpu_seconds != slot.cpu_seconds:
                slot.cpu_seconds, slot.cpu_moved = cpu_seconds, now
            if now - slot.cpu_moved > hang_s or now - slot.spawned > SETUP_LIMIT_S:
                slot.process.kill_hung(now - slot.cpu_moved)

    def close_soon(self) -> None:
        """From now on, runners that end are not replaced."""
        self._closing = True

    def poll(self, timeout_s: float) -> list[tuple[Slot, Event | Death]]:
        """What runners have said, or that they died; waits up to `timeout_s` for the first.

        Raises:
            HpoError: the base or the data cannot be loaded.
        """
        found: list[tuple[Slot, Event | Death]] = []
        for key, _ in self._selector.select(timeout_s):
            slot: Slot = key.data
            events, alive = slot.process.receive()
            for event in events:
                self._note(slot, event)
                found.append((slot, event))
            if not alive:
                self._selector.unregister(slot.process)
                slot.dead = True
                found.append((slot, self._bury(slot)))
        return found

    def release(self, slot: Slot, number: int, *, clean: bool) -> None:
        """A trial of the slot is over; a runner that is not clean is replaced after its last."""
        if number not in slot.trials:
            return  # its runner was replaced meanwhile
        slot.trials.discard(number)
        slot.worn |= not clean
        if slot.worn and not slot.trials:
            self.replace(slot)

    def replace(self, slot: Slot) -> bool:
        """Puts a fresh runner in the place of this one; False if it gives the slot up instead."""
        if not slot.dead:
            self._selector.unregister(slot.process)
        slot.process.kill()
        slot.process.close()
        slot.facts, slot.worn = None, False
        slot.trials.clear()
        slot.told.clear()
        if self._closing or slot.setup_deaths >= SETUP_DEATHS:
            self.slots.remove(slot)
            slot.dead = False
            return False
        slot.process, slot.dead = self._spawn(slot.index, slot.lanes), False
        slot.spawned = slot.cpu_moved = time.monotonic()
        self._selector.register(slot.process, selectors.EVENT_READ, slot)
        return True

    def close(self) -> None:
        """Ends all runners."""
        for slot in self.slots:
            slot.process.send(Quit())
        deadline = time.monotonic() + 3.0
        for slot in self.slots:
            if slot.trials:
                slot.process.kill()
            slot.process.close(max(0.1, deadline - time.monotonic()))
        self._selector.close()
        self.slots.clear()

    def _spawn(self, index: int, lanes: Lanes | None = None) -> RunnerProcess:
        limit_bytes = self._placement.memory_limit_bytes
        process = RunnerProcess(
            gpu=self._placement.gpus[index],
            log=self._log(index),
            limited=limit_bytes is not None,
        )
        process.send(
            Setup(
                study=self._study,
                memory_limit_bytes=limit_bytes,
                gpu=self._placement.gpus[index] is not None,
                zero_shot=index == 0 and not self.zero_shot_known,
                pack=self._placement.pack,
                lanes=lanes,
                cache_dir=str(self._runs_dir.parent / CACHE),
                contents=self._contents,
            )
        )
        return process

    def _log(self, index: int) -> Path:
        """A file of its own: other drivers, on other nodes too, may share the folder."""
        return self._runs_dir / f"runner-{socket.gethostname()}-{os.getpid()}-{index}.log"

    def _note(self, slot: Slot, event: Event) -> None:
        if isinstance(event, Ready):
            slot.facts, slot.lanes = event.facts, event.facts.lanes
            slot.setup_deaths = 0
        elif isinstance(event, SetupFailed) and not self._any_ready():
            raise HpoError(event.message)

    def _any_ready(self) -> bool:
        """Whether a runner has set up: base and data are right then, others fail alone."""
        return any(slot.facts is not None for slot in self.slots)

    def _bury(self, slot: Slot) -> Death:
        death = slot.process.death()
        if slot.facts is None:
            slot.setup_deaths += 1
            if slot.setup_deaths >= SETUP_DEATHS and not self._any_ready():
                raise HpoError(
                    f"runner {slot.index} died {SETUP_DEATHS} times while it loaded the base "
                    f"({death.how}); see {self._log(slot.index)}"
                )
        return death
