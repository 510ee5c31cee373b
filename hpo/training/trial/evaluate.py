"""Evaluation: mean loss per target token over all validation rows, and what the task measures."""

from collections.abc import Callable, Generator, Sequence

import torch

from hpo.specs import Measures
from hpo.training.base.adapter import Adapter
from hpo.training.base.forward import Forward
from hpo.training.base.losses import Losses
from hpo.training.tasks import Row, Task


def evaluate(
    task: Task,
    rows: Sequence[Row],
    adapter: Adapter | None,
    batch_size: int,
    go_on: Callable[[], bool] = lambda: True,
) -> Generator[Forward, Losses, Measures | None]:
    """Val loss is the mean over tokens, so that it does not depend on the batch size.

    Where the data has stages it is that of the last one, and all stages have one of their own.

    None if `go_on`, asked after every batch but the last, said no.

    Raises:
        NonFiniteError: names the place.
    """
    rows = sorted(rows, key=lambda row: row.length, reverse=True)  # they are padded
    found = []
    for first in range(0, len(rows), batch_size):
        if first and not go_on():
            return None
        end = first + batch_size
        task.expect(rows[end : end + batch_size])
        found.append((yield Forward(rows=rows[first:end], adapter=adapter)))
    for losses in found:  # at the end, as a GPU is waited for here
        losses.check()
    means = _by_stage(rows, torch.cat([losses.rows.double() for losses in found]).tolist())
    answers = [losses.predictions for losses in found if losses.predictions is not None]
    metrics = task.measure(rows, torch.cat(answers).cpu()) if answers else {}
    if len(means) > 1:
        metrics |= {stage_metric(stage): mean for stage, mean in means.items()}
    return Measures(val_loss=means[max(means)], metrics=metrics)


def stage_metric(stage: int) -> str:
    """What the val loss of one stage of several is called."""
    return f"val_loss_{stage + 1}"


def stage_metrics(rows: Sequence[Row]) -> tuple[str, ...]:
    """The val losses that are measured beside that of the last stage."""
    stages = sorted({row.stage for row in rows})
    return tuple(map(stage_metric, stages)) if len(stages) > 1 else ()


def _by_stage(rows: Sequence[Row], losses: Sequence[float]) -> dict[int, float]:
    """The mean loss per target token of every stage."""
    sums: dict[int, float] = {}
    targets: dict[int, int] = {}
    for row, loss in zip(rows, losses, strict=True):
        sums[row.stage] = sums.get(row.stage, 0.0) + loss
        targets[row.stage] = targets.get(row.stage, 0) + row.targets
    return {stage: sums[stage] / targets[stage] for stage in sums}
