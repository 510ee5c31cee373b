"""What can be tuned: one module a task, each with a `load` that returns a `Task`."""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpo.data import Example, Examples
from hpo.errors import MissingError
from hpo.specs import DataSpec, ModelSpec, TrialConfig
from hpo.training.base.features import Features, Prefix
from hpo.training.base.losses import Losses

Scorer = Callable[[Sequence[Example], Sequence[str]], dict[str, float]]
"""Rates generated answers, one to each example: scores by name."""


class Row(Protocol):
    """An encoded example; only its task looks inside."""

    @property
    def length(self) -> int:
        """Tokens, as a measure of the memory it needs."""

    @property
    def targets(self) -> int:
        """Tokens that its loss is summed over."""

    @property
    def stage(self) -> int:
        """The place of its stage among those of the data; 0 where there is one."""


class Task(Protocol):
    """A frozen base in eval mode, and what is done with it. Never changes a weight."""

    model: nn.Module
    target_pattern: str
    """Regular expression of the Linears that get adapters, as PEFT's `target_modules`."""
    target_scope: str
    """Name of the only part that may hold them; empty where any may."""
    heads: tuple[str, ...]
    """Names of the modules that every trial trains as a whole, from the base's weights on."""
    label_names: tuple[str, ...]
    """Labels by output of the head; none where it has none."""
    prefix: tuple[str, ...]
    """Names of the modules that inputs go through first; none where there are no such. Their
    output can be computed once for all trials, as long as no adapter lies in them."""
    longest: int
    """Tokens of the longest training row, where shapes of adapted layers depend on the other rows
    of a batch; else 0. Dropout is drawn for so many, so that it never depends on other rows."""
    metrics: tuple[str, ...]
    """Names of what it measures beside val loss."""
    generates: bool
    """Whether it answers with texts, which can be scored; else nobody asks for `answers`."""

    @property
    def held_bytes(self) -> int:
        """Host memory that it keeps for later trials; may grow while it trains."""

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Token ids of the examples; images stay unread."""

    def collate(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """A batch on the device. Raises DataError for an image that cannot be read."""

    def expect(self, rows: Sequence[Any]) -> None:
        """Begins to read what a batch of these rows needs: it is the next to be collated."""

    def frozen_prefix(self) -> Prefix:
        """The modules of `prefix` and what goes into them."""

    def use(self, features: Features) -> Callable[[], None]:
        """Takes outputs of `prefix` from here from now on, and lets go of its weights.

        Returns:
            What undoes it; as long as that is held, so are the weights.
        """

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        """The loss of every row, and where it would not be finite."""

    def weights(self, rows: Sequence[Any], config: TrialConfig) -> Tensor | None:
        """The weight of every row's loss in training (B,); None for 1."""

    def measure(self, rows: Sequence[Any], predictions: Tensor) -> dict[str, float]:
        """The metrics, of what the model answered to all rows of the val set (R,)."""

    def answers(self, rows: Sequence[Any]) -> list[str]:
        """What it generates for a batch, greedily; never looks at targets."""

    def scorer(self) -> Scorer:
        """What rates generated answers.

        Raises:
            MissingError: a library that it needs is not installed.
        """

    def verify(self) -> list[str]:
        """Holds what could silently be wrong; says what held. Raises HpoError."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a task is loaded from, and to where."""

    model: ModelSpec
    data: DataSpec
    examples: Examples
    device: torch.device
    dtype: torch.dtype
    cache_bytes: int
    """What it may keep of preprocessed inputs."""
    ahead_bytes: int = 0
    """What images may take that are read before they are asked for."""
    last_n: int | None = None
    """The most blocks, counted from the last, that a trial may adapt; None for all."""


def load_task(name: str, source: Source) -> Task:
    """Loads the base of a study by its task's module.

    Raises:
        MissingError: it is not there, or not of the task's architecture.
        DataError: the examples do not suit the task.
    """
    task: Task = importlib.import_module(f"hpo.training.tasks.{name}").load(source)
    return task


def targets_of(adapt: str, named: dict[str, str]) -> str:
    """The regular expression that `model.adapt` stands for.

    Args:
        named: the task's names, each with its expression.

    Raises:
        MissingError: it is neither a name nor an expression.
    """
    try:
        re.compile(adapt)
    except re.error as error:
        raise MissingError(
            f"model.adapt = {adapt!r} is no regular expression ({error}); use one, or one of "
            f"{', '.join(named)}"
        ) from error
    return named.get(adapt, adapt)


def require(held: bool, problem: str) -> None:
    """Raises MissingError with the problem unless it held."""
    if not held:
        raise MissingError(problem)
