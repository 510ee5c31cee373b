"""What is written of one trial is one transaction, and void without its lease."""

import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from hpo.search.database.writes import LeaseLostError, Writes, create_waiting
from tests.search.steps import at_once, everything, trial


@pytest.fixture
def ledger(database_url, spec, worker):
    """A ledger on a database of each kind."""
    return worker(spec, database_url)


def some_of_each(trial_id, value=1.5):
    """Everything that can be written of a trial."""
    writes = Writes(trial_id)
    writes.attribute("why", {"value": value})
    writes.attribute("constraints:memory", value, system=True)
    writes.param("extra", value, FloatDistribution(0.0, 9.0))
    writes.report(16, value)
    writes.state(TrialState.COMPLETE, [value])
    return writes


def commit(ledger, writes, worker="here:1"):
    writes.commit(ledger.leases._engine, worker)


def test_all_of_it_is_there(ledger):
    asked = ledger.ask()
    commit(ledger, some_of_each(asked.trial_id))
    written = trial(ledger, 0)
    assert (written.state, written.value) == (TrialState.COMPLETE, 1.5)
    assert (written.user_attrs, written.constraints) == ({"why": {"value": 1.5}}, {"memory": 1.5})
    assert (written.params["extra"], written.intermediate_values) == (1.5, {16: 1.5})
    assert written.datetime_complete >= written.datetime_start


def test_another_worker_writes_nothing(ledger):
    asked = ledger.ask()
    before = everything(ledger.leases)
    with pytest.raises(LeaseLostError):
        commit(ledger, some_of_each(asked.trial_id), "there:2")
    assert everything(ledger.leases) == before


def test_nothing_is_written_of_a_trial_that_has_ended(ledger):
    asked = ledger.ask()
    ledger.study.tell(asked.number, state=TrialState.FAIL)  # by hand; the lease is still there
    before = everything(ledger.leases)
    with pytest.raises(UpdateFinishedTrialError):
        commit(ledger, some_of_each(asked.trial_id))
    assert everything(ledger.leases) == before


def test_what_is_there_already_is_written_over(ledger):
    asked = ledger.ask()
    for value in (1.0, 2.0):
        writes = Writes(asked.trial_id)
        writes.attribute("why", value)
        writes.report(16, value)
        commit(ledger, writes)
    assert trial(ledger, 0).user_attrs == {"why": 2.0}
    assert trial(ledger, 0).intermediate_values == {16: 2.0}


def test_what_fails_inside_writes_nothing(ledger):
    asked, storage = ledger.ask(), ledger.study._storage
    before = everything(ledger.leases)
    with pytest.raises(ZeroDivisionError), storage.together(asked.trial_id, "here:1"):
        asked.trial.set_user_attr("why", 1)
        _ = 1 / 0
    assert everything(ledger.leases) == before
    asked.trial.set_user_attr("later", 2)
    assert trial(ledger, 0).user_attrs == {"later": 2}


def test_inside_other_trials_are_written_as_ever(ledger):
    ours, other, storage = ledger.ask(), ledger.ask(), ledger.study._storage
    with storage.together(ours.trial_id, "here:1"):
        ours.trial.set_user_attr("why", 1)
        other.trial.set_user_attr("why", 2)
        assert [trial(ledger, n).user_attrs for n in (0, 1)] == [{}, {"why": 2}]
    assert trial(ledger, 0).user_attrs == {"why": 1}


def test_trials_that_are_made_at_once_have_a_number_each(ledger, database_url, spec, worker):
    others = [worker(spec, database_url, f"there:{n}") for n in range(3)]
    study_id = ledger.study._study_id
    made = at_once(*(lambda o=o: create_waiting(o.leases._engine, study_id) for o in others * 4))
    assert sorted(number for _, number in made) == list(range(12))
    assert [t.number for t in sorted(ledger.trials(), key=lambda t: t._trial_id)] == list(range(12))
    assert {t.state for t in ledger.trials()} == {TrialState.WAITING}
    assert [ledger.ask().number for _ in range(3)] == [0, 1, 2]


def test_no_trial_is_made_of_a_study_that_is_gone(ledger):
    with pytest.raises(KeyError, match="Record does not exist"):
        create_waiting(ledger.leases._engine, 99)


def test_a_lease_is_lost_or_kept_until_the_commit(ledger, database_url, spec, worker):
    """Who claims a lease while its owner writes has it before all of that, or after."""
    theirs = worker(spec, database_url, "there:2").leases
    for number in range(6):
        asked = ledger.ask()
        (row,) = (r for r in theirs.all() if r.trial_id == asked.trial_id)
        found = at_once(
            lambda a=asked: commit(ledger, some_of_each(a.trial_id)), lambda r=row: theirs.claim(r)
        )
        lost = "LeaseLostError()" in found
        assert True in found
        ended = trial(ledger, number)
        assert ended.state == (TrialState.RUNNING if lost else TrialState.COMPLETE)
        assert bool(ended.user_attrs) == bool(ended.intermediate_values) == (not lost)
