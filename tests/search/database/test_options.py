"""Options of database URLs: they work, or one sentence says why not."""

import sqlite3

import pytest
from sqlalchemy import text

from hpo.errors import StorageError
from hpo.search.database.options import driver_arguments
from hpo.search.database.storage import connect
from hpo.search.database.urls import parse_url


def with_query(url, query):
    return parse_url(f"{url.render_as_string(hide_password=False)}?{query}")


def usable(url):
    """Whether Optuna's tables are there after opening."""
    engine = connect(url).engine
    with engine.connect() as connection:
        count = connection.execute(text("SELECT count(*) FROM studies")).scalar()
    engine.dispose()
    return count == 0


@pytest.mark.parametrize(
    "query",
    ["charset=utf8mb4", "connect_timeout=7&read_timeout=9", "ssl_disabled=true", "ssl=false"],
)
def test_options_of_mariadb_work(mysql_url, query):
    assert usable(with_query(mysql_url, query))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ssl=true", ("TLS", "the server")),
        ("ssl={}", ("TLS", "the server")),
        ("ssl_mode=REQUIRED", ("TLS", "the server")),
        ("ssl=maybe", ("option ssl", "true or false")),
        ("ssl_ca=/no/ca.pem", ("option ssl_ca", "/no/ca.pem is not")),
        ("ssl_verify_cert=true", ("option ssl_ca", "missing")),
        ("ssl_mode=sometimes", ("option ssl_mode", "verify_identity")),
        ("charset=klingon", ("option charset", "utf8mb4")),
        ("conect_timeout=5", ("conect_timeout is unknown", "did you mean connect_timeout?")),
        ("connect_timeout=abc", ("option connect_timeout", "number of seconds")),
        ("connect_timeout=0", ("option connect_timeout", "above 0")),
        ("unix_socket=/no/socket", ("option unix_socket", "/no/socket is not")),
        ("charset=utf8&charset=latin1", ("option charset", "twice")),
    ],
)
def test_options_of_mariadb_that_cannot_be_are_one_sentence(mysql_url, query, words):
    with pytest.raises(StorageError) as caught:
        connect(with_query(mysql_url, query))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_certificate_that_is_none_is_one_sentence(mysql_url, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(StorageError, match="TLS"):
        connect(with_query(mysql_url, f"ssl_ca={tmp_path}/ca.pem"))


def test_options_of_tls_reach_the_driver_as_it_takes_them(tmp_path):
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    files = "&".join(f"ssl_{name}={tmp_path}/{name}" for name in ("ca", "cert", "key"))
    named = {name: f"{tmp_path}/{name}" for name in ("ca", "cert", "key")}

    def tls(query):
        return driver_arguments(parse_url(f"mysql://me@h/d?{query}"))[1].get("ssl")

    assert tls(files) == {**named, "check_hostname": True, "verify_mode": True}
    assert tls(f"{files}&ssl_verify_identity=false")["check_hostname"] is False
    assert tls(f"{files}&ssl_verify_cert=0") == {
        **named,
        "check_hostname": False,
        "verify_mode": False,
    }
    assert tls("ssl=true") == {"check_hostname": False, "verify_mode": False}
    assert tls("ssl_mode=preferred") is None and tls("charset=utf8mb4") is None


def test_options_of_the_url_come_before_ours():
    _, ours = driver_arguments(parse_url("mysql://me@h/d?connect_timeout=7"))
    assert (ours["connect_timeout"], ours["read_timeout"]) == (7, 30)
    _, ours = driver_arguments(parse_url("postgresql://me@h/d?connect_timeout=7"))
    assert "connect_timeout" not in ours and ours["keepalives_idle"] == 30


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=disable",
        "sslmode=prefer",
        "connect_timeout=7",
        "options=-c%20statement_timeout%3D60000",
        "application_name=search",
    ],
)
def test_options_of_postgresql_work(postgres_url, query):
    assert usable(with_query(postgres_url, query))


def test_several_hosts_of_postgresql_are_tried_in_turn(postgres_url):
    url = f"postgresql://postgres@/{postgres_url.database}?host=127.0.0.1:1&host=127.0.0.1:5432"
    if (postgres_url.host, postgres_url.port) != ("127.0.0.1", 5432):
        pytest.skip("the server is elsewhere")
    assert usable(parse_url(url))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sslmode=require", ("TLS", "sslmode")),
        ("sslmode=sometimes", ("TLS", "sslmode")),
        ("sslmod=require", ("sslmod is unknown", "did you mean sslmode?")),
        ("connect_timeout=abc", ("option connect_timeout", "whole number")),
        ("options=-c%20no_such%3D1%20-c%20x", ("cannot be used",)),
        ("host=127.0.0.1:1&host=127.0.0.1:2", ("no server answers",)),
    ],
)
def test_options_of_postgresql_that_cannot_be_are_one_sentence(postgres_url, query, words):
    with pytest.raises(StorageError) as caught:
        connect(with_query(postgres_url, query))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("query", ["timeout=5", "timeout=0.5", "uri=true&mode=rwc", ""])
def test_options_of_sqlite_work(tmp_path, query):
    assert usable(parse_url(f"sqlite:///{tmp_path}/hpo.db?{query}"))
    assert usable(parse_url(f"sqlite:///file:{tmp_path}/two.db?uri=true"))
    assert sqlite3.connect(tmp_path / "two.db").execute("SELECT * FROM studies").fetchall() == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("timeout=abc", ("option timeout", "number of seconds")),
        ("timeout=-1", ("option timeout", "above 0")),
        ("mode=ro", ("option mode", "rw, rwc")),
        ("mode=rw", ("option mode", "there is none")),
        ("mode=memory", ("in memory nothing lasts",)),
        ("immutable=1", ("immutable is unknown", "allowed:")),
        ("isolation_level=x", ("isolation_level is unknown",)),
    ],
)
def test_options_of_sqlite_that_cannot_be_are_one_sentence(tmp_path, query, words):
    with pytest.raises(StorageError) as caught:
        connect(parse_url(f"sqlite:///{tmp_path}/hpo.db?{query}"))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("given", "package"),
    [
        ("mysql+mysqldb://me@h/d", "pip install mysqlclient"),
        ("postgresql+psycopg2://me@h/d", "pip install psycopg2-binary"),
    ],
)
def test_a_driver_that_is_not_installed_is_named_by_its_package(given, package):
    with pytest.raises(StorageError, match=package):
        connect(parse_url(given))
