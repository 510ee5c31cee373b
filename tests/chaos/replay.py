"""Trains trials once more, without any interruption, on a runner of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from hpo.protocol import Evaluated, Finished, Run, Setup, read_event, to_line
from hpo.specs import StudySpec, TrialOrder
from tests.chaos.world import REPOSITORY

Curve = dict[int, float]
ROOM_BYTES = 1 << 40  # a limit, as drivers have one: it decides which library multiplies


def replay(spec: StudySpec, orders: Sequence[TrialOrder], log: Path) -> dict[int, Curve]:
    """Val loss by samples seen of each of these trials, by its number."""
    setup = Setup(study=spec, memory_limit_bytes=ROOM_BYTES, gpu=False, zero_shot=False)
    curves: dict[int, Curve] = {order.number: {} for order in orders}
    with log.open("ab") as errors, _runner(errors) as process:
        assert process.stdin is not None and process.stdout is not None
        for message in (setup, *(Run(order=order) for order in orders)):
            process.stdin.write(to_line(message))
        process.stdin.flush()
        left = set(curves)
        for line in process.stdout:
            event = read_event(line)
            if isinstance(event, Evaluated):
                curves[event.number][event.point.samples_seen] = event.point.val_loss
            elif isinstance(event, Finished):
                left.discard(event.number)
            if not left:
                break
    return curves


def _runner(errors: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "hpo.training.runner"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )
