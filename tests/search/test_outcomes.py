"""The outcome table."""

import pytest
from optuna.trial import TrialState

from hpo.search.outcomes import CONSEQUENCES
from hpo.specs import Outcome

TABLE = {
    # outcome: state, enqueued again, a retry spends an attempt, trips the breaker
    Outcome.COMPLETE: (TrialState.COMPLETE, False, False, False),
    Outcome.PRUNED: (TrialState.PRUNED, False, False, False),
    Outcome.OOM: (TrialState.PRUNED, False, False, False),
    Outcome.NAN: (TrialState.PRUNED, False, False, False),
    Outcome.TIMEOUT: (TrialState.PRUNED, False, False, False),
    Outcome.DATA_ERROR: (TrialState.FAIL, False, False, True),
    Outcome.CRASHED: (TrialState.FAIL, False, False, True),
    Outcome.LOST: (TrialState.FAIL, True, True, True),
    Outcome.PREEMPTED: (TrialState.FAIL, True, False, False),
    Outcome.OVER_BUDGET: (TrialState.FAIL, False, False, False),
}


def test_every_outcome_has_a_consequence():
    assert set(CONSEQUENCES) == set(Outcome) == set(TABLE)


@pytest.mark.parametrize("outcome", Outcome)
def test_consequences_are_those_of_the_table(outcome):
    found = CONSEQUENCES[outcome]
    followed = (found.state, found.retry, found.spends_attempt, found.trips_breaker)
    assert followed == TABLE[outcome]


@pytest.mark.parametrize("outcome", Outcome)
def test_complete_and_pruned_trials_count_and_failed_ones_do_not(outcome):
    assert CONSEQUENCES[outcome].counts == (CONSEQUENCES[outcome].state != TrialState.FAIL)


@pytest.mark.parametrize("outcome", Outcome)
def test_what_the_user_can_mend_comes_with_advice(outcome):
    ours_to_mend = (Outcome.OOM, Outcome.NAN, Outcome.TIMEOUT)
    assert bool(CONSEQUENCES[outcome].advice) == (
        outcome in ours_to_mend or CONSEQUENCES[outcome].trips_breaker
    )
