"""Leases: who trains which trial, and when it is anybody's."""

import pytest

from hpo.search.database.sightings import GAP_S
from hpo.specs import Outcome
from tests.search.conftest import Clock
from tests.search.steps import (
    LEASE_S,
    LOOK_S,
    abandoned,
    at_once,
    owners,
    pass_time,
    sign,
    usage,
    with_search,
)

HOUR_S = 3600.0


def two(url, spec, worker):
    """The leases of two workers on one study, and a trial that the first has taken."""
    ours, theirs = worker(spec, url, "here:1"), worker(spec, url, "there:2")
    return ours.leases, theirs.leases, ours.ask().trial_id


@pytest.fixture
def pair(database_url, spec, worker):
    """Two workers and a trial, on every kind of database."""
    return two(database_url, spec, worker)


@pytest.fixture
def pair_on_file(sqlite_url, spec, worker):
    """Two workers and a trial, on a SQLite file."""
    return two(sqlite_url, spec, worker)


def test_a_trial_has_one_owner(pair):
    ours, theirs, trial = pair
    assert ours.take(trial)  # again, after an answer that did not come
    assert not theirs.take(trial)
    assert (ours.owns(trial), theirs.owns(trial)) == (True, False)
    assert owners(ours) == {trial: "here:1"}


def test_one_of_many_that_take_a_trial_at_once_gets_it(database_url, spec, worker):
    leases = [worker(spec, database_url, f"here:{n}").leases for n in range(4)]
    for trial in range(10):
        taken = at_once(*(lambda it=it, trial=trial: it.take(trial) for it in leases))
        assert sorted(taken) == [False, False, False, True]


def test_workers_that_take_leases_at_once_do_not_disturb_each_other(database_url, spec, worker):
    leases = [worker(spec, database_url, f"here:{n}").leases for n in range(4)]

    def take(index):
        return all(leases[index].take(trial) for trial in range(index, 80, 4))

    assert at_once(*(lambda n=n: take(n) for n in range(4))) == [True] * 4
    assert len(owners(leases[0])) == 80


def test_a_trial_is_not_lost_while_its_lease_is_young(pair_on_file, clock):
    _, theirs, _ = pair_on_file
    assert pass_time(clock, LEASE_S - 1, lambda: abandoned(theirs)) == []


def test_a_lease_that_nobody_renewed_is_claimed_once(pair, clock):
    ours, theirs, trial = pair
    pass_time(clock, LEASE_S, theirs.abandoned)
    (row,) = theirs.abandoned()
    assert theirs.claim(row)
    assert not ours.claim(row)
    assert abandoned(theirs) == []
    assert owners(ours) == {trial: "there:2"}


def test_a_renewed_lease_is_good_for_as_long_again(pair, clock):
    ours, theirs, trial = pair
    for _ in range(3):
        assert pass_time(clock, LEASE_S - 1, lambda: abandoned(theirs)) == []
        assert ours.renew({trial: sign()}) == set()
    assert pass_time(clock, LEASE_S - 1, lambda: abandoned(theirs)) == []
    assert pass_time(clock, 1 + LOOK_S, lambda: abandoned(theirs)) == [trial]


def test_a_trial_that_makes_no_progress_loses_its_lease(pair, clock):
    ours, theirs, trial = pair

    def look():
        assert ours.renew({trial: sign(alive=False, samples_seen=8)}) == set()
        return abandoned(theirs)

    assert pass_time(clock, LEASE_S, look) == [trial]
    (row,) = theirs.all()
    assert row.samples_seen == 8


def test_a_lease_tells_of_the_progress_of_its_trial(pair_on_file):
    ours, theirs, trial = pair_on_file
    ours.renew({trial: sign(samples_seen=24, checkpoint_at=16, device_seconds=3.5)})
    (row,) = theirs.all()
    assert (row.samples_seen, row.checkpoint_at, row.device_seconds) == (24, 16, 3.5)


def test_renewing_twice_at_one_moment_is_no_loss(pair):
    ours, _, trial = pair
    for _ in range(3):
        assert ours.renew({trial: sign(alive=False)}) == set()


def test_renewing_tells_the_lost_from_the_kept(pair_on_file):
    ours, theirs, trial = pair_on_file
    assert ours.take(1000)
    theirs.take(1001)
    assert ours.renew({trial: sign(), 1000: sign(), 1001: sign(), 1002: sign()}) == {1001, 1002}


def test_a_lease_that_is_renewed_in_the_meantime_is_not_claimed(pair, clock):
    ours, theirs, trial = pair
    pass_time(clock, LEASE_S, theirs.abandoned)
    (row,) = theirs.abandoned()
    ours.renew({trial: sign()})
    assert not theirs.claim(row)
    assert owners(ours) == {trial: "here:1"}


def test_one_of_many_that_claim_at_once_gets_the_lease(database_url, spec, worker, clock):
    spec = with_search(spec, trials=10)
    gone, *rest = (worker(spec, database_url, f"here:{n}") for n in range(5))
    trials = [gone.ask().trial_id for _ in range(8)]

    def look():
        return [ledger.leases.abandoned() for ledger in rest]

    for rows in zip(*pass_time(clock, LEASE_S, look), strict=True):
        claims = (
            lambda led=led, r=r: led.leases.claim(r) for led, r in zip(rest, rows, strict=True)
        )
        assert sorted(at_once(*claims)) == [False, False, False, True]
    held = owners(gone.leases)
    assert set(held) == set(trials)
    assert "here:0" not in held.values()


@pytest.mark.parametrize("hours", [-5, 5])
def test_clocks_that_differ_by_hours_change_nothing(postgres_url, spec, worker, clock, hours):
    skewed = Clock()
    skewed.now += hours * HOUR_S
    ours = worker(spec, postgres_url, "here:1", clock=skewed)
    theirs = worker(spec, postgres_url, "there:2")
    trial = ours.ask().trial_id
    look = lambda: abandoned(theirs.leases)  # noqa: E731
    assert pass_time(clock, LEASE_S - 1, look) == []
    ours.leases.renew({trial: sign()})
    assert pass_time(clock, LEASE_S - 1, look) == []
    assert pass_time(clock, 1 + LOOK_S, look) == [trial]


def test_whoever_has_not_looked_for_a_while_looks_for_a_whole_lease(pair_on_file, clock):
    _, theirs, trial = pair_on_file
    pass_time(clock, LEASE_S - 1, theirs.abandoned)
    clock.now += GAP_S + 1  # a pause of the observer
    assert abandoned(theirs) == []
    assert pass_time(clock, LEASE_S - 1, lambda: abandoned(theirs)) == []
    assert pass_time(clock, LOOK_S, lambda: abandoned(theirs)) == [trial]


def test_after_an_outage_everybody_gets_a_whole_lease(pair_on_file, clock):
    _, theirs, trial = pair_on_file
    pass_time(clock, LEASE_S - 1, theirs.abandoned)
    theirs.forget()
    assert pass_time(clock, LEASE_S - 1, lambda: abandoned(theirs)) == []
    assert pass_time(clock, LOOK_S, lambda: abandoned(theirs)) == [trial]


def test_a_lease_is_settled_once_and_by_its_owner(pair):
    ours, theirs, trial = pair
    theirs.settle(trial, Outcome.CRASHED, 99.0)
    for _ in range(2):
        ours.settle(trial, Outcome.COMPLETE, 2.5)
    assert owners(ours) == {}
    assert usage(ours) == {"complete": (1, 2.5)}
    assert ours.renew({trial: sign()}) == {trial}


def test_device_time_is_booked_exactly_by_many_at_once(database_url, spec, worker):
    leases = [worker(spec, database_url, f"here:{n}").leases for n in range(4)]

    def settle(index):
        for trial in range(index, 80, 4):
            leases[index].take(trial)
            leases[index].settle(trial, Outcome.COMPLETE, 0.5)

    assert at_once(*(lambda n=n: settle(n) for n in range(4))) == [None] * 4
    assert usage(leases[0]) == {"complete": (80, 40.0)}
    assert owners(leases[0]) == {}


def test_usage_counts_what_has_ended_and_what_runs(pair_on_file):
    ours, theirs, trial = pair_on_file
    for number, outcome in enumerate((Outcome.COMPLETE, Outcome.COMPLETE, Outcome.LOST), 1000):
        ours.take(number)
        ours.settle(number, outcome, 2.0)
    ours.renew({trial: sign(device_seconds=3.0)})
    found = theirs.usage()
    assert found.by_outcome == {"complete": 4.0, "lost": 2.0}
    assert (found.running, found.running_s, found.total_s) == (1, 3.0, 9.0)


def test_whoever_lost_a_lease_cannot_drop_it(pair_on_file, clock):
    ours, theirs, trial = pair_on_file
    pass_time(clock, LEASE_S, theirs.abandoned)
    theirs.claim(*theirs.abandoned())
    assert ours.renew({trial: sign()}) == {trial}
    ours.drop(trial)
    assert owners(ours) == {trial: "there:2"}
    theirs.drop(trial)
    assert owners(ours) == {}


def test_a_running_trial_that_nobody_holds_is_lost_after_a_while(pair_on_file, clock):
    ours, theirs, held = pair_on_file
    look = lambda: theirs.leaseless([held, 1000])  # noqa: E731
    assert pass_time(clock, LEASE_S - 1, look) == []
    assert pass_time(clock, LOOK_S, look) == [1000]
    ours.take(1000)
    assert look() == []


def test_trials_of_another_study_are_left_alone(sqlite_url, spec, worker, clock):
    ours = worker(spec, sqlite_url, "here:1")
    other = worker(spec.model_copy(update={"name": "other"}), sqlite_url, "there:2")
    asked = ours.ask()
    assert pass_time(clock, LEASE_S, lambda: abandoned(other.leases)) == []
    assert pass_time(clock, 2 * LEASE_S, lambda: abandoned(ours.leases)) == [asked.trial_id]
