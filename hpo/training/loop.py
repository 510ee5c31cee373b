"""One trial: batches, steps, clipping, schedule, eval grid."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hpo.specs import EvalPoint, StudySpec, TrialOrder
from hpo.training.batches import steps_per_epoch, train_batches
from hpo.training.curve import CurveFile
from hpo.training.evaluate import val_loss
from hpo.training.finite import check_finite
from hpo.training.footprint import Footprint
from hpo.training.lora import Adapter, LoraBase
from hpo.training.memory import MemoryGauge
from hpo.training.schedule import factor
from hpo.training.tasks import Row, Task

SEED_STRIDE = 1_000_003  # trials of one study seed never meet those of the next


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What stays warm over all trials: the base, the encoded rows, the device."""

    study: StudySpec
    task: Task
    base: LoraBase
    train: Sequence[Row]
    val: Sequence[Row]
    device: torch.device
    adapter_dtype: torch.dtype
    gauge: MemoryGauge
    footprint: Footprint


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Whom a trial tells, and whom it asks after every step whether to stop."""

    progress: Callable[[int, int, float, float], None]
    """(samples seen, samples in all, train loss, samples/s)"""
    evaluated: Callable[[EvalPoint], None]
    stopping: Callable[[], bool]


@dataclass(kw_only=True)
class Run:
    """A trial under way; readable at any moment, also after it failed."""

    bench: Bench
    order: TrialOrder
    adapter: Adapter
    step: int = 0
    samples_seen: int = 0
    began: float = field(default_factory=time.monotonic)
    best: float = float("inf")
    best_weights: Tensor | None = None
    phase: str = "set-up"

    @property
    def samples(self) -> int:
        """Samples of the whole trial."""
        return len(self.bench.train) * self.bench.study.trial.epochs

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole trial."""
        epochs = self.bench.study.trial.epochs
        return steps_per_epoch(len(self.bench.train), self.order.config.batch_size) * epochs

    @property
    def samples_per_s(self) -> float:
        """Training samples a second so far, evaluation included."""
        return self.samples_seen / max(1e-9, time.monotonic() - self.began)


def new_adapter(bench: Bench, order: TrialOrder) -> Adapter:
    """A fresh adapter for a trial; its seed comes from the study's and the trial's."""
    config = order.config
    return Adapter(
        bench.base,
        rank=config.lora_r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        dtype=bench.adapter_dtype,
        device=bench.device,
        seed=bench.study.search.seed * SEED_STRIDE + order.seed_number,
    )


def train(run: Run, listener: Listener) -> bool:
    """Trains to the end; False if it was stopped on the way.

    Raises:
        NonFiniteError, DataError, and whatever an allocation failure raises; `run` says where.
    """
    spec, config = run.bench.study.trial, run.order.config
    optimizer = torch.optim.AdamW([run.adapter.flat], lr=0.0, weight_decay=spec.weight_decay)
    grid = spec.eval_grid(run.samples)
    warmup = round(spec.warmup_share * run.steps)
    batches = train_batches(
        run.bench.train,
        batch_size=config.batch_size,
        epochs=spec.epochs,
        seed=(run.bench.study.search.seed, run.order.seed_number),
    )
    with closing(CurveFile(Path(run.order.folder))) as curve:
        for batch in batches:
            rate = config.learning_rate * factor(config.scheduler, run.step, run.steps, warmup)
            loss, norm = _step(run, optimizer, rate, batch)
            listener.progress(run.samples_seen, run.samples, loss, run.samples_per_s)
            line = _line(run, loss, norm, rate)
            if grid and run.samples_seen >= grid[0]:
                line["val_loss"] = _evaluate(run, grid, listener)
            curve.write(**line)
            if listener.stopping():
                return False
    return True


def _step(
    run: Run, optimizer: torch.optim.Optimizer, rate: float, batch: list[int]
) -> tuple[float, float]:
    """One optimizer step; (train loss, gradient norm before clipping)."""
    run.phase = "training step"
    run.step += 1
    rows = [run.bench.train[i] for i in batch]
    run.adapter.refresh()
    losses, tokens = run.bench.task.token_losses(run.bench.task.collate(rows))
    loss = losses.sum() / tokens.sum()
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    norm = torch.nn.utils.clip_grad_norm_([run.adapter.flat], run.bench.study.trial.max_grad_norm)
    check_finite("gradient", norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    run.samples_seen += len(batch)
    return loss.item(), norm.item()


def _evaluate(run: Run, grid: list[int], listener: Listener) -> float:
    """Val loss at the grid points that this step has reached, taken off the grid."""
    run.phase = "evaluation"
    run.adapter.refresh()
    run.adapter.training = False
    loss = val_loss(run.bench.task, run.bench.val, run.bench.study.trial.eval_batch_size)
    run.adapter.training = True
    if loss < run.best:
        run.best, run.best_weights = loss, run.adapter.flat.detach().clone()
    while grid and run.samples_seen >= grid[0]:
        seen = grid.pop(0)
        point = EvalPoint(samples_seen=seen, step=run.step, val_loss=loss, last=not grid)
        listener.evaluated(point)
    return loss


def _line(run: Run, loss: float, norm: float, rate: float) -> dict[str, float]:
    return {
        "step": run.step,
        "samples_seen": run.samples_seen,
        "train_loss": loss,
        "learning_rate": rate,
        "gradient_norm": norm,
        "samples_per_s": round(run.samples_per_s, 2),
        "memory_bytes": run.bench.gauge.peak_bytes(),
    }
