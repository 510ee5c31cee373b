"""Trials that change runners: none idles while others share one and nothing is left to start.

A trial goes on elsewhere from a checkpoint that it writes on the way, to the bit on a CPU. In the
database nothing changes: it is the same attempt of the same worker.
"""

from collections.abc import Mapping, Sequence

from hpo.search.live import Live
from hpo.search.runners.pool import Slot

WORTH = 2  # trials that one runner has more than another; with 1, they would only change sides


def moves(slots: Sequence[Slot], live: Mapping[int, Live]) -> list[tuple[Live, Slot]]:
    """Trials that are to go on in another slot, and which; none while others are on their way."""
    if any(one.moving_to is not None for one in live.values()):
        return []
    ready = sorted((slot for slot in slots if slot.facts), key=lambda slot: len(slot.trials))
    for target in (slot for slot in ready if slot.has_room):
        for source in reversed(ready):
            more = len(source.trials) - len(target.trials)
            room = target.facts.lanes - len(target.trials) if target.facts else 0
            if more >= WORTH and _are_alike(source, target):
                chosen = _every_second(source, live)[: min(more // 2, room)]
                if chosen:
                    return [(one, target) for one in chosen]
    return []


def _are_alike(one: Slot, other: Slot) -> bool:
    """Whether a trial computes the same on both, and fits into either."""
    assert one.facts is not None and other.facts is not None
    same = ("device", "memory_capacity_bytes", "versions")
    return all(getattr(one.facts, name) == getattr(other.facts, name) for name in same)


def _every_second(source: Slot, live: Mapping[int, Live]) -> list[Live]:
    """Of those that may move, so that both halves have about as much to do."""
    here = [live[number] for number in source.trials if number in live]
    free = sorted((one for one in here if one.may_move), key=lambda one: -one.samples_left)
    return free[1::2] or free
