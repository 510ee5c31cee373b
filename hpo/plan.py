"""Everything that is checked before anything starts, and what follows from it."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hpo.contents import Contents, read_contents
from hpo.data import Examples, read_examples
from hpo.errors import HpoError, MissingError
from hpo.files.settings import shortened
from hpo.machine import Machine
from hpo.placement import Placement, place
from hpo.specs import CategoricalParam, ConstantParam, Param, StudySpec
from hpo.units import show_name, show_size, show_value
from hpo.weights import find_model

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StageCounts:
    """A stage of a curriculum, and its rows on each side of the split."""

    name: str
    train: int
    val: int

    def __str__(self) -> str:
        return f"{show_name(self.name)} ({self.train} train, {self.val} val)"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study that can start on this machine."""

    spec: StudySpec
    placement: Placement
    train_samples: int
    val_samples: int
    total_samples: int
    data_source: str
    contents: Contents
    storage: str
    """URL without password."""
    runs_dir: Path
    stages: tuple[StageCounts, ...] = ()
    """Of a curriculum, in their order; empty where there is but one."""
    notes: tuple[str, ...] = ()
    """What the user should know before it starts."""
    samples_per_trial: int = field(init=False)

    def __post_init__(self) -> None:
        samples = self.train_samples * self.spec.trial.epochs
        object.__setattr__(self, "samples_per_trial", samples)

    def facts(self) -> dict[str, str]:
        """The study in a few lines."""
        spec, gpus = self.spec, self.placement.gpus
        model, trial = spec.model, spec.trial
        limit = self.placement.memory_limit_bytes
        kind = f"GPU {', '.join(g for g in gpus if g)}" if gpus[0] else "one CPU process each"
        cap = f", at most {show_size(limit)} each" if limit else ""
        of = f" of {self.total_samples}" if self.total_samples > self._samples else ""
        stages = {"stages": ", ".join(map(str, self.stages))} if self.stages else {}
        return {
            "model": f"{model.name}, {model.precision}, LoRA on the {model.adapt}",
            "data": f"{self.data_source}: {self.train_samples} train and "
            f"{self.val_samples} val samples{of}",
            **stages,
            "trial": f"{trial.epochs} epochs = {self.samples_per_trial} samples, "
            f"{trial.evals} evaluations",
            "runners": f"{len(gpus)} ({kind}{cap}), {_packs(self.placement.pack)}",
            "storage": self.storage,
            "runs": str(self.runs_dir),
        }

    @property
    def _samples(self) -> int:
        return self.train_samples + self.val_samples

    def space(self) -> dict[str, str]:
        """The search space in words."""
        return {name: _words(param) for name, param in self.spec.space.items()}

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "study": self.spec.model_dump(mode="json"),
            "storage": self.storage,
            "runs_dir": str(self.runs_dir),
            "runners": len(self.placement.gpus),
            "pack": self.placement.pack or "auto",
            "train_samples": self.train_samples,
            "val_samples": self.val_samples,
            "stages": [asdict(stage) for stage in self.stages],
            "notes": list(self.notes),
        }


def make_plan(
    spec: StudySpec,
    machine: Machine,
    *,
    runners: int | None,
    pack: int | None,
    memory_limit_bytes: int | None,
    storage: str,
    runs_dir: Path,
    notes: tuple[str, ...],
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Checks weights, data, device and memory, all of them before it complains.

    Args:
        say: receives one line if files must be read that take long.

    Raises:
        HpoError: everything that is missing or does not fit, in one message.
    """
    problems: list[str] = []
    folder = _try(problems, lambda: find_model(spec.model.name, spec.model.revision))
    examples = _try(problems, lambda: read_examples(spec.data))
    weights_bytes = sum(f.stat().st_size for f in folder.glob("*.safetensors")) if folder else 0
    placement = _try(
        problems,
        lambda: place(
            machine,
            device=spec.model.device,
            runners=runners,
            memory_limit_bytes=memory_limit_bytes,
            weights_bytes=weights_bytes,
            pack=pack,
        ),
    )
    problems += _unusable(runs_dir)
    if examples is not None:
        problems += _too_large_batches(spec, examples)
    if problems or folder is None or examples is None or placement is None:
        raise MissingError("\n".join(problems))
    return Plan(
        spec=spec,
        placement=placement,
        train_samples=len(examples.train),
        val_samples=len(examples.val),
        total_samples=examples.total,
        data_source=examples.source,
        contents=read_contents(folder, examples, say=say),
        storage=storage,
        runs_dir=runs_dir,
        stages=_stages(examples),
        notes=(*notes, *examples.notes, *_speed_notes(spec, placement)),
    )


def _stages(examples: Examples) -> tuple[StageCounts, ...]:
    train, val = (Counter(row.stage for row in side) for side in (examples.train, examples.val))
    return tuple(
        StageCounts(name=name, train=train[place], val=val[place])
        for place, name in enumerate(examples.stages)
    )


def _speed_notes(spec: StudySpec, placement: Placement) -> list[str]:
    """What would train faster on these devices, and is not the same."""
    exact = spec.model.precision == "float32" and not spec.model.tf32
    if placement.gpus[0] is None or not exact:
        return []
    return [
        "products in float32 are slow on most GPUs: --set model.tf32=true rounds their factors to "
        "10 bits, and is several times as fast from the A100 on (a study of its own, by --name)"
    ]


def _try(problems: list[str], check: Callable[[], T]) -> T | None:
    try:
        return check()
    except HpoError as error:
        problems.append(str(error))
        return None


def _unusable(runs_dir: Path) -> list[str]:
    """Why the runs folder can neither be used nor made; nothing is made here."""
    other = "give another folder by --runs-dir"
    try:
        place = next(path for path in (runs_dir, *runs_dir.parents) if path.exists())
    except OSError as error:
        return [f"--runs-dir: {shortened(str(runs_dir))}: {error.strerror}; {other}"]
    if not place.is_dir():
        return [f"--runs-dir: {place} is not a folder; move it, or {other}"]
    if not os.access(place, os.W_OK | os.X_OK):
        return [f"--runs-dir: {place} may not be written by this user; chmod it, or {other}"]
    return []


def _too_large_batches(spec: StudySpec, examples: Examples) -> list[str]:
    param = spec.space["batch_size"]
    match param:
        case CategoricalParam():
            largest = max(int(choice) for choice in param.choices)
        case ConstantParam():
            largest = int(param.value)
        case _:
            largest = int(param.high)
    if largest <= len(examples.train):
        return []
    return [
        f"search space {spec.search_space}: batch_size = {largest}: larger than the "
        f"{len(examples.train)} training samples; take it out, or raise data.samples"
    ]


def _packs(pack: int | None) -> str:
    if pack is None:
        return "trials packed where that is faster"
    return f"{pack} trials at a time each" if pack > 1 else "one trial at a time each"


def _words(param: Param) -> str:
    match param:
        case CategoricalParam():
            return "one of " + ", ".join(show_value(choice) for choice in param.choices)
        case ConstantParam():
            return f"{show_value(param.value)} (constant)"
    scale = ", logarithmic" if param.log else ""
    return f"{param.type} from {show_value(param.low)} to {show_value(param.high)}{scale}"
