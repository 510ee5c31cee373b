"""What failed for data or a full disk is tried again by the next command, and nothing else is."""

import pytest
from optuna.trial import TrialState

from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Outcome
from tests.search.steps import at_once, finish, run, states, trial, waiting, with_search

MENDED = (Outcome.DATA_ERROR, Outcome.DISK_FULL)
KNOWN = ({"batch_size": 4}, {"batch_size": 8})


@pytest.fixture
def next_command(sqlite_url, spec, worker):
    """Opens the study again, as the same command does."""
    return lambda **search: worker(with_search(spec, **search), sqlite_url)


def fail(ledger, outcome):
    """Ends the next trial so as often as it is tried; its first attempt."""
    first = asked = ledger.ask()
    for left in reversed(range(int(CONSEQUENCES[outcome].tries))):
        finish(ledger, asked, outcome)
        if left:
            asked = ledger.ask()
            assert asked.seed_number == first.seed_number
    return first


@pytest.mark.parametrize("outcome", MENDED)
def test_the_next_command_tries_it_again_as_the_same_trial(next_command, outcome):
    first = fail(next_command(), outcome)
    tries = int(CONSEQUENCES[outcome].tries)
    again = next_command().ask()
    assert again.config == first.config
    assert (again.seed_number, again.attempt) == (first.seed_number, tries + 1)
    assert again.earlier == tuple(reversed(range(tries)))
    assert outcome.value not in again.spent


@pytest.mark.parametrize("outcome", MENDED)
def test_each_command_tries_it_as_often_as_the_first(next_command, outcome):
    tries = int(CONSEQUENCES[outcome].tries)
    for commands in range(1, 4):
        fail(next_command(), outcome)
        assert states(next_command()).count(TrialState.WAITING) == 1
        assert states(next_command()).count(TrialState.FAIL) == tries * commands


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in MENDED])
def test_nothing_else_is_tried_again_by_it(next_command, outcome):
    ledger = next_command()
    run(ledger, outcome)
    while waiting(ledger) and outcome != Outcome.PREEMPTED:
        run(ledger, outcome)
    before = len(states(ledger))
    assert len(states(next_command())) == before


def test_what_finishes_then_is_not_tried_again(next_command):
    fail(next_command(), Outcome.DATA_ERROR)
    ledger = next_command()
    run(ledger, Outcome.COMPLETE)
    assert waiting(next_command()) == []


def test_known_configurations_are_the_first_to_be_tried_again(sqlite_url, spec, worker):
    spec = spec.model_copy(update={"known": KNOWN})
    ledger = worker(with_search(spec, trials=1), sqlite_url)
    fail(ledger, Outcome.DATA_ERROR)
    fail(ledger, Outcome.DATA_ERROR)  # sampled, as only one known one had room
    ledger = worker(with_search(spec, trials=6), sqlite_url)
    found = [ledger.ask() for _ in range(3)]
    assert [asked.seed_number for asked in found] == [0, 2, 4]
    assert [asked.trial.params["batch_size"] for asked in (found[0], found[2])] == [4, 8]


def test_a_known_one_comes_before_a_sampled_one_that_is_older(sqlite_url, spec, worker):
    fail(worker(spec, sqlite_url), Outcome.DATA_ERROR)
    spec = spec.model_copy(update={"known": KNOWN[:1]})
    ledger = worker(spec, sqlite_url)
    assert [fail(ledger, Outcome.DATA_ERROR).seed_number for _ in range(2)] == [0, 2]
    ledger = worker(spec, sqlite_url)
    assert [ledger.ask().seed_number for _ in range(2)] == [2, 0]


def test_no_more_are_tried_again_than_the_study_has_room_for(next_command):
    ledger = next_command()
    for _ in range(3):
        fail(ledger, Outcome.DATA_ERROR)
    for _ in range(5):
        run(ledger)
    ledger = next_command()
    assert [t.user_attrs["seed_number"] for t in waiting(ledger)] == [0]
    run(ledger)
    assert ledger.is_complete()
    before = len(states(ledger))
    assert len(states(next_command())) == before, "a complete study stays as it is"
    larger = next_command(trials=8)
    assert [t.user_attrs["seed_number"] for t in waiting(larger)] == [2, 4]


def test_one_that_had_no_room_is_tried_again_by_a_larger_study(next_command):
    ledger = next_command()
    first = fail(ledger, Outcome.DATA_ERROR)
    ledger = next_command()
    ledger.close()
    assert trial(ledger, 2).user_attrs["outcome"] == "over_budget"
    again = next_command().ask()
    assert (again.seed_number, again.config) == (first.seed_number, first.config)
    assert again.earlier == (2, 1, 0)


@pytest.mark.parametrize("params", [{"batch_size": 7}, {"learning_rate": -1.0}])
def test_what_nobody_can_train_is_refused_once_and_for_ever(next_command, params):
    ledger = next_command()
    ledger.study.enqueue_trial(params)
    assert ledger.ask() is None and trial(ledger, 0).user_attrs["outcome"] == "data_error"
    assert waiting(next_command()) == []


def test_what_was_ended_by_hand_stays_so(next_command):
    ledger = next_command()
    asked = ledger.ask()
    ledger.study.tell(asked.number, state=TrialState.FAIL)
    assert waiting(next_command()) == []


def drive(open_ledger):
    """A command of its own, from its start to the end of the study."""
    ledger = open_ledger()
    while not ledger.is_complete():
        if (asked := ledger.ask()) is not None:
            finish(ledger, asked)
    ledger.close()


def test_many_commands_at_once_try_each_again_once_and_end_at_the_total(database_url, spec, worker):
    ledger = worker(spec, database_url, "here:0")
    for _ in range(3):
        fail(ledger, Outcome.DATA_ERROR)
    workers = [
        lambda name=f"here:{n}": drive(lambda: worker(spec, database_url, name))
        for n in range(1, 4)
    ]
    assert at_once(*workers) == [None] * 3
    found = ledger.study.get_trials()
    finished = [t for t in found if t.state == TrialState.COMPLETE]
    assert len(finished) == spec.search.trials
    seeds = [t.user_attrs.get("seed_number", t.number) for t in finished]
    assert sorted(seeds)[:3] == [0, 2, 4] and len(set(seeds)) == len(seeds)
    assert {t.state for t in found} == {TrialState.COMPLETE, TrialState.FAIL}
