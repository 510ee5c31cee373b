"""Admission, reports and the end of trials, on every kind of database."""

import threading

import pytest
from optuna.trial import TrialState

from hpo.protocol import BaseFacts
from hpo.search.leases import LEASE_S
from hpo.search.ledger import Ending
from hpo.search.outcomes import CONSEQUENCES
from hpo.specs import EvalPoint, Fault, Outcome, TrialStats

GIB = 1 << 30
STATS = TrialStats(seconds=2.5, samples_per_s=12.8, peak_memory_bytes=GIB, steps=4)
OOM = Fault(
    outcome=Outcome.OOM,
    reason="out of memory",
    where="backward",
    needed_bytes=4 * GIB,
    capacity_bytes=2 * GIB,
)


def ending(outcome, **more):
    value = 1.25 if outcome == Outcome.COMPLETE else None
    return Ending(outcome=outcome, reason=f"because of {outcome}", value=value, **more)


def finish(ledger, asked, outcome=Outcome.COMPLETE, **more):
    ledger.finish(asked, ending(outcome, **more))


def run(ledger, outcome=Outcome.COMPLETE, **more):
    """Asks for a trial and ends it; its frozen self."""
    asked = ledger.ask()
    finish(ledger, asked, outcome, **more)
    return trial(ledger, asked.trial.number)


def trial(ledger, number):
    return ledger.study.get_trials()[number]


def states(ledger):
    return [t.state for t in ledger.study.get_trials()]


def waiting(ledger):
    return [t for t in ledger.study.get_trials() if t.state == TrialState.WAITING]


def point(samples, loss):
    return EvalPoint(samples_seen=samples, step=samples // 8, val_loss=loss)


def with_search(spec, **changes):
    return spec.model_copy(update={"search": spec.search.model_copy(update=changes)})


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
        ended = trial(ledger, asked.trial.number)
        assert ended.state == CONSEQUENCES[outcome].state
        assert ended.value == (1.25 if outcome == Outcome.COMPLETE else None)
        expected = {"outcome": str(outcome), "reason": f"because of {outcome}"}
        expected |= STATS.model_dump() | environment
        assert {key: ended.user_attrs.get(key) for key in expected} == expected
        assert {"worker", "host", "git_revision"} <= set(ended.user_attrs)
        assert len(waiting(ledger)) == CONSEQUENCES[outcome].retry


@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.OOM, Outcome.LOST])
def test_attributes_are_written_before_the_trial_is_told(ledger, outcome):
    asked, seen = ledger.ask(), []
    tell = ledger.study.tell

    def told(*args, **settings):
        seen.append(trial(ledger, 0))
        return tell(*args, **settings)

    ledger.study.tell = told
    finish(ledger, asked, outcome, stats=STATS)
    (before,) = seen
    assert before.state == TrialState.RUNNING
    assert before.user_attrs == trial(ledger, 0).user_attrs
    assert before.user_attrs["outcome"] == str(outcome)
    assert bool(before.constraints) == (outcome != Outcome.LOST)


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


@pytest.mark.parametrize(
    "fault",
    [
        None,
        OOM.model_copy(update={"needed_bytes": None}),
        OOM.model_copy(update={"capacity_bytes": None}),
        OOM.model_copy(update={"needed_bytes": GIB}),
        OOM.model_copy(update={"needed_bytes": 2 * GIB + 1}),
    ],
)
def test_an_out_of_memory_is_never_feasible(ledger, fault):
    assert run(ledger, Outcome.OOM, fault=fault).constraints["memory"] > 0


def test_more_memory_missing_is_a_larger_violation(ledger):
    found = [
        run(ledger, Outcome.OOM, fault=OOM.model_copy(update={"needed_bytes": n * GIB}))
        for n in (3, 5, 9)
    ]
    violations = [ended.constraints["memory"] for ended in found]
    assert violations == sorted(violations)
    assert len(set(violations)) == 3


@pytest.mark.parametrize("capacity", [None, GIB // 2, GIB, 8 * GIB])
@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.PRUNED, Outcome.NAN])
def test_a_trial_that_fits_is_feasible(ledger, outcome, capacity):
    ended = run(ledger, outcome, stats=STATS, capacity_bytes=capacity)
    assert ended.constraints["memory"] <= 0


def test_a_nan_says_where_it_began(ledger):
    fault = Fault(outcome=Outcome.NAN, reason="NaN", step=2, where="projection")
    ended = run(ledger, Outcome.NAN, fault=fault)
    assert ended.state == TrialState.PRUNED
    assert (ended.user_attrs["nan_step"], ended.user_attrs["nan_where"]) == (2, "projection")


def test_reports_lie_on_the_grid_and_the_median_prunes(ledger):
    for _ in range(4):
        asked = ledger.ask()
        assert ledger.report(asked, point(16, 2.0)) is None
        assert ledger.report(asked, point(32, 1.0)) is None
        finish(ledger, asked)
    asked = ledger.ask()
    assert ledger.report(asked, point(16, 9.0)) is None
    verdict = ledger.report(asked, point(32, 9.0))
    assert verdict.outcome == Outcome.PRUNED
    ledger.finish(asked, verdict)
    ended = trial(ledger, 4)
    assert ended.state == TrialState.PRUNED
    assert ended.intermediate_values == {16: 9.0, 32: 9.0}
    for key, value in {
        "outcome": "pruned",
        "pruner": "median",
        "pruned_at_samples": 32,
        "pruned_val_loss": 9.0,
        "pruned_median": 1.0,
    }.items():
        assert ended.user_attrs[key] == value


def test_a_trial_at_its_end_is_complete_however_bad(ledger):
    for _ in range(4):
        asked = ledger.ask()
        assert ledger.report(asked, point(32, 1.0)) is None
        ledger.finish(asked, Ending(outcome=Outcome.COMPLETE, reason="done", value=1.0))
    bad = ledger.ask()
    last = point(32, 9.0).model_copy(update={"last": True})
    assert ledger.report(bad, last) is None


def test_two_ledgers_that_take_turns_end_at_the_total(sqlite_url, spec, worker):
    ledgers = [worker(spec, sqlite_url, name) for name in ("here:1", "there:2")]
    live = []
    for turn in range(40):
        ledger = ledgers[turn % 2]
        asked = ledger.ask()
        if asked is not None:
            live.append((ledger, asked))
        if len(live) > 3 or (asked is None and live):
            owner, oldest = live.pop(0)
            outcome = Outcome.CRASHED if oldest.trial.number in (1, 4) else Outcome.COMPLETE
            finish(owner, oldest, outcome)
    assert live == []
    assert states(ledgers[0]).count(TrialState.COMPLETE) == spec.search.trials
    assert len(states(ledgers[0])) == spec.search.trials + 2
    assert all(ledger.is_complete() for ledger in ledgers)


def test_two_ledgers_at_once_end_at_the_total(database_url, spec, worker):
    ledgers = [worker(spec, database_url, name) for name in ("here:1", "there:2")]

    def drive(ledger):
        while not ledger.is_complete():
            asked = ledger.ask()
            if asked is not None:
                finish(ledger, asked)

    threads = [threading.Thread(target=drive, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = states(ledgers[0])
    assert counted.count(TrialState.COMPLETE) == spec.search.trials
    assert set(counted) <= {TrialState.COMPLETE, TrialState.FAIL}


def test_whoever_is_one_too_many_hands_its_trial_back(database_url, spec, worker):
    spec = with_search(spec, trials=1)
    ours, theirs = worker(spec, database_url, "here:1"), worker(spec, database_url, "there:2")
    ask, first = theirs.study.ask, []

    def ask_late():
        first.append(ours.ask())
        return ask()

    theirs.study.ask = ask_late
    assert theirs.ask() is None
    assert states(ours) == [TrialState.RUNNING, TrialState.FAIL]
    assert trial(ours, 1).user_attrs["outcome"] == "over_budget"
    assert "1 trials" in trial(ours, 1).user_attrs["reason"]
    finish(ours, first[0])
    assert ours.is_complete()
    assert waiting(ours) == []


def test_nobody_asks_while_others_train_the_last_trials(ledger, spec):
    live = [ledger.ask() for _ in range(spec.search.trials)]
    assert None not in live
    assert ledger.ask() is None
    finish(ledger, live[0], Outcome.CRASHED)
    assert ledger.ask() is not None
    assert ledger.ask() is None


def test_a_resumed_study_ends_at_the_larger_total(sqlite_url, spec, worker):
    small = worker(with_search(spec, trials=2), sqlite_url)
    while small.ask() is not None:
        pass
    for frozen in small.study.get_trials():
        small.study.tell(frozen.number, 1.0)
    assert small.is_complete()
    large = worker(with_search(spec, trials=3), sqlite_url)
    assert not large.is_complete()
    run(large)
    assert large.is_complete()
    assert large.ask() is None


def test_a_lost_trial_is_tried_again_with_the_same_parameters_and_seed(
    database_url, spec, worker, clock
):
    ours, theirs = worker(spec, database_url, "here:1"), worker(spec, database_url, "there:2")
    run(ours)
    asked = ours.ask()
    clock.now += LEASE_S + 1
    assert theirs.reap() == [1]
    assert theirs.reap() == ours.reap() == []
    lost = trial(theirs, 1)
    assert lost.state == TrialState.FAIL
    assert lost.user_attrs["outcome"] == "lost"
    again = theirs.ask()
    assert again.config == asked.config
    assert (again.trial.number, again.seed_number, again.attempt) == (2, 1, 2)
    assert trial(theirs, 2).user_attrs["retry_of"] == 1
    assert trial(theirs, 2).params == lost.params


def test_the_seed_number_is_that_of_the_first_attempt(ledger):
    attempts = []
    for _ in range(3):
        attempts.append(ledger.ask())
        finish(ledger, attempts[-1], Outcome.LOST)
    assert [a.seed_number for a in attempts] == [0, 0, 0]
    assert [a.attempt for a in attempts] == [1, 2, 3]
    assert [a.trial.number for a in attempts] == [0, 1, 2]
    assert len({a.config.model_dump_json() for a in attempts}) == 1


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_lost_trial_is_tried_so_often_and_no_more(sqlite_url, spec, worker, attempts):
    ledger = worker(with_search(spec, attempts=attempts), sqlite_url)
    for _ in range(attempts):
        asked = ledger.ask()
        assert asked.seed_number == 0
        finish(ledger, asked, Outcome.LOST)
    assert waiting(ledger) == []
    assert ledger.ask().seed_number == attempts


def test_a_preempted_trial_comes_first_and_spends_no_attempt(ledger, spec):
    first, second = ledger.ask(), ledger.ask()
    for _ in range(spec.search.attempts + 2):
        finish(ledger, first, Outcome.PREEMPTED)
        again = ledger.ask()
        assert again.config == first.config
        assert (again.seed_number, again.attempt) == (0, 1)
        first = again
    assert ledger.ask().config != second.config


def test_a_retry_that_came_too_early_is_kept_for_later(sqlite_url, spec, worker):
    spec = with_search(spec, trials=1)
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    asked, tell, early = ours.ask(), ours.study.tell, []

    def tell_late(*args, **settings):
        early.append(theirs.ask())  # the retry is there, its first attempt not yet told
        return tell(*args, **settings)

    ours.study.tell = tell_late
    finish(ours, asked, Outcome.PREEMPTED)
    assert early == [None]
    again = theirs.ask()
    assert again.config == asked.config
    assert again.seed_number == 0


def test_a_lost_trial_that_comes_back_changes_nothing(database_url, spec, worker, clock):
    ours, theirs = worker(spec, database_url, "here:1"), worker(spec, database_url, "there:2")
    asked = ours.ask()
    clock.now += LEASE_S + 1
    theirs.reap()
    before = trial(theirs, 0).user_attrs
    finish(ours, asked, stats=STATS)
    assert trial(ours, 0).state == TrialState.FAIL
    assert trial(ours, 0).user_attrs == before
    assert len(waiting(ours)) == 1
    assert ours.renew([asked]) == [asked]


def test_a_report_of_a_lost_trial_is_ignored(sqlite_url, spec, worker, clock):
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    asked = ours.ask()
    clock.now += LEASE_S + 1
    theirs.reap()
    ours.report(asked, point(16, 1.0))
    assert trial(ours, 0).state == TrialState.FAIL
    assert trial(ours, 0).intermediate_values == {}


def test_a_trial_that_was_failed_by_hand_stays_so(ledger):
    asked = ledger.ask()
    ledger.study.tell(asked.trial.number, state=TrialState.FAIL)
    ledger.report(asked, point(16, 1.0))
    finish(ledger, asked, stats=STATS)
    assert states(ledger) == [TrialState.FAIL]


def test_a_trial_that_died_before_its_parameters_is_tried_again_whole(ledger, spec, clock):
    ledger.study.ask()
    clock.now += LEASE_S + 5
    assert ledger.reap() == [0]
    assert set(waiting(ledger)[0].system_attrs["fixed_params"]) == set(spec.space)


def test_known_configurations_are_tried_first(sqlite_url, mini_study, worker):
    known = (
        {"learning_rate": 2e-3, "lora_r": 24, "lora_alpha": 64, "batch_size": 8},
        {"batch_size": 4},
    )
    ledger = worker(mini_study.model_copy(update={"known": known}), sqlite_url)
    first, second, third = (ledger.ask() for _ in range(3))
    assert {name: first.trial.params[name] for name in known[0]} == known[0]
    assert second.trial.params["batch_size"] == 4
    assert set(second.trial.params) == set(mini_study.space)
    assert [first.trial.user_attrs, second.trial.user_attrs] == [{"known": True}] * 2
    assert "known" not in third.trial.user_attrs


def test_closing_leaves_no_retry_behind(ledger):
    finish(ledger, ledger.ask(), Outcome.LOST)
    (retry,) = waiting(ledger)
    ledger.close()
    closed = trial(ledger, retry.number)
    assert closed.state == TrialState.FAIL
    assert closed.user_attrs["outcome"] == "over_budget"


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
