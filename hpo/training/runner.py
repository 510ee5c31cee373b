"""The child process: `python -m hpo.training.runner`, speaking `hpo.protocol` over its pipes.

Holds the frozen base and trains one trial after the other. Knows no study in a database, and may
be killed at any moment: whatever it has not said is lost, and nothing else.
"""

import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import BinaryIO

from hpo.errors import HpoError
from hpo.protocol import (
    CRASHED,
    OUT_OF_MEMORY,
    Command,
    Evaluated,
    Finished,
    Inspect,
    Inspected,
    Progress,
    Quit,
    Ready,
    Run,
    Setup,
    SetupFailed,
    Stop,
    read_command,
    to_line,
)
from hpo.specs import EvalPoint, Spec, TrialOrder
from hpo.training.attempt import attempt
from hpo.training.bench import set_up
from hpo.training.inspect import cost
from hpo.training.loop import Bench, Listener
from hpo.training.memory import is_out_of_memory

PROGRESS_EVERY_S = 0.5
DRIVER_GONE = 3


class Line:
    """Both directions of the pipe to the driver."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._commands: queue.Queue[Command] = queue.Queue()
        self._stopped: set[int] = set()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            for text in self._incoming:
                command = read_command(text)
                if isinstance(command, Stop):
                    self._stopped.add(command.number)
                else:
                    self._commands.put(command)
        except Exception:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(DRIVER_GONE)  # end of file: nobody is left to train for

    def next(self) -> Command:
        """Waits for a command; Stop never shows up here."""
        return self._commands.get()

    def is_stopped(self, number: int) -> bool:
        """Whether the driver has asked this trial to stop."""
        return number in self._stopped

    def send(self, message: Spec) -> None:
        """Tells the driver."""
        self._outgoing.write(to_line(message))
        self._outgoing.flush()


class TrialVoice:
    """Tells the driver of one trial, progress not too often."""

    def __init__(self, line: Line, number: int) -> None:
        self._line, self._number = line, number
        self._told = 0.0

    def progress(self, seen: int, samples: int, train_loss: float, samples_per_s: float) -> None:
        """A step is done."""
        if time.monotonic() - self._told >= PROGRESS_EVERY_S:
            self._told = time.monotonic()
            self._line.send(
                Progress(
                    number=self._number,
                    samples_seen=seen,
                    samples=samples,
                    train_loss=train_loss,
                    samples_per_s=round(samples_per_s, 2),
                )
            )

    def evaluated(self, point: EvalPoint) -> None:
        """A grid point is measured."""
        self._line.send(Evaluated(number=self._number, point=point))

    def stopping(self) -> bool:
        """Whether to stop."""
        return self._line.is_stopped(self._number)


def serve(line: Line) -> None:
    """Sets up, then answers commands until told to quit."""
    setup = line.next()
    if not isinstance(setup, Setup):
        raise TypeError(f"the first command must be a setup, got {setup.kind}")
    try:
        bench, facts = set_up(setup)
    except HpoError as error:
        line.send(SetupFailed(message=str(error)))
        return
    except Exception as error:  # the driver shows it and ends the study
        line.send(SetupFailed(message=_setup_message(error)))
        traceback.print_exc()  # last: where memory is short, it may fail itself
        return
    line.send(Ready(facts=facts))
    while not isinstance(command := line.next(), Quit):
        match command:
            case Run():
                line.send(_train(line, bench, command.order))
            case Inspect():
                costs = tuple(cost(bench, config) for config in command.configs)
                line.send(Inspected(costs=costs))


def _train(line: Line, bench: Bench, order: TrialOrder) -> Finished:
    voice = TrialVoice(line, order.number)
    listener = Listener(progress=voice.progress, evaluated=voice.evaluated, stopping=voice.stopping)
    return attempt(bench, order, listener)


def _setup_message(error: Exception) -> str:
    if is_out_of_memory(error):
        return (
            "the base does not fit into the memory; raise --memory-limit, use "
            "--set model.precision=bf16, or fewer runners"
        )
    return f"the runner could not set up: {type(error).__name__}: {error}"


def main() -> None:
    """Takes the pipes, keeping whatever libraries print out of them."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a scheduler signals the whole job
        signal.signal(number, signal.SIG_IGN)  # the driver handles them, and then ends this
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    status = 0
    try:
        serve(Line(sys.stdin.buffer, outgoing))
    except BaseException as error:
        traceback.print_exc()
        status = OUT_OF_MEMORY if is_out_of_memory(error) else CRASHED
    sys.stderr.flush()
    os._exit(status)  # the listening thread holds standard input: a plain exit would abort


if __name__ == "__main__":
    main()
