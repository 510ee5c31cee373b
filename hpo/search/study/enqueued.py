"""What is wrong with the parameters of a trial that somebody enqueued, in words for who did it.

Optuna trains a value outside of its distribution with a warning, and ignores a name that nobody
suggests: the trial would be another than the one that was asked for.
"""

import difflib
import math
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial
from pydantic import ValidationError

from hpo.search.study.space import distributions
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


def validation_problems(error: ValidationError) -> str:
    """What is wrong with a configuration as a whole."""
    return "; ".join(
        f"{'.'.join(map(str, part['loc'])) or 'the configuration'} is {_quoted(part['input'])}, "
        f"and {part['msg'][:1].lower()}{part['msg'][1:]}"
        for part in error.errors(include_url=False)
    )


def distribution_conflict(study: optuna.Study, space: dict[str, Param]) -> str:
    """Which trial keeps Optuna from taking any more values of a parameter, and what to do."""
    ours = distributions(space)
    trials = study.get_trials(deepcopy=False)
    number, name = next(
        ((t.number, n) for t in trials for n, d in t.distributions.items() if _differs(d, ours, n)),
        (None, "one parameter"),
    )
    trial = "a trial" if number is None else f"trial {number}"
    return (
        f"study {study.study_name}: {trial} was added with another distribution of {name} than the "
        "search space has, and Optuna takes one for each name in a study; use --name NAME for a "
        "new study, and study.enqueue_trial with values alone for what it is to try"
    )


def _differs(theirs: BaseDistribution, ours: dict[str, BaseDistribution], name: str) -> bool:
    try:
        if name in ours:
            check_distribution_compatibility(theirs, ours[name])
    except ValueError:
        return True
    return False


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
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


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
