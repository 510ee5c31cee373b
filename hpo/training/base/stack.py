"""Adapters with as many rows each, side by side: one batched product does the work of many.

Products with a side of `rank` are so small that a GPU takes longer to begin than to do them, so
that eight trials would cost it eight times as much. A CPU does them as fast one by one.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from hpo.training.base.adapter import Adapter, keep_masks
from hpo.training.base.batch import sent
from hpo.training.base.lowrank import StackedPart


class Stack:
    """Copies of G adapters' weights for one pass, and where their gradients are added up."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        """Adapters of the same layers; where ranks differ, those of less are filled up with 0."""
        self._adapters = adapters
        self._widest = max(adapters, key=lambda adapter: adapter.rank)
        flat = self._room()
        self._weights = self._views(flat)
        for index, adapter in enumerate(adapters):
            stacked, own = self._matching(index, flat, adapter.flat.detach())
            torch._foreach_copy_(stacked, own)
        factors = [a.alpha / a.rank / (1.0 - a.dropout * a.drops) for a in adapters]
        self._scale = sent(torch.tensor(factors, dtype=flat.dtype), flat.device).view(-1, 1, 1)
        self._gradient: Tensor | None = None
        self._gradients: list[Tensor] = []
        self._own_gradients: list[Tensor] = []

    @property
    def head_weights(self) -> list[Tensor]:
        """Of all of them."""
        return [weight for adapter in self._adapters for weight in adapter.head_weights]

    def part(self, index: int, shape: Sequence[int], longest: int) -> StackedPart | None:
        """As an adapter's, of all of them; `shape` (G B, ..., in)."""
        place = self._widest.place(index)
        if place is None:
            return None
        own = (shape[0] // len(self._adapters), *shape[1:])
        return StackedPart(
            a=self._weights[place],
            b=self._weights[place + 1],
            scale=self._scale,
            keep=keep_masks(self._adapters, own, longest),
            gradients=self._gradients,
            place=place,
        )

    def begin(self) -> None:
        """A backward pass is to come, which adds up gradients; all room is taken now."""
        self._gradient = self._room()
        self._gradients[:] = self._views(self._gradient)
        self._own_gradients = [torch.empty_like(a.flat.detach()) for a in self._adapters]

    def learn(self, head_gradients: Sequence[Tensor]) -> None:
        """Adds what the backward pass found to the gradients of the adapters."""
        assert self._gradient is not None
        each = len(head_gradients) // len(self._adapters)
        for index, adapter in enumerate(self._adapters):
            gradient = self._own_gradients[index]
            stacked, own = self._matching(index, self._gradient, gradient)
            torch._foreach_copy_(own, stacked)
            adapter.take(gradient, head_gradients[index * each : (index + 1) * each])
        self._gradient = None
        self._gradients.clear()
        self._own_gradients.clear()

    def _room(self) -> Tensor:
        """Zeros (G, P) for as many parameters in A and B as the widest has."""
        flat = self._widest.flat.detach()
        return flat.new_zeros(len(self._adapters), sum(w.numel() for w in self._widest.low_rank))

    def _views(self, flat: Tensor) -> list[Tensor]:
        """(G, r, in), (G, r, out), ... of all layers, r the highest rank."""
        weights = self._widest.low_rank
        parts = flat.split_with_sizes([weight.numel() for weight in weights], 1)
        return [part.view(-1, *w.shape) for part, w in zip(parts, weights, strict=True)]

    def _matching(self, index: int, flat: Tensor, own: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Views of an adapter's A and B in `flat` (G, P), and of the same in its `own` tensor.

        In one piece where its rank is the highest, else matrix by matrix: views take no memory,
        where indices of all parameters would take twice that of the parameters themselves.
        """
        adapter = self._adapters[index]
        if adapter.rank == self._widest.rank:  # a head lies after A and B
            return [flat[index]], [own[: flat.shape[1]]]
        return [m[index, : adapter.rank] for m in self._views(flat)], adapter.matrices(own)


Share = Adapter | Stack


def shares(adapters: Sequence[Adapter], rows: Sequence[int]) -> tuple[list[Share], list[int]]:
    """The adapters, stacked with their neighbours on a GPU, and how many rows each then has."""
    found: list[Share] = []
    counts: list[int] = []
    pairs = zip(adapters, rows, strict=False)  # rows of the base alone are nobody's
    for (count, *_), group in groupby(pairs, key=lambda pair: kind(*pair)):
        alike = [adapter for adapter, _ in group]
        stacked = len(alike) > 1 and is_worth_it(alike[0].flat)
        found += [Stack(alike)] if stacked else alike
        counts += [count * len(alike)] if stacked else [count] * len(alike)
    return found, counts


def kind(adapter: Adapter | None, rows: int) -> tuple[int, list[int], bool, int]:
    """What is the same in a stack: dropout costs memory, and so do ranks filled up to others.

    In order of it, adapters that may be stacked are neighbours.
    """
    if adapter is None:
        return rows, [], False, 0
    return rows, adapter.layers, adapter.dropout > 0.0, adapter.rank.bit_length()


def is_worth_it(flat: Tensor) -> bool:
    """Whether operations take the device less time than being told of them, and are as exact."""
    return flat.device.type != "cpu" and flat.dtype != torch.float16  # a scale might overflow
