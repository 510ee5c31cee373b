"""Trains trials once more, without any interruption, on a runner of their own."""

import os
from collections.abc import Sequence
from pathlib import Path

from hpo.protocol import Evaluated, Finished, Run, Setup, read_event, to_line
from hpo.search.runners.launch import launch
from hpo.specs import StudySpec, TrialOrder

Curve = dict[int, float]
ROOM_BYTES = 1 << 40  # a limit, as drivers have one: it decides which library multiplies


def replay(spec: StudySpec, orders: Sequence[TrialOrder], log: Path) -> dict[int, Curve]:
    """Val loss by samples seen of each of these trials, by its number."""
    setup = Setup(study=spec, memory_limit_bytes=ROOM_BYTES, gpu=False, zero_shot=False)
    curves: dict[int, Curve] = {order.number: {} for order in orders}
    with log.open("ab") as output:
        pipes = launch(output, {**os.environ, "OMP_NUM_THREADS": "1"})
    with pipes.process, pipes.commands, pipes.events:
        for message in (setup, *(Run(order=order) for order in orders)):
            pipes.commands.write(to_line(message))
        pipes.commands.flush()
        left = set(curves)
        for line in pipes.events:
            event = read_event(line)
            if isinstance(event, Evaluated):
                curves[event.number][event.point.samples_seen] = event.point.val_loss
            elif isinstance(event, Finished):
                left.discard(event.number)
            if not left:
                break
    return curves
