"""The study as one SQLite file: the same trials without a database, or a line that says why not."""

import os
import sqlite3
import subprocess
import time
from contextlib import closing

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from hpo.search.database.urls import parse_url
from hpo.search.study.portable import ABANDONED_S, FILE, write_copy
from hpo.specs import Fault, Outcome, TrialStats
from tests.search.steps import at_once, finish, point, run, with_search

GIB = 1 << 30
STATS = TrialStats(seconds=2.5, samples_per_s=12.8, peak_memory_bytes=GIB, steps=4)
OOM = Fault(
    outcome=Outcome.OOM,
    reason="oom",
    needed_bytes=4 * GIB,
    capacity_bytes=2 * GIB,
    traceback="é'\"",
)
PASSWORD = "S3cr3tWord"


def load(folder):
    """The copy, as anybody with Optuna opens it."""
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder / FILE}")


def fill(ledger):
    """A trial of every state: complete, pruned, lost with its retry waiting, running."""
    asked = ledger.ask()
    for samples, loss in ((16, 2.0), (32, 1.0 / 3.0)):
        ledger.report(asked, point(samples, loss), replayed=False)
    finish(ledger, asked, stats=STATS)
    run(ledger, Outcome.OOM, fault=OOM)
    run(ledger, Outcome.LOST)
    running = ledger.ask()
    ledger.report(running, point(16, 1e-12), replayed=False)
    ledger.study.enqueue_trial({"batch_size": 4}, user_attrs={"known": True})
    ledger.study.set_user_attr("zero_shot", 1.5)


@pytest.fixture
def ledger(database_url, spec, worker):
    """A ledger on each kind of database, with a trial of every state."""
    found = worker(with_search(spec, trials=9), database_url)
    fill(found)
    return found


@pytest.fixture
def own(sqlite_url, spec, worker):
    """The same on SQLite alone."""
    found = worker(with_search(spec, trials=9), sqlite_url)
    fill(found)
    return found


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", str(disk)]
    if subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_the_copy_is_the_study_of_every_database(ledger, tmp_path):
    study, folder = ledger.study, tmp_path / "with space & 100%"
    folder.mkdir()
    assert write_copy(study, folder) == ""
    copy, trials = load(folder), study.get_trials()
    states = {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert {trial.state for trial in trials} == states | {TrialState.RUNNING, TrialState.WAITING}
    for ours, theirs in zip(trials, copy.get_trials(), strict=True):
        for what in ("params", "distributions", "values", "intermediate_values", "user_attrs"):
            assert getattr(ours, what) == getattr(theirs, what)
        assert ours == theirs, "times, constraints and Optuna's own attributes, too"
    assert copy.study_name == study.study_name and copy.directions == study.directions
    assert copy.user_attrs == study.user_attrs and copy.metric_names == study.metric_names
    assert copy.best_value == study.best_value
    assert os.listdir(folder) == [FILE]


def test_it_is_what_optuna_would_have_copied(own, tmp_path):
    write_copy(own.study, tmp_path)
    theirs = f"sqlite:///{tmp_path}/theirs.db"
    name = own.study.study_name
    optuna.copy_study(from_study_name=name, from_storage=own.study._storage, to_storage=theirs)
    expected = optuna.load_study(study_name=name, storage=theirs)
    assert load(tmp_path).get_trials() == expected.get_trials()
    assert load(tmp_path).user_attrs == expected.user_attrs


def test_only_this_study_is_copied(own, tmp_path, worker, spec, sqlite_url):
    other = worker(spec.model_copy(update={"name": "other"}), sqlite_url)
    run(other)
    write_copy(other.study, tmp_path)
    assert optuna.get_all_study_names(f"sqlite:///{tmp_path / FILE}") == ["other"]
    assert load(tmp_path).get_trials() == other.study.get_trials()
    assert len(other.study.get_trials()) == 1


def test_no_password_is_in_the_file(postgres_url, spec, worker, tmp_path):
    found = worker(spec, postgres_url.set(password=PASSWORD))
    run(found)
    assert write_copy(found.study, tmp_path) == ""
    content = (tmp_path / FILE).read_bytes()
    assert b"because of complete" in content and PASSWORD.encode() not in content


def test_a_later_copy_takes_the_place_of_the_first(own, tmp_path):
    write_copy(own.study, tmp_path)
    with (tmp_path / FILE).open("rb") as first:
        before = first.read()
        finish(own, own.ask())
        write_copy(own.study, tmp_path)
        first.seek(0)
        assert first.read() == before, "who reads the first one reads it to its end"
    assert load(tmp_path).get_trials() == own.study.get_trials()


def test_drivers_that_end_at_once_leave_one_whole_copy(database_url, spec, worker, tmp_path):
    ledgers = [worker(spec, database_url, f"here:{n}") for n in range(4)]
    run(ledgers[0])
    calls = [lambda study=ledger.study: write_copy(study, tmp_path) for ledger in ledgers]
    assert at_once(*calls) == [""] * 4
    assert load(tmp_path).get_trials() == ledgers[0].study.get_trials()
    assert {path.name for path in tmp_path.iterdir() if "hpo.db" not in path.name} == {FILE}


def test_what_others_write_meanwhile_is_in_the_copy_wholly_or_not_at_all(
    database_url, spec, worker, tmp_path
):
    first, second = (worker(with_search(spec, trials=99), database_url, f"here:{n}") for n in "12")
    copies = []

    def write():
        for _ in range(12):
            run(second, stats=STATS)

    def copy():
        for number in range(4):
            folder = tmp_path / str(number)
            folder.mkdir()
            assert write_copy(first.study, folder) == ""
            copies.append(load(folder).get_trials())

    assert at_once(write, copy) == [None, None]
    ended = second.study.get_trials()
    for trials in copies:
        found = [trial for trial in trials if trial.state.is_finished()]
        assert found == ended[: len(found)]
        assert all(not t.user_attrs for t in trials[len(found) :]), "told in one transaction"


def test_a_study_goes_on_from_its_copy(own, tmp_path, spec, worker):
    write_copy(own.study, tmp_path)
    again = worker(with_search(spec, trials=9), parse_url(f"sqlite:///{tmp_path / FILE}"))
    assert again.identity == own.identity
    assert again.ask().number == 4, "the one that waits"


def test_a_study_that_lies_there_itself_is_left_alone(tmp_path, spec, worker):
    found = worker(spec, parse_url(f"sqlite:///{tmp_path / FILE}"))
    run(found)
    assert write_copy(found.study, tmp_path) == ""
    assert trial_count(tmp_path) == 1
    assert "hpo_leases" in sqlalchemy.inspect(found.leases._engine).get_table_names()


def trial_count(folder):
    """Trials in the file."""
    with closing(sqlite3.connect(folder / FILE)) as connection:
        return connection.execute("SELECT COUNT(*) FROM trials").fetchone()[0]


@pytest.mark.parametrize("log", ["study.db-wal", "study.db-journal"])
def test_a_copy_that_somebody_writes_to_is_not_replaced(own, tmp_path, log):
    (tmp_path / FILE).write_bytes(b"theirs")
    (tmp_path / log).touch()
    problem = write_copy(own.study, tmp_path)
    assert "was not written: it is in use" in problem and log in problem
    assert (tmp_path / FILE).read_bytes() == b"theirs"


def test_a_full_disk_is_a_line_and_the_copy_before_stays(own, tmp_path, small_disk):
    write_copy(own.study, small_disk)
    before = (small_disk / FILE).read_bytes()
    (small_disk / "ballast").write_bytes(bytes(small_disk_room(small_disk)))
    problem = write_copy(own.study, small_disk)
    assert "No space left on device" in problem and "is in its database" in problem
    assert (small_disk / FILE).read_bytes() == before
    assert {path.name for path in small_disk.iterdir()} == {FILE, "ballast"}


def small_disk_room(folder):
    """Bytes that a file may have there."""
    free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize


def test_a_folder_that_is_gone_is_a_line(own, tmp_path):
    assert "No such file or directory" in write_copy(own.study, tmp_path / "none")


def test_a_lost_database_is_a_line_and_the_copy_before_stays(postgres_url, spec, worker, tmp_path):
    found = worker(spec, postgres_url.set(password=PASSWORD))
    run(found)
    write_copy(found.study, tmp_path)
    before = (tmp_path / FILE).read_bytes()
    found.leases._engine.dispose()
    server = sqlalchemy.create_engine(
        postgres_url.set(database="postgres"),
        isolation_level="AUTOCOMMIT",
        poolclass=sqlalchemy.NullPool,
    )
    with server.connect() as connection:
        connection.exec_driver_sql(
            f"ALTER DATABASE {postgres_url.database} ALLOW_CONNECTIONS false"
        )
    problem = write_copy(found.study, tmp_path)
    assert "the database cannot be read now" in problem and PASSWORD not in problem
    assert (tmp_path / FILE).read_bytes() == before
    assert os.listdir(tmp_path) == [FILE]


def test_a_deleted_study_leaves_the_copy_before(own, tmp_path):
    write_copy(own.study, tmp_path)
    optuna.delete_study(study_name=own.study.study_name, storage=own.study._storage)
    assert "not whole" in write_copy(own.study, tmp_path)
    assert trial_count(tmp_path) == 5


def test_what_a_killed_process_left_is_removed_later(own, tmp_path):
    old, new = tmp_path / f"{FILE}.1.writing", tmp_path / f"{FILE}.2.writing"
    for path in (old, new):
        path.touch()
    long_ago = time.time() - ABANDONED_S - 60
    os.utime(old, (long_ago, long_ago))
    assert write_copy(own.study, tmp_path) == ""
    assert not old.exists() and new.exists()
