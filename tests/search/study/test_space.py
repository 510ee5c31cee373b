"""Search space to distributions to configurations."""

import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo.search.study.space import distribution, distributions, suggest
from hpo.specs import CategoricalParam, ConstantParam, FloatParam, IntParam

RATE = FloatParam(type="float", low=1e-5, high=1e-3, log=True)
RANK = IntParam(type="int", low=4, high=32, step=4)
SPACE = {
    "learning_rate": RATE,
    "lora_r": RANK,
    "lora_alpha": ConstantParam(type="constant", value=16),
    "scheduler": CategoricalParam(type="categorical", choices=("linear", "cosine")),
    "batch_size": CategoricalParam(type="categorical", choices=(2, 4)),
}


def asked(**fixed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(fixed)
    return study.ask()


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        (RATE, FloatDistribution(1e-5, 1e-3, log=True)),
        (FloatParam(type="float", low=0.0, high=0.2), FloatDistribution(0.0, 0.2)),
        (RANK, IntDistribution(4, 32, step=4)),
        (IntParam(type="int", low=1, high=64, log=True), IntDistribution(1, 64, log=True)),
        (
            CategoricalParam(type="categorical", choices=("linear", "cosine")),
            CategoricalDistribution(("linear", "cosine")),
        ),
        (ConstantParam(type="constant", value=3), None),
    ],
)
def test_parameters_become_distributions(param, expected):
    assert distribution(param) == expected


def test_distributions_keep_the_order_and_leave_constants_out():
    assert list(distributions(SPACE)) == ["learning_rate", "lora_r", "scheduler", "batch_size"]


def test_every_parameter_is_suggested_at_once():
    trial = asked()
    config = suggest(trial, SPACE)
    assert set(trial.params) == set(distributions(SPACE))
    assert trial.distributions == distributions(SPACE)
    assert {name: getattr(config, name) for name in trial.params} == trial.params


def test_constants_are_in_the_configuration_only():
    trial = asked()
    assert suggest(trial, SPACE).lora_alpha == 16
    assert "lora_alpha" not in trial.params


def test_a_configuration_that_was_enqueued_is_taken_as_it_is():
    fixed = {"learning_rate": 2e-4, "lora_r": 24, "scheduler": "cosine", "batch_size": 4}
    trial = asked(**fixed)
    config = suggest(trial, SPACE)
    assert trial.params == fixed
    assert config.model_dump(include=set(fixed)) == fixed


def test_what_an_enqueued_configuration_leaves_out_is_sampled():
    trial = asked(lora_r=24)
    suggest(trial, SPACE)
    assert trial.params["lora_r"] == 24
    assert set(trial.params) == set(distributions(SPACE))


def test_suggesting_again_changes_nothing():
    trial = asked()
    assert suggest(trial, SPACE) == suggest(trial, SPACE)


def test_what_the_space_leaves_out_has_its_default():
    assert suggest(asked(), SPACE).lora_dropout == 0.0
