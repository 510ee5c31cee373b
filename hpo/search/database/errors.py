"""What a database's error means: one sentence with the cause and what to do about it.

The words of drivers name users, hosts and now and then a password, in the language of the server;
so causes are recognised by codes where there are some, and by words where there are none.
"""

import re
from dataclasses import dataclass

from sqlalchemy import URL

from hpo.search.database.redaction import passwords, redacted, scrubbed

REST = "check that it exists, that the server runs and lets you in, and that there is space"


@dataclass(frozen=True)
class Cause:
    """A kind of error, by its code or words."""

    pattern: str
    what: str
    remedy: str


UNKNOWN_HOST = Cause(
    r"could not translate host|name or service not known|failed to resolve|getaddrinfo|"
    r"name resolution|no address associated|nodename nor servname|idna",
    "its host name is not known here",
    "check the name, and that special characters of a password are percent-encoded (@ as %40, / "
    "as %2F)",
)
CAUSES = (
    UNKNOWN_HOST,
    Cause(
        r"runtime optuna version|compatible with the table schema",
        "it was written by another version of Optuna",
        "run `optuna storage upgrade` on a copy of it, or give an empty database by --storage",
    ),
    Cause(
        r"<(28P01|28000|1045|1698)>|password authentication failed|no password supplied|"
        r"pg_hba|role _ does not exist",
        "the server refuses this user, or the password",
        "check both, and that special characters in them are percent-encoded (@ as %40, / as %2F)",
    ),
    Cause(
        r"<(3D000|1049)>|database _ does not exist|Unknown database",
        "there is no database {database} on the server",
        "make it there by CREATE DATABASE {database}, or give the name of another",
    ),
    Cause(
        r"<1046>",
        "the URL names no database",
        "write its name after the host and a slash",
    ),
    Cause(
        r"<(25006|1290|1792|1836)>|read-only transaction|--read-only|recovery is in progress",
        "the server is read-only, such as a replica is",
        "give the URL of its primary",
    ),
    Cause(
        r"<(42501|1044|1142|1143|1227)>|permission denied|not authorized",
        "this user may not read or write its tables, or make them",
        "have its owner run GRANT ALL on the database {database} and its tables for this user",
    ),
    Cause(
        r"SQLITE_READONLY|readonly database",
        "its file, or the folder that it lies in, may not be written",
        "make both writable for you, or give another path by --storage",
    ),
    Cause(
        r"SQLITE_FULL|disk is full|<(53100|1021|1114)>|No space left|SQLITE_IOERR_WRITE",
        "the disk that it lies on is full",
        "free space there, or put it on another",
    ),
    Cause(
        r"SQLITE_IOERR|disk I/O",
        "the disk that it lies on fails, or its file was removed or changed by others",
        "check the disk and its space",
    ),
    Cause(
        r"SQLITE_CANTOPEN|unable to open",
        "its file cannot be opened",
        "check that it is a file, that its folder is there and that you may write both",
    ),
    Cause(
        r"SQLITE_NOTADB|not a database",
        "the file is not a database",
        "give another path by --storage",
    ),
    Cause(
        r"SQLITE_CORRUPT|malformed",
        "its file is damaged",
        "take a backup, or the copy that a run leaves, study.db in the study's folder",
    ),
    Cause(
        r"SQLITE_(BUSY|LOCKED)|database is locked",
        "another program holds it locked",
        "end what holds it, such as a viewer of databases",
    ),
    Cause(
        r"<(53300|1040|1203)>|too many (connections|clients)|connection slots",
        "the server has no connection left",
        "start fewer workers, or raise max_connections there",
    ),
    Cause(
        r"<(22001|1406)>|Data too long",
        "a value is longer than its column",
        "shorten what the study file says, such as its known configurations",
    ),
    Cause(
        r"<(42P01|1146)>|no such table|relation _ does not exist",
        "its tables are not there any more",
        "restore them from a backup, or give an empty database by --storage",
    ),
    Cause(
        r"\bSSL\b|\bTLS\b|certificate|sslmode|[_ ]ssl|<(2026|3159)>",
        "the server and the URL do not agree about TLS",
        "check the options of the URL (sslmode, ssl_ca), and that the server offers TLS",
    ),
    Cause(
        r"bad value for|invalid (connection option|integer value|sslmode|.* value)|"
        r"unexpected keyword|TypeError|unrecognized configuration|<2019>",
        "an option after the ? of its URL is not one that the driver knows",
        "check their names and values",
    ),
    Cause(
        r"Connection refused|<(2002|2003|2006|2013)>|timed out|timeout expired|"
        r"connection timeout|No route|unreachable|server closed|reset by peer|"
        r"No such file or directory|shutting down|starting up|<57P0",
        "no server answers there",
        "check that the server runs and lets you in",
    ),
)


def explained(url: URL, error: BaseException) -> str:
    """One sentence: the database, what is wrong with it, and the next step; no secret."""
    text = _words(error)
    found = _cause(text)
    where = redacted(url._replace(host=None, port=None) if found is UNKNOWN_HOST else url)
    if found is None:
        return f"database {where}: cannot be used: {_first_line(url, text)}; {REST}"
    name = url.database if url.database and url.database in where else ""
    what, remedy = (part.format(database=name or "NAME") for part in (found.what, found.remedy))
    return f"database {where}: cannot be used: {what}; {remedy}"


def cause(error: BaseException) -> str:
    """What is wrong, in a few words; empty where nobody knows."""
    found = _cause(_words(error))
    return "" if found is None or "{" in found.what else found.what


def _cause(text: str) -> Cause | None:
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "_", text)  # names of tables, users, databases
    return next((c for c in CAUSES if re.search(c.pattern, unquoted, re.IGNORECASE)), None)


def _words(error: BaseException) -> str:
    """The kind, the code and the text of the driver's own error."""
    inner = getattr(error, "orig", None) or error.__cause__ or error
    inner = getattr(inner, "orig", None) or inner
    codes = [getattr(inner, "sqlstate", None), getattr(inner, "sqlite_errorname", None)]
    codes += inner.args[:1] if inner.args and isinstance(inner.args[0], int) else []
    known = [f"<{code}>" for code in codes if code]
    return " ".join([type(inner).__name__, *known, str(inner)])


def _first_line(url: URL, text: str) -> str:
    line = text.strip().splitlines()[0]
    for secret in [*passwords(url), url.username or ""]:
        line = line.replace(str(secret), "***") if secret else line
    return scrubbed(line, url.render_as_string(hide_password=False))
