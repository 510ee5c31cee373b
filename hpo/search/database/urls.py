"""A database by its URL: where it comes from, and what is wrong with the way it is written."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

import sqlalchemy
from sqlalchemy import URL
from sqlalchemy.engine import make_url

from hpo.errors import StorageError
from hpo.search.database.redaction import (
    HIDDEN,
    HOST,
    SECRET,
    passwords,
    shown_path,
)

VARIABLE = "HPO_STORAGE"
FILE_VARIABLE = "HPO_STORAGE_FILE"
DEFAULT = "sqlite:///hpo.db"
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
ALIASES = {"postgres": "postgresql", "sqlite3": "sqlite"}
OTHERS = (
    *("oracle", "mssql", "mongodb", "redis", "db2", "duckdb", "cockroachdb", "snowflake"),
    *("clickhouse", "firebird", "journal", "grpc", "http", "https", "file", "jdbc", "s3"),
)
SYNCHRONOUS = {
    "sqlite": ("pysqlite",),
    "postgresql": ("psycopg", "psycopg2", "psycopg2cffi", "pg8000"),
    "mysql": ("pymysql", "mysqldb", "mysqlconnector", "cymysql", "mariadbconnector"),
}
ASYNCHRONOUS = ("asyncpg", "aiomysql", "asyncmy", "aiosqlite", "psycopg_async")
WRITE = "write sqlite:///hpo.db or postgresql://user@host/database"
ENCODE = (
    "in a user or password write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, % as %25 and a "
    f"space as %20; put the URL into ${VARIABLE}, or into a file that ${FILE_VARIABLE} names"
)
SOURCE = f"what --storage, ${VARIABLE} or ${FILE_VARIABLE} gives"
BLANKS = re.compile(r"[\s\x00-\x1f\x7f]")
HIGHEST_PORT = 65535


def parse_url(given: str) -> URL:
    """The URL with the driver that the extras install.

    Raises:
        StorageError: it is no URL of SQLite, PostgreSQL or MySQL/MariaDB; no part of it that may
            be a secret is in the message.
    """
    given = given.strip()
    if why := _malformed(given):
        raise StorageError(f"{SOURCE} is not a database URL: {why}")
    scheme, _, rest = given.partition("://")
    backend, _, driver = scheme.lower().partition("+")
    backend = ALIASES.get(backend, backend)
    _check_driver(backend, driver)
    try:
        url = make_url(f"{backend}://{rest}")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise StorageError(
            f"{SOURCE} cannot be read: what follows the host and a colon is not a port, or there "
            f"is a raw character in the password: {ENCODE}; several hosts are written "
            "?host=one:5432&host=two:5432"
        ) from None  # its text may hold a password
    if backend == "sqlite":
        url = _plain_path(url)
        _check_sqlite(url)
        return url
    _check_server(url, rest)
    backend = "mysql" if backend == "mariadb" else backend  # as Optuna knows it
    return url.set(drivername=f"{backend}+{driver or DRIVERS[backend]}")


def _malformed(given: str) -> str:
    """What is wrong with a text that cannot be a URL, and how to write it; or nothing."""
    scheme, separator, rest = given.partition("://")
    try:
        given.encode()
    except UnicodeEncodeError:
        return "it is not UTF-8; give the database a path and a name of UTF-8 characters"
    if given[:1] in ("'", '"', "`"):
        return "it stands in quotes; write it without them"
    if not separator:
        return _without_scheme(given)
    if "://" in rest.removeprefix("/file://"):
        return f"there are two URLs in it, or a raw :// in its password: {ENCODE}"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+]*", scheme):
        return f"it does not begin with a kind of database; {WRITE}"
    if any(ord(letter) < ord(" ") for letter in given):
        return "it has a line break or a control character in it; write one URL in one line"
    return ""


def _without_scheme(given: str) -> str:
    if re.search(r"\b(host|hostaddr|dbname|user|password|service)\s*=", given, re.IGNORECASE):
        return (
            "it is a list of keys and values; write it as a URL, postgresql://user@host/database; "
            f"{ENCODE}"
        )
    if re.match(r"\w+:/", given):
        return f"two slashes belong behind the first colon; {WRITE}"
    return WRITE


def _check_driver(backend: str, driver: str) -> None:
    if backend not in ("sqlite", *DRIVERS):
        kind = backend if backend in OTHERS else "its kind of database"
        raise StorageError(
            f"--storage {kind}://{HIDDEN}: {kind} is not supported; use sqlite, postgresql, mysql"
        )
    plain = f"write {backend}:// for {DRIVERS.get(backend, 'the one of Python')}"
    if driver in ASYNCHRONOUS:
        raise StorageError(
            f"--storage {backend}+{driver}://{HIDDEN}: {driver} is an asynchronous driver, which "
            f"Optuna cannot use; {plain}"
        )
    known = SYNCHRONOUS[{"mariadb": "mysql"}.get(backend, backend)]
    if driver and driver not in known:
        raise StorageError(
            f"--storage {backend}+{HIDDEN}://{HIDDEN}: its driver is none of {', '.join(known)}; "
            f"{plain}"
        )


def _plain_path(url: URL) -> URL:
    """A path for a `file:` URI, so that the file can be looked at before and while it is used."""
    path = url.database or ""
    if not path.startswith("file:") or str(url.query.get("uri")).lower() not in ("true", "1"):
        return url
    path = re.sub(r"^file:(//(localhost)?(?=/))?", "", path)
    return url.set(database=unquote(path)).difference_update_query(["uri"])


def _check_sqlite(url: URL) -> None:
    if url.host or url.username or url.password or url.port:
        raise StorageError(
            f"--storage sqlite://{HIDDEN}: SQLite is a file and has no host, user or password; "
            "write three slashes before a relative path, sqlite:///hpo.db, and four before an "
            "absolute one"
        )
    path = url.database or ""
    if not path or path in (":memory:", "file::memory:") or url.query.get("mode") == "memory":
        raise StorageError("--storage sqlite://: in memory nothing lasts; write sqlite:///hpo.db")
    if "\ufffd" in path:  # what the standard library makes of an escaped byte that is no text
        raise StorageError("--storage sqlite:///: its path is not UTF-8; give the file another")
    if path.startswith("~") and not Path(path.split("/")[0]).exists():
        home = Path(path).expanduser() if path.startswith("~/") else "/home/..."
        raise StorageError(
            f"--storage sqlite:///{shown_path(path)}: ~ is not expanded inside of a URL; write "
            f"sqlite:///{home}"
        )


def _check_server(url: URL, rest: str) -> None:
    """Each part looks like what it is to be; a raw character of a password moves them."""
    problem = ""
    if BLANKS.search(rest):
        problem = "it has a space in it"
    elif rest.count("@") > 1:
        problem = "it has several @, where one divides user and password from the host"
    elif url.host and not HOST.fullmatch(url.host.lower()):
        problem = "what stands where its host is to be is no host name"
    elif url.port is not None and not 0 < url.port <= HIGHEST_PORT:
        problem = f"what stands where its port is to be is not between 1 and {HIGHEST_PORT}"
    elif re.search(r"[@:/?#]", url.database or ""):
        problem = "what stands where the name of its database is to be is no name"
    if problem:
        raise StorageError(f"{SOURCE} cannot be read: {problem}; {ENCODE}")


def variable() -> str | None:
    """The environment variable that names the database where no option does, if one does."""
    return next((name for name in (VARIABLE, FILE_VARIABLE) if os.environ.get(name)), None)


def chosen(option: str | None) -> str:
    """The URL as given: the option, $HPO_STORAGE, the file $HPO_STORAGE_FILE, or a file here.

    Raises:
        StorageError: the option holds a password, or the file cannot be read.
    """
    if option:
        _refuse_password(option)
        return option
    match variable():
        case None:
            return DEFAULT
        case name if name == FILE_VARIABLE:
            return _read(os.environ[name])
        case name:
            return os.environ[name]


def given_text(option: str | None) -> str:
    """All that was given in place of a URL, right or wrong, to keep it out of what is printed."""
    if option:
        return option
    try:
        return chosen(None)
    except StorageError:
        return os.environ.get(FILE_VARIABLE, "")


def _read(file: str) -> str:
    if "://" in file:
        raise StorageError(
            f"${FILE_VARIABLE} is a URL, and is to name a file that holds one; put the URL into "
            f"${VARIABLE}, or its file's name into ${FILE_VARIABLE}"
        )
    try:
        return Path(file).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise StorageError(
            f"${FILE_VARIABLE} = {shown_path(file)}: cannot be read ({why}); it is to hold a "
            "database URL"
        ) from None


def _refuse_password(option: str) -> None:
    """A command line is public: `ps` shows it to everybody on the host."""
    if not _holds_password(option):
        return
    raise StorageError(
        "--storage holds a password, and everybody on this host can read a command line: put "
        f"the URL into ${VARIABLE}, or into a file that ${FILE_VARIABLE} names, and "
        "percent-encode what is special in it (@ as %40, / as %2F)"
    )


def _holds_password(option: str) -> bool:
    """Whether a URL has a secret in it, or is so malformed that it may hide one."""
    try:
        return bool(passwords(parse_url(option)))
    except StorageError:
        assigned = re.search(rf"({SECRET.pattern})\w*\s*=", option, re.IGNORECASE)
        return bool(assigned or re.search(r":.*@", option.partition("://")[2] or option, re.DOTALL))
