"""The loop: ask -> send -> report / prune -> tell. One driver feeds all runners of a machine.

What needs the database is done in order, and waits while the database is away: runners train on,
and what they say is kept. What watches over runners never waits.
"""

import time
from collections import deque
from enum import Enum
from pathlib import Path
from typing import Any

from hpo.protocol import Evaluated, Event, Finished, Progress, Ready, Resumed, StartedOver
from hpo.search.admission import Asked
from hpo.search.breaker import Breaker
from hpo.search.endings import Ending, of_death, of_finished
from hpo.search.events import (
    Note,
    RunnerReady,
    TrialEnded,
    TrialEvaluated,
    TrialProgress,
    TrialStarted,
    Watcher,
)
from hpo.search.interrupt import Interrupt, interruptible
from hpo.search.keeper import Keeper, trial_folder
from hpo.search.ledger import Ledger
from hpo.search.live import Live, Watchdog
from hpo.search.outage import Outage
from hpo.search.pool import Pool, Slot
from hpo.search.process import Death
from hpo.specs import Outcome, StudySpec, TrialOrder

POLL_S = 0.2
ASK_AGAIN_S = 1.0  # how often to ask for a trial while others train the last ones
LOOK_S = 5.0  # how often leases are renewed and looked at, or a sixth of their length
HAND_OVER_S = 20.0  # schedulers kill a job about 30 s after they asked it to end


class Close(Enum):
    """Why a driver ended."""

    COMPLETE = "complete"
    BUDGET = "budget"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    BROKEN = "broken"


class Driver:
    """Trains trials until the study has its total, or something ends it before."""

    def __init__(
        self,
        spec: StudySpec,
        ledger: Ledger,
        pool: Pool,
        watcher: Watcher,
        *,
        runs_dir: Path,
        timeout_s: float | None,
    ) -> None:
        limits = spec.limits
        self._spec, self._ledger, self._pool, self._watcher = spec, ledger, pool, watcher
        self._runs_dir = runs_dir
        self._deadline = time.monotonic() + timeout_s if timeout_s else float("inf")
        self._live: dict[int, Live] = {}
        self._backlog: deque[tuple[Slot, Event | Death]] = deque()
        self._outage = Outage(patience_s=limits.outage_seconds)
        self._watchdog = Watchdog(hang_s=limits.hang_seconds, max_seconds=spec.trial.max_seconds)
        self._keeper = Keeper(
            runs_dir, adapters=limits.adapters, quota_bytes=limits.disk_gb * (1 << 30)
        )
        self._breaker = Breaker()
        self._next_ask = self._next_look = 0.0
        self._complete = False
        self.reason = ""
        """Why the study stopped before it was complete, where there is more to say."""
        self.wants_requeue = False
        """Whether a scheduler announced the end of this job, which is to run again."""

    def run(self) -> Close:
        """Runs to the end; no trial of this driver is RUNNING when it returns.

        Raises:
            SQLAlchemyError, StorageInternalError: the database is away for too long, or was when
                the driver ended; checkpoints are written then.
        """
        with interruptible() as interrupt:
            try:
                self._pool.start()
                return self._loop(interrupt)
            finally:
                self.wants_requeue = interrupt.wants_requeue
                try:
                    self._hand_over(interrupt)
                finally:
                    self._pool.close()

    def _loop(self, interrupt: Interrupt) -> Close:
        while True:
            self._listen()
            self._watch()
            self._say(self._outage.attempt(self._work))
            close = self._why_close(interrupt)
            if close is not None:
                return close

    def _why_close(self, interrupt: Interrupt) -> Close | None:
        if self._complete:
            return Close.COMPLETE
        if interrupt.signalled:
            return Close.INTERRUPTED
        if self._breaker.tripped:
            self.reason = self._breaker.reason
            return Close.BROKEN
        if self.reason:
            return Close.BUDGET
        if time.monotonic() > self._deadline:
            return Close.TIMEOUT
        if self._outage.is_over_patience:
            assert self._outage.error is not None
            raise self._outage.error
        return None

    def _listen(self) -> None:
        """Hears what runners say: signs of life count now, the rest in its turn."""
        for slot, event in self._pool.poll(POLL_S):
            live = self._live.get(slot.trial) if slot.trial is not None else None
            if live is not None:
                if isinstance(event, Death):
                    live.ended = time.monotonic()
                else:
                    live.note(event)
            self._backlog.append((slot, event))

    def _watch(self) -> None:
        """Stops trials over their time, and kills runners that hang."""
        live = list(self._live.values())
        for one, silent_s in self._watchdog.hung(live):
            self._pool.kill_hung(one.slot, silent_s)
        for one, ending in self._watchdog.overdue(live):
            self._stop(one, ending)
        self._pool.kill_hung_setups(self._spec.limits.hang_seconds)

    def _work(self) -> None:
        """Everything that needs the database; leases first, as one that is lost ends a trial."""
        self._look()
        self._handle_backlog()
        self._complete = self._fill() and not self._live and self._ledger.is_complete()

    def _handle_backlog(self) -> None:
        while self._backlog:
            self._handle(*self._backlog[0])
            self._backlog.popleft()

    def _look(self) -> None:
        """Now and then: renews leases, ends the trials of dead workers, reads the budget."""
        if self._outage.error is not None:
            self._ledger.leases.forget()
        elif time.monotonic() < self._next_look:
            return
        self._renew()
        for number in self._ledger.reap():
            self._say(f"trial {number}: its worker is gone or silent; tried again")
        self.reason, left_s = self._ledger.exhausted()
        every = min(LOOK_S, self._spec.limits.hang_seconds / 6)
        self._next_look = time.monotonic() + min(every, left_s)

    def _renew(self) -> None:
        """Tells leases of progress; a trial that is another's by now is dropped at once."""
        signs = {live.asked.trial_id: live.sign() for live in self._live.values()}
        told = {live.asked.number: live.last_sign for live in self._live.values()}
        lost = self._ledger.renew(signs)
        for number, live in list(self._live.items()):
            live.told_sign = told[number]
            if live.asked.trial_id in lost:
                del self._live[number]
                self._pool.replace(live.slot)
                self._say(f"trial {number}: its lease was lost, another worker has it")

    def _fill(self) -> bool:
        """Gives every idle runner a trial; whether there was none for one of them."""
        for slot in self._pool.slots:
            if slot.idle and time.monotonic() >= self._next_ask:
                asked = self._ledger.ask()
                if asked is None:
                    self._next_ask = time.monotonic() + ASK_AGAIN_S
                    return True
                self._start(slot, asked)
        return False

    def _start(self, slot: Slot, asked: Asked) -> None:
        number = asked.number
        self._live[number] = Live(asked=asked, slot=slot)
        self._pool.run(
            slot,
            TrialOrder(
                number=number,
                seed_number=asked.seed_number,
                config=asked.config,
                folder=str(trial_folder(self._runs_dir, number)),
                earlier=tuple(str(trial_folder(self._runs_dir, n)) for n in asked.earlier),
                checkpoints=self._keeper.has_room,
            ),
        )
        self._watcher.show(
            TrialStarted(
                number=number,
                runner=slot.index,
                params=asked.config.model_dump(),
                attempt=asked.attempt,
            )
        )

    def _handle(self, slot: Slot, event: Event | Death) -> None:
        match event:
            case Ready():
                self._ledger.note_base(event.facts)
                self._pool.zero_shot_known |= event.facts.zero_shot is not None
                self._watcher.show(RunnerReady(runner=slot.index, facts=event.facts))
            case Death():
                self._died(slot, event)
            case Progress() if event.number in self._live:
                self._watcher.show(TrialProgress(**event.model_dump(exclude={"kind"})))
            case Resumed() if event.number in self._live:
                self._say(f"trial {event.number} goes on from {event.samples_seen} samples")
            case StartedOver() if event.number in self._live:
                self._say(f"trial {event.number} starts over: {event.reason}")
            case Evaluated() if event.number in self._live:
                self._evaluated(self._live[event.number], event)
            case Finished() if event.number in self._live:
                self._finished(self._live[event.number], event)

    def _evaluated(self, live: Live, event: Evaluated) -> None:
        if live.ending is not None:
            return
        point = event.point
        ending = self._ledger.report(live.asked, point, replayed=event.replayed)
        self._watcher.show(
            TrialEvaluated(
                number=event.number, samples_seen=point.samples_seen, val_loss=point.val_loss
            )
        )
        if ending is not None:
            self._stop(live, ending)

    def _stop(self, live: Live, ending: Ending, *, checkpoint: bool = False) -> None:
        live.ending = ending
        if live.slot.trial == live.asked.number:
            self._pool.stop(live.slot, checkpoint=checkpoint)

    def _finished(self, live: Live, event: Finished) -> None:
        facts = live.slot.facts
        capacity = facts.memory_capacity_bytes if facts else None
        self._end(live, of_finished(event, live.ending, best=live.best, capacity_bytes=capacity))
        self._pool.release(live.slot, clean=event.clean)

    def _died(self, slot: Slot, death: Death) -> None:
        if not slot.dead:
            return  # replaced already
        live = self._live.get(slot.trial) if slot.trial is not None else None
        if live is not None:
            killed_before = Outcome.KILLED.value in live.asked.spent
            self._end(live, live.ending or of_death(death, killed_before=killed_before))
        self._say(f"runner {slot.index} died ({death.how}) and is replaced")
        self._pool.replace(slot)

    def _end(self, live: Live, ending: Ending) -> None:
        number = live.asked.number
        self._ledger.finish(
            live.asked,
            ending,
            device_seconds=live.device_seconds,
            environment=_environment(live.slot),
        )
        finished = self._ledger.finished()
        del self._live[number]
        self._breaker.note(ending.outcome, ending.reason)
        self._next_ask = 0.0
        self._watcher.show(
            TrialEnded(
                number=number,
                outcome=ending.outcome,
                reason=ending.reason,
                value=ending.value,
                seconds=ending.stats.seconds if ending.stats else None,
                finished=finished,
                params=live.asked.config.model_dump(),
            )
        )
        self._sweep(now=ending.outcome == Outcome.DISK_FULL)

    def _sweep(self, *, now: bool) -> None:
        self._say(self._keeper.sweep(self._ledger.trials, now=now))

    def _hand_over(self, interrupt: Interrupt) -> None:
        """Ends what is still live: decided trials as decided, the rest to go on elsewhere."""
        self._pool.close_soon()
        reason = "handed back when its driver ended"
        for live in self._live.values():
            if live.ending is None and live.ended is None:
                ending = Ending(outcome=Outcome.PREEMPTED, reason=reason)
                self._stop(live, ending, checkpoint=True)
        deadline = time.monotonic() + HAND_OVER_S
        while self._live and time.monotonic() < deadline and not interrupt.impatient:
            self._listen()
            self._outage.attempt(self._handle_backlog)
        self._outage.attempt(self._give_up_rest)
        if self._live and self._outage.error is not None:
            raise self._outage.error

    def _give_up_rest(self) -> None:
        """Ends trials whose runners did not answer; their last checkpoints are still there."""
        for live in list(self._live.values()):
            reason = "handed back when its driver ended, without an answer of its runner"
            self._end(live, live.ending or Ending(outcome=Outcome.PREEMPTED, reason=reason))
        self._sweep(now=True)

    def _say(self, text: str) -> None:
        if text:
            self._watcher.show(Note(text=text))


def _environment(slot: Slot) -> dict[str, Any]:
    if slot.facts is None:
        return {}
    return {"device": slot.facts.device, "versions": slot.facts.versions}
