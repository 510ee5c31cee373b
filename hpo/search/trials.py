"""The trials on this driver's runners, each from its start to its end in the ledger."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hpo.protocol import Evaluated, Event, Finished, Progress, Ready, Resumed, StartedOver
from hpo.search.breaker import Breaker
from hpo.search.events import (
    DriverEvent,
    Note,
    RunnerReady,
    TrialEnded,
    TrialEvaluated,
    TrialProgress,
    TrialStarted,
    Watcher,
)
from hpo.search.ledger.admission import Asked
from hpo.search.ledger.endings import ID2LABEL, Ending, of_death, of_finished
from hpo.search.ledger.keeper import Keeper
from hpo.search.ledger.ledger import Ledger
from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.search.live import Live
from hpo.search.moves import moves
from hpo.search.runners.pool import Pool, Slot
from hpo.search.runners.process import Death
from hpo.specs import Observation, Outcome, TrialOrder


class Trials:
    """What this driver trains. Every method may be called again after a database error in it."""

    def __init__(self, ledger: Ledger, pool: Pool, watcher: Watcher, keeper: Keeper) -> None:
        self._ledger, self._pool, self._watcher = ledger, pool, watcher
        self._keeper = keeper
        self.live: dict[int, Live] = {}
        """By Optuna's number."""
        self.breaker = Breaker()
        self._sweep_now = False
        self._shared_until = time.monotonic()
        self.rest_until = 0.0
        """When to start the next one: not at once after a full disk."""

    def start(self, slot: Slot, asked: Asked, seen: dict[int, Observation]) -> None:
        """Puts a trial on a runner that has room, with what the trials in `seen` have shown."""
        number = asked.number
        self.live[number] = Live(asked=asked, slot=slot, objective=self._ledger.objective)
        self._pool.run(slot, self._order(asked, asked.earlier), seen)
        self._show(
            TrialStarted(
                number=number,
                runner=slot.index,
                params=asked.config.model_dump(exclude_unset=True),
                attempt=asked.attempt,
            )
        )

    def shown(self, slot: Slot) -> dict[int, Observation]:
        """What trials have shown of the memory there, by number, and its runner does not know."""
        return self._ledger.observations(slot.device, besides=slot.told)

    def _order(self, asked: Asked, earlier: Sequence[int]) -> TrialOrder:
        """What a runner gets; `earlier`: numbers whose folders may hold a checkpoint of it."""
        return TrialOrder(
            number=asked.number,
            seed_number=asked.seed_number,
            config=asked.config,
            study=self._ledger.checkpoint_key,
            folder=str(self._keeper.folder(asked.number)),
            earlier=tuple(str(self._keeper.folder(n)) for n in earlier),
            checkpoints=self._keeper.has_room,
            alone=asked.alone,
        )

    def spread(self) -> None:
        """Has trials go on in runners that have less to do, where there is no other to start."""
        if not self._keeper.has_room:
            return
        for live, slot in moves(self._pool.slots, self.live):
            live.moving_to = slot
            self._pool.stop(live.slot, live.asked.number, checkpoint=True)

    def hear(self, slot: Slot, event: Event | Death) -> None:
        """Takes a sign of life at once; it needs no database."""
        if isinstance(event, Death):
            for live in self._on(slot):
                live.ended = live.ended or time.monotonic()
        elif (number := getattr(event, "number", None)) in slot.trials and number in self.live:
            self.live[number].note(event)

    def share_time(self) -> None:
        """Divides what has passed since the last call among the trials of each runner."""
        now = time.monotonic()
        passed, self._shared_until = now - self._shared_until, now
        for live in self.live.values():
            if live.ended is None:
                sharing = max(1, sum(one.ended is None for one in self._on(live.slot)))
                live.neighbours_s += min(passed, now - live.began) * (sharing - 1) / sharing

    def _on(self, slot: Slot) -> list[Live]:
        """The trials on a slot."""
        return [self.live[number] for number in sorted(slot.trials) if number in self.live]

    def handle(self, slot: Slot, event: Event | Death) -> None:
        """Does what follows from an event; those of trials that are not live are void."""
        match event:
            case Ready():
                self._ledger.note_base(event.facts)
                self._pool.zero_shot_known |= event.facts.zero_shot is not None
                self._show(RunnerReady(runner=slot.index, facts=event.facts))
            case Death():
                self._died(slot, event)
            case Progress() if event.number in self.live:
                self._show(TrialProgress(**event.model_dump(exclude={"kind"})))
            case Resumed() if event.number in self.live:
                where = f" in runner {slot.index}" if self.live[event.number].parts else ""
                but = f"; {event.passed_over}" if event.passed_over else ""
                at = f"{event.samples_seen} samples"
                self.say(f"trial {event.number} goes on from {at}{where}{but}")
            case StartedOver() if event.number in self.live:
                self.say(f"trial {event.number} starts over: {event.reason}")
            case Evaluated() if event.number in self.live:
                self._evaluated(self.live[event.number], event)
            case Finished() if event.number in self.live:
                self._finished(self.live[event.number], event)

    def _evaluated(self, live: Live, event: Evaluated) -> None:
        if live.ending is not None and live.ending.outcome != Outcome.PREEMPTED:
            return
        point = event.point
        if point.samples_seen in live.curve:
            return  # the runner that it has left said so, too
        ending = self._ledger.report(live.asked, point, replayed=event.replayed)
        live.curve[point.samples_seen] = point.val_loss
        self._show(
            TrialEvaluated(
                number=event.number,
                samples_seen=point.samples_seen,
                val_loss=point.val_loss,
                metrics=point.metrics,
                value=self._ledger.objective.of(point),
            )
        )
        if ending is not None and live.ending is None:
            self.stop(live, ending)

    def stop(self, live: Live, ending: Ending, *, checkpoint: bool = False) -> None:
        """Asks a trial's runner to stop it; it ends so, whatever its runner says then."""
        live.ending = ending
        if live.asked.number in live.slot.trials:
            self._pool.stop(live.slot, live.asked.number, checkpoint=checkpoint)

    def _finished(self, live: Live, event: Finished) -> None:
        if event.stopped and live.ending is None and self._move(live, event):
            return
        facts = live.slot.facts
        capacity = facts.memory_capacity_bytes if facts else None
        best = self._ledger.objective.words, live.best
        event = event.model_copy(update={"stats": live.whole(event.stats)})
        self.end(live, of_finished(event, live.ending, best=best, capacity_bytes=capacity))
        self._release(live, event)

    def _release(self, live: Live, event: Finished) -> None:
        """Frees a trial's place on its runner, and says why that is replaced if it is."""
        if not event.clean and event.number in live.slot.trials:
            self.say(f"runner {live.slot.index} is to be replaced: {event.unfit_reason}")
        self._pool.release(live.slot, event.number, clean=event.clean)

    def _move(self, live: Live, event: Finished) -> bool:
        """Has a trial that was stopped for it go on elsewhere; False if no runner can take it."""
        target, number = live.moving_to, live.asked.number
        if target is None or not self._pool.may_take(target):
            reason = "handed back, as the runner that was to go on with it is gone"
            live.ending = Ending(outcome=Outcome.PREEMPTED, reason=reason)
            return False
        seen = self.shown(target)
        self._release(live, event)
        live.move(target, event.stats)
        self._pool.run(target, self._order(live.asked, (number, *live.asked.earlier)), seen)
        return True

    def _died(self, slot: Slot, death: Death) -> None:
        if not slot.dead:
            return  # replaced already
        beside = len(slot.trials) - 1
        for live in self._on(slot):
            killed_before = Outcome.KILLED.value in live.asked.spent
            ending = of_death(death, killed_before=killed_before, beside=beside)
            self.end(live, live.ending or ending)
        replaced = "and is replaced" if self._pool.replace(slot) else "and is not replaced"
        self.say(f"runner {slot.index} died ({death.how}) {replaced}")

    def end(self, live: Live, ending: Ending) -> None:
        """Writes a trial's end down; its runner is not touched."""
        number = live.asked.number
        self._ledger.finish(
            live.asked,
            ending,
            device_seconds=live.device_seconds,
            environment=_environment(live.slot),
            curve=live.curve,
        )
        finished = self._ledger.finished()
        del self.live[number]
        ended = live.ended or time.monotonic()
        self.breaker.note(ending.outcome, ending.reason, began=live.began, ended=ended)
        self._show(
            TrialEnded(
                number=number,
                outcome=ending.outcome,
                reason=ending.reason,
                value=ending.value,
                seconds=ending.stats.seconds if ending.stats else None,
                finished=finished,
                params=live.asked.config.model_dump(exclude_unset=True),
            )
        )
        rest_until = time.monotonic() + CONSEQUENCES[ending.outcome].pause_s
        self.rest_until = max(self.rest_until, rest_until)
        self._sweep_now |= ending.outcome == Outcome.DISK_FULL

    def renew(self) -> None:
        """Tells leases of progress; a trial that is another's by now is dropped at once."""
        told = {number: live.last_sign for number, live in self.live.items()}
        signs = {live.asked.trial_id: live.sign() for live in self.live.values()}
        lost = self._ledger.leases.renew(signs)
        for number, live in list(self.live.items()):
            live.told_sign = told[number]
            if live.asked.trial_id in lost:
                del self.live[number]
                self._free(live)
                self.say(f"trial {number}: its lease was lost, it goes on elsewhere")

    def _free(self, lost: Live) -> None:
        """Ends the runner of a trial that is another's by now; its neighbours are handed back."""
        reason = "its runner was ended, as a trial beside it had lost its lease"
        for live in self._on(lost.slot):
            live.ending = live.ending or Ending(outcome=Outcome.PREEMPTED, reason=reason)
            live.ended = live.ended or time.monotonic()
        if lost.asked.number in lost.slot.trials:
            self._pool.replace(lost.slot)

    def end_stranded(self) -> None:
        """Ends trials whose runner is there no more."""
        for number, live in list(self.live.items()):
            if live.ending is not None and number not in live.slot.trials:
                self.end(live, live.ending)

    def sweep(self) -> None:
        """Removes from disk what no trial of the study needs; at once if the disk was full."""
        self.say(self._keeper.sweep(self._ledger.trials, now=self._sweep_now))
        self._sweep_now = False

    def say(self, text: str) -> None:
        """Shows a line, if there is one."""
        if text:
            self._show(Note(text=text))

    def _show(self, event: DriverEvent) -> None:
        """Shows an event; a terminal that is gone must not keep trials from being handed back."""
        with suppress(OSError):
            self._watcher.show(event)


def _environment(slot: Slot) -> dict[str, Any]:
    if slot.facts is None:
        return {}
    found: dict[str, Any] = {"device": slot.facts.device, "versions": slot.facts.versions}
    if slot.facts.labels:
        found[ID2LABEL] = {str(number): name for number, name in enumerate(slot.facts.labels)}
    return found
