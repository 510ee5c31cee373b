"""One forward pass for the rows of one trial or of several, and the gradients of each."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from hpo.training.base.adapter import Adapter
from hpo.training.base.batch import sent
from hpo.training.base.lora import LoraBase
from hpo.training.base.losses import Losses
from hpo.training.base.stack import kind
from hpo.training.tasks import Row, Task

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Forward:
    """What a trial wants computed."""

    rows: Sequence[Row]
    adapter: Adapter | None
    """None for the base alone."""
    learns: bool = False
    """Whether the gradient of the mean loss is added to the adapter's."""
    targets: float = 0.0
    """What the mean is over: of a whole batch, where this is a part of one. Target tokens, each
    times the weight of its row."""
    weights: Tensor | None = None
    """Weight of every row (B,), on the CPU; None for 1."""


def compute(task: Task, base: LoraBase, asked: Sequence[Forward]) -> list[Losses]:
    """The losses that were asked for, by one pass; all of them learn, or none.

    The rows of different trials never meet: a NaN in one changes no bit of another. Gradients are
    added at the end, so that a pass that fails has changed nothing but generators of dropout.

    Raises:
        DataError: an image cannot be read.
    """
    learns = asked[0].learns
    places = sorted(range(len(asked)), key=lambda i: kind(asked[i].adapter, len(asked[i].rows)))
    asked = [asked[place] for place in places]
    counts = [len(one.rows) for one in asked]
    adapters = [one.adapter for one in asked if one.adapter is not None]
    batch = task.collate([row for one in asked for row in one.rows])
    with base.attached(adapters, counts, learns=learns) as attached:
        found = task.losses(batch).split(counts)
        found = [_weighted(losses, one) for losses, one in zip(found, asked, strict=True)]
        if learns:
            means = [f.rows.sum() / one.targets for f, one in zip(found, asked, strict=True)]
            attached.learn(torch.stack(means).sum())
    answers = {p: replace(f, rows=f.rows.detach()) for p, f in zip(places, found, strict=True)}
    return [answers[place] for place in sorted(places)]


def _weighted(losses: Losses, asked: Forward) -> Losses:
    if asked.weights is None:
        return losses
    return replace(losses, rows=losses.rows * sent(asked.weights, losses.rows.device))


def alone(task: Task, base: LoraBase, work: Generator[Forward, Losses, T]) -> T:
    """Computes what one piece of work asks for until it ends; its result."""
    try:
        asked = next(work)
        while True:
            asked = work.send(compute(task, base, [asked])[0])
    except StopIteration as end:
        result: T = end.value
        return result
