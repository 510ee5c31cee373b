"""A study, or the file of its database, that is lost while it runs: exit 2 and one sentence."""

import os
import shutil
import sqlite3
import time

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState
from sqlalchemy import text

from tests.commands import LONGER, Running, run, stored

NAME = "rsicap-mini"
OPTIONS = ("--trials", "40", "--runners", "1")
pytestmark = pytest.mark.slow


def deleted_by_optuna(url):
    optuna.delete_study(study_name=NAME, storage=url)


def rows_deleted(url):
    """As a person does by hand; children first, as servers demand."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        for table in [t for t in tables if t.startswith("trial_")]:
            connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("DELETE FROM trials"))
        for table in [t for t in tables if t.startswith("study_")]:
            connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(text("DELETE FROM studies"))
    engine.dispose()


@pytest.mark.parametrize("delete", [deleted_by_optuna, rows_deleted])
def test_a_study_that_is_deleted_ends_in_one_sentence(tmp_path, database_url, delete):
    url = database_url.render_as_string(hide_password=False)
    running = Running(tmp_path, *OPTIONS, HPO_STORAGE=url)
    running.wait_for("trial_evaluated", count=2)
    delete(url)
    began = time.monotonic()
    assert running.finish() == 2
    assert time.monotonic() - began < 60, "hangs"
    (error,) = [e["message"] for e in running.events if e["event"] == "error"]
    assert f"the study {NAME} was deleted while it ran" in error and "\n" not in error


def removed(path):
    path.unlink()


def replaced(path):
    shutil.copy(path, path.with_name("new.db"))
    os.replace(path.with_name("new.db"), path)


def folder_removed(path):
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("change", [removed, replaced, folder_removed])
def test_a_file_that_is_lost_ends_in_one_sentence_and_a_copy_that_continues(tmp_path, change):
    path = tmp_path / "databases" / "hpo.db"
    path.parent.mkdir()
    options = ("--storage", f"sqlite:///{path}")
    running = Running(tmp_path, *OPTIONS, *options)
    running.wait_for("trial_ended")
    running.wait_for("trial_evaluated")
    change(path)
    assert running.finish() == 2
    (error,) = [e["message"] for e in running.events if e["event"] == "error"]
    copy = tmp_path / "runs" / NAME / "study.db"
    for word in ("its file was re", str(path), "study.db", "the same command continues"):
        assert word in error
    trials = stored(f"sqlite:///{copy}")
    ended = [e["number"] for e in running.events if e["event"] == "trial_ended"]
    assert {t.number for t in trials if t.state != TrialState.WAITING} >= set(ended)
    assert not any(t.state == TrialState.RUNNING for t in trials), "all were handed back"
    path.parent.mkdir(exist_ok=True)
    for ending in ("", "-wal", "-shm"):
        path.with_name(f"hpo.db{ending}").unlink(missing_ok=True)
    shutil.copy(copy, path)
    finished = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
    more = ("--trials", str(finished + 1), "--runners", "1")
    run(tmp_path, *more, *options, settings=LONGER)


def test_an_enqueued_trial_that_cannot_be_trained_is_named_and_the_study_continues(tmp_path):
    run(tmp_path, "--trials", "1", "--runners", "1")
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{tmp_path}/hpo.db")
    study.enqueue_trial({"learning_rate": 5})
    shown = run(tmp_path, "--trials", "2", "--runners", "1")
    for word in ("learning_rate is 5", "must be a number from", "enqueue it again"):
        assert word in shown
    assert "out of range for distribution" not in shown and "Warning" not in shown
    states = [trial.state for trial in study.get_trials()]
    assert TrialState.FAIL in states and len(states) == 3


def test_a_file_that_is_no_database_any_more_is_named(tmp_path):
    (tmp_path / "hpo.db").write_text("notes " * 1000)
    shown = run(tmp_path, expect=2)
    assert "is not a database" in shown and "--storage" in shown


def test_a_study_of_somebody_else_with_two_objectives_is_left_alone(tmp_path):
    url = f"sqlite:///{tmp_path}/hpo.db"
    optuna.create_study(study_name=NAME, storage=url, directions=["minimize", "maximize"])
    shown = run(tmp_path, expect=2)
    assert "was not made by hpo; use --name" in shown
    with sqlite3.connect(tmp_path / "hpo.db") as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchall() == [(0,)]
