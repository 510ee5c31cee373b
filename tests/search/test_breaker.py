"""The breaker trips on failures in a row."""

import pytest

from hpo.search.breaker import LIMIT, Breaker
from hpo.specs import Outcome

FAILURES = (
    Outcome.CRASHED,
    Outcome.DATA_ERROR,
    Outcome.DISK_FULL,
    Outcome.HUNG,
    Outcome.KILLED,
    Outcome.LOST,
)
FINISHED = (Outcome.COMPLETE, Outcome.PRUNED, Outcome.OOM, Outcome.NAN, Outcome.TIMEOUT)
NEITHER = (Outcome.PREEMPTED, Outcome.OVER_BUDGET)


def noted(*outcomes):
    breaker = Breaker()
    for index, outcome in enumerate(outcomes):
        breaker.note(outcome, f"reason {index}", began=index, ended=index + 1)
    return breaker


def test_every_outcome_is_tried_here():
    assert set(FAILURES + FINISHED + NEITHER) == set(Outcome)


@pytest.mark.parametrize("outcome", FAILURES)
def test_failures_in_a_row_trip_it(outcome):
    assert not noted(*[outcome] * (LIMIT - 1)).tripped
    assert noted(*[outcome] * LIMIT).tripped


def test_failures_of_several_kinds_are_not_one_reason():
    assert not noted(*FAILURES * LIMIT).tripped


def test_another_kind_starts_the_count_anew():
    failures = [Outcome.CRASHED] * (LIMIT - 1)
    assert not noted(*failures, Outcome.LOST, *failures).tripped
    assert noted(*failures, Outcome.LOST, *failures, Outcome.CRASHED).tripped


@pytest.mark.parametrize("outcome", FINISHED)
def test_a_finished_trial_starts_the_count_anew(outcome):
    failures = [Outcome.CRASHED] * (LIMIT - 1)
    assert not noted(*failures, outcome, *failures).tripped


@pytest.mark.parametrize("outcome", NEITHER)
def test_what_is_nobodys_fault_changes_nothing(outcome):
    failures = [Outcome.CRASHED] * (LIMIT - 1)
    assert not noted(*[outcome] * (2 * LIMIT)).tripped
    assert noted(*failures, outcome, Outcome.CRASHED).tripped


def test_the_reason_names_the_last_failure():
    breaker = noted(*[Outcome.CRASHED] * LIMIT)
    assert f"{LIMIT} trials in a row ended as crashed" in breaker.reason
    assert f"reason {LIMIT - 1}; see the traceback" in breaker.reason


def test_trials_that_failed_side_by_side_are_one_failure():
    breaker = Breaker()
    for wave in range(LIMIT):
        assert not breaker.tripped
        for runner in range(8):
            ended = wave + 0.9 + runner / 100
            breaker.note(Outcome.DATA_ERROR, "the disk is away", began=wave, ended=ended)
    assert breaker.tripped


def test_a_new_breaker_has_not_tripped():
    assert not Breaker().tripped
    assert Breaker().reason == ""
