"""Val loss: mean loss per target token over all validation rows."""

from collections.abc import Callable, Sequence

import torch

from hpo.training.tasks import Row, Task


@torch.no_grad()
def val_loss(
    task: Task, rows: Sequence[Row], batch_size: int, go_on: Callable[[], bool] = lambda: True
) -> float | None:
    """Mean over tokens, so that it does not depend on the batch size.

    None if `go_on`, asked after every batch but the last, said no.

    Raises:
        NonFiniteError: names the place.
    """
    total, tokens = 0.0, 0
    for first in range(0, len(rows), batch_size):
        if first and not go_on():
            return None
        losses, counts = task.token_losses(task.collate(rows[first : first + batch_size]))
        total += float(losses.double().sum())
        tokens += int(counts.sum())
    return total / tokens
