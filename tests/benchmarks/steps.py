"""Steps of trials on the mini base, as a runner takes them, and how long they take."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median

import torch

from hpo.specs import TrialConfig, TrialOrder
from hpo.training.base.forward import Forward, compute
from hpo.training.tasks import Row
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
