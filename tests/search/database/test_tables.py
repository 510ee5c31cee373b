"""Our tables beside Optuna's: made when they are not there, replaced when they are old."""

import optuna
from sqlalchemy import inspect, text

from hpo.search.database import tables
from hpo.specs import Outcome
from tests.search.steps import ending, owners, run, usage


def columns(engine):
    return {column["name"] for column in inspect(engine).get_columns("hpo_leases")}


def test_leases_of_an_earlier_version_are_replaced(database_url, spec, worker):
    engine = worker(spec, database_url).leases._engine
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE hpo_leases"))
        connection.execute(text("CREATE TABLE hpo_leases (trial_id INTEGER, owner VARCHAR(9))"))
        connection.execute(text("INSERT INTO hpo_leases VALUES (1, 'old')"))
    ledger = worker(spec, database_url)
    assert columns(engine) == set(tables.LEASES.columns.keys())
    assert owners(ledger.leases) == {}
    assert ledger.ask() is not None


def test_opening_again_keeps_leases_and_usage(database_url, spec, worker):
    ours = worker(spec, database_url)
    run(ours)
    asked = ours.ask()
    theirs = worker(spec, database_url, "there:2")
    assert owners(theirs.leases) == {asked.trial_id: "here:1"}
    assert usage(theirs.leases) == {"complete": (1, 0.0)}


def test_a_study_that_is_made_again_starts_from_zero(database_url, spec, worker):
    ledger = worker(spec, database_url)
    ledger.finish(ledger.ask(), ending(Outcome.COMPLETE), device_seconds=5.0)
    ledger.ask()
    optuna.delete_study(study_name=spec.name, storage=ledger.study._storage)
    again = worker(spec, database_url)
    assert usage(again.leases) == {}
    assert owners(again.leases) == {}
    assert again.leases.usage().total_s == 0.0
    assert again.ask().number == 0


def test_every_outcome_has_a_row_of_usage(sqlite_url, spec, worker):
    ledger = worker(spec, sqlite_url)
    with ledger.leases._engine.begin() as connection:
        rows = connection.execute(text("SELECT outcome FROM hpo_usage")).all()
    assert {row.outcome for row in rows} == set(map(str, Outcome))
