"""One trial: batches, steps, clipping, schedule, eval grid, checkpoints.

A trial is a generator: it yields what it wants computed, and goes on with the losses. Whoever
runs it may compute for several trials at once.
"""

from collections.abc import Generator, Sequence
from itertools import chain, islice, pairwise

import torch

from hpo.specs import EvalPoint, Measures
from hpo.training.base.forward import Forward
from hpo.training.base.losses import Losses
from hpo.training.tasks import Row
from hpo.training.trial import checkpoint, export
from hpo.training.trial.batches import parts
from hpo.training.trial.curve import Curve
from hpo.training.trial.evaluate import evaluate
from hpo.training.trial.schedule import factor
from hpo.training.trial.trial import Listener, Run, Step

BEHIND = {"cuda": 8}  # steps that a GPU may be ahead of what is read; a CPU never is
CHECKPOINT_EVERY_S = 300.0  # the most training that a lost worker costs, in device time
CHECKPOINT_SHARE = 0.05  # of a trial's time that checkpoints may take; one may be gigabytes
CHEAP_CHECKPOINT_S = 1.0  # one that takes no longer is written at every eval point


def train(run: Run, curve: Curve, listener: Listener) -> Generator[Forward, Losses, bool]:
    """Trains from where `run` stands to the end; False if it was stopped on the way.

    Raises:
        NonFiniteError, DataError, OSError, and whatever an allocation failure raises; `run` says
            where.
    """
    try:
        if run.line is not None and not (yield from _end_step(run, curve, listener)):
            return False
        if run.stopped_early:
            return True
        coming = islice(run.course.batches(), run.step, None)
        for batch, following in pairwise(chain(coming, [[]])):
            before = run.epochs
            run.bench.task.expect([run.bench.train[i] for i in following])
            yield from _step(run, [run.bench.train[i] for i in batch])
            _settle(run, curve, listener)
            if run.epochs > before:
                _keep_epoch(run, curve, listener)
            if not (yield from _end_step(run, curve, listener)):
                return False
            if run.stopped_early:
                break
    finally:
        curve.flush()
    return True


def _step(run: Run, rows: Sequence[Row]) -> Generator[Forward, Losses, None]:
    """One optimizer step, in parts where a batch is larger than one forward pass may be."""
    run.phase = "training step"
    spec, config = run.bench.study.trial, run.order.config
    warmup = round(spec.warmup_share * run.course.steps)
    rate = config.learning_rate * factor(config.scheduler, run.step, run.course.steps, warmup)
    run.step += 1
    asked = learning(run, rows)
    found = []
    for one in asked:
        found.append((yield one))
    norm = torch.nn.utils.clip_grad_norm_([run.adapter.flat], spec.max_grad_norm)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.samples_seen += len(rows)
    run.unread.append(
        Step(
            run,
            learning_rate=rate,
            targets=asked[0].targets,
            losses=found,
            gradient_norm=norm,
        )
    )


def learning(run: Run, rows: Sequence[Row]) -> list[Forward]:
    """What a step on a batch wants computed: the whole, or its parts one after the other."""
    weights = run.bench.task.weights(rows, run.order.config)
    counts = torch.tensor([float(row.targets) for row in rows])
    targets = float((counts if weights is None else counts * weights).sum())
    bounds = parts(len(rows), run.bench.study.trial.max_micro_batch)
    return [
        Forward(
            rows=rows[first:last],
            adapter=run.adapter,
            learns=True,
            targets=targets,
            weights=None if weights is None else weights[first:last],
        )
        for first, last in bounds
    ]


def _keep_epoch(run: Run, curve: Curve, listener: Listener) -> None:
    """Keeps the adapter of an epoch that has just ended, where that is wanted."""
    every = run.bench.study.trial.keep_epochs
    if every is not None and run.epochs % every == 0:
        _read(run, curve, keep=0)  # it holds no NaN
        export.keep(run, run.adapter.flat.detach(), listener.fence, epoch=run.epochs)


def _settle(run: Run, curve: Curve, listener: Listener) -> None:
    """Reads the steps that are done, all of them where something hangs on it."""
    all_of_them = _measures(run) or listener.stop() is not None
    _read(run, curve, keep=0 if all_of_them else BEHIND.get(run.bench.device.type, 0))
    _tell_progress(run, listener)


def _measures(run: Run) -> bool:
    return bool(run.grid) and run.samples_seen >= run.grid[0]


def _end_step(run: Run, curve: Curve, listener: Listener) -> Generator[Forward, Losses, bool]:
    """What follows a step: evaluation, a line, a checkpoint; False if the trial was stopped."""
    measures = _measures(run)
    if run.line is not None and (not measures or (yield from _evaluate(run, listener))):
        curve.write(run.line)
        run.line = None
    stop = listener.stop()
    if measures:
        curve.flush()
    due = _is_checkpoint_due(run, measured=measures and run.line is None)
    if due or (stop is not None and stop.checkpoint):
        _read(run, curve, keep=0)
        _save(run, curve, listener)
    return stop is None


def _is_checkpoint_due(run: Run, *, measured: bool) -> bool:
    """Whether to write one now: at eval points, and between those that are far apart.

    None is written after the last point, as the adapter is exported then.

    Args:
        measured: whether an evaluation has just ended.
    """
    if not (run.grid and run.order.checkpoints) or run.stopped_early:
        return False
    since, took = run.seconds - run.checkpoint_at_s, run.checkpoint_took_s
    affordable = took <= CHEAP_CHECKPOINT_S or took <= CHECKPOINT_SHARE * since
    return affordable and (measured or since >= CHECKPOINT_EVERY_S)


def _read(run: Run, curve: Curve, *, keep: int) -> None:
    """Makes lines of the curve of all steps but the last few; `run.line` is the latest."""
    while len(run.unread) > keep:
        if run.line is not None:
            curve.write(run.line)
        run.line = run.unread.popleft().read(run)
        run.train_loss = float(run.line["train_loss"])


def _evaluate(run: Run, listener: Listener) -> Generator[Forward, Losses, bool]:
    """Measures at the grid points that this step has reached; False if stopped before its end."""
    assert run.line is not None

    def go_on() -> bool:
        _tell_progress(run, listener)
        return listener.stop() is None

    run.phase = "evaluation"
    bench = run.bench
    found = yield from evaluate(bench.task, bench.val, run.adapter, bench.eval_rows, go_on)
    if found is None:
        return False
    if run.objective.better(run.objective.of(found), run.best):
        run.best_weights = run.adapter.flat.detach().clone()
    run.line |= {"val_loss": found.val_loss, **found.metrics}
    while run.grid and run.samples_seen >= run.grid[0] and not run.stopped_early:
        _add_point(run, found, listener)
    return True


def _add_point(run: Run, found: Measures, listener: Listener) -> None:
    """Adds the next point of the grid to the curve; with it, the trial may be over early."""
    seen = run.grid.pop(0)
    ends = not run.grid or run.is_patience_over(found)
    point = EvalPoint(samples_seen=seen, step=run.step, last=ends, **found.model_dump())
    run.points.append(point)
    run.stopped_early = ends and bool(run.grid)
    listener.evaluated(point, False)


def _save(run: Run, curve: Curve, listener: Listener) -> None:
    run.phase = "checkpoint"
    began = run.seconds
    size_bytes = checkpoint.save(run, curve.text, listener.fence)
    run.checkpoint_at_s = run.seconds
    run.checkpoint_took_s = run.checkpoint_at_s - began
    listener.checkpointed(run.samples_seen, size_bytes)


def _tell_progress(run: Run, listener: Listener) -> None:
    listener.progress(run.samples_seen, run.samples, run.train_loss, run.samples_per_s)
