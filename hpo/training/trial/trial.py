"""A trial under way: what it works on, where it stands, and whom it tells."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from hpo.errors import DataError
from hpo.protocol import Stop
from hpo.specs import EvalPoint, Measures, Objective, Scalar, StudySpec, TrialOrder
from hpo.training.base.adapter import Adapter
from hpo.training.base.batch import Fetched
from hpo.training.base.lora import LoraBase
from hpo.training.base.losses import LOSS, Losses, check_finite
from hpo.training.memory.gauge import MemoryGauge
from hpo.training.memory.prediction import MemoryModel
from hpo.training.tasks import Row, Task
from hpo.training.trial.batches import Course
from hpo.training.trial.evaluate import stage_metrics

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
    memory: MemoryModel
    eval_rows: int
    """Rows of a forward pass in evaluation."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is measured beside val loss."""
        return self.task.metrics + stage_metrics(self.val)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Whom a trial tells, and whom it asks whether to stop."""

    progress: Callable[[int, int, float, float], None]
    """(samples seen, samples in all, train loss, samples/s), at steps and evaluation batches."""
    evaluated: Callable[[EvalPoint, bool], None]
    """(a grid point, whether an earlier attempt measured it)."""
    resumed: Callable[[int, float, str], None]
    """(samples seen, seconds of the attempts before, why later checkpoints were passed over)."""
    started_over: Callable[[str], None]
    """(why no checkpoint of an earlier attempt could be used)."""
    checkpointed: Callable[[int, int], None]
    """(samples seen, size in bytes)."""
    stop: Callable[[], Stop | None]
    """The driver's request to end, asked for after steps and evaluation batches."""
    fence: Callable[[], None]
    """Called before a file is written; does not return if the trial may be another's by now."""


class Step:
    """An optimizer step that was taken; a GPU may still be at it."""

    def __init__(
        self,
        run: "Run",
        *,
        learning_rate: float,
        targets: float,
        losses: Sequence[Losses],
        gradient_norm: Tensor,
    ) -> None:
        """The step that `run` has just taken.

        Args:
            targets: what the mean loss is over.
            losses: of the parts of its batch.
            gradient_norm: () before clipping.
        """
        self._step, self._samples_seen = run.step, run.samples_seen
        self._learning_rate, self._targets = learning_rate, targets
        named = [one for part in losses for one in part.named()]
        self._places = [*(name for name, _ in named), "gradient"]
        self._numbers = Fetched([*(values for _, values in named), gradient_norm])

    def read(self, run: "Run") -> dict[str, Scalar]:
        """The step as a line of the curve; waits for it.

        Raises:
            NonFiniteError: names the first place of a NaN or an infinity.
        """
        named = list(zip(self._places, self._numbers.read(), strict=True))
        check_finite(named, self._step)
        losses = [values for name, values in named if name == LOSS]
        return {
            "step": self._step,
            "samples_seen": self._samples_seen,
            "train_loss": sum(float(values.sum()) for values in losses) / self._targets,
            "learning_rate": self._learning_rate,
            "gradient_norm": float(named[-1][1]),
            "samples_per_s": round(run.samples_per_s, 2),
            "memory_bytes": run.bench.gauge.peak_bytes(),
        }


@dataclass(kw_only=True)
class Run:
    """Where a trial stands; readable at any moment, also after it failed."""

    bench: Bench
    order: TrialOrder
    adapter: Adapter
    optimizer: torch.optim.AdamW = field(init=False)
    grid: list[int] = field(init=False)
    """Points that are still to be measured, in samples seen."""
    step: int = 0
    samples_seen: int = 0
    unread: deque[Step] = field(default_factory=deque)
    """Steps whose losses are not read yet, the earliest first."""
    line: dict[str, Scalar] | None = None
    """The last step that was read as a line of the curve, until it is written."""
    train_loss: float = math.nan
    """Of the last step that was read."""
    curve: str = ""
    """The text of metrics.csv up to the checkpoint that it went on from."""
    points: list[EvalPoint] = field(default_factory=list)
    best_weights: Tensor | None = None
    checkpoint_at_s: float = 0.0
    """When the last checkpoint of this attempt was written, by its clock; 0 without."""
    checkpoint_took_s: float = 0.0
    """What writing it took."""
    resumed_at: int = 0
    """Samples that earlier attempts had seen."""
    earlier_seconds: float = 0.0
    """What they took."""
    clock: Callable[[], float] = field(default_factory=lambda: _stopwatch())
    """Seconds that it has taken of the device."""
    phase: str = "set-up"
    stopped_early: bool = False
    """Whether it does not get better any more."""

    def __post_init__(self) -> None:
        spec, own = self.bench.study.trial, self.order.config.weight_decay
        self.grid = spec.eval_grid(self.samples)
        decay = spec.weight_decay if own is None else own
        flat = self.adapter.flat
        # in one pass over memory; in half, which NaN trials are about, that would be another AdamW
        fused = True if flat.dtype == torch.float32 else None
        self.optimizer = torch.optim.AdamW([flat], lr=0.0, weight_decay=decay, fused=fused)

    @property
    def samples(self) -> int:
        """Samples of the whole trial."""
        return len(self.bench.train) * self.bench.study.trial.epochs

    @property
    def epochs(self) -> int:
        """Times that it has seen so many samples as there are to train on."""
        return self.samples_seen // len(self.bench.train)

    @cached_property
    def course(self) -> Course:
        """Its batches, from the first to the last."""
        return course(self.bench, self.order)

    @property
    def objective(self) -> Objective:
        """What the study optimises."""
        return self.bench.study.objective

    @property
    def best(self) -> float:
        """The best of the objective so far; the worst there is before the first."""
        return self.objective.best(self.objective.of(point) for point in self.points)

    def is_patience_over(self, found: Measures) -> bool:
        """Whether the last evaluations, with this one, have brought no improvement."""
        patience = self.bench.study.trial.patience
        values = [self.objective.of(one) for one in (*self.points, found)]
        if patience is None or len(values) <= patience:
            return False
        best = self.objective.best(values[:-patience])
        by = self.bench.study.trial.min_improvement or 0.0
        return not any(self.objective.better(late, best, by=by) for late in values[-patience:])

    @property
    def seconds(self) -> float:
        """What this attempt took so far."""
        return self.clock()

    @property
    def samples_per_s(self) -> float:
        """Training samples a second of this attempt, evaluation included."""
        return (self.samples_seen - self.resumed_at) / max(1e-9, self.seconds)


def _stopwatch() -> Callable[[], float]:
    began = time.monotonic()
    return lambda: time.monotonic() - began


def course(bench: Bench, order: TrialOrder) -> Course:
    """What a trial is trained on: known before it starts."""
    return Course(
        rows=bench.train,
        batch_size=order.config.batch_size,
        epochs=bench.study.trial.epochs,
        seed=(bench.study.search.seed, order.seed_number),
        weights=order.config.stage_weights,
    )


def new_adapter(bench: Bench, order: TrialOrder) -> Adapter:
    """A fresh adapter for a trial; its seed comes from the study's and the trial's.

    Raises:
        DataError: somebody enqueued it with more layers than the study's base has room in.
    """
    config, most = order.config, bench.study.last_n
    if not bench.base.whole and most is not None and (config.last_n or 0) > most:
        raise DataError(
            f"last_n = {config.last_n}: in this study the last {most} layers at most have "
            "adapters; widen space.last_n in a new study"
        )
    return bench.base.adapter(
        rank=config.lora_r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        dtype=bench.adapter_dtype,
        device=bench.device,
        seed=bench.study.search.seed * SEED_STRIDE + order.seed_number,
        last_n=config.last_n,
    )
