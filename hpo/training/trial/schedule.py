"""Learning rate over a trial: warm-up from zero, then linear, cosine or constant."""

import math


def factor(kind: str, step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate in `step` (from 0) of `steps`.

    As transformers' `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` and
    `get_constant_schedule_with_warmup`.
    """
    if step < warmup:
        return step / max(1, warmup)
    done = (step - warmup) / max(1, steps - warmup)
    match kind:
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
