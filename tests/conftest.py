"""Databases of their own for tests that need one, and a small study.

Servers: HPO_TEST_POSTGRES and HPO_TEST_MYSQL are URLs of databases from which others may be made.
One that cannot be reached skips its tests, unless HPO_REQUIRE_DATABASES is set.
"""

import os
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import text

from hpo.errors import StorageError
from hpo.files import Options, load_study
from hpo.search.database.redaction import redacted
from hpo.search.database.urls import parse_url

SERVERS = {
    "postgresql": ("HPO_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres"),
    "mysql": ("HPO_TEST_MYSQL", "mysql://root@127.0.0.1:3306/mysql"),
}
SMALL = ("data.samples=40", "trial.epochs=1", "trial.evals=2")


@pytest.fixture
def sqlite_url(tmp_path):
    """The URL of a SQLite file that is not there yet."""
    return parse_url(f"sqlite:///{tmp_path}/hpo.db")


@pytest.fixture
def postgres_url():
    """The URL of an empty PostgreSQL database."""
    with _fresh_database("postgresql") as url:
        yield url


@pytest.fixture
def mysql_url():
    """The URL of an empty MariaDB or MySQL database."""
    with _fresh_database("mysql") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def database_url(request):
    """The URL of an empty database, of each kind in turn."""
    name = {"postgresql": "postgres_url", "mysql": "mysql_url"}.get(request.param, "sqlite_url")
    return request.getfixturevalue(name)


@contextmanager
def _fresh_database(kind):
    variable, default = SERVERS[kind]
    server = parse_url(os.environ.get(variable, default))
    name = f"hpo_test_{uuid.uuid4().hex[:12]}"
    try:
        _execute(server, f"CREATE DATABASE {name}")
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, StorageError) as error:
        why = str(error).splitlines()[0]
        reason = f"no {kind} server at {redacted(server)}, or set {variable}: {why}"
        if os.environ.get("HPO_REQUIRE_DATABASES"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield server.set(database=name)
    finally:
        force = " WITH (FORCE)" if kind == "postgresql" else ""
        _execute(server, f"DROP DATABASE {name}{force}")


def _execute(server, statement):
    arguments = {"connect_timeout": 5}
    engine = sqlalchemy.create_engine(
        server, isolation_level="AUTOCOMMIT", connect_args=arguments, poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        connection.execute(text(statement))


@pytest.fixture
def mini_study():
    """The shipped study at its mini scale, made smaller: 32 samples a trial, two evaluations."""
    return load_study("rsicap", Options(scale="mini", assignments=SMALL))


@pytest.fixture(scope="session")
def shared():
    """The folder of shared data sets beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}")
    return folder
