"""Steps of trials on the mini base, as a runner takes them, and how long they take."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from hpo.specs import TrialConfig, TrialOrder
from hpo.training.base.forward import Forward, compute
from hpo.training.tasks import Row, Task
from hpo.training.trial.trial import Bench, new_adapter

RANK = 8


def asked(bench: Bench, rows: Sequence[Row], number: int, *, learns: bool = True) -> Forward:
    """What a trial of rank 8 asks for with these rows."""
    config = TrialConfig(learning_rate=1e-3, lora_r=RANK, lora_alpha=16.0, batch_size=len(rows))
    order = TrialOrder(number=number, seed_number=number, config=config, folder="")
    adapter = new_adapter(bench, order)
    with torch.no_grad():  # a fresh adapter changes nothing: B is zero
        drawn = torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(number))
        adapter.flat += 0.02 * drawn.to(adapter.flat.device)
    targets = sum(row.targets for row in rows)
    return Forward(rows=rows, adapter=adapter, learns=learns, targets=targets)


def losses(bench: Bench, together: Sequence[Forward]) -> list[float]:
    """The mean losses of trials in one pass, gradients computed where they learn."""
    found = compute(bench.task, bench.base, together)
    return [float(f.rows.sum()) / one.targets for f, one in zip(found, together, strict=True)]


class Collated:
    """A task whose batch is always the same one."""

    def __init__(self, task: Task, rows: Sequence[Row]) -> None:
        self._batch = task.collate(rows)
        self.losses = task.losses

    def collate(self, rows: Sequence[Row]) -> Any:
        """The batch, which lies on the device."""
        return self._batch


def captured(bench: Bench, step: Forward) -> Callable[[], float] | None:
    """One trial's step as a CUDA graph: replays it, and gives its loss; None without a GPU.

    An upper bound of what a graph is worth: its batch lies on the device, and is always the same.
    """
    if bench.device.type != "cuda":
        return None
    assert step.adapter is not None and step.adapter.dropout == 0.0  # a graph knows no generator
    task: Any = Collated(bench.task, step.rows)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries set themselves up outside of a graph
        for _ in range(3):
            compute(task, bench.base, [step])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = compute(task, bench.base, [step])[0]

    def replay() -> float:
        graph.replay()
        return float(found.rows.sum()) / step.targets

    return replay


def seconds(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each way; they take turns, so that noise meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):  # the first warms up
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - began)
    return {name: median(times[1:]) for name, times in taken.items()}


def with_batch(bench: Bench, rows: int) -> Bench:
    """The bench of a study whose trials all have batches of so many rows."""
    param = {"type": "constant", "value": rows}
    space = {**bench.study.model_dump()["space"], "batch_size": param}
    study = type(bench.study).model_validate({**bench.study.model_dump(), "space": space})
    return replace(bench, study=study)
