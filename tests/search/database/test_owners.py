"""What is known of the owner of a lease: its process, its host, its job."""

import os
import socket
import subprocess
import sys

import pytest
from sqlalchemy import update

from hpo.errors import StorageError
from hpo.search.database.leases import Leases, place, process_started
from hpo.search.database.tables import LEASES
from tests.search.steps import LEASE_S, abandoned, pass_time

FAR = "another-boot-id pid:[1]"


@pytest.fixture
def on_file(sqlite_url, spec, worker):
    """Two ledgers on one SQLite file."""
    return worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")


@pytest.fixture
def on_server(postgres_url, spec, worker):
    """Two ledgers on one server."""
    return worker(spec, postgres_url, "here:1"), worker(spec, postgres_url, "there:2")


@pytest.fixture
def child():
    """A process that ends when it is told to."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


def set_owner(ledger, **values):
    with ledger.leases._engine.begin() as connection:
        connection.execute(update(LEASES).values(**values))


def test_a_trial_of_a_dead_process_of_this_host_is_lost_at_once(on_file, child):
    ours, theirs = on_file
    trial = ours.ask().trial_id
    set_owner(ours, pid=child.pid, process_started=process_started(child.pid))
    assert abandoned(theirs.leases) == []
    child.communicate()
    assert abandoned(theirs.leases) == [trial]


def test_a_zombie_is_dead(on_file, child):
    ours, theirs = on_file
    trial = ours.ask().trial_id
    set_owner(ours, pid=child.pid, process_started=process_started(child.pid))
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet buried
    assert os.path.exists(f"/proc/{child.pid}")
    assert abandoned(theirs.leases) == [trial]


def test_a_new_process_of_the_same_number_is_not_the_owner(on_file):
    ours, theirs = on_file
    trial = ours.ask().trial_id
    set_owner(ours, process_started=process_started(os.getpid()) - 1)
    assert abandoned(theirs.leases) == [trial]


@pytest.mark.parametrize("where", [FAR, place().split(" ")[0] + " pid:[1]"])
def test_nobody_knows_about_processes_elsewhere(on_server, clock, where):
    ours, theirs = on_server
    trial = ours.ask().trial_id
    set_owner(ours, place=where, process_started=1)
    assert abandoned(theirs.leases) == []
    assert pass_time(clock, LEASE_S, lambda: abandoned(theirs.leases)) == [trial]


def slurm(monkeypatch, job, restarts, task="0"):
    for name, value in (("JOB_ID", job), ("RESTART_COUNT", restarts), ("PROCID", task)):
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def test_a_requeued_job_gets_its_own_trial_back_at_once(on_server, monkeypatch):
    ours, theirs = on_server
    slurm(monkeypatch, 77, 0)
    asked = ours.ask()
    set_owner(ours, place=FAR)
    assert abandoned(theirs.leases) == []
    slurm(monkeypatch, 77, 1)
    assert theirs.reap() == [asked.number]
    again = theirs.ask()
    assert (again.config, again.earlier) == (asked.config, (asked.number,))


@pytest.mark.parametrize(("job", "restarts", "task"), [(78, 1, "0"), (77, 1, "3"), (77, 0, "0")])
def test_a_job_takes_nothing_of_another_that_lives(on_server, monkeypatch, job, restarts, task):
    ours, theirs = on_server
    slurm(monkeypatch, 77, 0)
    ours.ask()
    set_owner(ours, place=FAR)
    slurm(monkeypatch, job, restarts, task)
    assert abandoned(theirs.leases) == []


def test_a_second_host_on_a_file_is_refused(on_file):
    ours, theirs = on_file
    ours.ask()
    set_owner(ours, place=FAR, worker="elsewhere:1:abc")
    with pytest.raises(StorageError) as caught:
        theirs.reap()
    for word in ("host elsewhere", "SQLite serves one host", "--storage", f"{LEASE_S:.0f} s"):
        assert word in str(caught.value)


def test_a_host_that_has_ended_is_no_second_host(on_file, clock):
    ours, theirs = on_file
    number = ours.ask().number
    set_owner(ours, place=FAR, expires_at=clock.now - 1)
    assert pass_time(clock, LEASE_S, theirs.reap) == [number]


def test_a_second_container_of_this_host_may_use_the_file(on_file):
    ours, theirs = on_file
    ours.ask()
    set_owner(ours, place=place().split(" ")[0] + " pid:[1]")
    assert theirs.reap() == []


def test_a_second_host_on_a_server_is_welcome(on_server):
    ours, theirs = on_server
    ours.ask()
    set_owner(ours, place=FAR)
    assert theirs.reap() == []


def test_a_process_has_a_start_and_nobody_has_none():
    assert process_started(os.getpid()) > 0
    assert process_started(2**22 + 1) == 0


def test_every_process_is_a_worker_of_its_own(on_file):
    ours, _ = on_file
    fresh = Leases(ours.study._storage._backend, ours.study, lease_s=LEASE_S)
    assert fresh.worker.startswith(f"{socket.gethostname()}:{os.getpid()}:")
