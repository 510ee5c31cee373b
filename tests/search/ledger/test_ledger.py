"""Admission, reports and the end of trials, on every kind of database."""

import pytest
from optuna.trial import TrialState

from hpo.protocol import BaseFacts
from hpo.search.ledger.endings import Ending
from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Fault, Outcome, TrialStats
from tests.search.steps import (
    LEASE_S,
    ending,
    everything,
    finish,
    owners,
    pass_time,
    point,
    run,
    sign,
    states,
    trial,
    usage,
    waiting,
    with_search,
)

GIB = 1 << 30
STATS = TrialStats(seconds=2.5, samples_per_s=12.8, peak_memory_bytes=GIB, steps=4)
OOM = Fault(
    outcome=Outcome.OOM,
    reason="out of memory",
    where="backward",
    needed_bytes=4 * GIB,
    capacity_bytes=2 * GIB,
)


@pytest.fixture
def ledger(sqlite_url, spec, worker):
    """A ledger on a SQLite file."""
    return worker(spec, sqlite_url)


def test_every_parameter_is_there_before_a_trial_starts(sqlite_url, spec, worker):
    ledger = worker(spec, sqlite_url)
    asked = ledger.ask()
    stored = trial(ledger, 0)
    assert stored.state == TrialState.RUNNING
    assert set(stored.params) == set(spec.space)
    assert {k: v for k, v in asked.config.model_dump().items() if k in stored.params} == (
        stored.params
    )
    assert (asked.seed_number, asked.attempt) == (0, 1)


def test_every_outcome_is_written_with_its_reason(database_url, spec, worker):
    ledger = worker(with_search(spec, trials=len(Outcome)), database_url)
    environment = {"device": "cpu", "versions": {"torch": "2.13.0"}}
    for outcome in Outcome:
        asked = ledger.ask()
        ledger.finish(asked, ending(outcome, stats=STATS), environment=environment)
        ended = trial(ledger, asked.number)
        assert ended.state == CONSEQUENCES[outcome].state
        assert ended.value == (1.25 if outcome == Outcome.COMPLETE else None)
        expected = {"outcome": str(outcome), "reason": f"because of {outcome}"}
        expected |= STATS.model_dump() | environment
        assert {key: ended.user_attrs.get(key) for key in expected} == expected
        assert {"worker", "host", "git_revision"} <= set(ended.user_attrs)
        assert len(waiting(ledger)) == (CONSEQUENCES[outcome].tries > 1)


def watch_commits(ledger, look):
    """What is seen from elsewhere before and after every transaction of a ledger."""
    dialect, seen = ledger.leases._engine.dialect, []
    commit = dialect.do_commit

    def do_commit(connection):
        seen.append(look())
        commit(connection)
        seen.append(look())

    dialect.do_commit = do_commit
    return seen


@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.OOM, Outcome.LOST])
def test_a_trial_is_told_with_all_that_is_known_at_once(ledger, outcome, worker, spec):
    asked = ledger.ask()
    elsewhere = worker(spec, ledger.leases._engine.url, "there:2")
    seen = watch_commits(ledger, lambda: trial(elsewhere, 0))
    finish(ledger, asked, outcome, stats=STATS)
    ended = trial(elsewhere, 0)
    assert ended.user_attrs["outcome"] == str(outcome)
    assert bool(ended.constraints) == (outcome != Outcome.LOST)
    for before in (t for t in seen if t != ended):
        assert (before.state, before.user_attrs) == (TrialState.RUNNING, {})
        assert (before.value, before.constraints) == (None, {})
    assert seen[0] != ended == seen[-1]


def test_an_out_of_memory_has_a_graded_constraint_and_no_value(database_url, spec, worker):
    ledger = worker(spec, database_url)
    ended = run(ledger, Outcome.OOM, fault=OOM)
    assert ended.state == TrialState.PRUNED
    assert ended.intermediate_values == {}
    assert ended.constraints == {"memory": 1.0}
    assert ended.user_attrs["constraint_memory"] == 1.0
    assert ended.user_attrs["oom_where"] == "backward"
    assert ended.user_attrs["needed_bytes"] == 4 * GIB
    assert ended.user_attrs["capacity_bytes"] == 2 * GIB


def test_a_nan_says_where_it_began(ledger):
    fault = Fault(outcome=Outcome.NAN, reason="NaN", step=2, where="projection")
    ended = run(ledger, Outcome.NAN, fault=fault)
    assert ended.state == TrialState.PRUNED
    assert (ended.user_attrs["nan_step"], ended.user_attrs["nan_where"]) == (2, "projection")


def test_reports_lie_on_the_grid_and_the_median_prunes(ledger):
    for _ in range(4):
        asked = ledger.ask()
        assert ledger.report(asked, point(16, 2.0), replayed=False) is None
        assert ledger.report(asked, point(32, 1.0), replayed=False) is None
        finish(ledger, asked)
    asked = ledger.ask()
    assert ledger.report(asked, point(16, 9.0), replayed=False) is None
    verdict = ledger.report(asked, point(32, 9.0), replayed=False)
    assert verdict.outcome == Outcome.PRUNED
    ledger.finish(asked, verdict)
    ended = trial(ledger, 4)
    assert ended.state == TrialState.PRUNED
    assert ended.intermediate_values == {16: 9.0, 32: 9.0}
    for key, value in {
        "outcome": "pruned",
        "pruner": "median",
        "pruned_at_samples": 32,
        "pruned_value": 9.0,
        "pruned_median": 1.0,
    }.items():
        assert ended.user_attrs[key] == value


def test_trials_that_run_side_by_side_are_pruned_before_one_is_complete(ledger):
    together = [ledger.ask() for _ in range(5)]
    for asked in together:
        assert ledger.report(asked, point(16, 9.0), replayed=False) is None
    for value, asked in zip((1.0, 2.0, 3.0, 4.0), together, strict=False):
        assert ledger.report(asked, point(32, value), replayed=False) is None
    verdict = ledger.report(together[4], point(32, 2.75), replayed=False)
    assert verdict.outcome == Outcome.PRUNED
    assert verdict.details["pruned_median"] == 2.5
    assert verdict.reason.endswith("is above the median 2.5000 of 4 trials")


def test_a_trial_at_its_end_is_complete_however_bad(ledger):
    for _ in range(4):
        asked = ledger.ask()
        assert ledger.report(asked, point(32, 1.0), replayed=False) is None
        ledger.finish(asked, Ending(outcome=Outcome.COMPLETE, reason="done", value=1.0))
    bad = ledger.ask()
    last = point(32, 9.0).model_copy(update={"last": True})
    assert ledger.report(bad, last, replayed=False) is None


def test_a_trial_that_was_failed_by_hand_stays_so(ledger):
    asked = ledger.ask()
    ledger.study.tell(asked.number, state=TrialState.FAIL)
    ledger.report(asked, point(16, 1.0), replayed=False)
    finish(ledger, asked, stats=STATS)
    assert states(ledger) == [TrialState.FAIL]


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.PREEMPTED, Outcome.CRASHED])
def test_a_trial_that_was_failed_by_hand_is_not_tried_again(ledger, outcome):
    asked = ledger.ask()
    ledger.study.tell(asked.number, state=TrialState.FAIL)
    finish(ledger, asked, outcome)
    assert states(ledger) == [TrialState.FAIL]
    assert owners(ledger.leases) == {}


def lose(ours, theirs, clock):
    """A trial of ours that they have declared lost."""
    asked = ours.ask()
    assert pass_time(clock, LEASE_S, theirs.reap) == [asked.number]
    return asked


@pytest.fixture
def lost(database_url, spec, worker, clock):
    """A ledger, and a trial of its that another worker has declared lost."""
    ours, theirs = worker(spec, database_url, "here:1"), worker(spec, database_url, "there:2")
    return ours, lose(ours, theirs, clock)


@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.OOM, Outcome.PREEMPTED])
def test_the_end_of_a_trial_that_was_lost_changes_nothing_at_all(lost, outcome):
    ours, asked = lost
    before = everything(ours.leases)
    ours.finish(asked, ending(outcome, stats=STATS), device_seconds=9.0)
    assert ours.leases.renew({asked.trial_id: sign(samples_seen=32)}) == {asked.trial_id}
    assert everything(ours.leases) == before


def test_a_report_of_a_trial_that_was_lost_changes_nothing_at_all(lost):
    ours, asked = lost
    before = everything(ours.leases)
    assert ours.report(asked, point(16, 1.0), replayed=False).outcome == Outcome.LOST
    assert everything(ours.leases) == before


def test_a_report_while_another_takes_over_changes_nothing_at_all(sqlite_url, spec, worker, clock):
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    asked = ours.ask()
    pass_time(clock, LEASE_S, theirs.leases.abandoned)
    theirs.leases.claim(*theirs.leases.abandoned())
    before = everything(ours.leases)
    assert ours.report(asked, point(16, 1.0), replayed=False).outcome == Outcome.LOST
    assert everything(ours.leases) == before


def test_replayed_points_are_reported_and_never_prune(ledger):
    for _ in range(4):
        asked = ledger.ask()
        for samples in (16, 32):
            ledger.report(asked, point(samples, 1.0), replayed=False)
        finish(ledger, asked)
    asked = ledger.ask()
    for samples in (16, 32):
        assert ledger.report(asked, point(samples, 9.0), replayed=True) is None
    assert trial(ledger, 4).intermediate_values == {16: 9.0, 32: 9.0}
    again = ledger.report(asked, point(32, 9.0), replayed=False)  # there already, and decided now
    assert again.outcome == Outcome.PRUNED


def test_a_lost_trial_keeps_the_device_time_of_its_lease(sqlite_url, spec, worker, clock):
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    asked = ours.ask()
    ours.leases.renew({asked.trial_id: sign(samples_seen=24, device_seconds=7.5)})
    pass_time(clock, LEASE_S, theirs.reap)
    assert usage(ours.leases) == {"lost": (1, 7.5)}
    assert "here:1" in trial(ours, 0).user_attrs["reason"]
    assert "24 samples" in trial(ours, 0).user_attrs["reason"]


def test_a_trial_that_ended_before_its_lease_is_booked_as_it_ended(ledger, clock, worker, spec):
    asked = ledger.ask()
    ledger.leases.renew({asked.trial_id: sign(device_seconds=7.5)})
    ledger._tell(asked, ending(Outcome.COMPLETE), {})  # and its worker died
    theirs = worker(spec, ledger.leases._engine.url, "there:2")
    assert pass_time(clock, LEASE_S, theirs.reap) == []
    assert usage(theirs.leases) == {"complete": (1, 7.5)}
    assert owners(theirs.leases) == {}


def test_closing_ends_what_waits(ledger):
    run(ledger, Outcome.LOST)
    ledger.study.enqueue_trial({"batch_size": 4})
    ledger.close()
    assert states(ledger) == [TrialState.FAIL] * 3
    assert trial(ledger, 1).user_attrs["outcome"] == "over_budget"
    assert "has 6 trials without it" in trial(ledger, 2).user_attrs["reason"]
    assert owners(ledger.leases) == {}


def test_closing_leaves_alone_what_another_is_about_to_start(ledger, worker, spec):
    ledger.study.enqueue_trial({"batch_size": 4})
    theirs = worker(spec, ledger.leases._engine.url, "there:2")
    theirs.leases.take(ledger.study.trials[0]._trial_id)
    ledger.close()
    assert states(ledger) == [TrialState.WAITING]


def test_the_base_alone_is_noted_once(ledger):
    def facts(loss):
        return BaseFacts(
            device="cpu",
            memory_capacity_bytes=None,
            base_parameters=1,
            adapted_layers=1,
            train_samples=32,
            val_samples=8,
            checks=(),
            versions={},
            zero_shot=loss,
        )

    ledger.note_base(facts(None))
    assert not ledger.knows_zero_shot()
    for loss in (1.5, 9.0):
        ledger.note_base(facts(loss))
    assert ledger.knows_zero_shot()
    assert ledger.study.user_attrs["zero_shot"] == 1.5
