"""Counts on single rows what trials will need: no step is taken, nothing stays."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from statistics import linear_regression
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpo.errors import DataError
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.base.cross_entropy import token_by_token
from hpo.training.memory.footprint import Footprint
from hpo.training.tasks import Row
from hpo.training.trial.trial import Bench, new_adapter

LENGTHS = 5  # rows of different length that are tried
RANK = 16  # the rank that is tried beside 1


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operations make, as long as something holds them."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """`known` tensors are not counted, nor are views of them."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage.nbytes()).atexit = False

    def _gone(self, size_bytes: int) -> None:
        self.now -= size_bytes


def one_row_order(*, rank: int = 1, dropout: float = 0.0) -> TrialOrder:
    """A trial of one row, which is never trained."""
    config = TrialConfig(
        learning_rate=1.0, lora_r=rank, lora_alpha=1.0, lora_dropout=dropout, batch_size=1
    )
    return TrialOrder(number=0, seed_number=0, folder="", config=config)


def count(bench: Bench) -> Footprint:
    """The footprint of a trial; an empty one if no row can be tried: trials will say why."""
    rows = sorted(bench.train, key=lambda row: row.length)
    step = (len(rows) - 1) / (LENGTHS - 1)
    chosen = [rows[round(k * step)] for k in range(LENGTHS)]
    found = [(row, size) for row in chosen if (size := _held(bench, row)) is not None]
    base = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in _base(bench)}
    if not found:
        return Footprint()
    row, size = found[0]
    row_bytes, token_bytes = _below([(row.length, size) for row, size in found])
    rank_bytes = ((_held(bench, row, rank=RANK) or size) - size) / (RANK - 1)
    once_bytes = max(0, 2 * size - (_held(bench, row, times=2) or size))  # however many rows
    return Footprint(
        base_bytes=sum(base.values()),
        row_bytes=row_bytes - rank_bytes - once_bytes,
        token_bytes=token_bytes,
        rank_bytes=rank_bytes,
        dropout_bytes=(_held(bench, row, dropout=0.5) or size) - size,
        eval_bytes=_evaluated(bench),
    )


def _held(bench: Bench, row: Row, *, times: int = 1, **changes: Any) -> int | None:
    """Bytes that a row, so many times, holds at the end of its forward pass.

    None if it cannot be tried.
    """
    adapter = new_adapter(bench, one_row_order(**changes))
    try:
        batch = bench.task.collate([row] * times)
    except DataError:
        return None
    with (
        bench.base.attached([adapter], [times], learns=True),
        LiveBytes([*_base(bench), adapter.flat, *batch.values()]) as live,
    ):
        kept = bench.task.losses(batch)
        held: int = live.now
    del kept
    return held


def _evaluated(bench: Bench) -> int:
    """The most that a batch surely holds in evaluation: as if all its rows were the shortest.

    By what a second row adds, as something is held once for all rows.
    """
    row = min(bench.val, key=lambda row: row.length)
    try:
        added = _peak(bench, [row, row]) - _peak(bench, [row])
    except DataError:
        return 0
    return added * min(bench.study.trial.eval_batch_size, len(bench.val))


@torch.no_grad()
def _peak(bench: Bench, rows: Sequence[Row]) -> int:
    """The most bytes that rows hold in evaluation."""
    batch = bench.task.collate(rows)
    with token_by_token(), LiveBytes([*_base(bench), *batch.values()]) as live:
        bench.task.losses(batch)
    most: int = live.peak
    return most


def _base(bench: Bench) -> list[Tensor]:
    return list(bench.task.model.parameters())


def _below(points: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """(constant, slope) of the least-squares line, lowered until no point is below it."""
    x, y = [float(x) for x, _ in points], [float(y) for _, y in points]
    slope = max(0.0, linear_regression(x, y).slope) if len(set(x)) > 1 else 0.0
    return min(b - slope * a for a, b in points), slope
