"""Search space -> Optuna distributions -> suggestions -> a trial's configuration."""

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from hpo.specs import (
    CategoricalParam,
    ConstantParam,
    FloatParam,
    IntParam,
    Param,
    Scalar,
    TrialConfig,
)


def distribution(param: Param) -> BaseDistribution | None:
    """Optuna's distribution of a parameter; None for a constant."""
    match param:
        case FloatParam():
            return FloatDistribution(param.low, param.high, log=param.log)
        case IntParam():
            return IntDistribution(param.low, param.high, log=param.log, step=param.step)
        case CategoricalParam():
            return CategoricalDistribution(param.choices)
    return None


def distributions(space: dict[str, Param]) -> dict[str, BaseDistribution]:
    """The distributions of everything that is sampled, in the space's order."""
    found = {name: distribution(param) for name, param in space.items()}
    return {name: d for name, d in found.items() if d is not None}


def suggest(trial: optuna.Trial, space: dict[str, Param]) -> TrialConfig:
    """Suggests every parameter, before any of them touches a device.

    All of them, always: one pruned trial that lacks a parameter would take it out of TPE's
    joint space for good.
    """
    sampled = {name: _suggest(trial, name, param) for name, param in space.items()}
    return TrialConfig.model_validate(sampled)


def config_of(trial: FrozenTrial, space: dict[str, Param]) -> TrialConfig:
    """The configuration of a trial whose parameters were suggested before."""
    constants = {name: p.value for name, p in space.items() if isinstance(p, ConstantParam)}
    return TrialConfig.model_validate({**constants, **trial.params})


def _suggest(trial: optuna.Trial, name: str, param: Param) -> Scalar:
    match param:
        case FloatParam():
            return trial.suggest_float(name, param.low, param.high, log=param.log)
        case IntParam():
            return trial.suggest_int(name, param.low, param.high, step=param.step, log=param.log)
        case CategoricalParam():
            choice = trial.suggest_categorical(name, param.choices)
            assert choice is not None
            return choice
    return param.value
