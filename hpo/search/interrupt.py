"""Ctrl-C and the signals of schedulers as a flag: the driver then ends with everything told."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass
class Interrupt:
    """Whether somebody wants the driver to end."""

    signals: list[int] = field(default_factory=list)

    def note(self, number: int, _frame: object) -> None:
        """Handles a signal."""
        self.signals.append(number)

    @property
    def signalled(self) -> bool:
        """Whether there was any signal."""
        return bool(self.signals)

    @property
    def impatient(self) -> bool:
        """Whether there was a second Ctrl-C: nothing more is waited for."""
        return self.signals.count(signal.SIGINT) > 1

    @property
    def wants_requeue(self) -> bool:
        """Whether Slurm announced the end of the job's time, and did not cancel it."""
        return signal.SIGUSR1 in self.signals and signal.SIGTERM not in self.signals


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """While entered, signals set `signalled` instead of raising."""
    interrupt = Interrupt()
    heeded = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]  # nohup ignores SIGHUP
    previous = {number: signal.signal(number, interrupt.note) for number in heeded}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
