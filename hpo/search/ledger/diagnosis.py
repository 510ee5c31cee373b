"""What the curve of a trial says of its hyperparameters: what is wrong, and what to try.

Only for people: nothing in a search follows from it. The thresholds were held against 17 runs on
RSICap and 14 trials of the mini study. By chance alone, sound curves of the one end up to 0.6% of
the loss above their lowest point, or 7% of what they had fallen; of the other up to 2.4%, or 1%.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

DIAGNOSIS = "diagnosis"  # trial attribute
MIN_POINTS = 3  # two points are a line: nothing can be said of its shape
CLEAR = 0.01  # of the loss: more than chance where losses are large
CLEAR_OF_FALL = 0.1  # of what there was to fall: more than chance where they are small
DIVERGED = 0.05  # of the loss, above the first point: far more than chance
FAR = 0.04  # of the loss, above the best: sound runs on the same data end within 3% of it
SWINGS = 0.5  # of the range of the losses: by chance, ups and downs add up to a fifth of it
SWINGS_OF_LOSS = 0.05  # of the loss: of a flat curve, all of the range is chance
END = 2 / 3  # of the samples: the last point alone is too much a matter of chance
STILL_FALLING = 0.05  # of all that it fell, at its end: a curve that has levelled off has 3%


class Kind(StrEnum):
    """What a curve shows."""

    DIVERGED = "diverged"
    OSCILLATING = "oscillating"
    OVERFITTING = "overfitting"
    TOO_SLOW = "too slow"


REMEDIES = {
    Kind.DIVERGED: "a lower learning rate, a longer warm-up, a smaller trial.max_grad_norm, or "
    "float32 if precision is float16",
    Kind.OSCILLATING: "a lower learning rate, a longer warm-up or a larger batch",
    Kind.OVERFITTING: "a lower learning rate, fewer epochs, more dropout or a lower rank",
    Kind.TOO_SLOW: "a higher learning rate, more epochs or a higher rank",
}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong with a trial."""

    kind: Kind
    finding: str
    """What its val losses show, in figures."""

    def __str__(self) -> str:
        """One sentence with the remedy; the kind stands before its colon."""
        return f"{self.kind}: {self.finding}; try {REMEDIES[self.kind]}"


def diagnose(
    curve: Sequence[tuple[int, float]], best_of_study: float | None = None
) -> Diagnosis | None:
    """What is wrong with a trial, or None if its curve is sound or too short.

    Args:
        curve: (samples seen, val loss) of its eval points, ascending.
        best_of_study: lowest val loss of other trials at no more samples; without it no trial is
            too slow.
    """
    for seen, loss in curve:
        if not math.isfinite(loss):
            return Diagnosis(kind=Kind.DIVERGED, finding=f"val loss is {loss} at {seen} samples")
    if len(curve) < MIN_POINTS:
        return None
    found = {
        Kind.DIVERGED: _diverged(curve),
        Kind.OSCILLATING: _oscillating(curve),
        Kind.OVERFITTING: _overfitting(curve),
        Kind.TOO_SLOW: _too_slow(curve, best_of_study),
    }
    return next((Diagnosis(kind=k, finding=text) for k, text in found.items() if text), None)


def _diverged(curve: Sequence[tuple[int, float]]) -> str:
    """It ends clearly above where it began."""
    first, last = curve[0][1], curve[-1][1]
    if last <= (1 + DIVERGED) * first:
        return ""
    return f"val loss began at {first:.4f} and ended at {last:.4f} ({_change(first, last)})"


def _oscillating(curve: Sequence[tuple[int, float]]) -> str:
    """It rose, and fell again: before its lowest point, or after it."""
    losses = [loss for _, loss in curve]
    low, high = min(losses), max(losses)
    rises = sum(max(0.0, after - before) for before, after in pairwise(losses))
    undone = rises - (losses[-1] - low)
    if undone <= max(SWINGS * (high - low), SWINGS_OF_LOSS * low):
        return ""
    return f"val loss rose by {undone:.4f} in all and fell again, between {low:.4f} and {high:.4f}"


def _overfitting(curve: Sequence[tuple[int, float]]) -> str:
    """Its lowest point lies before its end, which is clearly above it."""
    first, last = curve[0][1], curve[-1][1]
    seen, low = min(curve, key=lambda point: point[1])
    if last - low <= max(CLEAR * low, CLEAR_OF_FALL * (first - low)):
        return ""
    return f"val loss rose from {low:.4f} at {seen} samples to {last:.4f} ({_change(low, last)})"


def _too_slow(curve: Sequence[tuple[int, float]], best: float | None) -> str:
    """It is far from the best of the study, and still falls or never has."""
    first, (end, last) = curve[0][1], curve[-1]
    if best is None or last - best <= max(FAR * best, CLEAR_OF_FALL * (first - best)):
        return ""
    seen, start = next((p for p in reversed(curve) if p[0] <= END * end), curve[0])
    found = f"to {last:.4f}, while the best trial had {best:.4f}"
    if start - last >= max(CLEAR * last, STILL_FALLING * (first - last)):
        return f"val loss still fell after {seen} samples, from {start:.4f} {found}"
    if first - last < CLEAR * last:
        return f"val loss hardly fell, from {first:.4f} {found}"
    return ""


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else "from nothing"
