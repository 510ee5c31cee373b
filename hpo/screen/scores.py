"""Scores of trials: a table for people, JSON lines for machines."""

import dataclasses
import json
from collections.abc import Iterable, Iterator

from hpo.scoring import ScoredTrial

WIDTH = 6


def score_lines(found: Iterable[ScoredTrial], *, as_json: bool) -> Iterator[str]:
    """A line for each trial as it comes; the table has its columns first and its files last."""
    if as_json:
        yield from (json.dumps({"event": "scored", **dataclasses.asdict(one)}) for one in found)
        return
    best: ScoredTrial | None = None
    for one in found:
        columns = {"trial": str(one.number), one.objective: _shown(one.value)}
        columns |= {name: _shown(value) for name, value in one.scores.items()}
        if best is None:
            best = one
            yield f"{one.samples} validation samples, each answered once:"
            yield _row(columns, columns)
        yield _row(columns, columns.values())
    if best is not None:
        yield f"answers of the best: {best.answers}"


def _shown(value: float) -> str:
    return f"{value:.4f}"


def _row(columns: Iterable[str], cells: Iterable[str]) -> str:
    """Cells as wide as the names of their columns, and no narrower than a value."""
    pairs = zip(columns, cells, strict=True)
    return "  " + "  ".join(cell.rjust(max(len(name), WIDTH)) for name, cell in pairs)
