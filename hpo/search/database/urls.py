"""A database by its URL: where it comes from, and how its password stays unseen."""

import os
import re
from pathlib import Path
from urllib.parse import quote, quote_plus

import sqlalchemy
from sqlalchemy import URL
from sqlalchemy.engine import make_url

from hpo.errors import StorageError

VARIABLE = "HPO_STORAGE"
FILE_VARIABLE = "HPO_STORAGE_FILE"
DEFAULT = "sqlite:///hpo.db"
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
SECRET = re.compile("pass|secret|token", re.IGNORECASE)


def parse_url(given: str) -> URL:
    """The URL with the driver that the extras install.

    Raises:
        StorageError: it is no URL of SQLite, PostgreSQL or MySQL/MariaDB.
    """
    try:
        url = make_url(given)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise StorageError(
            f"what --storage, ${VARIABLE} or ${FILE_VARIABLE} gives is not a database URL; write "
            "sqlite:///hpo.db or postgresql://user@host/database"
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
    return url.set(drivername=url.drivername.replace("mariadb", "mysql"))  # as Optuna knows it


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


def _read(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise StorageError(
            f"${FILE_VARIABLE} = {file}: cannot be read ({why}); it is to hold a database URL"
        ) from None


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
