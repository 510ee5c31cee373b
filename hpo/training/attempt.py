"""One trial from order to result: begins or goes on, trains, and tells how it ended."""

import shutil
import time
from pathlib import Path

from hpo.protocol import Finished
from hpo.specs import TrialOrder, TrialStats
from hpo.training.checkpoint import CheckpointError, restore
from hpo.training.export import export
from hpo.training.faults import breaks_device, classify
from hpo.training.loop import train
from hpo.training.trial import Bench, Listener, Run, new_adapter


def attempt(bench: Bench, order: TrialOrder, listener: Listener) -> Finished:
    """Trains one trial; the base is as before when it returns, whatever happened."""
    run: Run | None = None
    fault, completed, device_is_broken = None, False, False
    began = time.monotonic()
    try:
        bench.gauge.reset_peak()
        run = Run(bench=bench, order=order, adapter=new_adapter(bench, order))
        _go_on(run, listener)
        bench.base.attach(run.adapter)
        completed = train(run, listener)
        if completed:
            _keep_best(run, listener)
    except Exception as error:  # whatever it is, the driver must hear of it
        fault = classify(bench, order, run, error)
        device_is_broken = breaks_device(error)
        error.__traceback__ = None  # its frames hold the tensors of the failed step
    finally:
        bench.base.attach(None)
    stats = _stats(bench, order, run, time.monotonic() - began)
    del run
    clean = not device_is_broken and bench.gauge.is_clean(bench.task.held_bytes)
    return Finished(
        number=order.number,
        stats=stats.model_copy(update={"held_memory_bytes": bench.gauge.held_bytes()}),
        stopped=fault is None and not completed,
        fault=fault,
        clean=clean,
    )


def _go_on(run: Run, listener: Listener) -> None:
    """From the latest earlier attempt whose checkpoint can be used, or else from the beginning."""
    reasons = []
    for folder in map(Path, run.order.earlier):
        try:
            restore(run, folder)
        except CheckpointError as error:
            reasons.append(f"the checkpoint in {folder.name} {error}")
        else:
            listener.resumed(run.samples_seen, run.earlier_seconds, "; ".join(reasons))
            for point in run.points:
                listener.evaluated(point, True)
            break
    else:
        if reasons:
            listener.started_over("; ".join(reasons))
    if run.order.folder not in run.order.earlier:
        listener.fence()
        shutil.rmtree(run.order.folder, ignore_errors=True)  # of an earlier study of this name


def _keep_best(run: Run, listener: Listener) -> None:
    """Writes the adapter of the best eval point."""
    run.phase = "export"
    if run.best_weights is None:
        return
    export(
        Path(run.order.folder) / "adapter",
        run.bench.base,
        run.adapter,
        run.best_weights,
        pattern=run.bench.task.target_pattern,
        model_name=run.bench.study.model.name,
        fence=listener.fence,
    )


def _stats(bench: Bench, order: TrialOrder, run: Run | None, seconds: float) -> TrialStats:
    return TrialStats(
        seconds=round(seconds, 3),
        resumed_at_samples=run.resumed_at if run else 0,
        samples_per_s=round(run.samples_per_s, 2) if run else 0.0,
        peak_memory_bytes=bench.gauge.peak_bytes(),
        trainable_parameters=bench.base.trainable(order.config.lora_r),
        steps=run.step if run else 0,
    )
