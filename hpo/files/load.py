"""A study's name and options -> its resolved spec."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from hpo.errors import FileProblems
from hpo.files.checks import Pieces, check
from hpo.files.find import find
from hpo.files.problems import sentence, sentences
from hpo.files.settings import Key, Settings, parse_assignment, shortened
from hpo.files.toml import read_toml
from hpo.specs import StudySpec

OF_DRAWN = (("data", "format"), ("data", "stages"))  # what [mini] says of drawn data alone


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
    assignments = _parse(options)
    settings = _layers(path, options, assignments)
    problems = _unwelcome(settings)
    unreadable = _add_space(settings, path)
    problems += unreadable
    for text, key, value in assignments:
        if key[0] == "space" and len(key) == 2 and not isinstance(value, dict):
            value = _constant(value)
        settings.put(key, value, f"--set {shortened(text)}")
    default = path.stem if options.scale == "full" else f"{path.stem}-{options.scale}"
    if options.name is not None or not settings.has("name"):
        settings.put(("name",), default if options.name is None else options.name, "--name")
    spec, found = _build(settings, with_space=not unreadable)
    problems += found
    if problems or spec is None:
        raise FileProblems(list(dict.fromkeys(problems)))
    return spec


def _parse(options: Options) -> list[tuple[str, Key, Any]]:
    """(text, key, value) of every --set."""
    found: list[tuple[str, Key, Any]] = []
    problems: list[str] = []
    for text in options.assignments:
        try:
            found.append((text, *parse_assignment(text)))
        except FileProblems as error:
            problems += error.problems
    if problems:
        raise FileProblems(problems)
    return found


def _layers(path: Path, options: Options, assignments: list[tuple[str, Key, Any]]) -> Settings:
    """The file, what its scale changes, and the options, in this order."""
    tables = read_toml(path)
    mini = tables.pop("mini", {})
    settings = Settings()
    settings.put_all(tables, str(path))
    if options.scale == "mini":
        if not isinstance(mini, dict) or not mini:
            raise FileProblems(
                [f"{path}: [mini] is missing; add what changes at that scale, or use --scale full"]
            )
        besides = () if options.data is None else OF_DRAWN
        settings.put_all(mini, f"{path} [mini]", besides=besides)
    flags: list[tuple[Key, Any, str]] = [
        (("data", "root"), options.data, "--data"),
        (("model", "name"), options.model, "--model"),
        (("search", "trials"), options.trials, "--trials"),
        (("search", "seed"), options.seed, "--seed"),
    ]
    for key, value, flag in flags:
        if value is not None:
            settings.put(key, value, flag)
    for text, key, value in assignments:
        if key == ("search_space",):
            settings.put(key, value, f"--set {shortened(text)}")
    return settings


def _unwelcome(settings: Settings) -> list[str]:
    """Keys that a study file may not hold: the name is an option, the space a file of its own."""
    found = []
    if settings.has("name"):
        found.append(sentence(settings, ("name",), None, "unknown key; use --name"))
    if settings.has("space"):
        allowed = "unknown key; put it into a file of search_spaces/ and name that in search_space"
        found.append(sentence(settings, ("space",), None, allowed))
    return found


def _add_space(settings: Settings, path: Path) -> list[str]:
    """Reads the search space that the study names; a bare value in it is a constant."""
    name = settings.get("search_space")
    if not isinstance(name, str):
        return []
    try:
        space = find("search_spaces", name, beside=path)
        tables = read_toml(space)
    except FileProblems as error:
        return error.problems
    for param, value in tables.items():
        table = value if isinstance(value, dict) else _constant(value)
        settings.put_all(table, str(space), ("space", param))
    return []


def _constant(value: Any) -> dict[str, Any]:
    return {"type": "constant", "value": value}


def _build(settings: Settings, *, with_space: bool) -> tuple[StudySpec | None, list[str]]:
    """The spec, and what is wrong; what is right of a wrong one is checked all the same."""
    tables = json.dumps(settings.nested(), default=str)
    try:
        spec = StudySpec.model_validate_json(tables)
    except ValidationError as error:
        pieces = Pieces.of(json.loads(tables))
        return None, sentences(error, settings) + check(pieces, settings)
    pieces = Pieces(
        task=spec.task,
        space=spec.space,
        known=spec.known if with_space else (),
        whole=with_space,
    )
    return spec, check(pieces, settings)
