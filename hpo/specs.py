"""The words that both wings share: what a study is, what one trial is, how it can end.

All are frozen and checked on construction, strictly: "3" is not a number, an unknown key is an
error. They travel as JSON between driver and runner, and lie as JSON in the database.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator


def _spelled_out(text: Any) -> Any:  # lone surrogates, as of file names in other bytes
    return text.encode(errors="backslashreplace").decode() if isinstance(text, str) else text


Message = Annotated[str, BeforeValidator(_spelled_out)]  # may quote anything, and fits into JSON
Scalar = bool | int | FiniteFloat | str
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(gt=0, lt=2**31)]  # as databases and tensors count
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Spec(BaseModel):
    """Base of all specs."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants"
    )


class Outcome(StrEnum):
    """How a trial ended; `search.ledger.outcomes` says what follows from each."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    OOM = "oom"
    NAN = "nan"
    TIMEOUT = "timeout"
    DATA_ERROR = "data_error"
    DISK_FULL = "disk_full"
    CRASHED = "crashed"
    KILLED = "killed"
    HUNG = "hung"
    LOST = "lost"
    PREEMPTED = "preempted"
    OVER_BUDGET = "over_budget"


class Measures(Spec):
    """What an evaluation found."""

    val_loss: FiniteFloat
    metrics: dict[str, FiniteFloat] = {}
    """What the task measures beside it, by name."""


class Objective(Spec):
    """What is optimised."""

    metric: Literal["val_loss", "accuracy", "macro_f1", "f_beta", "exact_match"] = "val_loss"
    """`f_beta`: with beta 3, of the rarer label where there are two, else the mean over labels."""
    direction: Literal["minimize", "maximize"] = "minimize"

    @model_validator(mode="after")
    def _points_the_right_way(self) -> Self:
        wanted = "minimize" if self.metric == "val_loss" else "maximize"
        if self.direction != wanted:
            raise ValueError(f'must have direction = "{wanted}" with metric {self.metric}')
        return self

    @property
    def words(self) -> str:
        """The metric's name for people."""
        return self.metric.replace("_", " ")

    @property
    def worst(self) -> float:
        """What anything is better than."""
        return float("inf") if self.direction == "minimize" else float("-inf")

    def of(self, found: Measures) -> float:
        """Its value in what an evaluation found."""
        return found.val_loss if self.metric == "val_loss" else found.metrics[self.metric]

    def better(self, one: float, other: float, *, by: float = 0.0) -> bool:
        """Whether a value is better than another, by more than `by`."""
        return one < other - by if self.direction == "minimize" else one > other + by

    def best(self, values: Iterable[float]) -> float:
        """The best of some values; the worst there is of none."""
        pick = min if self.direction == "minimize" else max
        return pick(values, default=self.worst)


VAL_LOSS = Objective()


class ModelSpec(Spec):
    """The frozen base and how it is held."""

    name: str
    """A directory, a hub name whose weights are on this machine, or `mini`."""
    revision: str | None = None
    """Commit of a hub name."""
    precision: Literal["float32", "bf16", "float16"] = "float32"
    """`bf16` holds the base in bf16 and adapters in fp32; `float16` holds everything in half."""
    tf32: bool = False
    """Whether a GPU may round the factors of float32 products to 10 bits, which is faster."""
    adapt: Annotated[str, Field(min_length=1)] = "qformer"
    """Which Linears get adapters: a name that the task knows, such as `qformer` or `attention`, or
    a regular expression of module names."""
    device: Literal["auto", "cuda", "cpu"] = "auto"


class DataSpec(Spec):
    """The examples and their split."""

    format: Literal["rsicap", "scenes", "table", "messages", "vqa", "quiz"]
    """`rsicap`: captions.json and images/ below `root`; `table`: CSV, TSV or JSON lines with `text`
    and `label`; `vqa`: questions about images, as RSIEval or Kvasir-VQA has them; `scenes`,
    `messages` and `quiz`: drawn."""
    root: str | None = None
    val_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of the groups (source images) kept for validation."""
    samples: Annotated[int, Field(ge=2)] | None = None
    """At most so many rows; for `scenes` and other drawn ones, how many are drawn."""
    max_length: Annotated[int, Field(ge=8, le=8192)] = 256
    """Tokens of a caption; longer ones are cut."""
    stages: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """An ordered list of stages, each going on from the one before: data files, or question types /
    values of `stage` joined by +, such as 'presence+quantity'."""
    image_size: Annotated[int, Field(ge=28, le=4096)] | None = None
    """Longest side of an image in pixels; larger ones are scaled down."""


class TrialSpec(Spec):
    """What all trials of a study have in common."""

    epochs: Positive = 2
    evals: Annotated[int, Field(gt=0, le=100_000)] = 10
    """Points of the eval grid: k/n of the samples of the whole trial."""
    keep_epochs: Positive | None = None
    """An adapter is kept every so many epochs, in `adapter/epoch-<n>`, for as long as the best one
    of its trial is; None for the best one alone."""
    eval_batch_size: Positive = 8
    """Rows of a forward pass in evaluation; more on a CPU without a limit, where that is faster."""
    max_micro_batch: Positive | None = None
    """Rows of one forward and backward pass; a larger batch adds up the gradients of several."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    max_grad_norm: Rate = 1.0
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    patience: Positive | None = None
    """Evaluations without an improvement of the objective after which a trial ends early."""
    min_improvement: Rate | None = None
    """How much better counts as an improvement; None for any."""
    max_seconds: Rate | None = None
    """Longest training time before a trial is pruned as `timeout`; parallel trials share it."""

    def eval_grid(self, samples: int) -> list[int]:
        """The grid points k/n of a trial's `samples`, in samples seen; ascending."""
        points = {round(samples * k / self.evals) for k in range(1, self.evals + 1)}
        return sorted(point for point in points if point > 0)


class SearchSpec(Spec):
    """How long and how the sampler searches."""

    trials: Positive = 50
    """Finished trials (COMPLETE or PRUNED) over all processes and resumes."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    startup_trials: Annotated[int, Field(ge=0)] = 10
    """COMPLETE trials before TPE takes over from random sampling."""
    attempts: Positive = 3
    """How often a trial is tried whose worker is lost."""


class PrunerSpec(Spec):
    """The median pruner. While too few trials are COMPLETE, RUNNING ones count, too."""

    startup_trials: Annotated[int, Field(ge=0)] = 4
    min_trials: Positive = 4
    warmup_evals: Annotated[int, Field(ge=0)] = 1


class LimitsSpec(Spec):
    """What a study may take, and how patient it is."""

    hours: Rate | None = None
    """Wall-clock time since the study began, over all processes and resumes."""
    device_hours: Rate | None = None
    """Device time of all trials, over all processes and resumes, failed ones included."""
    hang_seconds: Annotated[float, Field(ge=2.0, allow_inf_nan=False)] = 120.0
    """Without a step for so long, a trial is taken from its runner and goes on elsewhere."""
    outage_seconds: Rate = 1800.0
    """How long trials go on while the database cannot be reached."""
    adapters: Annotated[int, Field(ge=1)] = 5
    """Best trials whose adapters are kept."""
    predict_oom: bool = True
    """Whether a trial that surely cannot fit into the memory is pruned without trying it."""
    disk_gb: Annotated[float, Field(gt=0.0, le=1e9)] = 50.0
    """Space for checkpoints and adapters of this study."""
    cache_gb: Annotated[float, Field(ge=0.0, le=1e9)] = 20.0
    """Space for outputs of the frozen part that images or texts go through first; 0 for none."""


class FloatParam(Spec):
    """A real number between `low` and `high`."""

    type: Literal["float"]
    low: FiniteFloat
    high: FiniteFloat
    log: bool = False


class IntParam(Spec):
    """A whole number between `low` and `high`, in steps of `step`."""

    type: Literal["int"]
    low: int
    high: int
    step: Positive = 1
    log: bool = False


class CategoricalParam(Spec):
    """One of `choices`, which are all of one type."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], Field(min_length=1)]


class ConstantParam(Spec):
    """Always `value`; not sampled."""

    type: Literal["constant"]
    value: Scalar


Param = Annotated[
    FloatParam | IntParam | CategoricalParam | ConstantParam, Field(discriminator="type")
]


class TrialConfig(Spec):
    """The hyperparameters of one trial: what a search space may name."""

    learning_rate: Rate
    lora_r: Positive
    lora_alpha: Rate
    lora_dropout: Share = 0.0
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """After the warm-up: linear or cosine decay to zero, or constant."""
    batch_size: Positive
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    """Of AdamW; None for the study's `trial.weight_decay`."""
    last_n: Positive | None = None
    """How many of the last layers get adapters; None for all."""
    class_weight: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Power of the inverse frequency that labels are weighted with: 0 not at all, 1 balanced."""
    stage_1: Weight = 1.0
    """What the first stage of the data weighs: its share of the samples that a trial sees is its
    weight over the sum of all; a stage that weighs nothing is left out."""
    stage_2: Weight = 1.0
    stage_3: Weight = 1.0
    stage_4: Weight = 1.0

    @property
    def stage_weights(self) -> tuple[float, ...]:
        """Weights of the stages in their order; further ones weigh 1."""
        return self.stage_1, self.stage_2, self.stage_3, self.stage_4


class StudySpec(Spec):
    """A whole study, resolved: files, scale and options merged."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The name it is stored under, and of its folder below the runs."""
    task: str
    search_space: str
    objective: Objective = VAL_LOSS
    model: ModelSpec
    data: DataSpec
    trial: TrialSpec = TrialSpec()
    search: SearchSpec = SearchSpec()
    pruner: PrunerSpec = PrunerSpec()
    limits: LimitsSpec = LimitsSpec()
    known: tuple[dict[str, Scalar], ...] = ()
    """Configurations to try first; a parameter that one leaves out is sampled."""
    space: dict[str, Param] = {}
    """The search space by parameter."""

    @property
    def last_n(self) -> int | None:
        """The most blocks, counted from the last, that a trial may adapt; None for all."""
        match self.space.get("last_n"):
            case ConstantParam(value=int(value)):
                return value
            case IntParam(high=high):
                return high
            case CategoricalParam(choices=choices):
                return max(int(choice) for choice in choices)
        return None


class TrialOrder(Spec):
    """One trial as the runner gets it."""

    number: int
    """Optuna's number of the trial."""
    seed_number: int
    """Number that its seeds derive from: of the first attempt, so that a retry is the same."""
    study: str = ""
    """What tells its study from all others: a checkpoint of another is never used."""
    config: TrialConfig
    folder: str
    """Directory for its curve, its checkpoint and its adapter."""
    earlier: tuple[str, ...] = ()
    """Directories of earlier attempts, the latest first: it goes on from a checkpoint there."""
    checkpoints: bool = True
    """Whether to write checkpoints as it trains; at a hand-over it always does."""
    alone: bool = False
    """Whether to train it beside no other: a runner died under it and others."""


class EvalPoint(Measures):
    """One point of a trial's curve."""

    samples_seen: int
    """The grid point, in samples seen: equal for all batch sizes."""
    step: int
    last: bool = False
    """Whether the trial is at its end: there is nothing left to save by pruning it."""


class TrialStats(Spec):
    """What a trial cost."""

    seconds: float = 0.0
    """Of this attempt alone."""
    resumed_at_samples: int = 0
    """Samples that earlier attempts had seen at the checkpoint it went on from."""
    samples_per_s: float = 0.0
    peak_memory_bytes: int = 0
    """Peak on the device beyond what an idle process holds: base, adapter, activations; of trials
    beside it, too."""
    held_memory_bytes: int = 0
    """What the runner's process still holds when the trial is over."""
    trainable_parameters: int = 0
    steps: int = 0
    """Steps of the whole trial so far, earlier attempts included."""
    stopped_early: bool = False
    """Whether it ended before its last step, as it did not get better any more."""


class Demand(Spec):
    """What a trial asks of the memory beyond the base, counted before it starts."""

    activation_bytes: int
    """What its longest batch holds at the end of the forward pass: a lower bound."""
    trainable: int
    """Parameters of its adapter."""

    def covers(self, other: "Demand") -> bool:
        """Whether it asks for at least as much in everything."""
        more = self.activation_bytes >= other.activation_bytes
        return more and self.trainable >= other.trainable


class Observation(Spec):
    """What a trial that had its device alone has shown of the memory there."""

    demand: Demand
    base_bytes: int
    """Of the base that it stood beside."""
    capacity_bytes: int | None
    fitted: bool
    peak_bytes: int = 0
    """Measured, if it fitted."""


class Fault(Spec):
    """Why a trial did not reach its end."""

    outcome: Outcome
    reason: Message
    """One sentence."""
    step: int | None = None
    where: str | None = None
    """Place of the first NaN, or phase of an OOM."""
    needed_bytes: int | None = None
    """Estimate of what the trial would have taken; never below the capacity."""
    capacity_bytes: int | None = None
    predicted: bool = False
    """Whether an OOM was foreseen: the trial was not tried."""
    traceback: Message | None = None
