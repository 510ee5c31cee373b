"""One trial: batches, steps, clipping, schedule, eval grid, checkpoints."""

from itertools import islice
from pathlib import Path

import torch

from hpo.specs import EvalPoint, Scalar
from hpo.training import checkpoint
from hpo.training.batches import train_batches
from hpo.training.curve import Curve
from hpo.training.evaluate import val_loss
from hpo.training.finite import check_finite
from hpo.training.schedule import factor
from hpo.training.trial import Listener, Run


def train(run: Run, listener: Listener) -> bool:
    """Trains from where `run` stands to the end; False if it was stopped on the way.

    Raises:
        NonFiniteError, DataError, OSError, and whatever an allocation failure raises; `run` says
            where.
    """
    spec, config = run.bench.study.trial, run.order.config
    batches = train_batches(
        run.bench.train,
        batch_size=config.batch_size,
        epochs=spec.epochs,
        seed=(run.bench.study.search.seed, run.order.seed_number),
    )
    curve = Curve(Path(run.order.folder), run.curve, listener.fence)
    try:
        if run.line is not None and not _end_step(run, curve, listener):
            return False
        for batch in islice(batches, run.step, None):
            _step(run, batch)
            _tell_progress(run, listener)
            if not _end_step(run, curve, listener):
                return False
    finally:
        curve.flush()
    return True


def _step(run: Run, batch: list[int]) -> None:
    """One optimizer step."""
    run.phase = "training step"
    spec, config = run.bench.study.trial, run.order.config
    warmup = round(spec.warmup_share * run.steps)
    rate = config.learning_rate * factor(config.scheduler, run.step, run.steps, warmup)
    run.step += 1
    rows = [run.bench.train[i] for i in batch]
    run.adapter.refresh()
    losses, tokens = run.bench.task.token_losses(run.bench.task.collate(rows))
    loss = losses.sum() / tokens.sum()
    run.optimizer.zero_grad()
    torch.autograd.backward(loss)
    norm = torch.nn.utils.clip_grad_norm_([run.adapter.flat], spec.max_grad_norm)
    check_finite("gradient", norm)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.samples_seen += len(batch)
    run.line = _line(run, loss.item(), norm.item(), rate)


def _end_step(run: Run, curve: Curve, listener: Listener) -> bool:
    """What follows a step: evaluation, a line of the curve, a checkpoint; False if stopped."""
    assert run.line is not None
    measures = bool(run.grid) and run.samples_seen >= run.grid[0]
    if not measures or _evaluate(run, listener):
        curve.write(run.line)
        run.line = None
    stop = listener.stop()
    if measures:
        curve.flush()
    due = measures and run.line is None and bool(run.grid) and run.order.checkpoints
    if due or (stop is not None and stop.checkpoint):
        _save(run, curve, listener)
    return stop is None


def _evaluate(run: Run, listener: Listener) -> bool:
    """Val loss at the grid points that this step has reached; False if stopped before its end."""
    assert run.line is not None

    def go_on() -> bool:
        _tell_progress(run, listener)
        return listener.stop() is None

    run.phase = "evaluation"
    run.adapter.refresh()
    run.adapter.training = False
    batch_size = run.bench.study.trial.eval_batch_size
    loss = val_loss(run.bench.task, run.bench.val, batch_size, go_on)
    run.adapter.training = True
    if loss is None:
        return False
    if loss < run.best:
        run.best_weights = run.adapter.flat.detach().clone()
    run.line["val_loss"] = loss
    while run.grid and run.samples_seen >= run.grid[0]:
        seen = run.grid.pop(0)
        point = EvalPoint(samples_seen=seen, step=run.step, val_loss=loss, last=not run.grid)
        run.points.append(point)
        listener.evaluated(point, False)
    return True


def _save(run: Run, curve: Curve, listener: Listener) -> None:
    run.phase = "checkpoint"
    size_bytes = checkpoint.save(run, curve.text, listener.fence)
    listener.checkpointed(run.samples_seen, size_bytes)


def _tell_progress(run: Run, listener: Listener) -> None:
    assert run.line is not None
    loss = float(run.line["train_loss"])
    listener.progress(run.samples_seen, run.samples, loss, run.samples_per_s)


def _line(run: Run, loss: float, norm: float, rate: float) -> dict[str, Scalar]:
    return {
        "step": run.step,
        "samples_seen": run.samples_seen,
        "train_loss": loss,
        "learning_rate": rate,
        "gradient_norm": norm,
        "samples_per_s": round(run.samples_per_s, 2),
        "memory_bytes": run.bench.gauge.peak_bytes(),
    }
