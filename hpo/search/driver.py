"""The loop: ask -> send -> report / prune -> tell. One driver feeds all runners of a machine.

What needs the database is done in order, and waits while the database is away: runners train on,
and what they say is kept. What watches over runners never waits.
"""

import time
from collections import deque
from enum import Enum

from hpo.protocol import Event
from hpo.search.database.outage import Outage
from hpo.search.events import Watcher
from hpo.search.interrupt import Interrupt, interruptible
from hpo.search.ledger.endings import Ending
from hpo.search.ledger.keeper import Keeper
from hpo.search.ledger.ledger import Ledger
from hpo.search.live import Watchdog
from hpo.search.runners.pool import Pool, Slot
from hpo.search.runners.process import Death
from hpo.search.trials import Trials
from hpo.specs import Outcome, StudySpec

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
        keeper: Keeper,
        *,
        timeout_s: float | None,
    ) -> None:
        limits = spec.limits
        self._ledger, self._pool, self._limits = ledger, pool, limits
        self._trials = Trials(ledger, pool, watcher, keeper)
        self._deadline = time.monotonic() + timeout_s if timeout_s else float("inf")
        self._backlog: deque[tuple[Slot, Event | Death]] = deque()
        self._outage = Outage(patience_s=limits.outage_seconds)
        self._watchdog = Watchdog(hang_s=limits.hang_seconds, max_seconds=spec.trial.max_seconds)
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
                try:
                    self._hand_over(interrupt)
                finally:
                    self._pool.close()
                    self.wants_requeue = interrupt.wants_requeue

    def _loop(self, interrupt: Interrupt) -> Close:
        while True:
            self._listen()
            self._watch()
            self._trials.say(self._outage.attempt(self._work))
            close = self._why_close(interrupt)
            if close is not None:
                return close

    def _why_close(self, interrupt: Interrupt) -> Close | None:
        if self._complete:
            return Close.COMPLETE
        if interrupt.signalled:
            return Close.INTERRUPTED
        if self._trials.breaker.tripped:
            self.reason = self._trials.breaker.reason
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
        found = self._pool.poll(POLL_S)
        self._trials.share_time()
        for slot, event in found:
            self._trials.hear(slot, event)
            self._backlog.append((slot, event))

    def _watch(self) -> None:
        """Stops trials over their time, and kills runners that hang."""
        live = list(self._trials.live.values())
        for one, silent_s in self._watchdog.hung(live):
            self._pool.kill_hung(one.slot, silent_s)
        for one, ending in self._watchdog.overdue(live):
            self._trials.stop(one, ending)
        self._pool.kill_hung_setups(self._limits.hang_seconds)

    def _work(self) -> None:
        """Everything that needs the database; leases first, as one that is lost ends a trial."""
        self._look()
        self._handle_backlog()
        self._trials.end_stranded()
        idle = bool(self.reason) or self._fill()
        self._trials.sweep()
        self._complete = idle and not self._trials.live and self._ledger.is_complete()

    def _handle_backlog(self) -> None:
        """Does in order what runners' words ask for; what fails is done again."""
        while self._backlog:
            slot, event = self._backlog[0]
            before = len(self._trials.live)
            self._trials.handle(slot, event)
            self._backlog.popleft()
            if len(self._trials.live) < before:
                self._next_ask = 0.0

    def _look(self) -> None:
        """Now and then: renews leases, ends the trials of dead workers, reads the budget."""
        if self._outage.error is not None:
            self._ledger.leases.forget()
        elif time.monotonic() < self._next_look:
            return
        self._trials.renew()
        for number in self._ledger.reap():
            self._trials.say(f"trial {number}: its worker is gone or silent; tried again")
        self.reason, left_s = self._ledger.exhausted()
        every = min(LOOK_S, self._limits.hang_seconds / 6)
        self._next_look = time.monotonic() + min(every, left_s)

    def _fill(self) -> bool:
        """Fills the runners that have room; whether there was no trial for one of them."""
        for slot in self._pool.emptiest_first():
            if time.monotonic() >= max(self._next_ask, self._trials.rest_until):
                seen = self._trials.shown(slot)
                asked = self._ledger.ask()
                for reason in self._ledger.refused():
                    self._trials.say(reason)
                if asked is None:
                    self._next_ask = time.monotonic() + ASK_AGAIN_S
                    self._trials.spread()
                    return True
                self._trials.start(slot, asked, seen)
        return False

    def _hand_over(self, interrupt: Interrupt) -> None:
        """Ends what is still live: decided trials as decided, the rest to go on elsewhere."""
        self._pool.close_soon()
        ending = Ending(outcome=Outcome.PREEMPTED, reason="handed back when its driver ended")
        for live in self._trials.live.values():
            if live.ending is None and live.ended is None:
                self._trials.stop(live, ending, checkpoint=True)
        deadline = time.monotonic() + HAND_OVER_S
        while time.monotonic() < deadline and not (interrupt.impatient or self._is_handed_over()):
            self._listen()
            self._outage.attempt(self._handle_backlog)
        self._outage.attempt(self._give_up_rest, now=True)
        if self._trials.live and self._outage.error is not None:
            raise self._outage.error

    def _is_handed_over(self) -> bool:
        """Whether every runner has answered, and the database knows, or is waited for no more."""
        live = self._trials.live.values()
        answered = all(one.ended is not None for one in live)
        return answered and (not live or self._outage.is_over_patience)

    def _give_up_rest(self) -> None:
        """Ends trials whose runners did not answer; their last checkpoints are still there."""
        self._handle_backlog()
        self._ledger.give_back()
        reason = "handed back when its driver ended, without an answer of its runner"
        for live in list(self._trials.live.values()):
            self._trials.end(live, live.ending or Ending(outcome=Outcome.PREEMPTED, reason=reason))
