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

from hpo.errors import HpoError, StorageError
from hpo.search.database.errors import explained
from hpo.search.database.file_watch import FileWatch
from hpo.search.database.filesystems import network_file_system
from hpo.search.database.options import driver_arguments
from hpo.search.database.redaction import redacted, shown_path

PACKAGES = {  # where it is not the driver's name
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "mysqldb": "mysqlclient",
    "mysqlconnector": "mysql-connector-python",
    "mariadbconnector": "mariadb",
}
LOCK_TIMEOUT_S = 120
LOCK_POLL_S = 0.05
HELD = f"another process has been opening it for {LOCK_TIMEOUT_S} s; end it if it hangs"
PAUSE_TIMEOUT_S = 10  # within a transaction; they take milliseconds


def connect(url: URL) -> RDBStorage:
    """Optuna's storage on the database, with the schema there.

    Raises:
        StorageError: it cannot be reached, lacks its driver, is of another Optuna version, or is
            SQLite on a network file system.
    """
    with _explained(url):
        if url.get_backend_name() == "sqlite":
            check_file(url)
        bare, arguments = driver_arguments(url)
        with exclusive(url):
            storage = RDBStorage(
                bare.render_as_string(hide_password=False),
                engine_kwargs={"connect_args": arguments, **_pool(url)},
            )
        _tune(storage.engine)
        if url.get_backend_name() == "sqlite":
            with storage.engine.connect() as connection:
                connection.execute(text("PRAGMA journal_mode=WAL"))
            FileWatch(Path(url.database or "")).attach(storage.engine)
    return storage


@contextmanager
def _explained(url: URL) -> Iterator[None]:
    """Turns whatever a driver raises into a StorageError."""
    try:
        yield
    except HpoError:
        raise
    except ImportError as error:
        driver = url.get_driver_name()
        raise StorageError(
            f"database {redacted(url)}: its driver is not installed; run pip install "
            f"{PACKAGES.get(driver, driver)}, or write the URL without +{driver}"
        ) from error
    except Exception as error:  # drivers raise TypeError, OSError and more for an option
        raise StorageError(explained(url, error)) from error


def check_file(url: URL) -> None:
    """Checks that a SQLite file can lie where its URL says; opens and makes nothing.

    Raises:
        StorageError: its folder is not there or on a network file system, or it is no file.
    """
    path = Path(url.database or "")
    _check_folder(url)
    _refuse_network(url)
    if path.is_dir():
        raise StorageError(
            f"database {redacted(url)}: cannot be used: it is a folder; add the name of a file"
        )
    if path.exists() and not path.is_file():
        raise StorageError(
            f"database {redacted(url)}: cannot be used: it is no regular file; give another path"
        )


def _check_folder(url: URL) -> None:
    folder = Path(url.database or "").absolute().parent
    if not folder.is_dir():
        raise StorageError(
            f"database {redacted(url)}: {shown_path(str(folder))} is not a folder; create it"
        )


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
        why = explained(url, error)
        raise StorageError(f"{why}; the same command continues where this one ended") from error


def _pool(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {}
    return {"pool_pre_ping": True, "pool_size": 2}


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
    bare, arguments = driver_arguments(url)
    engine = sqlalchemy.create_engine(bare, connect_args=arguments)
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
    _check_folder(url)
    path = Path(url.database or "").absolute()
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
