"""The outcome table."""

import math

import pytest
from optuna.trial import TrialState

from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.specs import Outcome

TABLE = {
    # outcome: state, tries, trips the breaker
    Outcome.COMPLETE: (TrialState.COMPLETE, 1, False),
    Outcome.PRUNED: (TrialState.PRUNED, 1, False),
    Outcome.OOM: (TrialState.PRUNED, 1, False),
    Outcome.NAN: (TrialState.PRUNED, 1, False),
    Outcome.TIMEOUT: (TrialState.PRUNED, 1, False),
    Outcome.DATA_ERROR: (TrialState.FAIL, 2, True),
    Outcome.DISK_FULL: (TrialState.FAIL, 3, True),
    Outcome.CRASHED: (TrialState.FAIL, 2, True),
    Outcome.KILLED: (TrialState.FAIL, 2, True),
    Outcome.HUNG: (TrialState.FAIL, 3, True),
    Outcome.LOST: (TrialState.FAIL, 3, True),
    Outcome.PREEMPTED: (TrialState.FAIL, math.inf, False),
    Outcome.OVER_BUDGET: (TrialState.FAIL, 1, False),
}


def test_every_outcome_has_a_consequence():
    assert set(CONSEQUENCES) == set(Outcome) == set(TABLE)


@pytest.mark.parametrize("outcome", Outcome)
def test_consequences_are_those_of_the_table(outcome):
    found = CONSEQUENCES[outcome]
    assert (found.state, found.tries, found.trips_breaker) == TABLE[outcome]


@pytest.mark.parametrize("outcome", Outcome)
def test_complete_and_pruned_trials_count_and_failed_ones_do_not(outcome):
    assert CONSEQUENCES[outcome].counts == (CONSEQUENCES[outcome].state != TrialState.FAIL)


def test_what_counts_is_not_tried_again():
    assert {c.tries for c in CONSEQUENCES.values() if c.counts} == {1}


@pytest.mark.parametrize("outcome", Outcome)
def test_what_the_user_can_mend_comes_with_advice(outcome):
    ours_to_mend = (Outcome.OOM, Outcome.NAN, Outcome.TIMEOUT)
    assert bool(CONSEQUENCES[outcome].advice) == (
        outcome in ours_to_mend or CONSEQUENCES[outcome].trips_breaker
    )
