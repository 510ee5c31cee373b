"""Databases: their URLs, their passwords, and what can be wrong with them."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from optuna.trial import TrialState
from sqlalchemy import text

from hpo.errors import FingerprintError, HpoError, StorageError
from hpo.search.database import storage as storage_module
from hpo.search.database.outage import is_away
from hpo.search.database.redaction import redacted, scrubbed
from hpo.search.database.storage import connect, exclusive
from hpo.search.database.urls import (
    DEFAULT,
    FILE_VARIABLE,
    VARIABLE,
    chosen,
    parse_url,
)
from hpo.specs import ConstantParam

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "s3cret!word"
NOBODY = "127.0.0.1:1"  # a port where no server listens


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///hpo.db", "sqlite"),
        ("postgresql://me@host/hpo", "postgresql+psycopg"),
        ("postgresql+psycopg2://me@host/hpo", "postgresql+psycopg2"),
        ("mysql://me@host/hpo", "mysql+pymysql"),
        ("mariadb://me@host/hpo", "mysql+pymysql"),
    ],
)
def test_urls_get_the_driver_that_the_extras_install(given, driver):
    assert parse_url(given).drivername == driver


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("hpo.db", ("--storage", "sqlite:///hpo.db")),
        ("", ("--storage", "sqlite:///hpo.db")),
        ("oracle://me@host/hpo", ("oracle", "not supported", "sqlite, postgresql, mysql")),
        (f"redis://me:{SECRET}@host/0", ("redis", "not supported")),
        (f"me:{SECRET}@host", ("--storage",)),
    ],
)
def test_what_is_no_database_url_is_refused(given, words):
    with pytest.raises(StorageError) as caught:
        parse_url(given)
    for word in words:
        assert word in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://me:s3cret%21word@host/hpo",
        "mysql://me:s3cret!word@host/hpo?charset=utf8mb4",
        "postgresql://me@host/hpo?password=s3cret%21word",
    ],
)
def test_a_password_is_never_shown(given):
    shown = redacted(parse_url(given))
    assert "s3cret" not in shown
    assert "me" in shown and "host/hpo" in shown


@pytest.fixture(autouse=True)
def _no_database_in_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(FILE_VARIABLE, raising=False)


WITH_PASSWORD = (
    "postgresql://me:s3cret!word@host/hpo",
    "postgresql://me:s3cret%21word@host/hpo",
    "postgresql://me@host/hpo?password=s3cret%21word",
    "mysql://me@host/hpo?ssl_token=s3cret%21word",
)


@pytest.mark.parametrize("given", WITH_PASSWORD)
def test_a_password_on_the_command_line_is_refused(given):
    with pytest.raises(StorageError) as caught:
        chosen(given)
    message = str(caught.value)
    assert "s3cret" not in message
    for word in ("--storage", f"${VARIABLE}", FILE_VARIABLE):
        assert word in message


@pytest.mark.parametrize("given", ["sqlite:///hpo.db", "postgresql://me@host/hpo?sslmode=require"])
def test_without_a_password_the_option_comes_first(monkeypatch, given):
    monkeypatch.setenv(VARIABLE, "sqlite:///other.db")
    assert chosen(given) == given


@pytest.mark.parametrize("given", WITH_PASSWORD)
def test_a_password_comes_by_environment_or_by_file(monkeypatch, tmp_path, given):
    file = tmp_path / "url"
    file.write_text(f"{given}\n")
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    assert chosen(None) == given
    file.write_text("sqlite:///other.db")
    monkeypatch.setenv(VARIABLE, given)
    assert chosen(None) == given


def test_without_any_word_the_database_is_a_file_here():
    assert chosen(None) == DEFAULT == "sqlite:///hpo.db"


def test_a_file_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    for file in (tmp_path / "none", tmp_path):
        monkeypatch.setenv(FILE_VARIABLE, str(file))
        with pytest.raises(StorageError, match="cannot be read") as caught:
            chosen(None)
        assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("postgresql://me:s3cret!word@host/hpo", "s3cret!word"),
        ("postgresql://me:s3cret!word@host/hpo", "s3cret%21word"),
        ("postgresql://me:s3cret%21word@host/hpo", "s3cret!word"),
        ("postgresql://me:s3cret%21word@host/hpo", "s3cret%21word"),
        ("postgresql://me:s3cret%20word@host/hpo", "s3cret+word"),
        ("postgresql://me:s3cret%2Fword@host/hpo", "s3cret%2Fword"),
        ("postgresql://me@host/hpo?password=s3cret!word", "s3cret!word"),
    ],
)
def test_a_text_is_scrubbed_of_the_password_however_it_is_written(given, written):
    text = f"connection to {given} failed: no password '{written}' for user me"
    found = scrubbed(text, given)
    assert "s3cret" not in found
    assert "for user me" in found and "***" in found


def test_a_password_that_holds_another_is_scrubbed_whole():
    given = "postgresql://me:word@host/hpo?token=wordy"
    assert scrubbed("wordy word", given) == "*** ***"


@pytest.mark.parametrize("given", ["sqlite:///hpo.db", "nonsense", "postgresql://me@host/hpo"])
def test_without_a_password_a_text_stays_as_it_is(given):
    assert scrubbed("a word of hpo", given) == "a word of hpo"


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_server_that_cannot_be_reached_is_named_without_its_password(kind):
    url = parse_url(f"{kind}://me:{SECRET}@{NOBODY}/hpo")
    with pytest.raises(StorageError) as caught:
        connect(url)
    message = str(caught.value)
    assert "cannot be used" in message and NOBODY in message and "server runs" in message
    assert SECRET not in message and "***" in message
    assert "\n" not in message and "Traceback" not in message


def test_a_database_that_is_not_there_is_named(postgres_url):
    with pytest.raises(StorageError, match="no_such_database"):
        connect(postgres_url.set(database="no_such_database"))


def test_a_database_that_is_not_there_is_named_on_mariadb(mysql_url):
    with pytest.raises(StorageError, match="no_such_database"):
        connect(mysql_url.set(database="no_such_database"))


def test_a_driver_that_is_not_installed_is_named_with_its_package():
    with pytest.raises(StorageError, match="driver is not installed; run pip install pg8000"):
        connect(parse_url("postgresql+pg8000://me@host/hpo"))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match="not a folder; create it"):
        connect(parse_url(f"sqlite:///{tmp_path}/none/hpo.db"))


def test_a_folder_in_place_of_a_database_is_named(tmp_path):
    with pytest.raises(StorageError, match="cannot be used"):
        connect(parse_url(f"sqlite:///{tmp_path}"))


def test_a_file_that_is_no_database_is_named_and_left_as_it_is(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("learning rate 1e-4 was best\n" * 100)
    before = file.read_bytes()
    with pytest.raises(StorageError, match="not a database"):
        connect(parse_url(f"sqlite:///{file}"))
    assert file.read_bytes() == before


def test_a_database_of_another_optuna_is_refused(database_url):
    connect(database_url).engine.dispose()
    engine = sqlalchemy.create_engine(database_url)
    for version in ("v3.0.0.d", "v9.9.9.a"):
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})
            connection.execute(text("UPDATE version_info SET library_version = '3.0.0'"))
        with pytest.raises(StorageError) as caught:
            connect(database_url)
        for word in ("another version of Optuna", "optuna storage upgrade", "--storage"):
            assert word in str(caught.value)
    engine.dispose()


def test_a_database_is_opened_again_with_what_is_in_it(sqlite_url, spec, worker):
    asked = worker(spec, sqlite_url).ask()
    again = worker(spec, sqlite_url)
    assert [t.number for t in again.study.trials] == [asked.trial.number]
    assert again.study.trials[0].params == asked.trial.params


def test_a_file_is_in_wal_mode(sqlite_url, spec, worker):
    worker(spec, sqlite_url)
    connection = sqlite3.connect(sqlite_url.database)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_every_connection_to_a_file_waits_for_no_more_than_it_must(sqlite_url):
    storage = connect(sqlite_url)
    connections = [storage.engine.connect() for _ in range(3)]
    modes = [c.execute(text("PRAGMA synchronous")).scalar() for c in connections]
    for connection in connections:
        connection.close()
    storage.engine.dispose()
    assert modes == [1] * 3  # NORMAL


@pytest.mark.parametrize("kind", ["postgres_url", "mysql_url"])
def test_who_is_stopped_in_a_transaction_does_not_hold_its_rows(kind, request, monkeypatch):
    monkeypatch.setattr(storage_module, "PAUSE_TIMEOUT_S", 1)
    url = request.getfixturevalue(kind)
    stopped, other = connect(url).engine, connect(url).engine
    with other.begin() as connection:
        connection.execute(text("CREATE TABLE held (number INTEGER PRIMARY KEY)"))
        connection.execute(text("INSERT INTO held VALUES (1)"))
    with stopped.connect() as holder:
        holder.execute(text("SELECT number FROM held WHERE number = 1 FOR UPDATE"))
        with other.begin() as connection:  # waits for the server to end the other's
            connection.execute(text("UPDATE held SET number = 2"))
        with pytest.raises(sqlalchemy.exc.DBAPIError) as told:
            holder.execute(text("UPDATE held SET number = 3"))
        assert is_away(told.value)
        holder.invalidate()
    with other.connect() as connection:
        assert connection.execute(text("SELECT number FROM held")).scalar() == 2


def test_an_error_under_the_lock_frees_it(database_url):
    with pytest.raises(HpoError), exclusive(database_url):
        raise HpoError("something")
    with exclusive(database_url):
        pass


OPEN_AT_ONCE = """
import multiprocessing, sys
from hpo.search.study.fingerprint import fingerprint
from hpo.search.database.urls import parse_url
from hpo.search.opening import open_study
from hpo.specs import StudySpec

spec = StudySpec.model_validate_json(sys.argv[1])
prints = fingerprint(spec, data_digest="d", weights_digest="w")
context = multiprocessing.get_context("fork")
barrier = context.Barrier(8)

def opened():
    barrier.wait()
    open_study(spec, parse_url(sys.argv[2]), prints, samples=32)

processes = [context.Process(target=opened) for _ in range(8)]
for process in processes:
    process.start()
for process in processes:
    process.join()
print([process.exitcode for process in processes])
"""


def test_eight_processes_at_once_open_an_empty_database(database_url, mini_study, worker):
    url = database_url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AT_ONCE, mini_study.model_dump_json(), url],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.stdout.strip() == str([0] * 8), done.stderr
    engine = sqlalchemy.create_engine(database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM studies")).scalar() == 1
    engine.dispose()
    trials = worker(mini_study, database_url).study.trials
    assert [trial.state for trial in trials] == [TrialState.WAITING] * len(mini_study.known)


def test_a_study_of_other_settings_is_not_resumed(sqlite_url, spec, worker):
    worker(spec, sqlite_url)
    trial = spec.trial.model_copy(update={"epochs": 7})
    with pytest.raises(FingerprintError, match=r"trial\.epochs was 1, now 7"):
        worker(spec.model_copy(update={"trial": trial}), sqlite_url)
    assert worker(spec, sqlite_url).finished() == 0


def test_a_study_that_somebody_else_made_is_left_alone(sqlite_url, spec, worker):
    ledger = worker(spec, sqlite_url)
    other = spec.model_copy(update={"name": "made by hand"})
    storage = ledger.study._storage
    study_id = storage.create_new_study(ledger.study.directions, "made by hand")
    storage.create_new_trial(study_id)
    with pytest.raises(StorageError, match=r"was not made by hpo; use --name"):
        worker(other, sqlite_url)


def test_no_password_is_stored(postgres_url, spec, worker):
    url = postgres_url.set(password=SECRET)
    ledger = worker(spec, url)
    ledger.ask()
    stored = json.dumps([ledger.study.user_attrs, ledger.study.trials[0].user_attrs])
    assert "epochs" in stored
    assert SECRET not in stored


def test_known_configurations_are_enqueued_once(sqlite_url, mini_study, worker):
    for _ in range(3):
        trials = worker(mini_study, sqlite_url).study.trials
        assert [trial.state for trial in trials] == [TrialState.WAITING] * len(mini_study.known)


def test_no_more_known_configurations_than_trials(sqlite_url, mini_study, worker):
    known = ({"batch_size": 4}, {"batch_size": 8}, {"batch_size": 16})
    space = {**mini_study.space, "lora_r": ConstantParam(type="constant", value=8)}
    for trials in (2, 2, 9):
        search = mini_study.search.model_copy(update={"trials": trials})
        changed = {"known": known, "search": search, "space": space}
        ledger = worker(mini_study.model_copy(update=changed), sqlite_url)
        assert len(ledger.study.trials) == min(trials, 3)
