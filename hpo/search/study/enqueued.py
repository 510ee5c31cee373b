"""What is wrong with the parameters of a trial that somebody enqueued, in words for who did it.

Optuna trains a value outside of its distribution with a warning, and ignores a name that nobody
suggests: the trial would be another than the one that was asked for.
"""

import difflib
import math
from typing import Any

from optuna.trial import FrozenTrial
from pydantic import ValidationError

from hpo.specs import CategoricalParam, ConstantParam, FloatParam, IntParam, Param

FIXED = "fixed_params"  # Optuna's own attribute of a trial that was enqueued
LONGEST = 80  # of a value that is quoted
REMEDY = "enqueue it again with values that the search space allows, or widen the space"


def parameter_problems(trial: FrozenTrial, space: dict[str, Param]) -> str:
    """What is wrong with the parameters that a trial comes with; empty if nothing is."""
    fixed = trial.system_attrs.get(FIXED, {})
    if not isinstance(fixed, dict):
        return f"its parameters are {_quoted(fixed)}, and must be values by name"
    given = {**trial.params, **fixed}
    return "; ".join(
        text for name, value in given.items() if (text := _problem(name, value, space))
    )


def validation_problems(error: ValueError) -> str:
    """What is wrong with a configuration as a whole."""
    if not isinstance(error, ValidationError):
        return (
            "it was added with other distributions than those of the search space; use "
            "study.enqueue_trial, which takes values alone"
        )
    return "; ".join(
        f"{'.'.join(map(str, part['loc'])) or 'the configuration'} is {_quoted(part['input'])}, "
        f"and {part['msg'][:1].lower()}{part['msg'][1:]}"
        for part in error.errors(include_url=False)
    )


def _problem(name: str, value: Any, space: dict[str, Param]) -> str:
    if name not in space:
        close = difflib.get_close_matches(name, space, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return (
            f"{_quoted(name)} is no parameter of the search space; {hint}there are "
            f"{', '.join(space)}"
        )
    param = space[name]
    return "" if _allows(param, value) else f"{name} is {_quoted(value)}, and {_range(param)}"


def _allows(param: Param, value: Any) -> bool:
    match param:
        case FloatParam(low=low, high=high):
            return _is_number(value) and low <= value <= high
        case IntParam(low=low, high=high, step=step):
            whole = _is_number(value) and value == math.floor(value)
            return whole and low <= value <= high and (value - low) % step == 0
        case CategoricalParam(choices=choices):
            return any(type(value) is type(choice) and value == choice for choice in choices)
        case ConstantParam(value=constant):
            return bool(value == constant)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _range(param: Param) -> str:
    match param:
        case FloatParam(low=low, high=high):
            return f"must be a number from {low:g} to {high:g}"
        case IntParam(low=low, high=high, step=step):
            steps = f" in steps of {step}" if step > 1 else ""
            return f"must be a whole number from {low} to {high}{steps}"
        case CategoricalParam(choices=choices):
            return f"must be one of {', '.join(map(repr, choices))}"
        case ConstantParam(value=constant):
            return f"is always {constant!r} in this search space"


def _quoted(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
