"""Scores are written of trials that have ended, in every database, and change nothing else."""

import pytest
from optuna.exceptions import UpdateFinishedTrialError

from hpo.errors import FingerprintError, StorageError
from hpo.search.ledger.scores import keep, order_of, with_adapters
from hpo.search.opening import find_study
from hpo.search.study.fingerprint import fingerprint
from hpo.specs import ConstantParam, Outcome
from tests.search.steps import run


def test_scores_stay_with_an_ended_trial_and_are_written_over(database_url, spec, worker):
    ledger = worker(spec, database_url)
    trial = run(ledger)
    with pytest.raises(UpdateFinishedTrialError):
        ledger.study._storage.set_trial_user_attr(trial._trial_id, "score:cider", 1.0)
    keep(ledger.study, trial, {"cider": 0.5, "bleu_4": 0.25})
    keep(ledger.study, trial, {"cider": 0.75})
    again = worker(spec, database_url, "here:2").study.trials[trial.number]
    scores = {"score:cider": 0.75, "score:bleu_4": 0.25}
    assert again.user_attrs == {**trial.user_attrs, **scores}
    assert (again.state, again.value, again.params) == (trial.state, trial.value, trial.params)
    assert again.datetime_complete == trial.datetime_complete


def test_scores_of_a_trial_that_is_gone_are_an_error(sqlite_url, spec, worker):
    ledger = worker(spec, sqlite_url)
    trial = run(ledger)
    ledger.study._storage.delete_study(ledger.study._study_id)
    with pytest.raises(KeyError):
        keep(ledger.study, trial, {"cider": 0.5})


def test_only_complete_trials_with_an_adapter_are_scored(sqlite_url, spec, worker, tmp_path):
    ledger = worker(spec, sqlite_url)
    kinds = (Outcome.COMPLETE, Outcome.OOM, Outcome.COMPLETE)
    trials = [run(ledger, outcome) for outcome in kinds]
    for number in (1, 2):
        (tmp_path / str(number) / "adapter").mkdir(parents=True)
    found = with_adapters(trials, spec, lambda number: tmp_path / str(number))
    assert [trial.number for trial in found] == [2]


def test_an_order_has_the_trials_configuration_with_its_constants(
    sqlite_url, spec, worker, tmp_path
):
    space = {**spec.space, "lora_r": ConstantParam(type="constant", value=4)}
    spec = spec.model_copy(update={"space": space})
    trial = run(worker(spec, sqlite_url))
    config = order_of(trial, spec, tmp_path).config
    assert config.lora_r == 4 and "lora_r" not in trial.params
    assert trial.params.items() <= config.model_dump().items()


def test_a_study_is_found_only_where_it_is_and_as_it_was(sqlite_url, spec, worker):
    prints = fingerprint(spec, data_digest="d", weights_digest="w")
    with pytest.raises(StorageError, match="there is no study"):
        find_study(spec, sqlite_url, prints)
    worker(spec, sqlite_url)
    assert find_study(spec, sqlite_url, prints).study_name == spec.name
    with pytest.raises(FingerprintError, match="weights was w, now x"):
        find_study(spec, sqlite_url, {**prints, "model weights": "x"})
    with pytest.raises(StorageError, match="there is no study"):
        find_study(spec.model_copy(update={"name": "other"}), sqlite_url, prints)
