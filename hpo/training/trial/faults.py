"""What an exception means for a trial."""

import errno
import traceback

import torch
from safetensors import SafetensorError

from hpo.errors import DataError
from hpo.specs import Fault, Outcome, TrialOrder
from hpo.training.base.losses import NonFiniteError
from hpo.training.memory.gauge import is_out_of_memory, requested_bytes
from hpo.training.memory.refusal import demand_of
from hpo.training.trial.trial import Bench, Run

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_SPACE_WORDS = ("No space left", "os error 28", "quota")  # as safetensors passes them on


def classify(bench: Bench, order: TrialOrder, run: Run | None, error: Exception) -> Fault:
    """The fault of a trial; without a run it fell while it was set up."""
    step, phase = (run.step, run.phase) if run else (0, "set-up")
    if isinstance(error, NonFiniteError):
        place = f"{error.where} of the {phase}" if phase == "evaluation" else error.where
        step = error.step or step
        reason = f"NaN or infinity at step {step}, first in the {place}"
        return Fault(outcome=Outcome.NAN, reason=reason, step=step, where=error.where)
    if is_out_of_memory(error):
        return _out_of_memory(bench, order, step, phase, error)
    if is_disk_full(error):
        reason = (
            f"the disk of {order.folder} is full at step {step}: make room there, or give another "
            "folder by --runs-dir"
        )
        return Fault(outcome=Outcome.DISK_FULL, reason=reason, step=step)
    if isinstance(error, DataError):
        return Fault(outcome=Outcome.DATA_ERROR, reason=str(error), step=step)
    if isinstance(error, OSError | SafetensorError):
        reason = f"input or output failed at step {step}: {error}"
        return Fault(outcome=Outcome.DATA_ERROR, reason=reason, step=step)
    text = "".join(traceback.format_exception(error))
    first_line = next(iter(str(error).splitlines()), "")
    reason = f"{type(error).__name__} at step {step}: {first_line}"
    return Fault(outcome=Outcome.CRASHED, reason=reason, step=step, traceback=text)


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for lack of space or quota."""
    if isinstance(error, SafetensorError):
        return any(words in str(error) for words in NO_SPACE_WORDS)
    return isinstance(error, OSError) and error.errno in NO_SPACE


def breaks_device(error: BaseException) -> bool:
    """Whether the process can no longer use its GPU."""
    return isinstance(error, torch.AcceleratorError)


def _out_of_memory(
    bench: Bench, order: TrialOrder, step: int, phase: str, error: Exception
) -> Fault:
    capacity = bench.gauge.capacity_bytes
    requested = requested_bytes(error)
    of = f" of {capacity / 2**30:.2f} GiB" if capacity else ""
    what = f"{requested / 2**20:.0f} MiB more" if requested else "what it asked for"
    return Fault(
        outcome=Outcome.OOM,
        reason=f"out of memory at step {step}, {phase}: {what} did not fit into the memory{of}",
        step=step,
        where=phase,
        needed_bytes=bench.memory.needed_bytes(demand_of(bench, order)),
        capacity_bytes=capacity,
    )
