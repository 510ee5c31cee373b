"""One trial from order to result: trains, and turns whatever goes wrong into a fault."""

import shutil
import time
import traceback
from pathlib import Path

import torch
from safetensors import SafetensorError

from hpo.errors import DataError
from hpo.protocol import Finished
from hpo.specs import Fault, Outcome, TrialConfig, TrialOrder, TrialStats
from hpo.training.export import export
from hpo.training.finite import NonFiniteError
from hpo.training.loop import Bench, Listener, Run, new_adapter, train
from hpo.training.memory import is_out_of_memory, requested_bytes


def attempt(bench: Bench, order: TrialOrder, listener: Listener) -> Finished:
    """Trains one trial; the base is as before when it returns, whatever happened."""
    run: Run | None = None
    fault, completed, cuda_is_broken = None, False, False
    began = time.monotonic()
    shutil.rmtree(order.folder, ignore_errors=True)  # of an earlier study of this name
    try:
        bench.gauge.reset_peak()
        run = Run(bench=bench, order=order, adapter=new_adapter(bench, order))
        bench.base.attach(run.adapter)
        completed = train(run, listener)
        _keep_best(run)
    except Exception as error:  # whatever it is, the driver must hear of it
        fault = classify(bench, order, run, error)
        cuda_is_broken = isinstance(error, torch.AcceleratorError)
        error.__traceback__ = None  # its frames hold the tensors of the failed step
    finally:
        bench.base.attach(None)
    stats = _stats(bench, order, run, time.monotonic() - began)
    del run
    return Finished(
        number=order.number,
        stats=stats,
        stopped=fault is None and not completed,
        fault=fault,
        clean=not cuda_is_broken and bench.gauge.is_clean(bench.task.held_bytes),
    )


def classify(bench: Bench, order: TrialOrder, run: Run | None, error: Exception) -> Fault:
    """What an exception means for the trial; without a run it fell while it was set up."""
    step, phase = (run.step, run.phase) if run else (0, "set-up")
    if isinstance(error, NonFiniteError):
        place = f"{error.where} of the {phase}" if phase == "evaluation" else error.where
        reason = f"NaN or infinity at step {step}, first in the {place}"
        return Fault(outcome=Outcome.NAN, reason=reason, step=step, where=error.where)
    if is_out_of_memory(error):
        return _out_of_memory(bench, order.config, step, phase, error)
    if isinstance(error, DataError):
        return Fault(outcome=Outcome.DATA_ERROR, reason=str(error), step=step)
    if isinstance(error, OSError | SafetensorError):
        reason = f"input or output failed at step {step}: {error}"
        return Fault(outcome=Outcome.DATA_ERROR, reason=reason, step=step)
    text = "".join(traceback.format_exception(error))
    reason = (
        f"{type(error).__name__} at step {step}: {str(error).splitlines()[0] if str(error) else ''}"
    )
    return Fault(outcome=Outcome.CRASHED, reason=reason, step=step, traceback=text)


def _out_of_memory(
    bench: Bench, config: TrialConfig, step: int, phase: str, error: Exception
) -> Fault:
    capacity = bench.gauge.capacity_bytes
    requested = requested_bytes(error)
    trainable = bench.base.trainable(config.lora_r)
    needed = bench.footprint.estimate(batch_size=config.batch_size, trainable=trainable)
    of = f" of {capacity / 2**30:.2f} GiB" if capacity else ""
    return Fault(
        outcome=Outcome.OOM,
        reason=f"out of memory at step {step}, {phase}: {requested / 2**20:.0f} MiB more did not "
        f"fit into the memory{of}",
        step=step,
        where=phase,
        needed_bytes=max(needed, capacity or 0),
        capacity_bytes=capacity,
    )


def _keep_best(run: Run) -> None:
    """Writes the adapter of the best eval point."""
    if run.best_weights is None:
        return
    export(
        Path(run.order.folder) / "adapter",
        run.bench.base,
        run.adapter,
        run.best_weights,
        pattern=run.bench.task.target_pattern,
        model_name=run.bench.study.model.name,
    )


def _stats(bench: Bench, order: TrialOrder, run: Run | None, seconds: float) -> TrialStats:
    return TrialStats(
        seconds=round(seconds, 3),
        samples_per_s=round(run.samples_per_s, 2) if run else 0.0,
        peak_memory_bytes=bench.gauge.peak_bytes(),
        trainable_parameters=bench.base.trainable(order.config.lora_r),
        steps=run.step if run else 0,
    )
