"""The loop: ask -> send -> report / prune -> tell. One driver feeds all runners of a machine."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hpo.protocol import Evaluated, Event, Finished, Progress, Ready
from hpo.search.breaker import Breaker
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
from hpo.search.ledger import Asked, Ending, Ledger
from hpo.search.pool import Pool, Slot
from hpo.search.process import Death
from hpo.specs import Fault, Outcome, StudySpec, TrialOrder

POLL_S = 0.2
ASK_AGAIN_S = 1.0  # how often to ask for a trial while others train the last ones
RENEW_S = 20.0
STOP_GRACE_S = 120.0  # how long a runner may take to notice a stop


class Close(Enum):
    """Why a driver ended."""

    COMPLETE = "complete"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    BROKEN = "broken"


@dataclass(kw_only=True)
class Live:
    """A trial on a runner."""

    asked: Asked
    slot: Slot
    began: float = field(default_factory=time.monotonic)
    best: float = float("inf")
    ending: Ending | None = None
    """Decided, but the runner has not said yet that it stopped."""
    stopped_at: float = 0.0


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
        self._spec, self._ledger, self._pool, self._watcher = spec, ledger, pool, watcher
        self._runs_dir = runs_dir
        self._deadline = time.monotonic() + timeout_s if timeout_s else float("inf")
        self._live: dict[int, Live] = {}
        self._breaker = Breaker()
        self._next_ask = self._next_renewal = 0.0

    @property
    def breaker_reason(self) -> str:
        """Why the study stopped itself."""
        return self._breaker.reason

    def run(self) -> Close:
        """Runs to the end; no trial of this driver is RUNNING when it returns or raises."""
        with interruptible() as interrupt:
            try:
                self._pool.start()
                return self._loop(interrupt)
            finally:
                try:
                    self._hand_back()
                finally:
                    self._pool.close()

    def _loop(self, interrupt: Interrupt) -> Close:
        while True:
            self._renew()
            if self._fill() and not self._live and self._ledger.is_complete():
                return Close.COMPLETE
            for slot, event in self._pool.poll(POLL_S):
                self._handle(slot, event)
            self._enforce_limits()
            if interrupt.signalled:
                return Close.INTERRUPTED
            if self._breaker.tripped:
                return Close.BROKEN
            if time.monotonic() > self._deadline:
                return Close.TIMEOUT

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
        number = asked.trial.number
        folder = self._runs_dir / f"trial-{number:05d}"
        self._live[number] = Live(asked=asked, slot=slot)
        self._pool.run(
            slot,
            TrialOrder(
                number=number,
                seed_number=asked.seed_number,
                config=asked.config,
                folder=str(folder),
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
            case Progress() if event.number in self._live:
                self._watcher.show(TrialProgress(**event.model_dump(exclude={"kind"})))
            case Evaluated() if event.number in self._live:
                self._evaluated(self._live[event.number], event)
            case Finished() if event.number in self._live:
                live = self._live[event.number]
                self._end(live, _ending(live, event))
                self._pool.release(slot, clean=event.clean)
            case Death():
                self._died(slot, event)

    def _evaluated(self, live: Live, event: Evaluated) -> None:
        if live.ending is not None:
            return
        point = event.point
        live.best = min(live.best, point.val_loss)
        self._watcher.show(
            TrialEvaluated(
                number=event.number, samples_seen=point.samples_seen, val_loss=point.val_loss
            )
        )
        ending = self._ledger.report(live.asked, point)
        if ending is not None:
            self._stop(live, ending)

    def _stop(self, live: Live, ending: Ending) -> None:
        live.ending, live.stopped_at = ending, time.monotonic()
        self._pool.stop(live.slot)

    def _died(self, slot: Slot, death: Death) -> None:
        live = self._live.get(slot.trial) if slot.trial is not None else None
        self._watcher.show(Note(text=f"runner {slot.index} died ({death.how}) and is replaced"))
        if live is not None:
            self._end(live, live.ending or ending_of_death(death))
        self._pool.replace(slot)

    def _end(self, live: Live, ending: Ending) -> None:
        number = live.asked.trial.number
        del self._live[number]
        self._breaker.note(ending.outcome, ending.reason)
        self._ledger.finish(live.asked, ending, environment=_environment(live.slot))
        self._next_ask = 0.0
        self._watcher.show(
            TrialEnded(
                number=number,
                outcome=ending.outcome,
                reason=ending.reason,
                value=ending.value,
                seconds=ending.stats.seconds if ending.stats else None,
                finished=self._ledger.finished(),
                params=live.asked.config.model_dump(),
            )
        )

    def _enforce_limits(self) -> None:
        """Stops trials over their time, and kills runners that do not react to a stop."""
        limit = self._spec.trial.max_seconds
        now = time.monotonic()
        for live in self._live.values():
            if live.ending is None and limit and now - live.began > limit:
                reason = f"over its time limit of {limit:g} s (trial.max_seconds)"
                self._stop(live, Ending(outcome=Outcome.TIMEOUT, reason=reason))
            elif live.ending is not None and now - live.stopped_at > STOP_GRACE_S:
                self._pool.kill(live.slot)

    def _renew(self) -> None:
        """Now and then: renews leases, drops trials that are lost, ends those of dead workers."""
        if time.monotonic() < self._next_renewal:
            return
        self._next_renewal = time.monotonic() + RENEW_S
        for asked in self._ledger.renew([live.asked for live in self._live.values()]):
            live = self._live.pop(asked.trial.number)
            self._pool.replace(live.slot)
            text = f"trial {asked.trial.number}: its lease was lost, another worker has it"
            self._watcher.show(Note(text=text))
        for number in self._ledger.reap():
            self._watcher.show(Note(text=f"trial {number}: its worker is gone; tried again"))

    def _hand_back(self) -> None:
        """Ends what is still live: decided trials as decided, the rest to be tried again."""
        with ExitStack() as rest:  # one that cannot be told keeps no other from it
            for live in list(self._live.values()):
                reason = "handed back when its driver ended"
                ending = live.ending or Ending(outcome=Outcome.PREEMPTED, reason=reason)
                rest.callback(self._end, live, ending)


def _ending(live: Live, event: Finished) -> Ending:
    """What a trial's last message means."""
    capacity = live.slot.facts.memory_capacity_bytes if live.slot.facts else None
    known: dict[str, Any] = {"stats": event.stats, "capacity_bytes": capacity}
    if live.ending is not None:
        decided = live.ending
        return Ending(
            outcome=decided.outcome, reason=decided.reason, details=decided.details, **known
        )
    if event.fault is not None:
        fault = event.fault
        return Ending(outcome=fault.outcome, reason=fault.reason, fault=fault, **known)
    reason = f"best val loss {live.best:.4f}"
    return Ending(outcome=Outcome.COMPLETE, reason=reason, value=live.best, **known)


def ending_of_death(death: Death) -> Ending:
    """What the death of its runner means for a trial."""
    if death.by_kernel or death.out_of_memory:
        reason = f"out of memory: the runner died ({death.how})"
        fault = Fault(outcome=Outcome.OOM, reason=reason, where="the whole process")
        return Ending(outcome=Outcome.OOM, reason=reason, fault=fault)
    if death.by_signal:
        return Ending(outcome=Outcome.LOST, reason=f"the runner was killed ({death.how})")
    return Ending(
        outcome=Outcome.CRASHED,
        reason=f"the runner crashed ({death.how})",
        details={"traceback": death.log},
    )


def _environment(slot: Slot) -> dict[str, Any]:
    if slot.facts is None:
        return {}
    return {"device": slot.facts.device, "versions": slot.facts.versions}
