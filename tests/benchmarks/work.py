"""The work that every contender does: the same trials, rows, batches and evaluations."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hpo.data import Example, read_examples
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
    """A study whose trials are a fixed list, for ours as settings and for peers as a job file."""

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
    settings = (
        *extra,
        f"search.trials={count}",
        f"pruner.startup_trials={NEVER}",
        *base,
        f"known=[{tables}]",
    )
    spec = load_study(STUDY, Options(scale="mini", name=NAME, assignments=settings))
    return Work(spec=spec, settings=settings, job=_job(spec, folder), folder=folder)


def _job(spec: StudySpec, folder: Path) -> dict[str, Any]:
    examples = read_examples(spec.data)
    trial = spec.trial
    job: dict[str, Any] = {
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
    job["trials"] = [
        _trial(spec, number, config, lengths) for number, config in enumerate(spec.known)
    ]
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


def _trial(
    spec: StudySpec, number: int, config: dict[str, Scalar], lengths: list[int]
) -> dict[str, Any]:
    size, trial, seed = int(config["batch_size"]), spec.trial, spec.search.seed
    rows = [SimpleNamespace(length=length, stage=0) for length in lengths]
    course = Course(rows=rows, batch_size=size, epochs=trial.epochs, seed=(seed, number))
    batches = list(course.batches())
    grid = trial.eval_grid(len(rows) * trial.epochs)
    eval_steps = grid[0] // size
    if len(rows) % size or grid != [eval_steps * size * k for k in range(1, len(grid) + 1)]:
        raise ValueError(f"batches of {size} do not meet the eval grid {grid}: no equal work")
    return {
        "config": config,
        "seed": seed * SEED_STRIDE + number,
        "batches": batches,
        "warmup": round(trial.warmup_share * len(batches)),
        "eval_steps": eval_steps,
    }
