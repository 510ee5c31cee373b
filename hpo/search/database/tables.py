"""Our two tables beside Optuna's: who trains which trial, and what device time went where."""

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    inspect,
    select,
)

from hpo.specs import Outcome

METADATA = MetaData()
LEASES = Table(
    "hpo_leases",
    METADATA,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("study_id", Integer, nullable=False, index=True),
    Column("worker", String(255), nullable=False),
    Column("place", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", BigInteger, nullable=False),
    Column("job", String(255), nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("lease_s", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("renewals", Integer, nullable=False),
    Column("samples_seen", BigInteger, nullable=False),
    Column("checkpoint_at", BigInteger, nullable=False),
    Column("device_seconds", Double, nullable=False),
)
USAGE = Table(
    "hpo_usage",
    METADATA,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("outcome", String(32), primary_key=True),
    Column("trials", Integer, nullable=False),
    Column("device_seconds", Double, nullable=False),
)


def create(engine: Engine) -> None:
    """Makes the tables that are not there; leases of an earlier version are dropped."""
    found = inspect(engine)
    if found.has_table(LEASES.name):
        names = {column["name"] for column in found.get_columns(LEASES.name)}
        if names != set(LEASES.columns.keys()):
            LEASES.drop(engine)
    METADATA.create_all(engine)


def begin_study(engine: Engine, study_id: int, *, new: bool) -> None:
    """One row of usage for every outcome; a new study starts from zero.

    A database may give the number of a deleted study again.
    """
    with engine.begin() as connection:
        if new:
            connection.execute(delete(LEASES).where(LEASES.c.study_id == study_id))
            connection.execute(delete(USAGE).where(USAGE.c.study_id == study_id))
        there = set(_outcomes(connection, study_id))
        missing = [o.value for o in Outcome if o.value not in there]
        rows = [
            {"study_id": study_id, "outcome": o, "trials": 0, "device_seconds": 0.0}
            for o in missing
        ]
        if rows:
            connection.execute(insert(USAGE), rows)


def _outcomes(connection: Connection, study_id: int) -> list[str]:
    rows = connection.execute(select(USAGE.c.outcome).where(USAGE.c.study_id == study_id))
    return [str(row.outcome) for row in rows]
