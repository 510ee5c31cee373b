"""Trials that change runners: none idles while others share one and nothing is left to start.

A trial goes on elsewhere from a checkpoint that it writes on the way, to the bit on a CPU. In the
database nothing changes: it is the same attempt of the same worker.
"""

from collections.abc import Mapping, Sequence
from itertools import product

from hpo.search.live import Live
from hpo.search.runners.pool import Slot


def moves(slots: Sequence[Slot], live: Mapping[int, Live]) -> list[tuple[Live, Slot]]:
    """Trials that are to go on in another slot, and which; none while others are on their way."""
    if any(one.moving_to is not None for one in live.values()):
        return []
    ready = sorted((slot for slot in slots if slot.facts), key=lambda slot: len(slot.trials))
    for target, source in product(ready, reversed(ready)):
        half = (len(source.trials) - len(target.trials)) // 2  # of one more, none
        most = min(half, target.room)
        if most > 0 and _are_alike(source, target):
            chosen = _every_second([one for one in live.values() if one.slot is source])[:most]
            if chosen:
                return [(one, target) for one in chosen]
    return []


def _are_alike(one: Slot, other: Slot) -> bool:
    """Whether a trial computes the same on both, and fits into either."""
    assert one.facts is not None and other.facts is not None
    same = ("device", "memory_capacity_bytes", "versions")
    return all(getattr(one.facts, name) == getattr(other.facts, name) for name in same)


def _every_second(here: Sequence[Live]) -> list[Live]:
    """Of those that may move, so that both halves have about as much to do."""
    free = sorted((one for one in here if one.may_move), key=lambda one: -one.samples_left)
    return free[1::2] or free
