"""Validation errors -> sentences that name file, key, value and what is allowed."""

import difflib
import json
from typing import Any

from pydantic import BaseModel, ValidationError

from hpo import specs
from hpo.files.settings import Key, Settings, shortened

TABLES: dict[Key, type[BaseModel]] = {
    (): specs.StudySpec,
    ("objective",): specs.Objective,
    ("model",): specs.ModelSpec,
    ("data",): specs.DataSpec,
    ("trial",): specs.TrialSpec,
    ("search",): specs.SearchSpec,
    ("pruner",): specs.PrunerSpec,
    ("limits",): specs.LimitsSpec,
}
NAMES = "must be letters, digits, '.', '_' or '-', at most 100; give another by --name"
PARAMS: dict[str, type[BaseModel]] = {
    "float": specs.FloatParam,
    "int": specs.IntParam,
    "categorical": specs.CategoricalParam,
    "constant": specs.ConstantParam,
}


def sentence(settings: Settings, key: Key, value: Any, allowed: str) -> str:
    """One problem as `file: key = value: allowed`."""
    shown = "" if value is None else f" = {shortened(json.dumps(value, default=str))}"
    return f"{settings.origin(key)}: {shortened('.'.join(key))}{shown}: {allowed}"


def sentences(error: ValidationError, settings: Settings) -> list[str]:
    """Every problem of a failed validation, one sentence for each key."""
    found: dict[Key, str] = {}
    for item in error.errors(include_url=False):
        tag, key = _split(item["loc"])
        found.setdefault(key, _one(settings, key, tag, item))
    return list(found.values())


def _split(location: tuple[int | str, ...]) -> tuple[str, Key]:
    """Takes the names that pydantic adds for unions out of a location."""
    parts = [str(part) for part in location]
    tag = ""
    if parts[0] == "space" and len(parts) > 2:
        tag = parts.pop(2)
        parts = parts[: 4 if parts[2:3] == ["choices"] else 3]
    if parts[0] == "known":
        parts = parts[:3]
    return tag, tuple(parts)


def _one(settings: Settings, key: Key, tag: str, item: Any) -> str:
    match item["type"]:
        case "extra_forbidden":
            return sentence(settings, key, None, _unknown_key(key, tag))
        case "missing":
            return sentence(settings, key, None, "is missing; add it")
        case "union_tag_invalid" | "union_tag_not_found":
            kinds = ", ".join(PARAMS)
            return sentence(settings, (*key, "type"), item["ctx"].get("tag"), f"must be {kinds}")
        case "string_pattern_mismatch":
            return sentence(settings, key, item["input"], NAMES)
    allowed = str(item["msg"]).replace("Input should be", "must be").replace("Value error, ", "")
    if _is_scalar(key):
        allowed = "must be a number, a string or a boolean"
    return sentence(settings, key, item["input"], allowed)


def _is_scalar(key: Key) -> bool:
    """Whether a number, a string or a boolean belongs here: a union, which pydantic spells out."""
    return (key[0] == "known" and len(key) > 2) or (
        key[0] == "space" and (len(key) > 3 or key[2:] == ("value",))
    )


def _unknown_key(key: Key, tag: str) -> str:
    table = PARAMS[tag] if tag else TABLES.get(key[:-1])
    names = (
        [n for n in table.model_fields if n not in ("name", "space") or key[:-1]] if table else []
    )
    close = difflib.get_close_matches(key[-1], names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}allowed: {', '.join(names)}"
