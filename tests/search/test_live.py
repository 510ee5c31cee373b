"""Live trials and the limits of time that hold for them."""

from types import SimpleNamespace

import pytest

from hpo.protocol import Checkpointed, Evaluated, Finished, Progress, Resumed
from hpo.search.live import Live, Watchdog
from hpo.specs import Outcome, TrialStats
from tests.search.steps import point

HANG_S = 120.0
LOOK_S = 1.0


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch, clock):
    monkeypatch.setattr("hpo.search.live.time", SimpleNamespace(monotonic=clock))


@pytest.fixture
def live(clock):
    return begun(clock)


def begun(clock):
    """A trial that starts now."""
    return Live(asked=None, slot=None, began=clock(), last_sign=clock())


def watchdog(clock, **more):
    return Watchdog(hang_s=HANG_S, monotonic=clock, **{"max_seconds": None, **more})


def progress(samples_seen):
    return Progress(
        number=0, samples_seen=samples_seen, samples=32, train_loss=1.0, samples_per_s=9.0
    )


def looks(clock, dog, live, seconds):
    """Looks every second for so long; what it finds at the end."""
    found = dog.hung([live])
    for _ in range(int(seconds / LOOK_S)):
        clock.now += LOOK_S
        found = dog.hung([live])
    return found


def test_a_silent_trial_hangs_after_a_while(clock, live):
    dog = watchdog(clock)
    assert looks(clock, dog, live, HANG_S) == []
    assert looks(clock, dog, live, LOOK_S) == [(live, HANG_S + LOOK_S)]


@pytest.mark.parametrize(
    "event",
    [
        progress(8),
        Evaluated(number=0, point=point(16, 1.0)),
        Checkpointed(number=0, samples_seen=16, size_bytes=1),
        Resumed(number=0, samples_seen=16, seconds=5.0),
    ],
)
def test_every_word_of_its_runner_is_a_sign_of_life(clock, live, event):
    dog = watchdog(clock)
    looks(clock, dog, live, HANG_S)
    live.note(event)
    assert looks(clock, dog, live, HANG_S) == []


def test_what_a_runner_said_while_the_driver_was_stopped_counts_when_it_is_read(clock, live):
    dog = watchdog(clock)
    looks(clock, dog, live, HANG_S - 1)
    clock.now += 10 * HANG_S
    live.note(progress(9))
    assert looks(clock, dog, live, HANG_S) == []
    assert looks(clock, dog, live, LOOK_S) != []


def test_a_trial_that_is_over_does_not_hang(clock, live):
    dog = watchdog(clock)
    live.note(Finished(number=0, stats=TrialStats()))
    assert looks(clock, dog, live, 2 * HANG_S) == []


def test_without_a_limit_no_trial_is_overdue(clock, live):
    clock.now += 1e9
    assert watchdog(clock).overdue([live]) == []


def test_a_trial_over_its_time_is_pruned(clock, live):
    dog = watchdog(clock, max_seconds=60.0)
    clock.now += 60
    assert dog.overdue([live]) == []
    clock.now += 1
    ((found, ending),) = dog.overdue([live])
    assert found is live
    assert ending.outcome == Outcome.TIMEOUT
    assert "60 s (trial.max_seconds)" in ending.reason


def test_the_time_of_earlier_attempts_counts(clock, live):
    dog = watchdog(clock, max_seconds=60.0)
    live.note(Resumed(number=0, samples_seen=16, seconds=50.0))
    clock.now += 10
    assert dog.overdue([live]) == []
    clock.now += 1
    assert len(dog.overdue([live])) == 1


def test_a_trial_that_is_ending_anyway_is_not_overdue(clock, live):
    dog = watchdog(clock, max_seconds=60.0)
    clock.now += 61
    ((_, live.ending),) = dog.overdue([live])
    assert dog.overdue([live]) == []
    late = begun(clock)
    clock.now += 61
    late.note(Finished(number=0, stats=TrialStats()))
    assert dog.overdue([late]) == []


def test_what_runners_say_is_kept(live):
    live.note(Resumed(number=0, samples_seen=8, seconds=5.0))
    live.note(progress(12))
    live.note(Evaluated(number=0, point=point(16, 2.0)))
    live.note(Checkpointed(number=0, samples_seen=16, size_bytes=1))
    live.note(Evaluated(number=0, point=point(24, 3.0)))
    assert (live.samples_seen, live.checkpoint_at, live.best) == (24, 16, 2.0)


def test_a_lease_is_renewed_by_progress_alone(clock, live):
    live.note(progress(8))
    assert live.sign().alive
    live.told_sign = live.last_sign
    clock.now += 30
    told = live.sign()
    assert (told.alive, told.samples_seen, told.device_seconds) == (False, 8, 30.0)
    live.note(progress(9))
    assert live.sign().alive


def test_a_trial_that_is_over_keeps_its_lease_and_takes_no_more_time(clock, live):
    clock.now += 10
    live.note(Finished(number=0, stats=TrialStats()))
    live.told_sign = live.last_sign
    clock.now += 1000
    assert live.sign().alive
    assert live.device_seconds == 10.0
