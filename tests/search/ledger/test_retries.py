"""What is tried again, how often, and what a retry knows of its earlier attempts."""

import math

import pytest
from optuna.trial import TrialState

from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Outcome
from tests.search.steps import (
    LEASE_S,
    finish,
    pass_time,
    run,
    trial,
    waiting,
    with_search,
)

SO_OFTEN = {
    Outcome.LOST: 3,
    Outcome.HUNG: 3,
    Outcome.DISK_FULL: 3,
    Outcome.KILLED: 2,
    Outcome.CRASHED: 2,
    Outcome.DATA_ERROR: 2,
}
MANY = 8


@pytest.fixture
def ledger(sqlite_url, spec, worker):
    """A ledger on a SQLite file."""
    return worker(spec, sqlite_url)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in SO_OFTEN])
def test_nothing_else_is_tried_again(ledger, outcome):
    run(ledger, outcome)
    assert len(waiting(ledger)) == (CONSEQUENCES[outcome].tries == math.inf)


@pytest.mark.parametrize(("outcome", "tries"), SO_OFTEN.items())
def test_a_trial_is_tried_as_often_as_its_kind_of_failure_allows(ledger, outcome, tries):
    for attempt in range(1, tries + 1):
        asked = ledger.ask()
        assert (asked.seed_number, asked.attempt) == (0, attempt)
        finish(ledger, asked, outcome)
    assert waiting(ledger) == []
    assert ledger.ask().seed_number == tries


def test_a_preempted_trial_is_tried_again_for_ever(ledger):
    for attempt in range(1, MANY):
        asked = ledger.ask()
        assert (asked.seed_number, asked.attempt) == (0, attempt)
        finish(ledger, asked, Outcome.PREEMPTED)


def test_attempts_are_counted_by_kind(ledger):
    kinds = (Outcome.LOST, Outcome.CRASHED, Outcome.PREEMPTED, Outcome.HUNG, Outcome.LOST)
    for outcome in kinds:
        asked = ledger.ask()
        finish(ledger, asked, outcome)
    asked = ledger.ask()
    assert asked.spent == {"lost": 2, "crashed": 1, "preempted": 1, "hung": 1}
    assert (asked.attempt, asked.seed_number, asked.earlier) == (6, 0, (4, 3, 2, 1, 0))
    assert trial(ledger, 5).user_attrs["retry_of"] == 4
    finish(ledger, asked, Outcome.CRASHED)  # the second time
    assert waiting(ledger) == []


def test_a_lost_trial_is_tried_again_with_the_same_parameters_and_seed(
    database_url, spec, worker, clock
):
    ours, theirs = worker(spec, database_url, "here:1"), worker(spec, database_url, "there:2")
    run(ours)
    asked = ours.ask()
    assert pass_time(clock, LEASE_S, theirs.reap) == [1]
    assert theirs.reap() == ours.reap() == []
    lost = trial(theirs, 1)
    assert lost.state == TrialState.FAIL
    assert lost.user_attrs["outcome"] == "lost"
    again = theirs.ask()
    assert again.config == asked.config
    assert (again.number, again.seed_number, again.attempt) == (2, 1, 2)
    assert trial(theirs, 2).user_attrs["retry_of"] == 1
    assert trial(theirs, 2).params == lost.params


def test_the_seed_number_is_that_of_the_first_attempt(ledger):
    attempts = []
    for _ in range(3):
        attempts.append(ledger.ask())
        finish(ledger, attempts[-1], Outcome.LOST)
    assert [a.seed_number for a in attempts] == [0, 0, 0]
    assert [a.attempt for a in attempts] == [1, 2, 3]
    assert [a.number for a in attempts] == [0, 1, 2]
    assert len({a.config.model_dump_json() for a in attempts}) == 1


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_lost_trial_is_tried_so_often_and_no_more(sqlite_url, spec, worker, attempts):
    ledger = worker(with_search(spec, attempts=attempts), sqlite_url)
    for _ in range(attempts):
        asked = ledger.ask()
        assert asked.seed_number == 0
        finish(ledger, asked, Outcome.LOST)
    assert waiting(ledger) == []
    assert ledger.ask().seed_number == attempts


def test_a_retry_that_came_too_early_is_kept_for_later(sqlite_url, spec, worker):
    spec = with_search(spec, trials=1)
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    asked, storage, early = ours.ask(), ours.study._storage, []
    tell = storage.set_trial_state_values

    def tell_late(*args, **settings):
        early.append(theirs.ask())  # the retry is there, its first attempt not yet told
        return tell(*args, **settings)

    storage.set_trial_state_values = tell_late
    finish(ours, asked, Outcome.PREEMPTED)
    assert early == [None]
    again = theirs.ask()
    assert (again.config, again.seed_number) == (asked.config, 0)


def test_a_trial_that_died_before_its_parameters_is_tried_again_whole(ledger, spec, clock):
    ledger.study.ask()
    assert pass_time(clock, LEASE_S, ledger.reap) == [0]
    assert set(waiting(ledger)[0].system_attrs["fixed_params"]) == set(spec.space)
