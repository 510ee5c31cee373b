"""Databases of a chaos run's own, each with its way to be gone for a while."""

import socket
import sqlite3
import subprocess
import uuid
from pathlib import Path

import sqlalchemy
from sqlalchemy import URL, text

from hpo.search.database.urls import parse_url

POSTGRES = Path("/usr/lib/postgresql")  # one folder a version


class Database:
    """An empty database; made by `open`, dropped by `close`."""

    can_fail = True
    """Whether `down` and `up` work."""

    def __init__(self, url: URL) -> None:
        self.url = url

    @property
    def storage(self) -> str:
        """The URL as one types it."""
        return self.url.render_as_string(hide_password=False)

    def open(self) -> None:
        """Makes it."""

    def close(self) -> None:
        """Drops it, whatever state it is in."""

    def down(self) -> None:
        """From now on nobody can use it."""

    def up(self) -> None:
        """It is back."""


class SqliteFile(Database):
    """A file; gone while somebody else holds its only write lock."""

    def open(self) -> None:
        self._path = Path(self.url.database or "").absolute()
        if self._path.exists():
            raise SystemExit(f"{self._path} is there already; give a path that is free")

    def down(self) -> None:
        self._holder = sqlite3.connect(
            self._path, isolation_level=None, timeout=60, check_same_thread=False
        )
        self._holder.execute("BEGIN EXCLUSIVE")

    def up(self) -> None:
        self._holder.close()

    def close(self) -> None:
        for path in self._path.parent.glob(f"{self._path.name}*"):
            path.unlink()


class OnServer(Database):
    """A database of its own on a server that others use too."""

    def __init__(self, server: URL) -> None:
        self._server = server
        super().__init__(server.set(database=f"hpo_chaos_{uuid.uuid4().hex[:12]}"))

    def open(self) -> None:
        self._execute(f"CREATE DATABASE {self.url.database}")

    def close(self) -> None:
        self._execute(f"DROP DATABASE {self.url.database}")

    def _execute(self, *statements: str) -> None:
        engine = sqlalchemy.create_engine(
            self._server, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
        )
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))


class OnMysql(OnServer):
    """On MariaDB or MySQL, which cannot turn one database off."""

    can_fail = False


class OnPostgres(OnServer):
    """On PostgreSQL; gone while it takes no connections, those there were cut."""

    def down(self) -> None:
        self._execute(
            f"ALTER DATABASE {self.url.database} ALLOW_CONNECTIONS false",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{self.url.database}'",
        )

    def up(self) -> None:
        self._execute(f"ALTER DATABASE {self.url.database} ALLOW_CONNECTIONS true")

    def close(self) -> None:
        self._execute(f"DROP DATABASE {self.url.database} WITH (FORCE)")


class PostgresCluster(Database):
    """A PostgreSQL server of its own, on a free port; killed and started again."""

    def __init__(self) -> None:
        self._name = f"chaos{uuid.uuid4().hex[:8]}"
        self._version = max(POSTGRES.iterdir(), key=lambda path: float(path.name)).name
        self._port = free_port()
        super().__init__(parse_url(f"postgresql://postgres@127.0.0.1:{self._port}/postgres"))

    def open(self) -> None:
        where = ("-u", "postgres", "-p", str(self._port), self._version, self._name)
        _run("pg_createcluster", *where, "--", "--auth=trust")
        self.up()

    def down(self) -> None:
        self._control("stop", "-m", "immediate")

    def up(self) -> None:
        self._control("start")

    def close(self) -> None:
        _run("pg_dropcluster", "--stop", self._version, self._name)

    def _control(self, *words: str) -> None:
        _run("pg_ctlcluster", "--skip-systemctl-redirect", self._version, self._name, *words)


def database(storage: str, folder: Path) -> Database:
    """The database that `--storage` means; `folder` is for a file without a path."""
    if storage == "postgresql":
        return PostgresCluster()
    url = parse_url(f"sqlite:///{folder}/chaos.db" if storage == "sqlite" else storage)
    kinds = {"sqlite": SqliteFile, "postgresql": OnPostgres}
    return kinds.get(url.get_backend_name(), OnMysql)(url)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
