"""Several trials on one base: each goes on by itself, and their forward passes are joint.

Many small trials leave a device idle between small kernels; together they fill it (mLoRA, Ye et
al. 2023, arXiv:2312.02515; PLoRA, Yan et al. 2025, arXiv:2508.02932). What fails together is done
again one by one: nobody is blamed for another's memory, image or NaN.
"""

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from hpo.protocol import Finished
from hpo.specs import TrialOrder
from hpo.training.base.forward import Forward, compute
from hpo.training.base.losses import Losses
from hpo.training.memory.gauge import is_out_of_memory, release
from hpo.training.trial.attempt import attempt
from hpo.training.trial.faults import breaks_device
from hpo.training.trial.trial import Bench, Listener

STATES = 5  # of an adapter's size: weights, gradient, two moments, the best weights


@dataclass(kw_only=True)
class Member:
    """A trial in the pack."""

    order: TrialOrder
    listener: Listener
    work: Generator[Forward, Losses, Finished] = field(init=False)
    seconds: float = 0.0
    """Its share of the time that rounds took."""
    asked: Forward | None = None
    """What it waits for; None before it has begun."""
    shared: bool = False
    """Whether it was ever beside another."""


class Pack:
    """The trials of a runner."""

    def __init__(self, bench: Bench, *, rows: int | None) -> None:
        """`rows`: how many at most share a forward pass, unless one trial alone has more."""
        self._bench = bench
        self._rows = rows
        self._members: list[Member] = []
        self._ended: list[Finished] = []
        self._began, self._sharing = time.monotonic(), 1

    @property
    def size(self) -> int:
        """Trials in it."""
        return len(self._members)

    def start(self, order: TrialOrder, listener: Listener) -> None:
        """Takes a trial in."""
        member = Member(order=order, listener=listener)
        member.work = attempt(self._bench, order, listener, lambda: self._seconds(member))
        self._members.append(member)

    def round(self) -> list[Finished]:
        """Takes every trial one forward pass further; those that have ended.

        Raises:
            AcceleratorError, RuntimeError: the device broke under several trials, and nobody
                knows by which.
        """
        taking_part = self._taking_part()
        self._began, self._sharing = time.monotonic(), max(1, len(taking_part))
        if taking_part and all(member.asked is None for member in taking_part):
            self._bench.gauge.reset_peak()
        for member in list(self._members):
            if member not in taking_part:
                samples = len(self._bench.train) * self._bench.study.trial.epochs
                member.listener.progress(0, samples, math.nan, 0.0)  # it lives
            elif member.asked is None:
                self._go_on(member, None)
        begun = [member for member in taking_part if member.asked is not None]
        for member in begun:
            member.shared |= len(begun) > 1
        for group in list(self._groups()):
            for member, answer in zip(group, self._answers(group), strict=True):
                self._go_on(member, answer)
        passed = (time.monotonic() - self._began) / self._sharing
        for member in taking_part:
            member.seconds += passed
        ended, self._ended = self._ended, []
        return ended

    def _seconds(self, member: Member) -> float:
        """What a trial has taken of the device so far, in this round too."""
        return member.seconds + (time.monotonic() - self._began) / self._sharing

    def _taking_part(self) -> list[Member]:
        """Those that have begun, and whoever may begin beside them."""
        found = [member for member in self._members if member.asked is not None]
        for member in self._members:
            alone = member.order.alone or any(one.order.alone for one in found)
            if member.asked is None and not (found and alone):
                found.append(member)
        return found

    def _groups(self) -> Iterator[list[Member]]:
        """Trials whose rows fit into one pass: learning ones, and evaluating ones."""
        for learns in (True, False):
            group: list[Member] = []
            rows = 0
            for member, asked in self._asking(learns=learns):
                if group and self._rows is not None and rows + len(asked.rows) > self._rows:
                    yield group
                    group, rows = [], 0
                group.append(member)
                rows += len(asked.rows)
            if group:
                yield group

    def _asking(self, *, learns: bool) -> list[tuple[Member, Forward]]:
        """Those of one kind, rows of about one length side by side, as they are padded."""
        found = [(m, m.asked) for m in self._members if m.asked and m.asked.learns == learns]
        return sorted(found, key=lambda pair: max(row.length for row in pair[1].rows))

    def _answers(self, group: list[Member]) -> Sequence[Losses | Exception]:
        asked = [member.asked for member in group if member.asked is not None]
        if len(asked) == 1:
            return [self._alone(asked[0])]
        generators = [one.adapter.generator for one in asked if one.adapter is not None]
        states = [generator.get_state() for generator in generators]
        try:
            return compute(self._bench.task, self._bench.base, asked)
        except Exception as error:
            if breaks_device(error):
                raise
            if is_out_of_memory(error):  # so many never again
                self._rows = sum(len(one.rows) for one in asked) // 2
            error.__traceback__ = None  # its frames hold the tensors of the failed pass
        release(self._bench.device)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        return [self._alone(one) for one in asked]

    def _alone(self, asked: Forward) -> Losses | Exception:
        try:
            return compute(self._bench.task, self._bench.base, [asked])[0]
        except Exception as error:  # the trial's own; it says what it means
            if breaks_device(error) and self.size > 1:
                raise
            return error

    def _go_on(self, member: Member, answer: Losses | Exception | None) -> None:
        try:
            if isinstance(answer, Exception):
                member.asked = member.work.throw(answer)
            elif answer is None:
                member.asked = next(member.work)
            else:
                member.asked = member.work.send(answer)
        except StopIteration as end:
            self._members.remove(member)
            member.asked = None  # its adapter is let go of
            if self._members and not end.value.clean:
                broken = f"the device broke under several trials: {end.value.fault}"
                raise RuntimeError(broken) from None
            self._ended.append(self._look_after(member, end.value))

    def _look_after(self, member: Member, finished: Finished) -> Finished:
        """The result, what it shows of the memory, and whether that is as it was before."""
        seen = None if member.shared else finished.observation  # or it was that of all
        if seen is not None:
            self._bench.memory.learn(seen)
        others = [m.asked.adapter for m in self._members if m.asked and m.asked.adapter]
        kept = STATES * sum(adapter.flat.nbytes for adapter in others)
        gauge, in_use = self._bench.gauge, bool(others) and finished.fault is None
        held = self._bench.task.held_bytes
        clean = finished.clean and gauge.is_clean(held, kept, in_use=in_use)
        stats = finished.stats.model_copy(update={"held_memory_bytes": gauge.held_bytes()})
        told = {"stats": stats, "clean": clean, "observation": seen, "shared": member.shared}
        if finished.clean and not clean:
            told["unfit_reason"] = gauge.excess
        return finished.model_copy(update=told)
