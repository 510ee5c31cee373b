"""A SQLite file that is removed, moved or replaced while it is open."""

import shutil

import pytest
from sqlalchemy import text

from hpo.search.database.file_watch import FileLostError
from hpo.search.database.storage import connect


def count(engine):
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM studies")).scalar()


def removed(path):
    path.unlink()


def moved(path):
    path.rename(path.with_name("elsewhere.db"))


def replaced(path):
    other = path.with_name("other.db")
    shutil.copy(path, other)
    other.rename(path)


def folder_removed(path):
    shutil.rmtree(path.parent)


def log_removed(path):
    path.with_name("hpo.db-wal").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (removed, "its file was removed"),
        (moved, "its file was removed"),
        (replaced, "replaced by another file"),
        (folder_removed, "its file was removed"),
        (log_removed, "its log hpo.db-wal was removed"),
    ],
)
def test_a_file_that_is_lost_is_noticed_once_and_stays_usable(tmp_path, sqlite_url, change, words):
    folder = tmp_path / "there"
    folder.mkdir()
    path = folder / "hpo.db"
    engine = connect(sqlite_url.set(database=str(path))).engine
    assert count(engine) == count(engine) == 0
    change(path)
    with pytest.raises(FileLostError, match=words):
        count(engine)
    assert count(engine) == 0, "what is open can still be handed back and copied"
    engine.dispose()


def test_a_new_connection_begins_no_new_file(tmp_path, sqlite_url):
    engine = connect(sqlite_url).engine
    engine.dispose()
    (tmp_path / "hpo.db").unlink()
    for _ in range(2):
        with pytest.raises(FileLostError):
            engine.connect()
    assert not (tmp_path / "hpo.db").exists()


def test_a_log_that_sqlite_itself_removes_is_no_loss(sqlite_url):
    engine = connect(sqlite_url).engine
    for _ in range(3):
        assert count(engine) == 0
        engine.dispose()
    engine.dispose()
