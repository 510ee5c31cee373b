"""Which trials change runners when there is none left to start."""

from types import SimpleNamespace

import pytest

from hpo.search.live import Live
from hpo.search.moves import moves
from hpo.search.runners.pool import Slot
from hpo.specs import TrialStats

SAMPLES = 100


def a_slot(index, trials=(), *, lanes=4, device="CPU", capacity=None):
    facts = SimpleNamespace(
        device=device,
        memory_capacity_bytes=capacity,
        versions={},
        lanes=SimpleNamespace(count=lanes),
    )
    return Slot(index=index, process=None, facts=facts, trials=set(trials))


def a_trial(slot, seen=50, *, alone=False, **changes):
    asked = SimpleNamespace(number=0, alone=alone)
    return Live(asked=asked, slot=slot, samples_seen=seen, samples=SAMPLES, **changes)


def chosen(slots, live):
    numbers = {id(one): number for number, one in live.items()}
    return sorted((numbers[id(one)], slot.index) for one, slot in moves(slots, live))


def beside(*seen, **changes):
    """Trials of one runner by what they have seen, and another that has none."""
    full, empty = a_slot(0, range(len(seen))), a_slot(1)
    return [full, empty], {n: a_trial(full, s, **changes) for n, s in enumerate(seen)}


def test_half_of_the_trials_of_a_runner_go_to_one_that_has_none():
    slots, live = beside(10, 20, 30, 40)
    assert chosen(slots, live) == [(1, 1), (3, 1)], "and with them about half of the work"


def test_a_trial_that_has_its_runner_for_itself_stays():
    assert chosen(*beside(10)) == []


def test_two_and_one_stay_as_they_are():
    slots = [a_slot(0, (0, 1)), a_slot(1, (2,))]
    live = {number: a_trial(slots[number // 2]) for number in range(3)}
    assert chosen(slots, live) == []


def test_no_more_than_there_is_room_for():
    slots = [a_slot(0, range(6), lanes=6), a_slot(1, (6,), lanes=2)]
    live = {number: a_trial(slots[number // 6]) for number in range(7)}
    assert len(chosen(slots, live)) == 1


@pytest.mark.parametrize("other", [{"device": "H100"}, {"capacity": 1 << 30}, {"lanes": 0}])
def test_only_to_a_runner_that_is_like_theirs_and_has_room(other):
    (full, _), live = beside(10, 20)
    assert chosen([full, a_slot(1, **other)], live) == []


def test_not_to_a_runner_that_sets_up_or_is_to_be_replaced():
    (full, empty), live = beside(10, 20)
    empty.worn = True
    assert chosen([full, empty], live) == []
    empty.worn, empty.facts = False, None
    assert chosen([full, empty], live) == []


@pytest.mark.parametrize(
    "seen, changes",
    [
        (0, {}),  # it has not begun, and would write no checkpoint
        (SAMPLES, {}),
        (50, {"alone": True}),
        (50, {"ending": SimpleNamespace()}),
        (50, {"ended": 1.0}),
    ],
)
def test_what_cannot_go_on_elsewhere_stays(seen, changes):
    assert chosen(*beside(seen, seen, **changes)) == []


def test_one_that_can_goes_on_elsewhere_where_others_cannot():
    slots, live = beside(0, 50, 0)
    assert chosen(slots, live) == [(1, 1)]


def test_another_runner_helps_where_the_fullest_cannot():
    slots = [a_slot(0, range(3)), a_slot(1, (3, 4)), a_slot(2)]
    live = {n: a_trial(slots[0], 0) for n in range(3)}
    live |= {n: a_trial(slots[1], 50) for n in (3, 4)}
    assert len(chosen(slots, live)) == 1 and chosen(slots, live)[0][1] == 2


def test_while_one_is_on_its_way_the_others_stay():
    slots, live = beside(10, 20, 30, 40)
    live[0].moving_to = slots[1]
    assert chosen(slots, live) == []


def test_what_a_moved_trial_took_is_counted_as_a_whole():
    (_, empty), live = beside(10)
    first = TrialStats(seconds=2.0, resumed_at_samples=8, samples_per_s=6.0, peak_memory_bytes=9)
    last = TrialStats(seconds=1.0, resumed_at_samples=20, samples_per_s=12.0, steps=7)
    live[0].moving_to, live[0].ended = empty, live[0].began
    live[0].move(empty, first)
    assert (live[0].slot, live[0].moving_to, live[0].ended) == (empty, None, None)
    assert live[0].whole(last) == TrialStats(
        seconds=3.0, resumed_at_samples=8, samples_per_s=8.0, steps=7, peak_memory_bytes=9
    )


def test_the_time_between_two_runners_is_not_the_devices(clock, monkeypatch):
    monkeypatch.setattr("hpo.search.live.time", SimpleNamespace(monotonic=clock))
    slot = a_slot(0)
    live = a_trial(slot, began=clock(), last_sign=clock())
    clock.now += 10
    live.ended = clock()
    clock.now += 5
    live.move(slot, TrialStats())
    assert live.device_seconds == 10 and live.last_sign == clock()
