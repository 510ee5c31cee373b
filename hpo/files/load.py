"""A study's name and options -> its resolved spec."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from hpo.errors import FileProblems
from hpo.files.checks import check
from hpo.files.find import find
from hpo.files.problems import sentences
from hpo.files.settings import Settings, parse_assignment, read_toml
from hpo.specs import StudySpec


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says about a study; None where it says nothing."""

    scale: Literal["mini", "full"] = "full"
    name: str | None = None
    trials: int | None = None
    data: str | None = None
    model: str | None = None
    seed: int | None = None
    assignments: tuple[str, ...] = ()


def load_study(study: str, options: Options) -> StudySpec:
    """The study of that name or file, with scale and options applied.

    Raises:
        FileProblems: everything that is wrong, in one go.
    """
    path = find("studies", study)
    settings = _layers(path, options)
    _add_space(settings, path)
    _put_assignments(settings, options)
    default = path.stem if options.scale == "full" else f"{path.stem}-{options.scale}"
    settings.put(("name",), options.name or default, "--name")
    try:
        spec = StudySpec.model_validate_json(json.dumps(settings.nested(), default=str))
    except ValidationError as error:
        raise FileProblems(sentences(error, settings)) from error
    problems = check(spec, settings)
    if problems:
        raise FileProblems(problems)
    return spec


def _layers(path: Path, options: Options) -> Settings:
    """The file, what its scale changes, and the options, in this order."""
    tables = read_toml(path)
    mini = tables.pop("mini", {})
    settings = Settings()
    settings.put_all(tables, str(path))
    format_of_files = settings.get("data", "format")
    if options.scale == "mini":
        if not isinstance(mini, dict) or not mini:
            raise FileProblems(
                [f"{path}: [mini] is missing; add what changes at that scale, or use --scale full"]
            )
        settings.put_all(mini, f"{path} [mini]")
    if options.data is not None:
        settings.put(("data", "format"), format_of_files, str(path))
        settings.put(("data", "root"), options.data, "--data")
    flags: dict[tuple[str, ...], Any] = {
        ("model", "name"): options.model,
        ("search", "trials"): options.trials,
        ("search", "seed"): options.seed,
    }
    for key, value in flags.items():
        if value is not None:
            settings.put(key, value, f"--{key[-1] if key[0] == 'search' else 'model'}")
    for text in options.assignments:
        key, value = parse_assignment(text)
        if key == ("search_space",):
            settings.put(key, value, f"--set {text}")
    return settings


def _add_space(settings: Settings, path: Path) -> None:
    """Reads the search space that the study names; a bare value in it is a constant."""
    name = settings.get("search_space")
    if not isinstance(name, str):
        return
    space = find("search_spaces", name, beside=path)
    for param, value in read_toml(space).items():
        if isinstance(value, dict):
            settings.put_all(value, str(space), ("space", param))
        else:
            settings.put_all(_constant(value), str(space), ("space", param))


def _put_assignments(settings: Settings, options: Options) -> None:
    for text in options.assignments:
        key, value = parse_assignment(text)
        if key[0] == "space" and len(key) == 2 and not isinstance(value, dict):
            settings.put_all(_constant(value), f"--set {text}", key)
        else:
            settings.put(key, value, f"--set {text}")


def _constant(value: Any) -> dict[str, Any]:
    return {"type": "constant", "value": value}
