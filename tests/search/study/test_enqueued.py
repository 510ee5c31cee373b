"""Trials that somebody enqueued: what cannot be trained is refused with value and range."""

import warnings

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from hpo.errors import StorageError
from hpo.specs import ConstantParam, IntParam

REMEDY = "enqueue it again with values that the search space allows"


@pytest.fixture
def with_kinds(spec):
    """A space with a whole number in steps and a constant."""
    space = {
        **spec.space,
        "lora_r": IntParam(type="int", low=4, high=32, step=4),
        "lora_dropout": ConstantParam(type="constant", value=0.0),
    }
    return spec.model_copy(update={"space": space})


def refused(ledger):
    """Why the only trial of a study was refused; another one starts after it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ledger.ask() is None
    (trial,) = ledger.trials()
    assert trial.state == TrialState.FAIL and trial.user_attrs["outcome"] == "data_error"
    reason = trial.user_attrs["reason"]
    assert ledger.refused() == [reason] and ledger.refused() == []
    assert "\n" not in reason and "validation error" not in reason and "pydantic" not in reason
    assert ledger.ask() is not None
    return reason


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"learning_rate": 5}, ("learning_rate is 5", "must be a number from", REMEDY)),
        ({"learning_rate": -1.0}, ("learning_rate is -1.0", "must be a number from")),
        ({"learning_rate": "abc"}, ("learning_rate is 'abc'", "must be a number from")),
        ({"learning_rate": "1e-4"}, ("learning_rate is '1e-4'", "must be a number from")),
        ({"learning_rate": None}, ("learning_rate is None", "must be a number from")),
        ({"learning_rate": True}, ("learning_rate is True", "must be a number from")),
        ({"learning_rate": [1e-4]}, ("learning_rate is [0.0001]", "must be a number from")),
        ({"learning_rate": float("nan")}, ("learning_rate is nan", "must be a number from")),
        ({"learning_rate": 10**400}, ("learning_rate is 1000000", "must be a number from")),
        ({"lora_r": 6}, ("lora_r is 6", "whole number from 4 to 32 in steps of 4")),
        ({"lora_r": 64}, ("lora_r is 64", "from 4 to 32")),
        ({"lora_r": 4.5}, ("lora_r is 4.5", "whole number")),
        ({"batch_size": 7}, ("batch_size is 7", "must be one of")),
        ({"batch_size": "4"}, ("batch_size is '4'", "must be one of")),
        ({"lora_dropout": 0.5}, ("lora_dropout is 0.5", "always 0.0")),
        ({"lerning_rate": 1e-4}, ("'lerning_rate' is no parameter", "did you mean learning_rate?")),
        ({"epochs": 3}, ("'epochs' is no parameter", "there are learning_rate")),
        ({"batch_size": 7, "lora_r": 5}, ("batch_size is 7", "lora_r is 5")),
        ({"scheduler": "\ud800" * 500}, ("scheduler is '\\ud800", "...", "must be one of")),
    ],
)
def test_what_cannot_be_trained_is_named(worker, with_kinds, sqlite_url, params, words):
    ledger = worker(with_kinds, sqlite_url)
    ledger.study.enqueue_trial(params)
    reason = refused(ledger)
    for word in words:
        assert word in reason


def test_parameters_that_are_no_table_are_named(worker, with_kinds, sqlite_url):
    ledger = worker(with_kinds, sqlite_url)
    trial = optuna.trial.create_trial(
        state=TrialState.WAITING, system_attrs={"fixed_params": [1, 2]}
    )
    ledger.study.add_trial(trial)
    assert "must be values by name" in refused(ledger)


def test_what_is_right_is_trained_as_it_is_and_the_rest_sampled(worker, with_kinds, sqlite_url):
    ledger = worker(with_kinds, sqlite_url)
    ledger.study.enqueue_trial({"lora_r": 8.0, "lora_dropout": 0, "batch_size": 4})
    asked = ledger.ask()
    assert (asked.config.lora_r, asked.config.batch_size, asked.config.lora_dropout) == (8, 4, 0.0)
    assert set(asked.trial.params) == set(with_kinds.space) - {"lora_dropout"}


def test_a_trial_of_other_distributions_ends_the_study(worker, with_kinds, sqlite_url):
    ledger = worker(with_kinds, sqlite_url)
    other = {"lora_r": FloatDistribution(0, 100)}
    ledger.study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING, params={"lora_r": 8.0}, distributions=other
        )
    )
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            ledger.ask()
        for word in ("trial 0", "lora_r", "--name", "study.enqueue_trial"):
            assert word in str(caught.value)


@pytest.mark.parametrize(
    "attributes", [{"attempt": "x"}, {"spent": 3}, {"earlier": None}, {"seed_number": "a"}]
)
def test_attributes_of_ours_with_other_types(worker, with_kinds, sqlite_url, attributes):
    ledger = worker(with_kinds, sqlite_url)
    ledger.study.enqueue_trial({"batch_size": 4}, user_attrs=attributes)
    assert "belong to hpo" in refused(ledger)
