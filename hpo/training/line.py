"""The runner's end of its pipes: what the driver asks, and what a trial has to say."""

import os
import queue
import sys
import threading
import time
import traceback
from typing import BinaryIO

from hpo.protocol import (
    Checkpointed,
    Command,
    Evaluated,
    Progress,
    Resumed,
    Run,
    StartedOver,
    Stop,
    read_command,
    to_line,
)
from hpo.specs import EvalPoint, Spec
from hpo.training.fence import Fence
from hpo.training.trial.trial import Listener

PROGRESS_EVERY_S = 0.5
DRIVER_GONE = 3


class Line:
    """Both directions of the pipe to the driver."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._commands: queue.Queue[Command] = queue.Queue()
        self._stops: dict[int, Stop] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            for text in self._incoming:
                command = read_command(text)
                if isinstance(command, Stop):
                    self._stops[command.number] = command
                    continue
                if isinstance(command, Run):
                    self._stops.pop(command.order.number, None)  # of an attempt that is over
                self._commands.put(command)
        except Exception:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(DRIVER_GONE)  # end of file: nobody is left to train for

    def next(self, *, wait: bool = True) -> Command | None:
        """The next command, None if there is none and it is not to wait; never Stop."""
        try:
            return self._commands.get(block=wait)
        except queue.Empty:
            return None

    def stop(self, number: int) -> Stop | None:
        """The driver's request to stop this trial, once it has come."""
        return self._stops.get(number)

    def send(self, message: Spec) -> None:
        """Tells the driver."""
        self._outgoing.write(to_line(message))
        self._outgoing.flush()


class TrialVoice:
    """Tells the driver of one trial, progress not too often."""

    def __init__(self, line: Line, number: int, fence: Fence) -> None:
        self._line, self._number, self._fence = line, number, fence
        self._told = 0.0

    def listener(self) -> Listener:
        """What the trial is given."""
        return Listener(
            progress=self.progress,
            evaluated=self.evaluated,
            resumed=self.resumed,
            started_over=self.started_over,
            checkpointed=self.checkpointed,
            stop=lambda: self._line.stop(self._number),
            fence=self._fence.check,
        )

    def progress(self, seen: int, samples: int, train_loss: float, samples_per_s: float) -> None:
        """A step or an evaluation batch is done."""
        self._fence.sign()
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

    def evaluated(self, point: EvalPoint, replayed: bool) -> None:
        """A grid point is measured, or was by an earlier attempt."""
        if not replayed:
            self._fence.sign()
        self._send(Evaluated(number=self._number, point=point, replayed=replayed))

    def resumed(self, seen: int, seconds: float, passed_over: str) -> None:
        """It goes on from a checkpoint."""
        self._send(
            Resumed(
                number=self._number,
                samples_seen=seen,
                seconds=round(seconds, 3),
                passed_over=passed_over,
            )
        )

    def started_over(self, reason: str) -> None:
        """It had earlier attempts, but no checkpoint of them could be used."""
        self._send(StartedOver(number=self._number, reason=reason))

    def checkpointed(self, seen: int, size_bytes: int) -> None:
        """A checkpoint is written."""
        self._fence.sign()
        self._send(Checkpointed(number=self._number, samples_seen=seen, size_bytes=size_bytes))

    def _send(self, message: Spec) -> None:
        self._fence.check()
        self._line.send(message)
