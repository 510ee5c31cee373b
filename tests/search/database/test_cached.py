"""The storage that reads little says what Optuna's own says, at every moment."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpo.search.database import rows
from hpo.search.ledger.admission import FINISHED
from hpo.specs import Outcome
from tests.search.steps import finish, point, run

STATES = [None, (TrialState.COMPLETE,), (TrialState.COMPLETE, TrialState.RUNNING)]


@pytest.fixture
def both(database_url, spec, worker):
    """Two ledgers on one database."""
    return worker(spec, database_url, "here:1"), worker(spec, database_url, "there:2")


def same(ledger):
    """Asserts that the study reads as Optuna's storage without a cache reads it."""
    backend, study_id = ledger.study._storage._backend, ledger.study._study_id
    for states in STATES:
        found = backend.get_all_trials(study_id, states=states)
        assert ledger.study.get_trials(states=states) == found
        assert ledger.study.get_trials(states=states) == found
    for trial in found:
        assert ledger.study._storage.get_trial(trial._trial_id) == trial
    trials = backend.get_all_trials(study_id)
    states = ledger.study._storage.states(study_id)
    assert states == {trial._trial_id: trial.state for trial in trials}
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    for key in ("known", "retry_of"):
        in_order = sorted(waiting, key=lambda trial: (key not in trial.user_attrs, trial.number))
        ids = [trial._trial_id for trial in in_order]
        assert ledger.study._storage.waiting(study_id, first=key) == ids
    return [trial.state for trial in found]


def test_every_change_is_seen_by_who_made_it_and_by_others(both):
    ours, theirs = both

    def look():
        assert same(ours) == same(theirs)

    look()
    first, second = ours.ask(), theirs.ask()
    look()
    ours.report(first, point(16, 2.5), replayed=False)
    look()
    finish(theirs, second, Outcome.OOM)
    look()
    ours.study.enqueue_trial({"batch_size": 4}, user_attrs={"known": True})
    look()
    finish(ours, first, Outcome.LOST)
    look()
    third = theirs.ask()
    look()
    third.trial.set_user_attr("note", {"of": "another tool"})
    look()
    run(ours)
    look()
    finish(theirs, third)
    look()
    ours.close()
    look()


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 0.1 + 0.2, 1e-300, -0.0])
def test_numbers_come_back_to_the_last_bit(database_url, spec, worker, value):
    study = worker(spec, database_url).study
    study.add_trial(create_trial(value=value, intermediate_values={1: value}))
    (trial,) = study.trials
    assert (trial.value, trial.intermediate_values) == (value, {1: value})


def test_many_trials_are_read_at_once_and_in_order(sqlite_url, spec, worker, monkeypatch):
    monkeypatch.setattr("hpo.search.database.rows.CHUNK", 3)
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    theirs.study.add_trials([create_trial(value=float(n)) for n in range(10)])
    assert [trial.value for trial in ours.study.trials] == [float(n) for n in range(10)]
    assert [trial.number for trial in ours.study.trials] == list(range(10))


def test_a_reading_of_ended_trials_is_one_statement(sqlite_url, spec, worker):
    ledger = worker(spec, sqlite_url)
    run(ledger)
    running = ledger.ask()
    run(ledger)

    def ended():
        return len(ledger.study.get_trials(deepcopy=False, states=FINISHED))

    assert ended() == 2
    statements = []
    dialect = ledger.leases._engine.dialect
    execute = dialect.do_execute

    def do_execute(cursor, statement, *more):
        statements.append(statement)
        execute(cursor, statement, *more)

    dialect.do_execute = do_execute
    assert ended() == ledger.finished() == 2
    assert len(statements) == 2, "one for each, as no trial is read again"
    finish(ledger, running)
    assert ended() == ledger.finished() == 3


def test_a_trial_that_ends_within_a_reading_is_read_with_its_retry(both, monkeypatch):
    ours, theirs = both
    asked = theirs.ask()
    load = rows.load

    def ends_before(*given):
        monkeypatch.undo()
        finish(theirs, asked, Outcome.LOST)
        return load(*given)

    monkeypatch.setattr(rows, "load", ends_before)
    seen = [trial.state for trial in ours.study.get_trials()]
    assert seen in (
        [TrialState.FAIL, TrialState.WAITING],
        [TrialState.RUNNING],  # MySQL reads what was there when it began
    )
    same(ours)


@pytest.mark.parametrize("trials", [0, 2])
def test_a_study_that_was_deleted_is_noticed(sqlite_url, spec, worker, trials):
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    for _ in range(trials):
        run(ours)
    assert ours.finished() == trials
    optuna.delete_study(study_name=spec.name, storage=theirs.study._storage)
    for read in (ours.finished, ours.ask, lambda: ours.study.user_attrs):
        with pytest.raises(KeyError, match="Record does not exist"):
            read()


def test_a_study_that_was_deleted_and_begun_anew_is_another(sqlite_url, spec, worker):
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    run(ours)
    ours.exhausted()
    optuna.delete_study(study_name=spec.name, storage=theirs.study._storage)
    anew = worker(spec, sqlite_url, "anew:3")
    run(anew)
    assert anew.study._study_id == ours.study._study_id, "SQLite gives ids out again"
    with pytest.raises(KeyError, match="Record does not exist"):
        ours.exhausted()
