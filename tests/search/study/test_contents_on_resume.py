"""A study that is opened again with other files than it was made from."""

import optuna
import pytest
from optuna.trial import TrialState

from hpo.errors import FingerprintError
from hpo.search.ledger.ledger import Ledger
from hpo.search.opening import find_study, open_study
from hpo.search.study.fingerprint import fingerprint

SAMPLES = 32


def prints(spec, **whole):
    files = {"model files": {"model.safetensors": "m1"}, "processor files": {}}
    found = {key: value for key, value in (files | whole).items() if value is not None}
    return fingerprint(spec, data_digest="d", weights_digest="w", whole=found)


def former_prints(spec):
    """The fingerprint as earlier versions wrote it."""
    return fingerprint(spec, data_digest="d", weights_digest="w")


@pytest.fixture
def resume(spec, database_url):
    """Opens the study; the ledger, and what was said."""
    opened = []

    def open_again(ours, **former):
        notes = []
        study, leases = open_study(
            spec, database_url, ours, samples=SAMPLES, former=former, say=notes.append
        )
        opened.append(leases._engine)
        return Ledger(study, spec, leases), notes

    yield open_again
    for engine in opened:
        engine.dispose()


def add_trial(study, state, **more):
    """A trial that has ended or runs."""
    values = [1.0] if state == TrialState.COMPLETE else None
    study.add_trial(optuna.trial.create_trial(state=state, values=values, **more))


def test_a_study_of_before_has_one_line_and_then_is_compared(resume, spec):
    ledger, notes = resume(former_prints(spec))
    assert notes == []
    add_trial(ledger.study, TrialState.COMPLETE)
    _, notes = resume(prints(spec))
    assert len(notes) == 1 and "could not be checked" in notes[0]
    again, notes = resume(prints(spec))
    assert notes == []
    assert again.checkpoint_key == again.identity, "its checkpoints are still used"
    with pytest.raises(FingerprintError, match=r"model\.safetensors was m1, now m2"):
        resume(prints(spec, **{"model files": {"model.safetensors": "m2"}}))


def test_finding_a_study_of_before_says_so_and_changes_nothing(resume, spec, database_url):
    resume(former_prints(spec))
    for _ in range(2):
        notes = []
        find_study(spec, database_url, prints(spec), say=notes.append)
        assert len(notes) == 1 and "could not be checked" in notes[0]


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.WAITING, TrialState.PRUNED])
def test_mended_files_take_the_place_of_broken_ones_while_no_trial_has_a_value(resume, spec, state):
    ledger, _ = resume(prints(spec, images="sha256 broken"))
    ledger.study.set_user_attr("zero_shot", 2.5)
    add_trial(ledger.study, state)
    mended, notes = resume(prints(spec, images="sha256 mended"))
    assert len(notes) == 1
    assert "images was sha256 broken, now sha256 mended; no trial has a value yet" in notes[0]
    assert mended.checkpoint_key != ledger.checkpoint_key and mended.identity == ledger.identity
    assert not mended.knows_zero_shot(), "it was that of the former images"
    again, notes = resume(prints(spec, images="sha256 mended"))
    assert notes == [] and again.checkpoint_key == mended.checkpoint_key


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING])
def test_files_of_trials_with_values_may_not_change(resume, spec, state):
    ledger, _ = resume(prints(spec, images="sha256 1"))
    add_trial(ledger.study, TrialState.FAIL)
    add_trial(ledger.study, state, intermediate_values={8: 2.0})
    with pytest.raises(FingerprintError, match="images was sha256 1, now sha256 2"):
        resume(prints(spec, images="sha256 2"))
    _, notes = resume(prints(spec, images="sha256 1"))
    assert notes == []


def test_settings_may_not_change_even_without_values(resume, spec):
    resume(prints(spec))
    with pytest.raises(FingerprintError, match=r"trial\.epochs was 1, now 2"):
        resume({**prints(spec), "trial.epochs": 2})


def test_checkpoints_with_labels_in_the_former_order_are_not_used(resume, spec):
    resume(former_prints(spec))
    ledger, notes = resume(prints(spec, labels=["0", "2", "10"]), labels=["0", "10", "2"])
    assert len(notes) == 1 and "['0', '10', '2']" in notes[0]
    assert ledger.checkpoint_key != ledger.identity
    same, notes = resume(prints(spec, labels=["0", "2", "10"]), labels=["0", "10", "2"])
    assert notes == [] and same.checkpoint_key == ledger.checkpoint_key


def test_two_starts_at_once_with_other_files_cannot_both_be_right(resume, spec):
    one, _ = resume(prints(spec, images="sha256 1"))
    add_trial(one.study, TrialState.RUNNING)
    with pytest.raises(FingerprintError):
        resume(prints(spec, images="sha256 2"))
