"""The database goes away at any statement: what is called again ends as if nothing had been."""

from contextlib import contextmanager
from types import SimpleNamespace

import optuna
import pytest
import sqlalchemy

from hpo.search.database.outage import is_away
from hpo.search.database.storage import connect
from hpo.search.ledger.ledger import Ledger
from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Outcome
from tests.search.steps import (
    LEASE_S,
    LOOK_S,
    ending,
    owners,
    pass_time,
    point,
    run,
    sign,
    usage,
    with_search,
)

KINDS = (
    "blip",  # one statement fails
    "outage",  # one statement fails, and all that follow until the call has failed
    "unacknowledged",  # a transaction is committed, and nobody learns of it
    "unacknowledged outage",
)
pytestmark = pytest.mark.slow  # every call is made as often as it has statements
CALLS = 400  # more statements than any call needs


class Failing:
    """A database that fails at the n-th statement, or after the n-th transaction."""

    def __init__(self, leases, kind, number):
        self._dialect, self._kind, self._left = leases._engine.dialect, kind, number
        self._away = False
        self.failed = False

    def _count(self):
        self._left -= 1
        if self._left == 0:
            self.failed = True
            self._away = "outage" in self._kind
        if self._left == 0 or self._away:
            raise self._dialect.dbapi.OperationalError("server closed the connection unexpectedly")

    @contextmanager
    def __call__(self):
        """While entered, statements count."""
        execute, commit = self._dialect.do_execute, self._dialect.do_commit

        def do_execute(*args, **more):
            if self._away or "unacknowledged" not in self._kind:
                self._count()
            execute(*args, **more)

        def do_commit(connection):
            commit(connection)
            if "unacknowledged" in self._kind:
                self._count()

        self._dialect.do_execute, self._dialect.do_commit = do_execute, do_commit
        try:
            yield
        finally:
            del self._dialect.do_execute, self._dialect.do_commit
            self._away = False


def stubborn(failing, work):
    """Does work as the driver does: again as a whole if the database was away."""
    for _ in range(3):
        try:
            with failing():
                return work()
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            assert is_away(error)
    raise AssertionError("the database fails once")


def picture(ledger):
    """What a study must end with, whenever the database went away; others commit meanwhile."""
    trials = [
        (
            t.number,
            t.state.name,
            t.value,
            len(t.params),
            t.intermediate_values,
            t.constraints,
            {key: value for key, value in t.user_attrs.items() if key != "git_revision"},
        )
        for t in ledger.study.get_trials()
    ]
    held = owners(ledger.leases)
    leases = [(t.number, held[t._trial_id]) for t in ledger.trials() if t._trial_id in held]
    return trials, leases, usage(ledger.leases)


@pytest.fixture(autouse=True)
def _impatient_optuna(monkeypatch):
    """Optuna sleeps between its tries to make a trial."""
    monkeypatch.setattr("optuna.storages._rdb.storage.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def one_connection(monkeypatch, sqlite_url):
    """All studies of a test are opened with one storage: that takes a tenth of the time."""
    storage = connect(sqlite_url)
    monkeypatch.setattr("hpo.search.opening.connect", lambda url: storage)


@pytest.fixture(params=KINDS)
def at_every_statement(request, sqlite_url, spec, worker, one_connection):
    """Does a call once for every statement in it, which fails; what each study ends with.

    The first one is that of a call that nothing happens to.
    """

    def every(prepare, call, after=lambda ledger: None, **search):
        pictures = []
        for number in range(CALLS):
            named = with_search(spec, **search).model_copy(update={"name": f"study{number}"})
            ledger = worker(named, sqlite_url)
            prepared = prepare(ledger)
            failing = Failing(ledger.leases, request.param, number)
            result = stubborn(failing, lambda p=prepared, le=ledger: call(le, p))
            after(ledger)
            pictures.append((result, picture(ledger)))
            if number and not failing.failed:
                assert len(pictures) > 3
                return pictures
        raise AssertionError("the call never came to its end")

    return every


def same(pictures):
    """Asserts that all studies ended alike, and returns how."""
    first, *others = pictures
    for number, other in enumerate(others, 1):
        assert other == first, f"failure {number}"
    return first


def asked_facts(ledger, _=None):
    asked = ledger.ask()
    return asked and (asked.number, asked.seed_number, asked.attempt, asked.spent)


def test_asking_leaves_no_trial_without_an_owner(at_every_statement):
    pictures = at_every_statement(lambda ledger: None, asked_facts)
    for (number, *_), (trials, leases, _) in pictures:
        assert [t[0] for t in trials if t[1] == "RUNNING"] == [number]
        assert leases == [(number, "here:1")]
        assert len(trials) <= 2  # one may wait that was made unknown to us


def test_asking_for_a_retry_begins_it_once(at_every_statement):
    result, _ = same(at_every_statement(lambda ledger: run(ledger, Outcome.LOST), asked_facts))
    assert result == (1, 0, 2, {"lost": 1})


def test_a_trial_that_is_one_too_many_is_handed_back(at_every_statement, sqlite_url, worker):
    def overtaken(ledger):
        """Another worker got the last place, between our look at the study and our trial."""
        worker(ledger._spec, sqlite_url, "there:2").ask()
        ledger._admission._pending = ledger._admission._take(0, room=1)

    result, (trials, leases, booked) = same(at_every_statement(overtaken, asked_facts, trials=1))
    assert result is None
    assert [t[1] for t in trials] == ["RUNNING", "FAIL"]
    assert trials[1][-1]["outcome"] == "over_budget"
    assert leases == [(0, "there:2")]
    assert booked == {"over_budget": (1, 0.0)}


def test_a_point_is_reported_once(at_every_statement):
    def report(ledger, asked):
        ledger.report(asked, point(16, 2.5), replayed=False)
        return ledger.report(asked, point(32, 1.5), replayed=False)

    _, (trials, *_) = same(at_every_statement(Ledger.ask, report))
    assert trials[0][4] == {16: 2.5, 32: 1.5}


@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.OOM])
def test_a_trial_is_told_and_booked_once(at_every_statement, outcome):
    def finish(ledger, asked):
        ledger.finish(asked, ending(outcome), device_seconds=2.5, environment={"device": "cpu"})

    _, (trials, leases, booked) = same(at_every_statement(Ledger.ask, finish))
    assert [t[1] for t in trials] == [CONSEQUENCES[outcome].state.name]
    assert leases == []
    assert booked == {str(outcome): (1, 2.5)}


def go_on(ledger):
    """Begins the retry, and closes what else waits: Optuna may have made a second one."""
    assert ledger.ask().attempt == 2
    ledger.close()


def without_surplus(pictures):
    """The same without what was over budget."""
    for result, (trials, leases, booked) in pictures:
        begun = [t for t in trials if t[-1].get("outcome") != "over_budget"]
        assert len(trials) - len(begun) <= 1
        yield result, (begun, leases, {k: v for k, v in booked.items() if k != "over_budget"})


def test_a_trial_that_failed_is_tried_again_once(at_every_statement):
    def finish(ledger, asked):
        ledger.finish(asked, ending(Outcome.CRASHED), device_seconds=2.5)

    pictures = at_every_statement(Ledger.ask, finish, go_on)
    _, (trials, leases, booked) = same(without_surplus(pictures))
    assert [t[1] for t in trials] == ["FAIL", "RUNNING"]
    assert leases == [(1, "here:1")]
    assert booked == {"crashed": (1, 2.5)}


def reap(ledger, _):
    ledger.reap()


def test_a_lost_trial_is_ended_once(at_every_statement, sqlite_url, worker, clock):
    def lost(ledger):
        theirs = worker(ledger._spec, sqlite_url, "there:2")
        asked = theirs.ask()
        theirs.leases.renew({asked.trial_id: sign(device_seconds=7.0)})
        pass_time(clock, LEASE_S - LOOK_S, ledger.reap)
        clock.now += LOOK_S

    _, (trials, leases, booked) = same(without_surplus(at_every_statement(lost, reap, go_on)))
    assert [t[1] for t in trials] == ["FAIL", "RUNNING"]
    assert leases == [(1, "here:1")]
    assert booked == {"lost": (1, 7.0)}


def test_a_trial_that_nobody_had_is_ended_once(at_every_statement, clock):
    def leaseless(ledger):
        ledger.study.ask()
        pass_time(clock, LEASE_S - LOOK_S, ledger.reap)
        clock.now += LOOK_S

    _, (trials, leases, booked) = same(without_surplus(at_every_statement(leaseless, reap, go_on)))
    assert [t[1] for t in trials] == ["FAIL", "RUNNING"]
    assert leases == [(1, "here:1")]
    assert booked == {"lost": (1, 0.0)}


def test_what_waits_is_closed_once(at_every_statement):
    def close(ledger, _):
        ledger.close()

    _, (trials, leases, booked) = same(
        at_every_statement(lambda ledger: run(ledger, Outcome.LOST), close)
    )
    assert [t[1] for t in trials] == ["FAIL", "FAIL"]
    assert leases == []
    assert booked == {"lost": (1, 0.0), "over_budget": (1, 0.0)}
