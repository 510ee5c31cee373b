"""A study as one SQLite file, which `optuna.load_study` opens without the study's own database.

Rows are copied as they are, in one snapshot. `optuna.copy_study` makes the same trial by trial, and
takes fifty times the processor time: half a minute for a thousand trials.
"""

import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, Select, Table, insert, select
from sqlalchemy.exc import SQLAlchemyError

from hpo.search.database.cached import storage_of
from hpo.search.database.rows import TRIALS

FILE = "study.db"
CHUNK = 1000  # rows of one statement
ABANDONED_S = 3600.0  # a copy takes seconds: whoever began one so long ago was killed


def write_copy(study: optuna.Study, folder: Path) -> str:
    """Writes the study as it is now to `study.db` in a folder, in place of the copy before.

    Several processes may do so at once; the last one wins. No part of the study depends on it.

    Returns:
        Why it was not written, or nothing.
    """
    path, engine = folder / FILE, storage_of(study).engine
    try:
        if _is_database_of(engine, path):
            return ""
        _refuse_open(path)
        _remove_abandoned(folder)
        _replace(path, _content(engine, study._study_id))
    except (OSError, sqlite3.Error, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        return f"{path} was not written: {_why(error)}; the study itself is in its database"
    return ""


def _is_database_of(engine: Engine, path: Path) -> bool:
    """Whether the study itself lies there."""
    name = engine.url.database if engine.dialect.name == "sqlite" else None
    return name is not None and path.exists() and path.samefile(name)


def _refuse_open(path: Path) -> None:
    """A log of SQLite's belongs to the file of before, and would be played into its successor."""
    for ending in ("-journal", "-wal"):
        log = path.with_name(f"{path.name}{ending}")
        if log.exists():
            raise sqlite3.OperationalError(f"it is in use, as {log.name} beside it shows")


def _content(engine: Engine, study_id: int) -> bytes:
    """A database with Optuna's tables and this study alone."""
    memory = RDBStorage("sqlite://")
    try:
        with _snapshot(engine) as source, memory.engine.begin() as copy:
            for table in models.BaseModel.metadata.sorted_tables:
                for rows in _rows(source, table, study_id):
                    copy.execute(insert(table), rows)
        with closing(memory.engine.raw_connection()) as connection:
            content: bytes = connection.driver_connection.serialize()  # type: ignore[union-attr]
            return content
    finally:
        memory.engine.dispose()


@contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """All that is read belongs to one moment, whatever others write meanwhile."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")  # Python would begin with the first write only
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def _rows(source: Connection, table: Table, study_id: int) -> Iterator[list[dict[str, object]]]:
    """What a table holds of the study, some rows at a time."""
    query: Select[tuple[object, ...]] = select(table)
    if "study_id" in table.c:
        query = query.where(table.c.study_id == study_id)
    elif "trial_id" in table.c:
        ours = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
        query = query.where(table.c.trial_id.in_(ours))
    else:
        return  # the version of the schema, which is there
    for part in source.execute(query).mappings().partitions(CHUNK):
        yield [dict(row) for row in part]


def _replace(path: Path, content: bytes) -> None:
    """Puts a database into the place of a file: the whole of it or nothing."""
    scratch = path.with_name(f"{path.name}.{uuid.uuid4().hex}.writing")
    try:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _check(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _check(path: Path) -> None:
    """Raises DatabaseError if what was written is not one whole study."""
    whole = f"{path.resolve().as_uri()}?immutable=1"  # no locks, which a network disk may lack
    with closing(sqlite3.connect(whole, uri=True)) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
        strays = connection.execute("PRAGMA foreign_key_check").fetchall()
        studies = connection.execute("SELECT COUNT(*) FROM studies").fetchall()
    if (found, strays, studies) != ([("ok",)], [], [(1,)]):
        raise sqlite3.DatabaseError("the copy is not whole")


def _remove_abandoned(folder: Path) -> None:
    """Removes what processes that were killed have left of their copies."""
    for scratch in folder.glob(f"{FILE}.*.writing"):
        with suppress(FileNotFoundError):  # another process has just ended with it
            if time.time() - scratch.stat().st_mtime > ABANDONED_S:
                scratch.unlink()


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or "the file cannot be written"
    if isinstance(error, sqlite3.Error):
        return str(error)
    return "the database cannot be read now"  # its words may name the server
