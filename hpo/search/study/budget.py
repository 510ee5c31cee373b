"""What a study may take in all, over every process and resume; kept with the study."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages._rdb.models import NOT_FOUND_MSG

from hpo.specs import StudySpec
from hpo.units import show_duration

BUDGET = "budget"  # study attributes
BEGAN = "began"
IDENTITY = "identity"
CONTENTS = "contents"  # absent for the contents that the study was made with
ZERO_SHOT = "zero_shot"
HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The bounds of a study, and when it began."""

    trials: int
    """Finished trials: COMPLETE or PRUNED."""
    hours: float | None
    device_hours: float | None
    began: float
    """Seconds since the epoch."""

    def exhausted(self, *, now: float, device_seconds: float) -> str:
        """Which bound of time has been reached, in words; empty if none."""
        if self.hours is not None and now - self.began >= self.hours * HOUR_S:
            return (
                f"its {show_duration(self.hours * HOUR_S)} are over (limits.hours = {self.hours:g})"
            )
        if self.device_hours is not None and device_seconds >= self.device_hours * HOUR_S:
            return (
                f"{show_duration(device_seconds)} of device time are used "
                f"(limits.device_hours = {self.device_hours:g})"
            )
        return ""

    def left_s(self, *, now: float, device_seconds: float, running: int) -> float:
        """Seconds until a bound of time is reached, if `running` trials go on."""
        left = [float("inf")]
        if self.hours is not None:
            left.append(self.began + self.hours * HOUR_S - now)
        if self.device_hours is not None and running:
            left.append((self.device_hours * HOUR_S - device_seconds) / running)
        return min(left)


def write_budget(study: optuna.Study, spec: StudySpec, clock: Callable[[], float]) -> None:
    """Sets the study's budget: the latest command decides, for all that run."""
    limits = spec.limits
    bounds = {
        "trials": spec.search.trials,
        "hours": limits.hours,
        "device_hours": limits.device_hours,
    }
    if study.user_attrs.get(BUDGET) != bounds:
        study.set_user_attr(BUDGET, bounds)
    if BEGAN not in study.user_attrs:
        study.set_user_attr(BEGAN, clock())
    if IDENTITY not in study.user_attrs:  # another study of this name is another study
        study.set_user_attr(IDENTITY, uuid.uuid4().hex)


def begin_contents(study: optuna.Study) -> None:
    """Notes that the study has other contents from now on.

    Checkpoints that were trained on those before are not used, and the base is evaluated again.
    """
    study.set_user_attr(CONTENTS, uuid.uuid4().hex)
    if ZERO_SHOT in study.user_attrs:
        study.set_user_attr(ZERO_SHOT, None)


def read_budget(study: optuna.Study, identity: str) -> Budget:
    """The study's budget as it stands now.

    Raises:
        KeyError: the study was deleted, as storages say; also where another one has its id now,
            which SQLite gives out again.
    """
    attributes: dict[str, Any] = study.user_attrs
    if attributes.get(IDENTITY) != identity:
        raise KeyError(NOT_FOUND_MSG)
    return Budget(began=float(attributes[BEGAN]), **attributes[BUDGET])


def wall_clock() -> float:
    """Seconds since the epoch; hosts may differ by seconds, which hours bear."""
    return time.time()
