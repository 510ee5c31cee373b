"""No part of a URL's credentials in any output, however the URL is malformed."""

import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hpo import entry, guard, schema
from hpo.entry import Request, execute
from hpo.errors import StorageError
from hpo.search.database.redaction import redacted, scrubbed
from hpo.search.database.urls import FILE_VARIABLE, VARIABLE, chosen, parse_url

SECRET = "Zq7xKv9TwBn4"
LEAST = 4  # letters of the secret that nobody may see together

MALFORMED = [
    "postgresql://me:p@{s}@127.0.0.1:1/db",
    "postgresql://me:{s}@@127.0.0.1:1/db",
    "postgresql://me:p:{s}@127.0.0.1:1/db",
    "postgresql://me:p/{s}@127.0.0.1:1/db",
    "postgresql://me:p?{s}@127.0.0.1:1/db",
    "postgresql://me:p@x?{s}@127.0.0.1:1/db",
    "postgresql://me:p@x/{s}@127.0.0.1:1/db",
    "postgresql://me:p@x:{s}@127.0.0.1:1/db",
    "postgresql://me:p#{s}@127.0.0.1:1/db",
    "postgresql://me:p%{s}@127.0.0.1:1/db",
    "postgresql://me:%zz{s}@127.0.0.1:1/db",
    "postgresql://me:{s}%40@127.0.0.1:1/db",
    "postgresql://me/{s}:p@127.0.0.1:1/db",
    "postgresql://me:p {s}@127.0.0.1:1/db",
    "postgresql://me:p\n{s}@127.0.0.1:1/db",
    "postgresql://me:pä{s}@127.0.0.1:1/db",
    "postgresql://me:\U0001f511{s}@127.0.0.1:1/db",
    "postgresql://me%3A{s}@127.0.0.1:1/db",
    "postgresql://me:{s}@/db",
    "postgresql://me:p@{s}/db",
    "postgresql://me:{s}/db",
    "postgresql://me:{s}",
    "postgresql://me:{s}@[::1]:1/db",
    "postgresql://me:p@{s}@[::1]:1/db",
    "postgresql://me:{s}@[::1/db",
    "postgresql://me:{s}@127.0.0.1:port/db",
    "postgresql://me:{s}@127.0.0.1:99999/db",
    "postgresql://me:{s}@a:1,b:2/db",
    "postgresql://me:{s}@127.0.0.1:1/db postgresql://me:{s}@h/db",
    "postgresql://me:{s}@127.0.0.1:1/db,mysql://me:{s}@h/db",
    "'postgresql://me:{s}@127.0.0.1:1/db'",
    '"postgresql://me:{s}@127.0.0.1:1/db"',
    "postgresql:/me:{s}@127.0.0.1:1/db",
    "postgresql:me:{s}@127.0.0.1:1/db",
    "me:{s}@127.0.0.1:1/db",
    "{s}",
    "me:{s}",
    "host=127.0.0.1 port=1 user=me password={s} dbname=db",
    "PASSWORD={s} HOST=127.0.0.1",
    "postgresql://me@127.0.0.1:1/db?password={s}",
    "postgresql://me@127.0.0.1:1/db?PASSWORD={s}",
    "postgresql://me@127.0.0.1:1/db?sslpassword={s}",
    "postgresql://me@127.0.0.1:1/db?passfile=/{s}",
    "postgresql://me@127.0.0.1:1/db?options=-c%20x={s}",
    "postgresql://me@127.0.0.1:1/db?pwd={s}",
    "postgresql://me@127.0.0.1:1/db?apikey={s}",
    "postgresql://me@127.0.0.1:1/db?token={s}&secret={s}&key={s}",
    "postgresql://me@127.0.0.1:1/db?{s}=1",
    "postgresql://me@127.0.0.1:1/db?{s}",
    "postgresql://me@127.0.0.1:1/db#{s}",
    "postgresql://me@127.0.0.1:1/db?sslmode={s}",
    "postgresql://me@127.0.0.1:1/db?connect_timeout={s}",
    "PostgreSQL://me:{s}@127.0.0.1:1/db",
    "POSTGRES://me:{s}@127.0.0.1:1/db",
    "postgresql+{s}://me@127.0.0.1:1/db",
    "{s}://me@127.0.0.1:1/db",
    "mysql://me:p@{s}@127.0.0.1:1/db",
    "mysql://me:{s}@127.0.0.1:1/db",
    "mysql://me:{s}@127.0.0.1:1/db?charset={s}",
    "mysql://me@127.0.0.1:1/db?ssl={s}",
    "mysql://me@127.0.0.1:1/db?passwd={s}",
    "mysql://me@127.0.0.1:1/db?ssl_key_password={s}",
    "mysql://me:{s}@127.0.0.1:1/db?unix_socket=/none",
    "mongodb://me:{s}@127.0.0.1:1/db",
    "sqlite://me:{s}@127.0.0.1/db",
    "sqlite:///me:{s}@127.0.0.1/db",
    "sqlite:///postgresql://me:{s}@h/db",
    "sqlite:///none/hpo.db?password={s}",
    "sqlite:///hpo.db?key={s}&{s}=1",
]


def pieces(secret):
    return {secret[i : i + LEAST] for i in range(len(secret) - LEAST + 1)}


def assert_unseen(text, secret=SECRET):
    seen = [piece for piece in pieces(secret) if piece.lower() in text.lower()]
    assert not seen, text


@pytest.fixture(autouse=True)
def _no_database_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)


def run(storage=None, *, as_json=False):
    """`python -m hpo.run` with an option that ends it once the URL is read, if nothing else."""
    return execute(
        Request(
            study="rsicap",
            scale="mini",
            name=None,
            storage=storage,
            data="/no/such/folder",
            model=None,
            assignments=(),
            runs_dir=Path("runs"),
            as_json=as_json,
            trials=1,
            timeout=None,
            runners="1",
            pack="1",
            seed=None,
            memory_limit=None,
            dry_run=False,
            words=(),
        )
    )


@pytest.mark.parametrize("pattern", MALFORMED)
def test_no_part_of_a_password_is_in_a_message(monkeypatch, tmp_path, pattern):
    given = pattern.format(s=SECRET)
    runner = CliRunner()
    monkeypatch.setenv(VARIABLE, given)
    by_environment = runner.invoke(schema.app, [])
    monkeypatch.delenv(VARIABLE)
    by_option = runner.invoke(schema.app, ["--storage", given])
    (tmp_path / "url").write_text(given)
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "url"))
    by_file = runner.invoke(schema.app, [])
    for done in (by_environment, by_option, by_file):
        assert done.exit_code == 2, done.output
        assert_unseen(done.output)
        assert "error:" in done.output and "Traceback" not in done.output
        assert len(done.output.strip().splitlines()) == 1


RAW = "@:/?#%&=+ [](){}'\"\\\n\t\x00ä\U0001f511,;$!"
FRAMES = (
    "{k}://me:{s}@127.0.0.1:1/db",
    "{k}://me:{s}@/db",
    "{k}://{s}@127.0.0.1/db",
    "{k}://127.0.0.1/db?password={s}",
    "{k}://me:x@127.0.0.1/{s}",
    "{k}:/me:{s}@h",
    "me:{s}@h",
    "host=h password={s}",
)
KINDS = ("postgresql", "postgres", "MySQL", "mariadb", "postgresql+psycopg2", "sqlite", "redis", "")


def a_malformed_url(chance):
    """A frame with a password of the secret and raw characters around and within it."""
    half = len(SECRET) // 2
    noise = ["".join(chance.choices(RAW, k=chance.randrange(3))) for _ in range(3)]
    password = f"{noise[0]}{SECRET[:half]}{noise[1]}{SECRET[half:]}{noise[2]}"
    return chance.choice(FRAMES).format(k=chance.choice(KINDS), s=password)


@pytest.mark.parametrize("seed", range(5))
def test_no_random_url_shows_its_password_or_ends_as_a_bug(monkeypatch, capfd, seed):
    chance = random.Random(seed)
    for number in range(60):
        given = a_malformed_url(chance)
        option = given if number % 2 else None
        if "\0" not in given:
            monkeypatch.setenv(VARIABLE, given)
        assert run(option, as_json=number % 3 == 0) in (0, 1, 2), given
        assert_unseen("".join(capfd.readouterr()))


@pytest.mark.parametrize("pattern", MALFORMED)
def test_a_traceback_has_no_part_of_a_password(monkeypatch, capsys, pattern):
    given = pattern.format(s=SECRET)

    def fails(url):
        try:
            raise ValueError(url, repr(url), url.partition("@")[2], url.partition(":")[2])
        except ValueError as error:
            raise RuntimeError(f"no connection to {url}") from error

    monkeypatch.setenv(VARIABLE, given)
    monkeypatch.setattr(entry, "parse_url", fails)
    assert run() == guard.BUG
    shown = "".join(capsys.readouterr())
    assert "Traceback" in shown and "RuntimeError" in shown
    assert_unseen(shown)


def test_a_secret_in_place_of_a_file_name_is_not_shown(monkeypatch, capsys):
    for given in (f"postgresql://me:{SECRET}@h/db", f"me:{SECRET}@h", f"password={SECRET}"):
        monkeypatch.setenv(FILE_VARIABLE, given)
        assert run() == guard.WRONG_INPUT
        shown = capsys.readouterr().err
        assert FILE_VARIABLE in shown and "error" in shown
        assert_unseen(shown)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "postgresql://me:p@x@host/db",
            ("several @", "%40", "HPO_STORAGE", "HPO_STORAGE_FILE"),
        ),
        ("postgresql://me:p@x/y@host/db", ("several @", "/ as %2F")),
        ("'postgresql://me:pw@host/db'", ("stands in quotes", "without them")),
        ("postgresql:/me:pw@host", ("two slashes",)),
        ("host=h dbname=d password=pw", ("list of keys and values", "as a URL")),
        ("postgresql://me:pw@h/d mysql://me:pw@h/d", ("two URLs",)),
        ("postgresql://me:pw@host:port/db", ("not a port", "%40")),
        ("postgresql://me:pw@host/d\nb", ("line break", "one line")),
        ("postgresql://me:pw@ho st/db", ("a space", "%20")),
        ("postgresql+asyncpg://me@host/db", ("asyncpg", "asynchronous", "postgresql://")),
        ("sqlite+aiosqlite:///hpo.db", ("asynchronous", "sqlite://")),
        ("sqlite:///:memory:", ("in memory nothing lasts", "sqlite:///hpo.db")),
        ("sqlite:////tmp/\udcff.db", ("not UTF-8",)),
        ("sqlite:///~/hpo.db", ("~ is not expanded", "sqlite:////")),
        ("sqlite://hpo.db", ("three slashes",)),
    ],
)
def test_the_probable_cause_is_named_with_the_remedy(given, words):
    with pytest.raises(StorageError) as caught:
        parse_url(given)
    for word in words:
        assert word in str(caught.value)
    assert "pw" not in str(caught.value).replace("pwd", "")


@pytest.mark.parametrize(
    ("given", "password"),
    [
        ("postgresql://me:p%40S3%2Fcret@host/db", "p@S3/cret"),
        ("postgresql://me:p:w/x#y%25@host/db", "p:w/x#y%"),
        ("  postgres://me:pw@host/db\n", "pw"),
        ("MYSQL://me:pw@host/db", "pw"),
    ],
)
def test_a_password_that_is_written_right_is_read_right(given, password):
    url = parse_url(given)
    assert (url.username, url.password, url.host, url.database) == ("me", password, "host", "db")


@pytest.mark.parametrize(
    "given", [p for p in MALFORMED if "@" in p and "://me" in p and "file=" not in p]
)
def test_what_may_hide_a_password_is_refused_on_the_command_line(given):
    if "me:" in given or "pass" in given:
        with pytest.raises(StorageError) as caught:
            chosen(given.format(s=SECRET))
        assert_unseen(str(caught.value))


def test_a_url_is_shown_by_its_harmless_parts():
    shown = redacted(parse_url(f"mysql://me:{SECRET}@db.lan:3306/hpo?charset=utf8mb4"))
    assert shown == "mysql+pymysql://me:***@db.lan:3306/hpo?***"
    assert redacted(parse_url("sqlite:///some/hpo.db")) == "sqlite:///some/hpo.db"
    assert scrubbed(f"x {SECRET} y", f"postgresql://me:p@{SECRET}@h/d") == "x *** y"


def test_a_file_uri_of_sqlite_is_its_plain_path(tmp_path):
    for form in (f"file:{tmp_path}/x.db", f"file://{tmp_path}/x.db"):
        assert parse_url(f"sqlite:///{form}?uri=true").database == f"{tmp_path}/x.db"
