"""A database that is away is tried again, less and less often, until patience ends."""

import optuna
import pytest
import sqlalchemy
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, ProgrammingError

from hpo.search.database.outage import FIRST_WAIT_S, LONGEST_WAIT_S, Outage, is_away
from tests.search.conftest import Clock

PATIENCE_S = 60.0


class Database:
    """Work that fails while the database is away."""

    def __init__(self):
        self.error = None
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.error is not None:
            raise self.error


def wrong(kind):
    return kind("SELECT 1", {}, Exception("server closed the connection"))


def wrapped(cause):
    """As Optuna passes it on."""
    error = optuna.exceptions.StorageInternalError("during the commit")
    error.__cause__ = cause
    return error


@pytest.fixture
def outage(clock):
    return Outage(patience_s=PATIENCE_S, monotonic=clock)


@pytest.fixture
def work():
    return Database()


def test_while_all_is_well_there_is_nothing_to_say(outage, work):
    assert [outage.attempt(work) for _ in range(3)] == [""] * 3
    assert work.calls == 3
    assert outage.error is None


def test_an_outage_is_said_once_and_its_end_too(outage, work, clock):
    work.error = wrong(OperationalError)
    assert "training goes on meanwhile" in outage.attempt(work)
    assert outage.error is work.error
    for _ in range(3):
        clock.now += LONGEST_WAIT_S
        assert outage.attempt(work) == ""
    work.error = None
    clock.now += LONGEST_WAIT_S
    assert outage.attempt(work) == "the database is back after 8.0s"
    assert outage.error is None
    assert outage.attempt(work) == ""


def test_a_database_that_is_away_is_not_asked_all_the_time(outage, work, clock):
    work.error = wrong(OperationalError)
    outage.attempt(work)
    waits, wait_s = [], FIRST_WAIT_S
    for _ in range(4):
        clock.now += wait_s - 0.1
        outage.attempt(work)
        before = work.calls
        clock.now += 0.2
        outage.attempt(work)
        waits.append(work.calls - before)
        wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
    assert waits == [1] * 4
    assert work.calls == 5


def test_after_an_outage_the_next_one_is_tried_again_soon(outage, work, clock):
    for _ in range(2):
        work.error = wrong(OperationalError)
        assert outage.attempt(work) != ""
        clock.now += FIRST_WAIT_S
        work.error = None
        assert "back" in outage.attempt(work)


def test_patience_ends(outage, work, clock):
    work.error = wrong(OperationalError)
    outage.attempt(work)
    clock.now += PATIENCE_S
    outage.attempt(work)
    assert not outage.is_over_patience
    clock.now += 1
    assert outage.is_over_patience


def test_patience_begins_anew_with_every_outage(outage, work, clock):
    for _ in range(3):
        work.error = wrong(OperationalError)
        outage.attempt(work)
        clock.now += PATIENCE_S - 1
        assert not outage.is_over_patience
        work.error = None
        outage.attempt(work)


@pytest.mark.parametrize(
    "error",
    [
        wrong(ProgrammingError),
        wrong(IntegrityError),
        wrapped(wrong(ProgrammingError)),
        KeyError("Record does not exist."),
        ValueError("something else"),
    ],
)
def test_other_errors_are_errors(outage, work, error):
    work.error = error
    with pytest.raises(type(error)):
        outage.attempt(work)
    assert outage.error is None


@pytest.mark.parametrize("kind", [OperationalError, InterfaceError])
def test_what_means_away_is_known_behind_optunas_error_too(kind):
    assert is_away(wrong(kind))
    assert is_away(wrapped(wrong(kind)))
    assert is_away(sqlalchemy.exc.TimeoutError("the pool is empty"))
    assert is_away(ProgrammingError("SELECT 1", {}, Exception(), connection_invalidated=True))


def test_a_server_that_is_not_there_is_away():
    url = "postgresql+psycopg://me@127.0.0.1:1/hpo"
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": 5})
    outage = Outage(patience_s=PATIENCE_S, monotonic=Clock())
    assert "cannot be used now" in outage.attempt(lambda: engine.connect().close())
