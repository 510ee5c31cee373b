"""How a trial ended: from what a runner said, or how it died, to what is written down."""

import math
from dataclasses import dataclass
from typing import Any

from hpo.protocol import Finished
from hpo.search.runners.process import Death
from hpo.specs import Fault, Observation, Outcome, TrialStats

SMALLEST_VIOLATION = 0.01  # an OOM is never feasible, however little was missing
OBSERVATION = "memory_observation"  # trial attributes
ID2LABEL = "id2label"
UNKNOWN_VIOLATION = 1.0  # where nobody knows the capacity


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trial ended, as far as anyone knows."""

    outcome: Outcome
    reason: str
    value: float | None = None
    """Best of the objective at the eval points; only with COMPLETE."""
    stats: TrialStats | None = None
    fault: Fault | None = None
    observation: Observation | None = None
    capacity_bytes: int | None = None
    details: dict[str, Any] | None = None
    retry_alone: bool = False
    """Whether the next attempt is to have its runner for itself."""

    def attributes(self) -> dict[str, Any]:
        """What is stored of it."""
        found: dict[str, Any] = {"outcome": str(self.outcome), "reason": self.reason}
        if self.stats is not None:
            found |= self.stats.model_dump()
        if self.fault is not None:
            found |= _fault_attributes(self.fault)
        if self.observation is not None:
            found[OBSERVATION] = self.observation.model_dump()
        return found | (self.details or {})

    def violation(self) -> float:
        """log2(memory needed / memory there): above 0 for an OOM, at most 0 for all others."""
        if self.outcome == Outcome.OOM:
            fault = self.fault
            if fault is None or not fault.needed_bytes or not fault.capacity_bytes:
                return UNKNOWN_VIOLATION
            return max(SMALLEST_VIOLATION, math.log2(fault.needed_bytes / fault.capacity_bytes))
        if self.capacity_bytes is None or self.stats is None or not self.stats.peak_memory_bytes:
            return 0.0
        return min(0.0, math.log2(self.stats.peak_memory_bytes / self.capacity_bytes))


def _fault_attributes(fault: Fault) -> dict[str, Any]:
    kind = str(fault.outcome)
    named = {
        f"{kind}_step": fault.step,
        f"{kind}_where": fault.where,
        "needed_bytes": fault.needed_bytes,
        "capacity_bytes": fault.capacity_bytes,
        "predicted": fault.predicted or None,
        "traceback": fault.traceback,
    }
    return {key: value for key, value in named.items() if value is not None}


def of_finished(
    event: Finished,
    decided: Ending | None,
    *,
    best: tuple[str, float],
    capacity_bytes: int | None,
) -> Ending:
    """What a runner's last message means.

    Args:
        decided: what the driver had decided before, and told the runner by a Stop.
        best: the objective in words, and the best of it at the trial's eval points.
    """
    known: dict[str, Any] = {
        "stats": event.stats,
        "capacity_bytes": capacity_bytes,
        "observation": event.observation,
    }
    completed = event.fault is None and not event.stopped
    if decided is not None and not (completed and decided.outcome == Outcome.PREEMPTED):
        return Ending(
            outcome=decided.outcome, reason=decided.reason, details=decided.details, **known
        )
    if event.fault is not None:
        fault = event.fault
        if fault.outcome == Outcome.OOM and event.shared:
            reason = f"beside other trials: {fault.reason}; tried again alone"
            return Ending(outcome=Outcome.PREEMPTED, reason=reason, retry_alone=True, **known)
        return Ending(outcome=fault.outcome, reason=fault.reason, fault=fault, **known)
    name, value = best
    reason = f"best {name} {value:.4f}"
    return Ending(outcome=Outcome.COMPLETE, reason=reason, value=value, **known)


def of_death(death: Death, *, killed_before: bool, beside: int = 0) -> Ending:
    """What the death of its runner means for a trial.

    The kernel may have killed it for the memory of another process: only the second time is it
    the trial's own fault. Beside others, nobody knows whose fault it was: it is tried again alone.
    """
    if beside and (death.hung or death.by_kernel or not death.by_signal):
        reason = f"the runner died ({death.how}) under it and {beside} more; tried again alone"
        outcome = Outcome.HUNG if death.hung else Outcome.LOST
        return Ending(outcome=outcome, reason=reason, retry_alone=True)
    if death.out_of_memory or (death.by_kernel and killed_before):
        reason = f"out of memory: the runner died ({death.how})"
        fault = Fault(outcome=Outcome.OOM, reason=reason, where="the whole process")
        return Ending(outcome=Outcome.OOM, reason=reason, fault=fault)
    if death.by_kernel:
        return Ending(outcome=Outcome.KILLED, reason=f"the runner died ({death.how})")
    if death.hung:
        return Ending(outcome=Outcome.HUNG, reason=f"the runner hung ({death.how})")
    if death.by_signal:
        return Ending(outcome=Outcome.LOST, reason=f"the runner was killed ({death.how})")
    return Ending(
        outcome=Outcome.CRASHED,
        reason=f"the runner crashed ({death.how})",
        details={"traceback": death.log},
    )
