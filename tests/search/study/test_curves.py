"""What is known of the curves of a study's COMPLETE trials."""

import math

import pytest
from optuna.trial import create_trial

from hpo.search.study.curves import Curves


@pytest.fixture
def known():
    """Trials of a study, as they are read from its database."""
    curves = [{8: 1.6, 16: 1.5, 24: 1.2}, {8: 1.7, 16: 1.4}, {8: math.nan}]
    trials = [create_trial(value=1.0, intermediate_values=curve) for curve in curves]
    for trial_id, trial in enumerate(trials):
        trial._trial_id = trial_id
    return trials


def test_the_lowest_value_is_of_no_later_step(known):
    curves = Curves().learn(known)
    assert [curves.lowest(until=samples) for samples in (7, 8, 16, 30)] == [None, 1.6, 1.4, 1.2]
    assert Curves().lowest(until=8) is None


def test_a_trial_is_taken_in_once_and_in_any_order(known):
    curves = Curves().learn(known[1:]).learn(known).learn(known)
    assert [curves.at(step).count for step in (8, 16, 24, 32)] == [3, 2, 1, 0]
    assert curves.at(16).median() == pytest.approx(1.45)


def test_values_that_are_no_numbers_count_and_are_no_values(known):
    curves = Curves().learn(known[2:])
    assert (curves.at(8).count, curves.lowest(until=8)) == (1, math.inf)
    assert math.isnan(curves.at(8).median())
