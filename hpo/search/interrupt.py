"""Ctrl-C, SIGTERM and a lost terminal as a flag: the driver then ends with everything told."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interrupt:
    """Whether somebody wants the driver to end."""

    signalled: bool = False

    def note(self, *_: object) -> None:
        """Handles a signal; further ones change nothing."""
        self.signalled = True


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """While entered, signals set `signalled` instead of raising."""
    interrupt = Interrupt()
    previous = {number: signal.signal(number, interrupt.note) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
