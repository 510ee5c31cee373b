"""The messages between driver and runner: one JSON object a line, over two pipes of their own.

Down (driver to runner): Setup once, then Inspect, Score or Run, Stop, Quit. End of file means that
the driver is dead: the runner exits at once.

Up (runner to driver): Ready or SetupFailed once; for a Run first Resumed or StartedOver if
it had earlier attempts, then any number of Progress, Evaluated and Checkpointed, then exactly one
Finished. A runner trains several trials at a time, up to its lanes. Evaluated messages come in grid
order, those of earlier attempts (replayed) first; what comes for a trial after its Stop was sent is
void, except Checkpointed and Finished. Progress comes at every step and evaluation batch, at most
twice a second: a runner that is silent for `limits.hang_seconds` hangs. One that finds that it was
silent for so long exits without another word or file: its trial is another's by then.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, TypeAdapter

from hpo.specs import (
    EvalPoint,
    Fault,
    Message,
    Observation,
    Positive,
    Spec,
    StudySpec,
    TrialConfig,
    TrialOrder,
    TrialStats,
)

CHECKPOINT = "checkpoint.safetensors"  # what a runner leaves in the folder of a trial
ADAPTER = "adapter"
ANSWERS = "answers.jsonl"

CRASHED = 1  # exit statuses of a runner
OUT_OF_MEMORY = 4
HUNG = 5


class Lanes(Spec):
    """What a runner takes at a time."""

    count: Positive = 1
    """Trials."""
    rows: Positive = 1
    """Rows that at most share a forward pass."""
    eval_rows: Positive = 1
    """Rows of a forward pass in which one trial evaluates."""


class Setup(Spec):
    """Load the base and the data of this study."""

    kind: Literal["setup"] = "setup"
    study: StudySpec
    memory_limit_bytes: int | None
    gpu: bool
    """Whether the runner was given a GPU; it never falls back to the CPU."""
    zero_shot: bool
    """Whether to evaluate the base without an adapter, and say its objective."""
    cache_dir: str | None = None
    """Folder of the host for outputs of the frozen prefix; None keeps them in memory."""
    pack: Positive | None = 1
    """Trials at a time; None for as many as are measured to be worth it."""
    lanes: Lanes | None = None
    """What the runner before in this place took at a time; it is not measured again."""
    contents: dict[str, Any] | None = None
    """Digests of model and data files by fingerprint key, as the driver found them; a runner that
    finds others fails to set up. Nothing is compared where it is None."""


class Inspect(Spec):
    """Say what a trial of these configurations would cost; train nothing."""

    kind: Literal["inspect"] = "inspect"
    configs: tuple[TrialConfig, ...]


class Run(Spec):
    """Train this trial."""

    kind: Literal["run"] = "run"
    order: TrialOrder
    observations: tuple[Observation, ...] = ()
    """Of other trials on devices like this, as far as the runner does not know them yet."""


class Score(Spec):
    """Say how well a trained trial answers; its answers go into its folder."""

    kind: Literal["score"] = "score"
    order: TrialOrder


class Stop(Spec):
    """End this trial at its next step or evaluation batch, if it is still running."""

    kind: Literal["stop"] = "stop"
    number: int
    checkpoint: bool = False
    """Whether to write a checkpoint before, so that another runner can go on from here."""


class Quit(Spec):
    """End the process."""

    kind: Literal["quit"] = "quit"


class BaseFacts(Spec):
    """What a runner found when it loaded the base."""

    device: str
    memory_capacity_bytes: int | None
    """What trials can have: the limit, or the device's memory; None where unknown."""
    base_parameters: int
    adapted_layers: int
    train_samples: int
    val_samples: int
    checks: tuple[Message, ...]
    """What the start-up verification held."""
    versions: dict[str, str]
    zero_shot: float | None
    lanes: Lanes = Lanes()
    generates: bool = False
    """Whether its answers are texts, which Score scores."""
    labels: tuple[str, ...] = ()
    """Labels by output of the head, where the task has any."""


class Ready(Spec):
    """The base is loaded."""

    kind: Literal["ready"] = "ready"
    facts: BaseFacts


class SetupFailed(Spec):
    """The base or the data cannot be loaded; the runner exits."""

    kind: Literal["setup_failed"] = "setup_failed"
    message: Message
    """One sentence; the traceback of what is not the user's to mend is in the runner's log."""


class Cost(Spec):
    """What one trial would cost."""

    config: TrialConfig
    trainable_parameters: int
    steps: int
    samples: int
    seconds: float
    """Extrapolated from one training step and one evaluation batch."""
    peak_memory_bytes: int
    problem: Message | None = None
    """Why it cannot be trained: it does not fit, or it is not finite."""


class Inspected(Spec):
    """The answer to Inspect."""

    kind: Literal["inspected"] = "inspected"
    costs: tuple[Cost, ...]


class Scored(Spec):
    """The answer to Score."""

    kind: Literal["scored"] = "scored"
    number: int
    samples: int = 0
    """Rows of the val set, each answered once."""
    scores: dict[str, FiniteFloat] = Field(default={})
    problem: Message | None = None
    """Why it has none, in one sentence."""


class Progress(Spec):
    """A sign of life, at most twice a second."""

    kind: Literal["progress"] = "progress"
    number: int
    samples_seen: int
    samples: int
    train_loss: float
    samples_per_s: float


class Resumed(Spec):
    """The trial goes on from the checkpoint of an earlier attempt."""

    kind: Literal["resumed"] = "resumed"
    number: int
    samples_seen: int
    seconds: float
    """What the attempts up to that checkpoint took."""
    passed_over: Message = ""
    """Why the checkpoints of later attempts could not be used."""


class StartedOver(Spec):
    """The trial starts from the beginning, though it had earlier attempts."""

    kind: Literal["started_over"] = "started_over"
    number: int
    reason: Message
    """Why no checkpoint of theirs could be used."""


class Evaluated(Spec):
    """A point of the curve."""

    kind: Literal["evaluated"] = "evaluated"
    number: int
    point: EvalPoint
    replayed: bool = False
    """Whether an earlier attempt measured it."""


class Checkpointed(Spec):
    """A checkpoint lies in the trial's folder, complete."""

    kind: Literal["checkpointed"] = "checkpointed"
    number: int
    samples_seen: int
    size_bytes: int


class Finished(Spec):
    """The trial is over: at its end, stopped, or by a fault."""

    kind: Literal["finished"] = "finished"
    number: int
    stats: TrialStats
    stopped: bool = False
    fault: Fault | None = None
    observation: Observation | None = None
    """What it has shown of the memory; None if it was not tried, or not alone."""
    shared: bool = False
    """Whether it was ever beside another on its runner."""
    clean: bool = True
    """Whether the process is fit for another trial: its memory is back at the baseline."""
    unfit_reason: str = ""
    """Why it is not, in a phrase."""


Command = Annotated[Setup | Inspect | Score | Run | Stop | Quit, Field(discriminator="kind")]
Event = Annotated[
    Ready
    | SetupFailed
    | Inspected
    | Scored
    | Resumed
    | StartedOver
    | Progress
    | Evaluated
    | Checkpointed
    | Finished,
    Field(discriminator="kind"),
]
_COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)


def to_line(message: Spec) -> bytes:
    """The message as one line."""
    return message.model_dump_json().encode() + b"\n"


def read_command(line: bytes) -> Command:
    """The command in a line."""
    return _COMMANDS.validate_json(line)


def read_event(line: bytes) -> Event:
    """The event in a line."""
    return _EVENTS.validate_json(line)
