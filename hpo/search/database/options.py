"""The options of a database URL, such as `?sslmode=require`: checked, and as drivers take them."""

import difflib
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from hpo.errors import StorageError
from hpo.search.database.redaction import redacted, shown_path

BUSY_TIMEOUT_S = 20
CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 30
LONGEST_S = 365 * 24 * 3600
TRUE, FALSE = ("true", "1", "yes", "on", "{}"), ("false", "0", "no", "off")
OPTION = re.compile(r"[a-z_]{1,32}")  # a key that looks like an option; others are not shown


def driver_arguments(url: URL) -> tuple[URL, dict[str, Any]]:
    """(URL to connect by, keyword arguments of the driver); options of the URL come first.

    Raises:
        StorageError: an option that the driver does not know, or a value that it cannot have.
        ImportError: the driver is not installed.
    """
    for key, value in url.query.items():
        if not isinstance(value, str) and key not in ("host", "port"):
            raise _refused(url, key, "is there twice; write it once")
    match url.get_backend_name(), url.get_driver_name():
        case "sqlite", _:
            return _sqlite(url)
        case _, "pymysql":
            return url.set(query={}), _pymysql(url)
        case _, "psycopg":
            return url, _psycopg(url)
    known = url.get_driver_name() in ("psycopg2", "mysqldb", "cymysql")
    ours = {"connect_timeout": CONNECT_TIMEOUT_S}
    return url, ours if known and not ours.keys() & url.query.keys() else {}


def _refused(url: URL, key: str, problem: str) -> StorageError:
    name = f"option {key}" if OPTION.fullmatch(key) else "an option after the ?"
    return StorageError(f"database {redacted(url)}: {name} {problem}")


def _unknown(url: URL, key: str, known: list[str]) -> StorageError:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return _refused(url, key, f"is unknown; {hint}allowed: {', '.join(known)}")


def _typed(
    url: URL, kinds: Mapping[str, Callable[[str], Any]], query: Mapping[str, Any]
) -> dict[str, Any]:
    """The options with the types that the driver wants."""
    found = {}
    for key, value in query.items():
        if key not in kinds:
            raise _unknown(url, key, sorted(kinds))
        try:
            found[key] = kinds[key](value)
        except ValueError as error:
            raise _refused(url, key, f"must be {error}") from None
    return found


def _seconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not 0 < float(value) <= LONGEST_S:
        raise ValueError("a number of seconds above 0")
    return float(value)


def _count(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", value):
        raise ValueError("a whole number")
    return int(value)


def _whole_seconds(value: str) -> int:
    return max(1, round(_seconds(value)))


def _switch(value: str) -> bool:
    if value.lower() not in TRUE + FALSE:
        raise ValueError("true or false")
    return value.lower() in TRUE


def _file(value: str) -> str:
    if not Path(value).exists():
        raise ValueError(f"a file that is there, and {shown_path(value)} is not")
    return value


def _charset(value: str) -> str:
    if import_module("pymysql.charset").charset_by_name(value) is None:
        raise ValueError("a character set that the driver knows, such as utf8mb4")
    return value


def _one_of(*allowed: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value.lower().replace("-", "_") not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value.lower().replace("-", "_")

    return check


PYMYSQL: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("host", "user", "password", "database", "bind_address", "collation"), str),
    **dict.fromkeys(("init_command", "sql_mode", "program_name", "read_default_group"), str),
    **dict.fromkeys(("ssl_key_password", "ssl_cipher"), str),
    **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), _whole_seconds),
    **dict.fromkeys(("port", "client_flag", "max_allowed_packet"), _count),
    **dict.fromkeys(("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "read_default_file"), _file),
    **dict.fromkeys(("ssl", "ssl_disabled", "ssl_check_hostname"), _switch),
    **dict.fromkeys(("ssl_verify_cert", "ssl_verify_identity"), _switch),
    **dict.fromkeys(("local_infile", "use_unicode"), _switch),
    "unix_socket": _file,
    "charset": _charset,
    "ssl_mode": _one_of("disabled", "preferred", "required", "verify_ca", "verify_identity"),
}


def _pymysql(url: URL) -> dict[str, Any]:
    limits = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": ANSWER_TIMEOUT_S,
        "write_timeout": ANSWER_TIMEOUT_S,
    }
    given = _typed(url, PYMYSQL, url.query)
    tls = {key: given.pop(key) for key in list(given) if key.startswith("ssl")}
    return limits | given | _tls(url, tls)


def _tls(url: URL, given: dict[str, Any]) -> dict[str, Any]:
    """PyMySQL's arguments for TLS; without a word of the URL it takes what the server offers."""
    mode = given.pop("ssl_mode", None)
    wanted = given.pop("ssl", None)
    if given.pop("ssl_disabled", False) or wanted is False or mode == "disabled":
        return {"ssl_disabled": True}
    verified = given.pop("ssl_verify_cert", None)
    hostname = given.pop("ssl_check_hostname", given.pop("ssl_verify_identity", None))
    tls = {k.removeprefix("ssl_").replace("key_password", "password"): given[k] for k in given}
    with_ca = bool({"ca", "capath"} & tls.keys())
    if verified is None:
        verified = with_ca or bool(hostname) or mode in ("verify_ca", "verify_identity")
    if verified and not with_ca:
        raise _refused(url, "ssl_ca", "is missing: whoever verifies a server needs its certificate")
    if "key" in tls and "cert" not in tls:
        raise _refused(url, "ssl_key", "is there without ssl_cert; give both")
    if not (tls or wanted or mode not in (None, "preferred")):
        return {}
    if hostname is None:
        hostname = mode in (None, "verify_identity")  # the driver's own choice with a certificate
    return {"ssl": {**tls, "check_hostname": verified and hostname, "verify_mode": verified}}


LIBPQ_NUMBERS = (
    *("connect_timeout", "tcp_user_timeout", "keepalives", "keepalives_idle"),
    *("keepalives_interval", "keepalives_count", "sslcompression", "sslsni"),
)


def _psycopg(url: URL) -> dict[str, Any]:
    from psycopg import pq

    known = sorted(option.keyword.decode() for option in pq.Conninfo.get_defaults())
    for key in url.query:
        if key not in known:
            raise _unknown(url, key, known)
        if key in LIBPQ_NUMBERS and not re.fullmatch("-?[0-9]{1,9}", str(url.query[key])):
            raise _refused(url, key, "must be a whole number")
    ours = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": 1000 * ANSWER_TIMEOUT_S,
        "keepalives_idle": ANSWER_TIMEOUT_S,
    }
    return {key: value for key, value in ours.items() if key not in url.query}


SQLITE: dict[str, Callable[[str], Any]] = {
    "timeout": _seconds,
    "uri": _switch,
    "check_same_thread": _switch,
    "cache": _one_of("shared", "private"),
    "mode": _one_of("rw", "rwc"),
}


def _sqlite(url: URL) -> tuple[URL, dict[str, Any]]:
    """A plain path: what a file: URI can say besides is either the default or unsafe."""
    given = _typed(url, SQLITE, url.query)
    if given.get("mode") == "rw" and not Path(url.database or "").exists():
        raise _refused(url, "mode", "is rw, which makes no file, and there is none; leave it out")
    return url.set(query={}), {"timeout": given.get("timeout", BUSY_TIMEOUT_S)}
