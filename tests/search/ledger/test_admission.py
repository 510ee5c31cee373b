"""Which trial comes next, and the exact total over all workers."""

import pytest
from optuna.trial import TrialState

from hpo.specs import Outcome
from tests.search.steps import (
    LEASE_S,
    at_once,
    ending,
    finish,
    owners,
    pass_time,
    run,
    states,
    trial,
    waiting,
    with_search,
)


@pytest.fixture
def ledger(sqlite_url, spec, worker):
    """A ledger on a SQLite file."""
    return worker(spec, sqlite_url)


@pytest.fixture
def both(sqlite_url, spec, worker):
    """Two ledgers on one SQLite file."""
    return worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")


def test_two_ledgers_that_take_turns_end_at_the_total(sqlite_url, spec, worker):
    ledgers = [worker(spec, sqlite_url, name) for name in ("here:1", "there:2")]
    live = []
    for turn in range(40):
        ledger = ledgers[turn % 2]
        asked = ledger.ask()
        if asked is not None:
            live.append((ledger, asked))
        if len(live) > 3 or (asked is None and live):
            owner, oldest = live.pop(0)
            outcome = Outcome.CRASHED if oldest.number in (1, 4) else Outcome.COMPLETE
            finish(owner, oldest, outcome)
    assert live == []
    assert states(ledgers[0]).count(TrialState.COMPLETE) == spec.search.trials
    assert len(states(ledgers[0])) == spec.search.trials + 2
    assert all(ledger.is_complete() for ledger in ledgers)


def drive(ledger, outcomes=()):
    """Trains to the end of the study, as a driver whose trials end so, and then well."""
    outcomes = list(outcomes)
    while not ledger.is_complete():
        asked = ledger.ask()
        if asked is not None:
            finish(ledger, asked, outcomes.pop() if outcomes else Outcome.COMPLETE)
    ledger.close()


@pytest.mark.parametrize("workers", [2, 4])
def test_many_ledgers_at_once_end_at_the_exact_total(database_url, spec, worker, workers):
    spec = with_search(spec, trials=12)
    bad = [Outcome.LOST, Outcome.CRASHED, Outcome.PREEMPTED]
    ledgers = [worker(spec, database_url, f"here:{n}") for n in range(workers)]
    found = at_once(*(lambda one=one: drive(one, bad) for one in ledgers))
    assert found == [None] * workers
    counted = states(ledgers[0])
    assert counted.count(TrialState.COMPLETE) == 12
    assert set(counted) == {TrialState.COMPLETE, TrialState.FAIL}
    assert owners(ledgers[0].leases) == {}


def overtake(ours, theirs):
    """Lets them ask between our look at the study and our trial; their trial, in a list."""
    take, first = ours._admission._take, []

    def late(*args, **more):
        ours._admission._take = take
        first.append(theirs.ask())
        return take(*args, **more)

    ours._admission._take = late
    return first


def test_whoever_is_one_too_many_hands_its_trial_back(database_url, spec, worker):
    spec = with_search(spec, trials=1)
    ours, theirs = worker(spec, database_url, "here:1"), worker(spec, database_url, "there:2")
    first = overtake(ours, theirs)
    assert ours.ask() is None
    assert states(ours) == [TrialState.RUNNING, TrialState.FAIL]
    assert trial(ours, 1).user_attrs["outcome"] == "over_budget"
    assert "1 trials" in trial(ours, 1).user_attrs["reason"]
    finish(theirs, *first)
    assert ours.is_complete()
    assert waiting(ours) == []


def test_retries_come_first_then_the_oldest(ledger):
    first = ledger.ask()
    for batch_size in (4, 8):
        ledger.study.enqueue_trial({"batch_size": batch_size})
    finish(ledger, first, Outcome.LOST)
    assert [ledger.ask().number for _ in range(4)] == [3, 1, 2, 4]


def test_a_trial_that_another_is_about_to_start_is_left_to_it(both):
    ours, theirs = both
    ours.study.enqueue_trial({"batch_size": 4})
    theirs.leases.take(ours.study.trials[0]._trial_id)
    assert ours.ask().number == 1


def test_nothing_is_begun_while_others_are_about_to_start_the_last_trials(sqlite_url, spec, worker):
    spec = with_search(spec, trials=1)
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    ours.study.enqueue_trial({"batch_size": 4})
    theirs.leases.take(ours.study.trials[0]._trial_id)
    assert [ours.ask() for _ in range(3)] == [None] * 3
    assert states(ours) == [TrialState.WAITING]


def test_a_worker_that_died_before_its_trial_began_leaves_it_to_others(both, clock):
    ours, theirs = both
    ours.study.enqueue_trial({"batch_size": 4})
    theirs.leases.take(ours.study.trials[0]._trial_id)
    assert pass_time(clock, LEASE_S, ours.reap) == []
    asked = ours.ask()
    assert (asked.number, asked.attempt, asked.config.batch_size) == (0, 1, 4)


def test_a_retry_goes_on_though_more_trials_wait_than_the_study_needs(
    sqlite_url, mini_study, worker
):
    known = tuple({"batch_size": size} for size in (4, 8, 16))
    study = mini_study.model_copy(update={"known": known})
    worker(with_search(study, trials=3), sqlite_url)
    ledger = worker(with_search(study, trials=2), sqlite_url)  # a later command wants fewer
    run(ledger, Outcome.LOST)
    found = [ledger.ask() for _ in range(2)]
    assert [(asked.number, asked.seed_number) for asked in found] == [(3, 0), (1, 1)]


def test_a_trial_left_over_by_a_dead_worker_does_not_starve_a_retry(both, spec):
    ours, _ = both
    live = [ours.ask() for _ in range(spec.search.trials)]
    ours.study.enqueue_trial({"batch_size": 4})  # made by a driver that was killed just then
    finish(ours, live[3], Outcome.LOST)
    again = ours.ask()
    assert (again.number, again.seed_number) == (7, 3)
    for asked in (*live, again):
        finish(ours, asked)
    ours.close()
    assert states(ours).count(TrialState.COMPLETE) == spec.search.trials
    assert TrialState.WAITING not in states(ours)


def test_a_retry_that_is_there_twice_runs_once(ledger):
    run(ledger, Outcome.LOST)
    (retry,) = waiting(ledger)
    again = dict(params=retry.system_attrs["fixed_params"], user_attrs=retry.user_attrs)
    ledger.study.enqueue_trial(**again)  # committed once without an answer
    assert ledger.ask().number == 1
    assert ledger.ask() is None
    assert trial(ledger, 2).user_attrs["outcome"] == "over_budget"
    assert ledger.ask().number == 3


def test_nobody_asks_while_others_train_the_last_trials(ledger, spec):
    live = [ledger.ask() for _ in range(spec.search.trials)]
    assert None not in live
    assert ledger.ask() is None
    finish(ledger, live[0], Outcome.CRASHED)
    assert ledger.ask() is not None
    assert ledger.ask() is None


def test_a_resumed_study_ends_at_the_larger_total(sqlite_url, spec, worker):
    small = worker(with_search(spec, trials=2), sqlite_url)
    for _ in range(2):
        run(small)
    assert small.is_complete()
    large = worker(with_search(spec, trials=3), sqlite_url)
    assert not large.is_complete()
    run(large)
    assert large.is_complete()
    assert large.ask() is None


def test_known_configurations_are_tried_first(sqlite_url, mini_study, worker):
    known = (
        {"learning_rate": 2e-3, "lora_r": 24, "lora_alpha": 64, "batch_size": 8},
        {"batch_size": 4},
    )
    ledger = worker(mini_study.model_copy(update={"known": known}), sqlite_url)
    first, second, third = (ledger.ask() for _ in range(3))
    assert {name: first.trial.params[name] for name in known[0]} == known[0]
    assert second.trial.params["batch_size"] == 4
    assert set(second.trial.params) == set(mini_study.space)
    assert [first.trial.user_attrs, second.trial.user_attrs] == [{"known": True}] * 2
    assert "known" not in third.trial.user_attrs


def test_a_retry_counts_for_those_who_looked_before_it_was_there(worker, spec, sqlite_url):
    """Two drivers have taken a trial each when a third one's crashes and is tried again."""
    total = with_search(spec, trials=2)
    ours, *others = (worker(total, sqlite_url, f"here:{n}") for n in range(3))
    crashing = ours.ask()
    pending = []
    for other in others:
        waits = states(other).count(TrialState.WAITING)
        other._admission._pending = other._admission._take(waits, room=2)
        pending.append(other._admission._pending)
    assert None not in pending
    ours.finish(crashing, ending(Outcome.CRASHED))
    assert ours.ask() is not None, "the retry"
    assert [other.ask() is None for other in others].count(True) == 1


@pytest.mark.parametrize("params", [{"batch_size": 7}, {"learning_rate": -1.0}])
def test_what_cannot_be_trained_is_refused_and_nobody_dies_of_it(worker, spec, sqlite_url, params):
    ledger = worker(spec, sqlite_url)
    ledger.study.enqueue_trial(params)
    assert ledger.ask() is None
    (refused,) = ledger.trials()
    assert refused.state == TrialState.FAIL and refused.user_attrs["outcome"] == "data_error"
    assert "cannot be trained" in refused.user_attrs["reason"]
    assert ledger.ask() is not None and ledger.reap() == []
