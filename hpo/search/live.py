"""Trials on runners: what is known of each, and the limits of time that hold for them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hpo.protocol import Checkpointed, Evaluated, Event, Finished, Progress, Resumed
from hpo.search.database.leases import Sign
from hpo.search.ledger.admission import Asked
from hpo.search.ledger.endings import Ending
from hpo.search.runners.pool import Slot
from hpo.specs import VAL_LOSS, Objective, Outcome, TrialStats


@dataclass(kw_only=True)
class Live:
    """A trial on a runner."""

    asked: Asked
    slot: Slot
    objective: Objective = VAL_LOSS
    began: float = field(default_factory=time.monotonic)
    last_sign: float = field(default_factory=time.monotonic)
    told_sign: float = 0.0
    """The sign of life that the lease was last renewed for."""
    neighbours_s: float = 0.0
    """How much of the time since it began was that of other trials on its runner."""
    earlier_s: float = 0.0
    """What earlier attempts took, up to the checkpoint that it went on from."""
    samples_seen: int = 0
    samples: int = 0
    """Of the whole trial, once its runner has said so."""
    checkpoint_at: int = 0
    values: list[float] = field(default_factory=list)
    """Of the objective, at the eval points so far."""
    curve: dict[int, float] = field(default_factory=dict)
    """Val loss by samples seen, as far as it was reported."""
    ending: Ending | None = None
    """Decided, but the runner has not said yet that it stopped."""
    ended: float | None = None
    """When its runner said that it is over, or died."""
    moving_to: Slot | None = None
    """Where it is to go on, once its runner has stopped it."""
    parts: list[TrialStats] = field(default_factory=list)
    """What it took on the runners of this attempt before its present one."""

    def note(self, event: Event) -> None:
        """Its runner has said something."""
        self.last_sign = time.monotonic()
        match event:
            case Progress():
                self.samples_seen, self.samples = event.samples_seen, event.samples
            case Resumed():
                self.samples_seen = self.checkpoint_at = event.samples_seen
                self.earlier_s = self.earlier_s if self.parts else event.seconds
            case Evaluated():
                self.samples_seen = max(self.samples_seen, event.point.samples_seen)
                self.values.append(self.objective.of(event.point))
            case Checkpointed():
                self.checkpoint_at = event.samples_seen
            case Finished():
                self.ended = self.last_sign

    @property
    def may_move(self) -> bool:
        """Whether another runner could go on with it, and would have something left to do."""
        begun = self.samples_seen > 0 and self.samples_left > 0
        return begun and self.ending is None and self.ended is None and not self.asked.alone

    @property
    def samples_left(self) -> int:
        """Samples that are still to be seen, as far as is known."""
        return self.samples - self.samples_seen

    def move(self, slot: Slot, stats: TrialStats) -> None:
        """From now on it is another runner's; `stats` are of the one that it leaves."""
        now = time.monotonic()
        self.neighbours_s += now - (self.ended or now)  # until then it was nobody's
        self.parts.append(stats)
        self.slot, self.moving_to, self.ended, self.last_sign = slot, None, None, now

    def whole(self, stats: TrialStats) -> TrialStats:
        """The stats of the attempt from those of its last runner."""
        parts = [*self.parts, stats]
        seconds = sum(part.seconds for part in parts)
        samples = sum(part.samples_per_s * part.seconds for part in parts)
        return stats.model_copy(
            update={
                "seconds": round(seconds, 3),
                "samples_per_s": round(samples / max(1e-9, seconds), 2),
                "resumed_at_samples": parts[0].resumed_at_samples,
                "peak_memory_bytes": max(part.peak_memory_bytes for part in parts),
            }
        )

    @property
    def best(self) -> float:
        """The best value of the objective so far."""
        return self.objective.best(self.values)

    @property
    def device_seconds(self) -> float:
        """What this attempt has taken of its device; trials on one runner share its time."""
        return (self.ended or time.monotonic()) - self.began - self.neighbours_s

    def sign(self) -> Sign:
        """What to write into its lease; alive if it got on since this was last told."""
        alive = self.last_sign != self.told_sign or self.ended is not None
        return Sign(
            alive=alive,
            samples_seen=self.samples_seen,
            checkpoint_at=self.checkpoint_at,
            device_seconds=self.device_seconds,
        )


class Watchdog:
    """Finds trials that hang, or are over their time.

    To be asked right after runners were heard: what they said while the driver itself was stopped,
    or waited for the database, lies in their pipes, and counts from when it is read.
    """

    def __init__(
        self,
        *,
        hang_s: float,
        max_seconds: float | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hang_s = hang_s
        self._max_seconds = max_seconds
        self._monotonic = monotonic

    def hung(self, live: Iterable[Live]) -> list[tuple[Live, float]]:
        """The trials that made no progress for too long, and for how many seconds."""
        now = self._monotonic()
        return [
            (one, now - one.last_sign)
            for one in live
            if one.ended is None and now - one.last_sign > self._hang_s
        ]

    def overdue(self, live: Iterable[Live]) -> list[tuple[Live, Ending]]:
        """The trials over their time limit, and how they end."""
        if self._max_seconds is None:
            return []
        reason = f"over its time limit of {self._max_seconds:g} s (trial.max_seconds)"
        ending = Ending(outcome=Outcome.TIMEOUT, reason=reason)
        return [
            (one, ending)
            for one in live
            if one.ending is None
            and one.ended is None
            and one.earlier_s + one.device_seconds > self._max_seconds
        ]
