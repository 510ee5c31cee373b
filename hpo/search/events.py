"""What a driver tells whoever is watching."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from hpo.protocol import BaseFacts
from hpo.specs import Outcome


@dataclass(frozen=True, kw_only=True)
class RunnerReady:
    """A runner has loaded the base."""

    runner: int
    facts: BaseFacts


@dataclass(frozen=True, kw_only=True)
class TrialStarted:
    """A trial has begun on a runner."""

    number: int
    runner: int
    params: dict[str, Any]
    attempt: int


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """A sign of life."""

    number: int
    samples_seen: int
    samples: int
    train_loss: float
    samples_per_s: float


@dataclass(frozen=True, kw_only=True)
class TrialEvaluated:
    """A point of the curve."""

    number: int
    samples_seen: int
    val_loss: float
    metrics: dict[str, float]
    value: float
    """Of the objective."""


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """A trial has its state."""

    number: int
    outcome: Outcome
    reason: str
    value: float | None
    seconds: float | None
    finished: int
    """Trials of the study that count, over all processes."""
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something worth a line."""

    text: str


DriverEvent = RunnerReady | TrialStarted | TrialProgress | TrialEvaluated | TrialEnded | Note


class Watcher(Protocol):
    """Sees the events in order, in the driver's thread; must not block for long."""

    def show(self, event: DriverEvent) -> None:
        """Takes one event."""
