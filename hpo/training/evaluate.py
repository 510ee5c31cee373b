"""Val loss: mean loss per target token over all validation rows."""

from collections.abc import Sequence

import torch

from hpo.training.tasks import Row, Task


@torch.no_grad()
def val_loss(task: Task, rows: Sequence[Row], batch_size: int) -> float:
    """Mean over tokens, so that it does not depend on the batch size.

    Raises:
        NonFiniteError: names the place.
    """
    total, tokens = 0.0, 0
    for first in range(0, len(rows), batch_size):
        losses, counts = task.token_losses(task.collate(rows[first : first + batch_size]))
        total += float(losses.double().sum())
        tokens += int(counts.sum())
    return total / tokens
