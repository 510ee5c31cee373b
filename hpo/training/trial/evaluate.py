"""Evaluation: mean loss per target token over all validation rows, and what the task measures."""

from collections.abc import Callable, Generator, Sequence

import torch

from hpo.specs import Measures
from hpo.training.base.forward import Forward
from hpo.training.base.lora import Adapter
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

    None if `go_on`, asked after every batch but the last, said no.

    Raises:
        NonFiniteError: names the place.
    """
    found = []
    for first in range(0, len(rows), batch_size):
        if first and not go_on():
            return None
        found.append((yield Forward(rows=rows[first : first + batch_size], adapter=adapter)))
    for losses in found:  # at the end, as a GPU is waited for here
        losses.check()
    total = sum(float(losses.rows.double().sum()) for losses in found)
    answers = [losses.predictions for losses in found if losses.predictions is not None]
    metrics = task.measure(rows, torch.cat(answers).cpu()) if answers else {}
    return Measures(val_loss=total / sum(row.targets for row in rows), metrics=metrics)
