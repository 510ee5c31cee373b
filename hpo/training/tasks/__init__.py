"""What can be tuned: one module a task, each with a `load` that returns a `Task`."""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpo.data import Example
from hpo.errors import MissingError
from hpo.specs import StudySpec


class Row(Protocol):
    """An encoded example; only its task looks inside."""

    @property
    def length(self) -> int:
        """Tokens, as a measure of the memory it needs."""


class Task(Protocol):
    """A frozen base in eval mode, and what is done with it. Never changes a weight."""

    model: nn.Module
    target_pattern: str
    """Regular expression of the Linears that get adapters, as PEFT's `target_modules`."""
    target_scope: str
    """Name of the only part that may hold them."""

    @property
    def held_bytes(self) -> int:
        """Host memory that it keeps for later trials; may grow while it trains."""

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Token ids of the examples; images stay unread."""

    def collate(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """A batch on the device. Raises DataError for an image that cannot be read."""

    def token_losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Summed loss and number of target tokens of every row, both (B,).

        Raises NonFiniteError with the place of the first NaN or infinity.
        """

    def verify(self) -> list[str]:
        """Holds what could silently be wrong; says what held. Raises HpoError."""


def load_task(
    study: StudySpec, *, device: torch.device, dtype: torch.dtype, cache_bytes: int
) -> Task:
    """Loads the base of a study by its task's module; it keeps at most `cache_bytes`."""
    module = importlib.import_module(f"hpo.training.tasks.{study.task}")
    task: Task = module.load(
        study.model, study.data, device=device, dtype=dtype, cache_bytes=cache_bytes
    )
    return task


def require(held: bool, problem: str) -> None:
    """Raises MissingError with the problem unless it held."""
    if not held:
        raise MissingError(problem)
