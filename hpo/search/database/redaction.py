"""Database URLs for people: what is printed is rebuilt from parts that cannot be a secret.

A password with a raw `@`, `/` or `?` ends up as a host, a path or an option, so that no part is
shown because of its place alone: each must look like what it is to be.
"""

import json
import re
from urllib.parse import quote, quote_plus

import sqlalchemy
from sqlalchemy import URL
from sqlalchemy.engine import make_url

HIDDEN = "***"
SERVERS = ("postgresql", "mysql", "mariadb")
SECRET = re.compile(r"pass(?!file)|secret|token|pwd|api_?key|credential", re.IGNORECASE)
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_])?|[0-9a-f:.]{2,45}")
DATABASE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.$-]{0,63}")
DRIVER = re.compile(r"[a-z0-9_]{1,20}(\+[a-z0-9_]{1,20})?")
DELIMITERS = re.compile(r"[\s@:/?#&=%,;'\"\[\]\\]+")
SHORTEST_WORD = 3  # of a part that may be a secret; shorter ones are in every text


def redacted(url: URL) -> str:
    """The URL with `***` for everything that may be part of a secret."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{shown_path(url.database or '')}"
    scheme = _shown(DRIVER, url.drivername)
    user = "" if url.username is None else _shown(USER, url.username)
    password = "" if url.password is None else f":{HIDDEN}"
    at = "@" if user or password else ""
    query = f"?{HIDDEN}" if url.query else ""
    return f"{scheme}://{user}{password}{at}{shown_host(url)}/{_database(url)}{query}"


def shown_host(url: URL) -> str:
    """Host and port."""
    host = _shown(HOST, url.host or "")
    host = f"[{host}]" if ":" in host else host
    return host if url.port is None else f"{host}:{url.port}"


def _database(url: URL) -> str:
    return _shown(DATABASE, url.database or "")


def shown_path(path: str) -> str:
    """A path, unless it may be a URL with a password that was taken for a path."""
    harmless = not ({"@", ":"} <= set(path) or (SECRET.search(path) and "=" in path))
    return path.encode(errors="backslashreplace").decode() if harmless else HIDDEN


def _shown(pattern: re.Pattern[str], part: str) -> str:
    return part if not part or pattern.fullmatch(part) else HIDDEN


def secrets(given: str) -> list[str]:
    """What of a URL is not shown, in every way that it may be written, the longest first.

    Passwords are; so is whatever stands between delimiters and is no part of `redacted`.
    """
    try:
        url = make_url(given)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return _spellings([given, *_words(given)])
    server = url.get_backend_name() in SERVERS and given.count("@") <= 1
    if not server and url.get_backend_name() != "sqlite":
        return _spellings([given, *_words(given)])
    harmless = {*DELIMITERS.split(redacted(url)), url.get_backend_name()}
    return _spellings([*passwords(url), *(w for w in _words(given) if w not in harmless)])


def passwords(url: URL) -> list[str]:
    """The secrets of a URL that is right."""
    found = [str(url.password)] if url.password else []
    if ":" in (url.username or ""):  # the colon was encoded, too
        found.append(str(url.username))
    for key, value in url.query.items():
        if SECRET.search(key):
            found += [value] if isinstance(value, str) else list(value)
    return found


def _words(given: str) -> list[str]:
    """Whatever stands between the delimiters of a URL, but for what is in every URL."""
    found = [word for word in DELIMITERS.split(given) if len(word) >= SHORTEST_WORD]
    return [word for word in found if word not in SERVERS]


def _spellings(found: list[str]) -> list[str]:
    spelled = set(found)
    for secret in found:
        raw = secret.encode(errors="surrogateescape")
        spelled |= {quote(raw, safe=""), quote_plus(raw)}
        spelled |= {repr(secret)[1:-1], ascii(secret)[1:-1], json.dumps(secret)[1:-1]}
    return sorted(spelled - {""}, key=len, reverse=True)


def scrubbed(text: str, given: str) -> str:
    """A text, such as a traceback, without the secrets of a URL."""
    for secret in secrets(given):
        text = text.replace(secret, HIDDEN)
    return text
