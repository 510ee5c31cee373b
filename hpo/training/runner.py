"""The child process: `python -m hpo.training.runner IN OUT`, speaking `hpo.protocol`.

IN and OUT are the descriptors of two pipes that it inherits: messages travel nowhere else.
Holds the frozen base and trains one trial or several at a time. Knows no study in a database, and
may be killed at any moment: whatever it has not said is lost, and nothing else.
"""

import gc
import os
import signal
import sys
import traceback
from dataclasses import replace

import torch

from hpo.errors import HpoError
from hpo.protocol import (
    CRASHED,
    OUT_OF_MEMORY,
    Inspect,
    Inspected,
    Lanes,
    Quit,
    Ready,
    Run,
    Score,
    Setup,
    SetupFailed,
)
from hpo.training.bench import set_up
from hpo.training.fence import Fence
from hpo.training.inspect import cost
from hpo.training.lanes import choose_lanes
from hpo.training.line import Line, TrialVoice
from hpo.training.memory.gauge import gpu_memory, is_out_of_memory
from hpo.training.pack import Pack
from hpo.training.score import score
from hpo.training.trial.trial import Bench
from hpo.units import show_size

DRIVERS_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""A scheduler sends them to the whole job: the driver handles them, and then stops its runners."""


def serve(line: Line) -> None:
    """Sets up, then answers commands until told to quit."""
    setup = line.next()
    if not isinstance(setup, Setup):
        raise TypeError(f"the first command must be a setup, got {setup!r}")
    try:
        bench, facts = set_up(setup)
        lanes = setup.lanes or choose_lanes(bench, setup.pack)
    except HpoError as error:
        line.send(SetupFailed(message=str(error)))
        return
    except Exception as error:  # the driver shows it and ends the study
        line.send(SetupFailed(message=_setup_message(error, setup)))
        traceback.print_exc()  # last: where memory is short, it may fail itself
        return
    bench = replace(bench, eval_rows=lanes.eval_rows)
    gc.freeze()  # base and libraries stay: the collection after every trial need not walk them
    line.send(Ready(facts=facts.model_copy(update={"lanes": lanes})))
    fence = Fence(setup.study.limits.hang_seconds)
    _answer(line, bench, lanes, fence)


def _answer(line: Line, bench: Bench, lanes: Lanes, fence: Fence) -> None:
    """Takes commands between forward passes until told to quit; no more trials than lanes."""
    pack = Pack(bench, rows=lanes.rows)
    while True:
        command = line.next(wait=pack.size == 0) if pack.size < lanes.count else None
        match command:
            case Quit():
                return
            case Run(order=order):
                fence.sign()
                bench.memory.learn(*command.observations)
                pack.start(order, TrialVoice(line, order.number, fence).listener())
            case Inspect():
                costs = tuple(cost(bench, config) for config in command.configs)
                line.send(Inspected(costs=costs))
            case Score(order=order):
                line.send(score(bench, order))
        for finished in pack.round():
            fence.check()
            line.send(finished)
        if pack.size == 0:
            fence.rest()


def _setup_message(error: Exception, setup: Setup) -> str:
    if not is_out_of_memory(error):
        return f"the runner could not set up: {type(error).__name__}: {error}"
    if not setup.gpu:
        return (
            "the base does not fit into the memory; raise --memory-limit, use "
            "--set model.precision=bf16, or fewer runners"
        )
    try:
        available, total = gpu_memory(torch.device("cuda", 0))
    except RuntimeError:  # it does not even say how much it has
        available = total = 0
    return no_room_on_gpu(available, total, setup.memory_limit_bytes)


def no_room_on_gpu(available_bytes: int, total_bytes: int, limit_bytes: int | None) -> str:
    """A base that does not fit onto a GPU: of how much, what to do.

    Args:
        available_bytes: of the GPU's memory, what other processes leave; 0 where it is not known.
    """
    of = f" ({show_size(available_bytes)} of {show_size(total_bytes)} are left by other programs)"
    limited = limit_bytes is not None and limit_bytes <= available_bytes
    limit = f"raise --memory-limit (now {show_size(limit_bytes or 0)}), " if limited else ""
    return (
        f"the base does not fit into the memory of the GPU{of if total_bytes else ''}; {limit}"
        "end what else runs there (nvidia-smi lists it), choose another GPU by "
        "CUDA_VISIBLE_DEVICES, or use --set model.precision=bf16"
    )


def main(incoming: str, outgoing: str) -> None:
    """Serves on two inherited descriptors, which no program that this one starts inherits."""
    for number in DRIVERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for descriptor in (int(incoming), int(outgoing)):
        os.set_inheritable(descriptor, False)
    status = 0
    try:
        serve(Line(os.fdopen(int(incoming), "rb"), os.fdopen(int(outgoing), "wb")))
    except BaseException as error:
        traceback.print_exc()
        status = OUT_OF_MEMORY if is_out_of_memory(error) else CRASHED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the listening thread reads on: a plain exit would abort


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("this is a part of hpo.run, which starts it by itself: python -m hpo.run --help")
    main(*sys.argv[1:])
