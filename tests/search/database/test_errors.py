"""What is wrong with a database, in one sentence with the remedy."""

import uuid

import pytest
import sqlalchemy
from sqlalchemy import text

from hpo.errors import StorageError
from hpo.search.database.errors import explained
from hpo.search.database.storage import connect, translated
from hpo.search.database.urls import parse_url

SECRET = "Zq7xKv9TwBn4"


def said(url):
    """What opening says."""
    with pytest.raises(StorageError) as caught:
        connect(url)
    assert "\n" not in str(caught.value) and SECRET not in str(caught.value)
    return str(caught.value)


def execute(url, *statements):
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture
def stranger():
    """Makes a user of a server who owns nothing there."""
    made = []

    def make(url):
        name = f"hpo_{uuid.uuid4().hex[:12]}"
        made.append((url, name))
        if url.get_backend_name() == "postgresql":
            execute(url, f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
        else:
            execute(url, f"CREATE USER {name}@'%' IDENTIFIED BY '{SECRET}'")
            execute(url, f"CREATE USER {name}@localhost IDENTIFIED BY '{SECRET}'")
        return url.set(username=name, password=SECRET)

    yield make
    for url, name in made:
        if url.get_backend_name() == "postgresql":
            execute(url.set(database="postgres"), f"DROP ROLE {name}")
        else:
            execute(url.set(database="mysql"), f"DROP USER {name}@'%', {name}@localhost")


@pytest.mark.parametrize("kind", ["postgres_url", "mysql_url"])
def test_a_database_that_is_not_there_comes_with_the_way_to_make_it(kind, request):
    url = request.getfixturevalue(kind).set(database="no_such_database")
    assert "make it there by CREATE DATABASE no_such_database" in said(url)


@pytest.mark.parametrize("kind", ["postgres_url", "mysql_url"])
def test_tables_without_rights(kind, request, stranger):
    url = request.getfixturevalue(kind)
    connect(url).engine.dispose()
    found = said(stranger(url))
    assert "may not read or write" in found and "GRANT ALL" in found and url.database in found


def test_a_user_that_the_server_does_not_know(mysql_url):
    found = said(mysql_url.set(username="nobody_here", password=SECRET))
    assert "refuses this user" in found and "percent-encoded" in found


def test_a_role_that_the_server_does_not_know(postgres_url):
    assert "refuses this user" in said(postgres_url.set(username="nobody_here"))


def test_a_server_that_is_read_only(postgres_url):
    """As a replica is, for whoever writes."""
    url = postgres_url.update_query_dict({"options": "-c default_transaction_read_only=on"})
    found = said(url)
    assert "read-only" in found and "primary" in found


def test_a_host_that_is_not_known_may_be_a_part_of_a_password():
    error = RuntimeError(f"[Errno -2] Name or service not known: {SECRET.lower()}")
    found = explained(parse_url(f"postgresql://me:p@{SECRET.lower()}/db"), error)
    assert "host name is not known" in found and "@ as %40" in found
    assert SECRET.lower() not in found


def test_a_database_without_tables_in_mid_run(database_url):
    engine = connect(database_url).engine
    with (
        pytest.raises(StorageError, match=r"cannot be used: its tables are not there any more"),
        translated(database_url),
        engine.connect() as connection,
    ):
        connection.execute(text("SELECT * FROM no_such_table"))
    engine.dispose()


@pytest.mark.parametrize("content", [b"", None])
def test_an_empty_file_becomes_a_database(tmp_path, content):
    file = tmp_path / "hpo.db"
    if content is not None:
        file.write_bytes(content)
    connect(parse_url(f"sqlite:///{file}")).engine.dispose()
    assert file.read_bytes().startswith(b"SQLite format 3")


def test_a_file_that_is_cut_is_named(tmp_path):
    file = tmp_path / "hpo.db"
    connect(parse_url(f"sqlite:///{file}")).engine.dispose()
    content = file.read_bytes()
    file.write_bytes(content[:100] + b"\xff" * 3000)
    assert "cannot be used: its file is damaged" in said(parse_url(f"sqlite:///{file}"))


def test_what_is_no_file_is_named():
    assert "no regular file" in said(parse_url("sqlite:////dev/null"))


def test_a_newer_optuna_is_named(sqlite_url):
    connect(sqlite_url).engine.dispose()
    execute(sqlite_url, "UPDATE alembic_version SET version_num = 'v9.0.0.a'")
    assert "another version of Optuna" in said(sqlite_url)


def test_a_full_disk_is_named(sqlite_url):
    engine = connect(sqlite_url).engine
    with (
        pytest.raises(StorageError, match=r"the disk that it lies on is full; free space"),
        translated(sqlite_url),
        engine.begin() as connection,
    ):
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        connection.execute(text("CREATE TABLE large AS SELECT zeroblob(1000000) AS bytes"))
    engine.dispose()


def test_a_locked_file_is_named(sqlite_url):
    connect(sqlite_url).engine.dispose()
    url = sqlite_url.update_query_dict({"timeout": "0.1"})
    holder = sqlalchemy.create_engine(sqlite_url)
    with holder.connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        engine = sqlalchemy.create_engine(sqlite_url, connect_args={"timeout": 0.1})
        with (
            pytest.raises(StorageError, match="another program holds it locked"),
            translated(url),
            engine.begin() as other,
        ):
            other.exec_driver_sql("BEGIN IMMEDIATE")
    holder.dispose()
    engine.dispose()
