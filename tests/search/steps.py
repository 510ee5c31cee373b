"""What tests of the Optuna side do again and again."""

import threading

from optuna.trial import TrialState
from sqlalchemy import MetaData, select

from hpo.search.database.leases import Sign
from hpo.search.database.tables import LEASES, USAGE
from hpo.search.ledger.endings import Ending
from hpo.specs import EvalPoint, Outcome

LEASE_S = 120.0  # of the small study
LOOK_S = 12.0


def with_search(spec, **changes):
    """The study with other settings of its search."""
    return spec.model_copy(update={"search": spec.search.model_copy(update=changes)})


def with_limits(spec, **changes):
    """The study with other limits."""
    return spec.model_copy(update={"limits": spec.limits.model_copy(update=changes)})


def ending(outcome, **more):
    """An ending with a reason, and a value if it is complete."""
    value = 1.25 if outcome == Outcome.COMPLETE else None
    return Ending(outcome=outcome, reason=f"because of {outcome}", value=value, **more)


def finish(ledger, asked, outcome=Outcome.COMPLETE, **more):
    """Ends a trial."""
    ledger.finish(asked, ending(outcome, **more))


def run(ledger, outcome=Outcome.COMPLETE, **more):
    """Asks for a trial and ends it; its frozen self."""
    asked = ledger.ask()
    finish(ledger, asked, outcome, **more)
    return trial(ledger, asked.number)


def trial(ledger, number):
    """One trial as the database has it."""
    return ledger.study.get_trials()[number]


def states(ledger):
    """The states of all trials, by number."""
    return [t.state for t in ledger.study.get_trials()]


def waiting(ledger):
    """The trials that wait."""
    return [t for t in ledger.study.get_trials() if t.state == TrialState.WAITING]


def point(samples, loss, *, last=False):
    """A point of a curve."""
    return EvalPoint(samples_seen=samples, step=samples // 8, val_loss=loss, last=last)


def sign(*, alive=True, samples_seen=0, checkpoint_at=0, device_seconds=0.0):
    """A sign of life."""
    return Sign(
        alive=alive,
        samples_seen=samples_seen,
        checkpoint_at=checkpoint_at,
        device_seconds=device_seconds,
    )


def pass_time(clock, seconds, look):
    """Sets the clock forward in the steps of a driver that looks; what it sees at the end."""
    found = look()
    while seconds > 0:
        clock.now += min(LOOK_S, seconds)
        seconds -= LOOK_S
        found = look()
    return found


def at_once(*calls):
    """What calls return that are made at one moment, each in a thread of its own."""
    barrier, found = threading.Barrier(len(calls)), []

    def call(work):
        barrier.wait()
        try:
            found.append(work())
        except Exception as error:
            found.append(repr(error))

    threads = [threading.Thread(target=call, args=(work,)) for work in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def abandoned(leases):
    """Ids of the trials whose leases are abandoned."""
    return [row.trial_id for row in leases.abandoned()]


def owners(leases):
    """Who holds which trial of the study."""
    with leases._engine.connect() as connection:
        rows = connection.execute(select(LEASES).where(LEASES.c.study_id == leases._study_id))
        return {row.trial_id: row.worker for row in rows}


def usage(leases):
    """{outcome: (attempts, device seconds)} of what has ended."""
    rows = select(USAGE).where(USAGE.c.study_id == leases._study_id, USAGE.c.trials > 0)
    with leases._engine.connect() as connection:
        return {r.outcome: (r.trials, r.device_seconds) for r in connection.execute(rows)}


def everything(leases):
    """All rows of all tables."""
    found = MetaData()
    found.reflect(leases._engine)
    with leases._engine.connect() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(select(table))))
            for table in found.sorted_tables
        }
