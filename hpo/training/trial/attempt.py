"""One trial from order to result: begins or goes on, trains, and tells how it ended."""

import shutil
from collections.abc import Callable, Generator
from pathlib import Path

from hpo.protocol import Finished
from hpo.specs import TrialOrder, TrialStats
from hpo.training.base.forward import Forward
from hpo.training.base.losses import Losses
from hpo.training.memory.refusal import observation_of, refuse
from hpo.training.trial.checkpoint import CheckpointError, restore
from hpo.training.trial.curve import Curve
from hpo.training.trial.export import keep, take_over
from hpo.training.trial.faults import breaks_device, classify
from hpo.training.trial.loop import train
from hpo.training.trial.trial import Bench, Listener, Run, new_adapter

BROKEN_DEVICE = "its GPU reported an error after which a process cannot use it any more"


def attempt(
    bench: Bench, order: TrialOrder, listener: Listener, clock: Callable[[], float]
) -> Generator[Forward, Losses, Finished]:
    """Trains one trial; whatever happens to it, it ends with a result.

    One that surely does not fit into the memory is refused: nothing of it touches the device.

    Args:
        clock: seconds that the trial has taken of the device so far.
    """
    if (refused := refuse(bench, order)) is not None:
        return refused
    run: Run | None = None
    fault, completed, unfit_reason = None, False, ""
    observation = None
    try:
        run = Run(bench=bench, order=order, adapter=new_adapter(bench, order), clock=clock)
        curve = _go_on(run, listener)
        completed = yield from train(run, curve, listener)
        if completed:
            _keep_best(run, listener)
    except Exception as error:  # whatever it is, the driver must hear of it
        fault = classify(bench, order, run, error)
        observation = observation_of(bench, order, error=error)
        unfit_reason = BROKEN_DEVICE if breaks_device(error) else ""
        error.__traceback__ = None  # its frames hold the tensors of the failed step
    stats = _stats(bench, order, run, clock())
    if fault is None and run is not None and run.points:
        observation = observation_of(bench, order, peak_bytes=stats.peak_memory_bytes)
    return Finished(
        number=order.number,
        stats=stats,
        stopped=fault is None and not completed,
        fault=fault,
        observation=observation,
        clean=not unfit_reason,
        unfit_reason=unfit_reason,
    )


def _go_on(run: Run, listener: Listener) -> Curve:
    """From the latest earlier attempt whose checkpoint can be used, or else from the beginning."""
    reasons = _restore(run)
    if run.order.folder not in run.order.earlier:
        listener.fence()
        shutil.rmtree(run.order.folder, ignore_errors=True)  # of an earlier study of this name
    curve = Curve(Path(run.order.folder), run.curve, listener.fence, run.bench.metrics)
    if run.samples_seen:
        listener.resumed(run.samples_seen, run.earlier_seconds, "; ".join(reasons))
        for point in run.points:
            listener.evaluated(point, True)
        for earlier in run.order.earlier:
            take_over(Path(earlier), run, listener.fence)
    elif reasons:
        listener.started_over("; ".join(reasons))
    return curve


def _restore(run: Run) -> list[str]:
    """Brings a run to the latest checkpoint that can be used; why later ones could not be."""
    reasons = []
    for folder in map(Path, run.order.earlier):
        try:
            restore(run, folder)
            break
        except CheckpointError as error:
            reasons.append(f"the checkpoint in {folder.name} {error}")
    return reasons


def _keep_best(run: Run, listener: Listener) -> None:
    """Writes the adapter of the best eval point."""
    if run.best_weights is not None:
        keep(run, run.best_weights, listener.fence)


def _stats(bench: Bench, order: TrialOrder, run: Run | None, seconds: float) -> TrialStats:
    return TrialStats(
        seconds=round(seconds, 3),
        resumed_at_samples=run.resumed_at if run else 0,
        samples_per_s=round(run.samples_per_s, 2) if run else 0.0,
        peak_memory_bytes=bench.gauge.peak_bytes(),
        trainable_parameters=bench.base.trainable(order.config.lora_r, order.config.last_n),
        steps=run.step if run else 0,
        stopped_early=run is not None and run.stopped_early,
    )
