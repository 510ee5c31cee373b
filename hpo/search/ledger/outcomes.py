"""What happened to a trial -> its state and what follows: one table."""

import math
from dataclasses import dataclass

from optuna.trial import TrialState

from hpo.specs import Outcome


@dataclass(frozen=True, kw_only=True)
class Consequence:
    """What an outcome means."""

    state: TrialState
    counts: bool
    """Whether the trial counts towards the study's total."""
    tries: float = 1
    """How often one trial may end so before its parameters are given up; 1 is no retry.

    For `lost`, `search.attempts` counts instead.
    """
    trips_breaker: bool = False
    """Whether several in a row end the study."""
    mendable: bool = False
    """Whether a user may mend its cause: the next command tries again what it has failed."""
    pause_s: float = 0.0
    """How long its driver waits before it trains another: what is wrong may pass."""
    advice: str = ""
    """What to do if it happens often."""


CONSEQUENCES: dict[Outcome, Consequence] = {
    Outcome.COMPLETE: Consequence(state=TrialState.COMPLETE, counts=True),
    Outcome.PRUNED: Consequence(state=TrialState.PRUNED, counts=True),
    Outcome.OOM: Consequence(
        state=TrialState.PRUNED,
        counts=True,
        advice="take the largest batch sizes and ranks out of the search space, use "
        "--set model.precision=bf16, or give more memory",
    ),
    Outcome.NAN: Consequence(
        state=TrialState.PRUNED,
        counts=True,
        advice="with float16, AdamW's eps rounds to zero and LoRA's first update is 0/0: use "
        "--set model.precision=float32 or bf16; otherwise lower the learning rates",
    ),
    Outcome.TIMEOUT: Consequence(
        state=TrialState.PRUNED, counts=True, advice="raise trial.max_seconds or train less"
    ),
    Outcome.DATA_ERROR: Consequence(
        state=TrialState.FAIL,
        counts=False,
        tries=2,
        trips_breaker=True,
        mendable=True,
        pause_s=5.0,
        advice="mend the files that are named, then type the same command again",
    ),
    Outcome.DISK_FULL: Consequence(
        state=TrialState.FAIL,
        counts=False,
        tries=3,
        trips_breaker=True,
        mendable=True,
        pause_s=5.0,
        advice="free space, or put the runs elsewhere by --runs-dir, then type the same command "
        "again; limits.disk_gb bounds what a study keeps",
    ),
    Outcome.CRASHED: Consequence(
        state=TrialState.FAIL,
        counts=False,
        tries=2,
        trips_breaker=True,
        advice="see the traceback in the trial's attributes and the runner's log",
    ),
    Outcome.KILLED: Consequence(
        state=TrialState.FAIL,
        counts=False,
        tries=2,
        trips_breaker=True,
        advice="the host ran out of memory: use fewer --runners, or a --memory-limit",
    ),
    Outcome.HUNG: Consequence(
        state=TrialState.FAIL,
        counts=False,
        tries=3,
        trips_breaker=True,
        advice="raise limits.hang_seconds if its steps may take that long; otherwise see the "
        "runner's log and the device",
    ),
    Outcome.LOST: Consequence(
        state=TrialState.FAIL,
        counts=False,
        tries=3,
        trips_breaker=True,
        advice="see the runner's log; on a shared machine something may kill large processes",
    ),
    Outcome.PREEMPTED: Consequence(state=TrialState.FAIL, counts=False, tries=math.inf),
    Outcome.OVER_BUDGET: Consequence(state=TrialState.FAIL, counts=False),
}
