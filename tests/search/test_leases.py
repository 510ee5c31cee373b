"""Leases: who trains which trial, and when it is lost."""

import os
import subprocess
import sys
import threading

import pytest
from sqlalchemy import select, update

from hpo.search.leases import LEASE_S, LEASES, process_started


def two(url, spec, worker):
    """The leases of two workers on one study, and a trial that the first has taken."""
    ours, theirs = worker(spec, url, "here:1"), worker(spec, url, "there:2")
    trial = ours.study.ask()
    ours._leases.take(trial._trial_id)
    return ours._leases, theirs._leases, trial._trial_id


@pytest.fixture
def pair(database_url, spec, worker):
    """Two workers and a trial, on every kind of database."""
    return two(database_url, spec, worker)


@pytest.fixture
def pair_on_file(sqlite_url, spec, worker):
    """Two workers and a trial, on a SQLite file."""
    return two(sqlite_url, spec, worker)


@pytest.fixture
def on_file(sqlite_url, spec, worker):
    """Two ledgers on one SQLite file."""
    return worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")


def claimed(leases):
    return [trial._trial_id for trial in leases.claim_lost()]


def owners(leases):
    with leases._engine.connect() as connection:
        return {row.trial_id: row.worker for row in connection.execute(select(LEASES))}


def test_a_trial_under_lease_is_not_lost(pair_on_file, clock):
    _, theirs, _ = pair_on_file
    clock.now += LEASE_S - 1
    assert claimed(theirs) == []


def test_a_trial_whose_lease_expired_is_claimed_by_exactly_one(pair, clock):
    ours, theirs, trial = pair
    clock.now += LEASE_S + 1
    assert claimed(theirs) == [trial]
    assert claimed(theirs) == []
    assert claimed(ours) == []
    assert owners(ours) == {trial: "there:2"}


def test_a_renewed_lease_is_good_for_as_long_again(pair, clock):
    ours, theirs, trial = pair
    for _ in range(3):
        clock.now += LEASE_S - 1
        assert ours.renew([trial]) == set()
        assert ours.renew([trial]) == set()  # at the same instant: nothing changes in the row
    assert claimed(theirs) == []


def test_whoever_lost_a_lease_is_told_and_cannot_drop_it(pair_on_file, clock):
    ours, theirs, trial = pair_on_file
    clock.now += LEASE_S + 1
    claimed(theirs)
    assert ours.renew([trial]) == {trial}
    ours.drop(trial)
    assert theirs.renew([trial]) == set()
    theirs.drop(trial)
    assert owners(theirs) == {}


def test_a_lease_that_was_dropped_is_gone(pair_on_file):
    ours, _, trial = pair_on_file
    ours.drop(trial)
    ours.drop(trial)
    assert owners(ours) == {}
    assert ours.renew([trial]) == {trial}


def test_a_lease_of_a_trial_that_was_deleted_is_taken_over(pair_on_file):
    ours, theirs, trial = pair_on_file
    theirs.take(trial)
    assert owners(ours) == {trial: "there:2"}


def test_renewing_tells_the_lost_from_the_kept(on_file, clock):
    ours, _ = on_file
    asked = [ours.ask() for _ in range(3)]
    ids = [a.trial._trial_id for a in asked]
    ours._leases.drop(ids[1])
    assert ours._leases.renew(ids) == {ids[1]}
    assert [a.trial.number for a in ours.renew(asked)] == [1]


def test_a_trial_without_a_lease_is_lost_after_a_while(sqlite_url, spec, worker, clock):
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    trial = ours.study.ask()._trial_id
    assert claimed(theirs._leases) == []
    clock.now += LEASE_S + 5
    assert claimed(theirs._leases) == [trial]
    assert claimed(ours._leases) == []


def test_a_trial_that_waits_is_not_lost(on_file, clock):
    ours, _ = on_file
    ours.study.enqueue_trial({"batch_size": 4})
    clock.now += 10 * LEASE_S
    assert claimed(ours._leases) == []


def test_a_trial_that_ended_is_not_lost(on_file, clock):
    ours, theirs = on_file
    trial = ours.ask().trial
    ours.study.tell(trial, 1.0)
    clock.now += 10 * LEASE_S
    assert claimed(theirs._leases) == []


def test_trials_of_another_study_are_left_alone(sqlite_url, spec, worker, clock):
    ours = worker(spec, sqlite_url, "here:1")
    other = worker(spec.model_copy(update={"name": "other"}), sqlite_url, "there:2")
    asked = ours.ask()
    clock.now += LEASE_S + 1
    assert claimed(other._leases) == []
    assert claimed(ours._leases) == [asked.trial._trial_id]


def set_owner(leases, **values):
    with leases._engine.begin() as connection:
        connection.execute(update(LEASES).values(**values))


def test_a_trial_of_a_dead_process_of_this_host_is_lost_at_once(on_file):
    ours, theirs = on_file
    trial = ours.ask().trial._trial_id
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    set_owner(ours._leases, pid=child.pid, process_started=process_started(child.pid))
    assert claimed(theirs._leases) == []
    child.communicate()
    assert claimed(theirs._leases) == [trial]


def test_a_new_process_of_the_same_number_is_not_the_owner(on_file):
    ours, theirs = on_file
    trial = ours.ask().trial._trial_id
    set_owner(ours._leases, pid=os.getpid(), process_started=process_started(os.getpid()) - 1)
    assert claimed(theirs._leases) == [trial]


def test_nobody_knows_about_processes_of_another_host(on_file, clock):
    ours, theirs = on_file
    trial = ours.ask().trial._trial_id
    set_owner(ours._leases, place="far away", process_started=1)
    assert claimed(theirs._leases) == []
    clock.now += LEASE_S + 1
    assert claimed(theirs._leases) == [trial]


def test_a_lease_that_is_renewed_in_the_meantime_is_not_claimed(pair_on_file, clock):
    ours, theirs, trial = pair_on_file
    clock.now += LEASE_S + 1
    clock.when_read.append(lambda: ours.renew([trial]))  # after the claimer has read the row
    assert claimed(theirs) == []
    assert ours.renew([trial]) == set()


def claim_at_once(url, spec, worker, clock, leased, readings):
    """Lets a third worker claim while a second one does, at a reading of the clock."""
    ours, second, third = (worker(spec, url, f"here:{n}") for n in (1, 2, 3))
    trial = ours.study.ask()._trial_id
    if leased:
        ours._leases.take(trial)
    clock.now += 10 * LEASE_S
    found = []
    clock.when_read += [*[None] * readings, lambda: found.extend(claimed(third._leases))]
    found += claimed(second._leases)
    assert found == [trial]
    assert len(owners(ours._leases)) == 1


def test_two_that_claim_at_once_get_one_claim(database_url, spec, worker, clock):
    claim_at_once(database_url, spec, worker, clock, leased=True, readings=0)


@pytest.mark.parametrize(("leased", "readings"), [(True, 1), (False, 0), (False, 1)])
def test_a_claim_has_no_gap(sqlite_url, spec, worker, clock, leased, readings):
    claim_at_once(sqlite_url, spec, worker, clock, leased, readings)


def test_workers_that_take_leases_at_once_do_not_disturb_each_other(database_url, spec, worker):
    leases = [worker(spec, database_url, f"here:{n}")._leases for n in range(4)]
    errors = []

    def take(index):
        try:
            for trial in range(index, 80, 4):
                leases[index].take(trial)
        except Exception as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=take, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(owners(leases[0])) == 80


def test_a_process_has_a_start_and_nobody_has_none():
    assert process_started(os.getpid()) > 0
    assert process_started(2**22 + 1) == 0
