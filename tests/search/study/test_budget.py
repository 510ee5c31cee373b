"""Budgets of time: kept with the study, and set by the latest command."""

import pytest

from hpo.search.study.budget import HOUR_S, Budget
from hpo.specs import Outcome
from tests.search.steps import ending, sign, with_limits, with_search

BEGAN = 1000.0


def budget(*, hours=None, device_hours=None):
    return Budget(trials=9, hours=hours, device_hours=device_hours, began=BEGAN)


def test_without_bounds_there_is_always_time():
    found = budget()
    assert found.exhausted(now=1e12, device_seconds=1e12) == ""
    assert found.left_s(now=1e12, device_seconds=1e12, running=8) == float("inf")


def test_hours_count_from_the_beginning_of_the_study():
    found = budget(hours=2)
    end = BEGAN + 2 * HOUR_S
    assert found.exhausted(now=end - 1, device_seconds=0) == ""
    assert "limits.hours = 2" in found.exhausted(now=end, device_seconds=0)
    assert found.left_s(now=end - 90, device_seconds=0, running=0) == 90


def test_device_hours_count_what_trials_took():
    found = budget(device_hours=0.5)
    assert found.exhausted(now=1e12, device_seconds=1799) == ""
    assert "limits.device_hours = 0.5" in found.exhausted(now=1e12, device_seconds=1800)


@pytest.mark.parametrize(("running", "left_s"), [(0, float("inf")), (1, 600), (4, 150)])
def test_the_more_trials_run_the_sooner_device_time_is_used(running, left_s):
    found = budget(device_hours=1)
    assert found.left_s(now=BEGAN, device_seconds=3000, running=running) == left_s


def test_the_nearer_bound_counts():
    found = budget(hours=1, device_hours=1)
    assert found.left_s(now=BEGAN + 3000, device_seconds=0, running=1) == 600
    assert found.left_s(now=BEGAN, device_seconds=3000, running=1) == 600


def test_the_latest_command_decides_for_all(database_url, spec, worker):
    ours = worker(with_limits(with_search(spec, trials=6), hours=5.0), database_url)
    began = ours.budget.began
    assert (ours.budget.trials, ours.budget.hours) == (6, 5.0)
    worker(with_limits(with_search(spec, trials=2), device_hours=1.0), database_url, "there:2")
    assert ours.exhausted() == ("", float("inf"))
    assert ours.budget == Budget(trials=2, hours=None, device_hours=1.0, began=began)


def test_a_study_whose_hours_are_over_says_so(sqlite_url, spec, worker):
    ledger = worker(with_limits(spec, hours=2.0), sqlite_url)
    _, left_s = ledger.exhausted()
    assert HOUR_S < left_s <= 2 * HOUR_S
    ledger.study.set_user_attr("began", ledger.budget.began - 2 * HOUR_S)
    reason, left_s = ledger.exhausted()
    assert "limits.hours = 2" in reason
    assert left_s <= 0


def test_device_time_of_all_workers_counts_ended_or_not(sqlite_url, spec, worker):
    spec = with_limits(spec, device_hours=1.0)
    ours, theirs = worker(spec, sqlite_url, "here:1"), worker(spec, sqlite_url, "there:2")
    ours.finish(ours.ask(), ending(Outcome.CRASHED), device_seconds=1800.0)
    live = theirs.ask()
    theirs.leases.renew({live.trial_id: sign(device_seconds=1799.0)})
    assert ours.exhausted() == ("", 1.0)
    theirs.leases.renew({live.trial_id: sign(device_seconds=1800.0)})
    assert "device time" in ours.exhausted()[0]


def test_a_resumed_study_began_when_it_began(sqlite_url, spec, worker):
    first = worker(spec, sqlite_url)
    first.study.set_user_attr("began", 5.0)
    assert worker(spec, sqlite_url).budget.began == 5.0
