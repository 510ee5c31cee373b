"""A trial under way: what it works on, where it stands, and whom it tells."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hpo.protocol import Stop
from hpo.specs import EvalPoint, Scalar, StudySpec, TrialOrder
from hpo.training.batches import steps_per_epoch
from hpo.training.footprint import Footprint
from hpo.training.lora import Adapter, LoraBase
from hpo.training.memory import MemoryGauge
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
    line: dict[str, Scalar] | None = None
    """The step under way as a line of the curve, until it is written."""
    curve: str = ""
    """The text of metrics.csv up to the checkpoint that it went on from."""
    points: list[EvalPoint] = field(default_factory=list)
    best_weights: Tensor | None = None
    resumed_at: int = 0
    """Samples that earlier attempts had seen."""
    earlier_seconds: float = 0.0
    """What they took."""
    began: float = field(default_factory=time.monotonic)
    phase: str = "set-up"

    def __post_init__(self) -> None:
        spec = self.bench.study.trial
        self.grid = spec.eval_grid(self.samples)
        self.optimizer = torch.optim.AdamW(
            [self.adapter.flat], lr=0.0, weight_decay=spec.weight_decay
        )

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
    def best(self) -> float:
        """The lowest val loss so far; infinity before the first."""
        return min((point.val_loss for point in self.points), default=float("inf"))

    @property
    def seconds(self) -> float:
        """What this attempt took so far."""
        return time.monotonic() - self.began

    @property
    def samples_per_s(self) -> float:
        """Training samples a second of this attempt, evaluation included."""
        return (self.samples_seen - self.resumed_at) / max(1e-9, self.seconds)


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
