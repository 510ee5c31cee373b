"""Which faults come, in which order, and at whom: all of it drawn from the seed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MIN_PAUSE_S, MAX_PAUSE_S = 0.3, 2.0


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One fault, as the seed has it."""

    index: int
    kind: str
    pause_s: float
    """Since the fault before, unless the study is ahead of the plan."""
    pick: float
    """Which of those that can be hit, as a share of them."""
    strength: float
    """How long it lasts, or in which way it strikes, as a share of what there is."""

    def of(self, low: float, high: float) -> float:
        """Its strength between two bounds."""
        return low + (high - low) * self.strength

    def __str__(self) -> str:
        return f"{self.kind} {self.pick:.2f}/{self.strength:.2f}"


def make_plan(seed: int, faults: int, kinds: Sequence[str]) -> list[Draw]:
    """So many faults of these kinds, each kind as often as every other, give or take one."""
    rng = random.Random(seed)
    deck = _deck(rng, kinds)
    return [
        Draw(
            index=index,
            kind=next(deck),
            pause_s=round(rng.uniform(MIN_PAUSE_S, MAX_PAUSE_S), 2),
            pick=rng.random(),
            strength=rng.random(),
        )
        for index in range(faults)
    ]


def _deck(rng: random.Random, kinds: Sequence[str]) -> Iterator[str]:
    """The kinds in a random order, then in another one, for ever."""
    while True:
        yield from rng.sample(kinds, len(kinds))
