"""How many trials a runner takes at a time: measured, so that packing is never slower than not.

Passes of so many rows are measured. Trials of small batches have more steps and stay longer, so
that on average those present have less than the median batch: more of them fill such a pass.
"""

import math
import time
from statistics import harmonic_mean, median

from hpo.errors import DataError, UnpackableError
from hpo.protocol import Lanes
from hpo.specs import CategoricalParam, ConstantParam, TrialConfig, TrialOrder
from hpo.training.base.forward import Forward, compute
from hpo.training.memory.gauge import is_out_of_memory, release
from hpo.training.trial.trial import Bench, new_adapter

COUNTS = (1, 2, 4, 8)
REPEATS = 3  # the first warms up
WORTH = 1.05  # gain in rows a second below which one trial at a time is as good, and simpler
ENOUGH = 0.97  # share of the best gain that a smaller pack is content with
SAFE = 0.7  # share of the memory that a pack may be estimated to take
RANK = 8


def choose_lanes(bench: Bench, pack: int | None) -> Lanes:
    """`pack` trials, or with None as many as fill the passes that are fastest.

    Raises:
        UnpackableError: several are asked for, and none can be beside another.
    """
    batches = _batches(bench)
    batch = int(median(batches))
    if pack is not None:
        if pack > 1:
            _hold_packable(bench)
        return Lanes(count=pack, rows=pack * batch, eval_rows=bench.eval_rows)
    speeds = _rows_per_second(bench, batch)
    best = max(speeds.values(), default=0.0)
    if not speeds or best < WORTH * speeds[1]:
        return Lanes(count=1, rows=batch, eval_rows=bench.eval_rows)
    fast = [count for count, speed in speeds.items() if speed >= ENOUGH * best]
    rows, eval_rows = batch * max(fast), bench.eval_rows
    if bench.gauge.capacity_bytes is None:  # else a trial would be blamed for what does not fit
        eval_rows = max(rows, eval_rows)
    filling = math.ceil(min(fast) * batch / harmonic_mean(batches))  # as steps are 1 / batch
    return Lanes(count=min(filling, max(COUNTS)), rows=rows, eval_rows=eval_rows)


def _hold_packable(bench: Bench) -> None:
    """Raises UnpackableError if two trials of a row each cannot share a pass."""
    try:
        compute(bench.task, bench.base, [_step(bench, index, 1) for index in range(2)])
    except Exception as error:
        if not _is_of_trials(error):
            raise
    finally:
        release(bench.device)


def _is_of_trials(error: Exception) -> bool:
    """Whether trials will say what is wrong, those that it is true of."""
    return is_out_of_memory(error) or isinstance(error, DataError)


def _batches(bench: Bench) -> list[int]:
    """Rows of a forward pass of one trial, for every batch size of the space."""
    param, most = bench.study.space["batch_size"], bench.study.trial.max_micro_batch
    match param:
        case CategoricalParam():
            sizes = [int(choice) for choice in param.choices]
        case ConstantParam():
            sizes = [int(param.value)]
        case _:
            sizes = list(range(int(param.low), int(param.high) + 1))
    return [size if most is None else min(size, most) for size in sizes]


def _rows_per_second(bench: Bench, batch: int) -> dict[int, float]:
    """Of joint steps, by the number of trials; without those that do not fit into the memory.

    The sizes take turns, so that what else the machine does slows all of them; it never makes one
    faster, so that the shortest time says most.
    """
    counts = [count for count in COUNTS if _fits(bench, count, batch)]
    asked = [_step(bench, index, batch) for index in range(max(counts, default=0))]
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    try:
        for _ in range(REPEATS):
            for count in counts:
                seconds[count].append(_seconds(bench, asked[:count]))
    except Exception as error:
        if not (_is_of_trials(error) or isinstance(error, UnpackableError)):
            raise
        return {}
    finally:
        release(bench.device)
    return {count: count * batch / min(taken[1:]) for count, taken in seconds.items()}


def _fits(bench: Bench, count: int, batch: int) -> bool:
    capacity = bench.gauge.capacity_bytes
    footprint = bench.memory.footprint
    demand = footprint.demand(
        rows=count * batch,
        length=max(row.length for row in bench.train),
        rank=RANK,
        dropout=0.1,
        trainable=count * bench.base.trainable(RANK),
    )
    return capacity is None or footprint.estimate(demand) < SAFE * capacity


def _step(bench: Bench, index: int, batch: int) -> Forward:
    """What a trial would ask for; trials of different rows."""
    rows = [bench.train[(index * batch + i) % len(bench.train)] for i in range(batch)]
    config = TrialConfig(learning_rate=1.0, lora_r=RANK, lora_alpha=1.0, batch_size=batch)
    order = TrialOrder(number=index, seed_number=index, config=config, folder="")
    targets = sum(row.targets for row in rows)
    return Forward(rows=rows, adapter=new_adapter(bench, order), learns=True, targets=targets)


def _seconds(bench: Bench, asked: list[Forward]) -> float:
    began = time.monotonic()
    found = compute(bench.task, bench.base, asked)
    float(found[0].rows[0])  # a GPU is waited for
    return time.monotonic() - began
