"""The work that every contender does: the same trials, rows, batches and evaluations."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hpo.data import Example, read_examples
from hpo.errors import HpoError
from hpo.files import Options, load_study
from hpo.specs import CategoricalParam, ConstantParam, FloatParam, Param, Scalar, StudySpec
from hpo.training.tasks.captioning import QFORMER
from hpo.training.trial.batches import Course
from hpo.training.trial.trial import SEED_STRIDE
from hpo.weights import find_weights
from tests.benchmarks.peers.common import Rows, load_processor

STUDY = "rsicap"
NAME = "throughput"
DRAW = 4
HIGHEST_RATE = 2e-4  # from twice this on rounding alone moves losses by 1e-3: nothing could be held
TOLERANCES = {"float32": 1e-4, "bf16": 2e-2}
NEVER = 100_000  # COMPLETE trials before anything is pruned


@dataclass(frozen=True, kw_only=True)
class Work:
    """A study, for ours as settings and for peers as a job file."""

    spec: StudySpec
    settings: tuple[str, ...]
    """What the command gets by `--set`."""
    job: dict[str, Any]
    """What peers get; `threads` is added by who starts them."""
    folder: Path

    @property
    def tolerance(self) -> float:
        """Of a val loss: what rounding leaves between two orders of summation."""
        return TOLERANCES[self.spec.model.precision]

    def steps(self, number: int, config: Mapping[str, Scalar]) -> int:
        """Of the trial of this number with this configuration, to its end."""
        return len(self.job["trials"][number]["plans"][str(config["batch_size"])]["batches"])

    @property
    def evals(self) -> int:
        """Evaluations of a trial."""
        return len(self.spec.trial.eval_grid(len(self.job["train"]) * self.spec.trial.epochs))


def draw(space: dict[str, Param], count: int) -> list[dict[str, Scalar]]:
    """Configurations of a space without dropout, always the same; choices come equally often."""
    chance = random.Random(DRAW)
    decks = {name: _deck(param, chance) for name, param in space.items()}
    return [{name: next(deck) for name, deck in decks.items()} for _ in range(count)]


def _deck(param: Param, chance: random.Random) -> Any:
    while True:
        match param:
            case CategoricalParam():
                yield from chance.sample(param.choices, len(param.choices))
            case ConstantParam():
                yield param.value
            case FloatParam(log=True):
                low, high = math.log(param.low), math.log(min(param.high, HIGHEST_RATE))
                yield float(f"{math.exp(chance.uniform(low, high)):.3g}")
            case _:
                yield param.low  # dropout: peers draw other masks than ours


def make_work(
    folder: Path, count: int, extra: Sequence[str] = (), base: Sequence[str] = ("model.device=cpu",)
) -> Work:
    """Draws the configurations and writes the rows of the study as files, for peers to read.

    Args:
        extra: further settings of the study, as for `--set`.
        base: those of the base.
    """
    space = load_study(STUDY, Options(scale="mini")).space
    configs = draw(space, count)
    tables = ", ".join(
        "{" + ", ".join(f"{name} = {json.dumps(value)}" for name, value in config.items()) + "}"
        for config in configs
    )
    never = f"pruner.startup_trials={NEVER}"
    return _work(folder, (*extra, f"search.trials={count}", never, *base, f"known=[{tables}]"))


def make_search(
    folder: Path, count: int, extra: Sequence[str] = (), base: Sequence[str] = ("model.device=cpu",)
) -> Work:
    """The same for trials that every way samples itself, and prunes."""
    return _work(folder, (*extra, f"search.trials={count}", *base, "known=[]"))


def _work(folder: Path, settings: tuple[str, ...]) -> Work:
    try:
        spec = load_study(STUDY, Options(scale="mini", name=NAME, assignments=settings))
        return Work(spec=spec, settings=settings, job=_job(spec, folder), folder=folder)
    except HpoError as error:
        raise SystemExit(str(error)) from None


def _job(spec: StudySpec, folder: Path) -> dict[str, Any]:
    examples = read_examples(spec.data)
    trial = spec.trial
    job: dict[str, Any] = {
        "seed": spec.search.seed,
        "base": str(find_weights(spec.model.name)),
        "device": spec.model.device,
        "precision": spec.model.precision,
        "folder": str(folder / "trainer"),
        "pattern": QFORMER,
        "space": {name: param.model_dump(mode="json") for name, param in spec.space.items()},
        "train": _write_rows(examples.train, folder / "images"),
        "val": _write_rows(examples.val, folder / "images"),
        "max_length": spec.data.max_length,
        "epochs": trial.epochs,
        "eval_batch_size": trial.eval_batch_size,
        "max_grad_norm": trial.max_grad_norm,
        "weight_decay": trial.weight_decay,
    }
    rows = Rows(job["train"], load_processor(job), job["max_length"])
    lengths = [_length(rows.encode(row)) for row in job["train"]]
    job["trials"] = [_trial(spec, number, lengths) for number in range(spec.search.trials)]
    return job


def _write_rows(examples: Sequence[Example], folder: Path) -> list[dict[str, str]]:
    folder.mkdir(exist_ok=True)
    rows = []
    for example in examples:
        path = folder / f"{example.name}.png"
        example.image().save(path)
        rows.append({"image": str(path), "prompt": example.prompt, "target": example.target})
    return rows


def _length(row: dict[str, Any]) -> int:
    return len(row["input_ids"]) + len(row["labels"])


def _trial(spec: StudySpec, number: int, lengths: list[int]) -> dict[str, Any]:
    """Its configuration, where that is fixed, and its batches for every size that it may have."""
    config = spec.known[number] if spec.known else None
    sizes = [config["batch_size"]] if config else _choices(spec.space["batch_size"])
    return {
        "config": config,
        "seed": spec.search.seed * SEED_STRIDE + number,
        "plans": {str(size): _plan(spec, number, int(size), lengths) for size in sizes},
    }


def _choices(param: Param) -> Sequence[Scalar]:
    return param.choices if isinstance(param, CategoricalParam) else [param.value]


def _plan(spec: StudySpec, number: int, size: int, lengths: list[int]) -> dict[str, Any]:
    trial, seed = spec.trial, (spec.search.seed, number)
    rows = [SimpleNamespace(length=length, stage=0) for length in lengths]
    course = Course(rows=rows, batch_size=size, epochs=trial.epochs, seed=seed)
    batches = list(course.batches())
    grid = trial.eval_grid(len(rows) * trial.epochs)
    eval_steps = grid[0] // size
    if len(rows) % size or grid != [eval_steps * size * k for k in range(1, len(grid) + 1)]:
        raise ValueError(f"batches of {size} do not meet the eval grid {grid}: no equal work")
    return {
        "batches": batches,
        "warmup": round(trial.warmup_share * len(batches)),
        "eval_steps": eval_steps,
    }
