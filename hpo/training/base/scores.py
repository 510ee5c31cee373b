"""How well labels are answered: accuracy and F-beta, from counts by label."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Counts of C labels (C,), and the share of right answers."""

    hits: Tensor
    answered: Tensor
    """How often each was the answer."""
    true: Tensor
    """How often each would have been right."""
    accuracy: float


def scores(truth: Tensor, answers: Tensor, labels: int) -> Scores:
    """Counts right and wrong answers; `truth` and `answers` are numbers of labels (N,)."""
    right = truth == answers
    return Scores(
        hits=torch.bincount(truth[right], minlength=labels).double(),
        answered=torch.bincount(answers, minlength=labels).double(),
        true=torch.bincount(truth, minlength=labels).double(),
        accuracy=float(right.double().mean()),
    )


def f_beta(found: Scores, *, beta: float, label: int | None = None) -> float:
    """F-beta of one label, or the mean over all that occur (van Rijsbergen 1979).

    Recall counts `beta` times as much as precision. 0 for a label that is never answered right.
    """
    square = beta * beta
    below = square * found.true + found.answered
    values = (1 + square) * found.hits / below.clamp(min=1e-12)
    if label is not None:
        return float(values[label])
    occurs = below > 0
    return float(values[occurs].mean())
