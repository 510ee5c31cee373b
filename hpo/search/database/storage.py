"""The database: its URL, its one schema-creating moment, and what can be wrong with it."""

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import URL, Engine, event, text
from sqlalchemy.engine import make_url

from hpo.errors import StorageError
from hpo.search.database.filesystems import network_file_system

VARIABLE = "HPO_STORAGE"
FILE_VARIABLE = "HPO_STORAGE_FILE"
DEFAULT = "sqlite:///hpo.db"
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
PACKAGES = {"psycopg": "'psycopg[binary]'"}  # where it is not the driver's name
SECRET = re.compile("pass|secret|token", re.IGNORECASE)
LOCK_TIMEOUT_S = 120
BUSY_TIMEOUT_S = 20
CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 30


def parse_url(given: str) -> URL:
    """The URL with the driver that the extras install.

    Raises:
        StorageError: it is no URL of SQLite, PostgreSQL or MySQL/MariaDB.
    """
    try:
        url = make_url(given)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise StorageError(
            "--storage is not a database URL; write sqlite:///hpo.db or "
            "postgresql://user@host/database"
        ) from None  # its text may hold a password
    backend = url.get_backend_name()
    if backend not in ("sqlite", *DRIVERS):
        raise StorageError(
            f"--storage {redacted(url)}: {backend} is not supported; use sqlite, postgresql, mysql"
        )
    if backend == "sqlite" and not url.database:
        raise StorageError("--storage sqlite://: in memory nothing lasts; write sqlite:///hpo.db")
    if backend in DRIVERS and "+" not in url.drivername:
        url = url.set(drivername=f"{backend}+{DRIVERS[backend]}")
    return url


def chosen(option: str | None) -> str:
    """The URL as given: the option, $HPO_STORAGE, the file $HPO_STORAGE_FILE, or a file here.

    Raises:
        StorageError: the option holds a password, or the file cannot be read.
    """
    if option:
        _refuse_password(option)
        return option
    file = os.environ.get(FILE_VARIABLE)
    if not os.environ.get(VARIABLE) and file:
        try:
            return Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"${FILE_VARIABLE} = {file}: cannot be read: {error}") from None
    return os.environ.get(VARIABLE) or DEFAULT


def _refuse_password(option: str) -> None:
    """A command line is public: `ps` shows it to everybody on the host."""
    if secrets(option):
        raise StorageError(
            "--storage holds a password, and everybody on this host can read a command line: put "
            f"the URL into ${VARIABLE}, or into a file that ${FILE_VARIABLE} names"
        )


def secrets(given: str) -> list[str]:
    """The passwords in a URL, as they are written and as they are meant."""
    try:
        url = make_url(given)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return []
    found = [str(url.password)] if url.password else []
    for key, value in url.query.items():
        if SECRET.search(key):
            found += [value] if isinstance(value, str) else list(value)
    return sorted({*found, *(quote(s, safe="") for s in found), *map(quote_plus, found)} - {""})


def scrubbed(text: str, given: str) -> str:
    """A text, such as a traceback, without the passwords of a URL."""
    for secret in sorted(secrets(given), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def redacted(url: URL) -> str:
    """The URL with its password hidden."""
    hidden = {key: "***" for key in url.query if SECRET.search(key)}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


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
    if url.get_backend_name() == "sqlite":
        event.listen(storage.engine, "connect", _tune_sqlite)
        storage.engine.dispose()  # connections made before are not tuned
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
    text = (
        f"database {redacted(url)}: cannot be used: {first}; check that it exists, that the "
        "server runs and lets you in, and that there is space"
    )
    return scrubbed(text, url.render_as_string(hide_password=False))


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


def _tune_sqlite(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


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
        connection.execute(text("SELECT pg_advisory_lock(hashtext('hpo'))"))
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(hashtext('hpo'))"))
        return
    name = f"hpo {engine.url.database}"[:64]
    taken = connection.execute(text("SELECT GET_LOCK(:n, :t)"), {"n": name, "t": LOCK_TIMEOUT_S})
    if taken.scalar() != 1:
        raise StorageError(f"database {redacted(engine.url)}: another process has held it for long")
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
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"hpo-{name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
