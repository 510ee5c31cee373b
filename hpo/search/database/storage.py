"""The database: its one schema-creating moment, and what can be wrong with it."""

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import URL, Engine, event, text

from hpo.errors import StorageError
from hpo.search.database.filesystems import network_file_system
from hpo.search.database.urls import redacted, scrubbed

PACKAGES = {"psycopg": "'psycopg[binary]'"}  # where it is not the driver's name
LOCK_TIMEOUT_S = 120
LOCK_POLL_S = 0.05
HELD = f"another process has been opening it for {LOCK_TIMEOUT_S} s; end it if it hangs"
BUSY_TIMEOUT_S = 20
CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 30
PAUSE_TIMEOUT_S = 10  # within a transaction; they take milliseconds


def connect(url: URL) -> RDBStorage:
    """Optuna's storage on the database, with the schema there.

    Raises:
        StorageError: it cannot be reached, lacks its driver, is of another Optuna version, or is
            SQLite on a network file system.
    """
    if url.get_backend_name() == "sqlite":
        _refuse_network(url)
    try:
        with exclusive(url):
            storage = RDBStorage(
                url.render_as_string(hide_password=False), engine_kwargs=_engine_kwargs(url)
            )
    except ImportError as error:
        package = PACKAGES.get(url.get_driver_name(), url.get_driver_name())
        raise StorageError(
            f"database {redacted(url)}: its driver is not installed; run pip install {package}"
        ) from error
    except (RuntimeError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise StorageError(_why(url, error)) from error
    _tune(storage.engine)
    if url.get_backend_name() == "sqlite":
        with storage.engine.connect() as connection:
            connection.execute(text("PRAGMA journal_mode=WAL"))
    return storage


def _refuse_network(url: URL) -> None:
    kind = network_file_system(Path(url.database or ""))
    if kind:
        raise StorageError(
            f"database {redacted(url)}: lies on a network file system ({kind}), where SQLite loses "
            "data; put it on a local disk, or use PostgreSQL or MariaDB for several hosts"
        )


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turns what the database raises in mid-run into a StorageError."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        why = _why(url, error)
        raise StorageError(f"{why}; the same command goes on where this one ended") from error
    except KeyError as error:
        if "Record does not exist" not in str(error):
            raise
        raise StorageError(
            f"database {redacted(url)}: the study was deleted while it ran; "
            "the same command begins it anew"
        ) from error


def _why(url: URL, error: Exception) -> str:
    if isinstance(error, RuntimeError) and "version" in str(error).lower():
        return (
            f"database {redacted(url)}: written by another version of Optuna; run "
            "`optuna storage upgrade` on a copy of it, or give an empty database by --storage"
        )
    cause = getattr(error, "orig", None) or error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    first = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    if url.password:
        first = first.replace(str(url.password), "***")
    first = scrubbed(first, url.render_as_string(hide_password=False))
    return (
        f"database {redacted(url)}: cannot be used: {first}; check that it exists, that the "
        "server runs and lets you in, and that there is space"
    )


def _engine_kwargs(url: URL) -> dict[str, object]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
    return {
        "pool_pre_ping": True,
        "pool_size": 2,
        "connect_args": {"connect_timeout": CONNECT_TIMEOUT_S, **_answer_within(url)},
    }


def _answer_within(url: URL) -> dict[str, object]:
    """A server that is unplugged says nothing: without a limit, one call would wait for ever."""
    if url.get_backend_name() == "postgresql":
        if url.get_driver_name() != "psycopg":
            return {}
        return {"tcp_user_timeout": 1000 * ANSWER_TIMEOUT_S, "keepalives_idle": ANSWER_TIMEOUT_S}
    if url.get_driver_name() == "pymysql":
        return {"read_timeout": ANSWER_TIMEOUT_S, "write_timeout": ANSWER_TIMEOUT_S}
    return {}


def _tune(engine: Engine) -> None:
    """Has every connection begin with what suits its kind of database.

    Servers end what stands still in a transaction: a process that is stopped there would hold its
    rows, and everybody else would wait for them. MySQL knows no such limit.
    """
    kind = "mariadb" if getattr(engine.dialect, "is_mariadb", False) else engine.dialect.name
    statement = {
        "sqlite": "PRAGMA synchronous=NORMAL",
        "postgresql": f"SET idle_in_transaction_session_timeout = '{PAUSE_TIMEOUT_S}s'",
        "mariadb": f"SET SESSION idle_transaction_timeout = {PAUSE_TIMEOUT_S}",
    }.get(kind)
    if statement is None:
        return

    def begin(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        connection.commit()

    event.listen(engine, "connect", begin)
    engine.dispose()  # connections made before are not tuned


@contextmanager
def exclusive(url: URL) -> Iterator[None]:
    """One process at a time, over all that use this database: for creating schema and study.

    Creation is not atomic in Optuna: of 16 processes at once on a fresh database, one to seven
    survive.
    """
    backend = url.get_backend_name()
    if backend == "sqlite":
        with _file_lock(url):
            yield
        return
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
    try:
        with engine.connect() as connection, _server_lock(connection, engine):
            yield
    finally:
        engine.dispose()


@contextmanager
def _server_lock(connection: sqlalchemy.Connection, engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "postgresql":
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        connection.execute(text("SELECT pg_advisory_lock(hashtext('hpo'))"))
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(hashtext('hpo'))"))
        return
    name = f"hpo {engine.url.database}"[:64]
    taken = connection.execute(text("SELECT GET_LOCK(:n, :t)"), {"n": name, "t": LOCK_TIMEOUT_S})
    if taken.scalar() != 1:
        raise StorageError(f"database {redacted(engine.url)}: {HELD}")
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:n)"), {"n": name})


@contextmanager
def _file_lock(url: URL) -> Iterator[None]:
    """A lock file among the temporary files: opening the database itself would drop its locks."""
    path = Path(url.database or "").absolute()
    if not path.parent.is_dir():
        raise StorageError(f"database {redacted(url)}: {path.parent} is not a folder; create it")
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"hpo-{name}.lock").open("a") as file:
        until = time.monotonic() + LOCK_TIMEOUT_S
        while not _locked(file):
            if time.monotonic() > until:
                raise StorageError(f"database {redacted(url)}: {HELD}")
            time.sleep(LOCK_POLL_S)
        yield


def _locked(file: TextIO) -> bool:
    """Takes the lock, if nobody holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
