"""Holds that a way did the same work as ours: only then is its time worth comparing."""

from itertools import combinations

from tests.benchmarks.contenders import Round
from tests.benchmarks.work import Work


def unequal(work: Work, ours: Round, other: Round) -> list[str]:
    """What is not as in `ours`, or not what the work asks for; empty where the work is equal."""
    numbers = range(len(work.spec.known))
    if sorted(other.trials) != list(numbers):
        return [f"it trained {sorted(other.trials)} of trials 0 to {numbers[-1]}"]
    found = [text for number in numbers for text in _trial(work, ours, other, number)]
    return found or _ranking(ours, other, work.tolerance)


def _trial(work: Work, ours: Round, other: Round, number: int) -> list[str]:
    one, reference = other.trials[number], ours.trials[number]
    wanted = {
        "steps": (one.steps, work.steps(number, work.spec.known[number])),
        "evaluations": (len(one.losses), work.evals),
        "rows evaluated": (one.rows, work.evals * len(work.job["val"])),
    }
    found = [f"trial {number}: {n} {what}, not {m}" for what, (n, m) in wanted.items() if n != m]
    losses = {
        "final": (one.losses[-1], reference.losses[-1]),
        "best": (min(one.losses), min(reference.losses)),
    }
    return found + [
        f"trial {number}: {what} val loss {a:.6f}, ours {b:.6f}"
        for what, (a, b) in losses.items()
        if not abs(a - b) <= work.tolerance
    ]


def _ranking(ours: Round, other: Round, tolerance: float) -> list[str]:
    """Pairs in another order, where they are further apart than the tolerance."""
    mine = {number: min(trial.losses) for number, trial in ours.trials.items()}
    theirs = {number: min(trial.losses) for number, trial in other.trials.items()}
    return [
        f"trials {a} and {b} are in another order"
        for a, b in combinations(mine, 2)
        if abs(mine[a] - mine[b]) > 2 * tolerance and (mine[a] < mine[b]) != (theirs[a] < theirs[b])
    ]


def loss_difference(ours: Round, other: Round) -> float:
    """The largest difference of a final or best val loss."""
    return max(
        abs(pick(other.trials[number].losses) - pick(trial.losses))
        for number, trial in ours.trials.items()
        for pick in (min, lambda losses: losses[-1])
    )
