"""What one value at a time cannot show: ranges, dangling references, known configurations."""

import difflib
import json
import pkgutil
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hpo.files.find import PACKAGE
from hpo.files.problems import sentence
from hpo.files.settings import Key, Settings
from hpo.specs import (
    CategoricalParam,
    ConstantParam,
    FloatParam,
    IntParam,
    Param,
    Scalar,
    TrialConfig,
)

WITHOUT_KNOWN = "correct it, or leave known configurations out with --set 'known=[]'"
FIELDS = TrialConfig.model_fields
PARAM: TypeAdapter[Param] = TypeAdapter(Param)


def task_names() -> list[str]:
    """The tasks that there are: one module each, found without importing any."""
    return sorted(m.name for m in pkgutil.iter_modules([str(PACKAGE / "training" / "tasks")]))


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The parts of a study that are checked against each other."""

    task: str | None
    space: dict[str, Param]
    known: tuple[dict[str, Scalar], ...]
    whole: bool = True
    """Whether these are all parameters of the space, or only those that are right by themselves."""

    @classmethod
    def of(cls, tables: dict[str, Any]) -> "Pieces":
        """What is right of a study that is wrong elsewhere."""
        raw = tables.get("space")
        space = {} if not isinstance(raw, dict) else {n: _param_of(v) for n, v in raw.items()}
        task = tables.get("task")
        return cls(
            task=task if isinstance(task, str) else None,
            space={name: param for name, param in space.items() if param is not None},
            known=(),
            whole=isinstance(raw, dict) and None not in space.values(),
        )


def _param_of(value: Any) -> Param | None:
    try:
        return PARAM.validate_json(json.dumps(value))
    except ValidationError:
        return None


def check(study: Pieces, settings: Settings) -> list[str]:
    """Every problem of pieces whose single values are right."""
    problems = _task(study, settings)
    for name, param in study.space.items():
        problems += _param(settings, name, param)
    for name, field in FIELDS.items():
        if study.whole and field.is_required() and name not in study.space:
            problems.append(
                sentence(settings, ("space", name), None, "is missing; add it to the search space")
            )
    for index, config in enumerate(study.known):
        for name, value in config.items():
            problems += _known(settings, study, index, name, value)
    return problems


def _task(study: Pieces, settings: Settings) -> list[str]:
    if study.task is None or study.task in task_names():
        return []
    allowed = f"unknown task; there are: {', '.join(task_names())}"
    return [sentence(settings, ("task",), study.task, allowed)]


def _param(settings: Settings, name: str, param: Param) -> list[str]:
    key: Key = ("space", name)
    if name not in FIELDS:
        close = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        allowed = f"unknown parameter; {hint}allowed: {', '.join(FIELDS)}"
        return [sentence(settings, key, None, allowed)]
    problems = _shape(settings, key, param)
    if not problems:
        for part, value in _ends(param):
            allowed = _refusal(name, value)
            if allowed:
                problems.append(sentence(settings, (*key, part), value, allowed))
    return problems


def _shape(settings: Settings, key: Key, param: Param) -> list[str]:
    """Ranges the right way up, logarithms of positive numbers, choices of one type."""
    if isinstance(param, FloatParam | IntParam):
        if param.low >= param.high:
            allowed = f"must be below {'.'.join(key)}.high = {param.high}"
            return [sentence(settings, (*key, "low"), param.low, allowed)]
        if param.log and param.low <= 0:
            return [sentence(settings, (*key, "low"), param.low, "must be above 0 with log = true")]
        if isinstance(param, IntParam) and param.log and param.step != 1:
            return [sentence(settings, (*key, "step"), param.step, "must be 1 with log = true")]
    if isinstance(param, CategoricalParam):
        kinds = {"number" if type(c) in (int, float) else type(c).__name__ for c in param.choices}
        if len(kinds) > 1:
            return [sentence(settings, (*key, "choices"), param.choices, "must be all of one type")]
        if len(set(param.choices)) < len(param.choices):
            return [sentence(settings, (*key, "choices"), param.choices, "must be all different")]
    return []


def _ends(param: Param) -> list[tuple[str, Scalar]]:
    if isinstance(param, FloatParam | IntParam):
        return [("low", param.low), ("high", param.high)]
    if isinstance(param, ConstantParam):
        return [("value", param.value)]
    return [("choices", choice) for choice in param.choices]


def _refusal(name: str, value: Any) -> str:
    """Why a trial could not have this value, or an empty string."""
    try:
        blank = TrialConfig.model_construct()  # type: ignore[call-arg]
        TrialConfig.__pydantic_validator__.validate_assignment(blank, name, value)
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).replace("Input should be", f"{name} must be")
    return ""


def _known(settings: Settings, study: Pieces, index: int, name: str, value: Scalar) -> list[str]:
    key: Key = ("known", str(index), name)
    param = study.space.get(name)
    if param is None:
        allowed = f"no such parameter in the search space; there are: {', '.join(study.space)}"
    else:
        allowed = _outside(param, value)
    return [sentence(settings, key, value, f"{allowed}; {WITHOUT_KNOWN}")] if allowed else []


def _outside(param: Param, value: Scalar) -> str:
    """Why the value is not in the parameter's range, or an empty string."""
    match param:
        case CategoricalParam():
            inside = value in param.choices
            return "" if inside else f"not in the search space; choices: {list(param.choices)}"
        case ConstantParam():
            return "" if value == param.value else f"is constant at {param.value!r} in this space"
        case IntParam() if type(value) is not int or (value - param.low) % param.step:
            return f"must be a whole number in steps of {param.step} from {param.low}"
    if type(value) not in (int, float) or not param.low <= float(value) <= param.high:
        return f"not in the search space, which goes from {param.low} to {param.high}"
    return ""
