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
        self._even = all(adapter.rank == self._widest.rank for adapter in adapters)
        flat = self._room()
        self._weights = self._views(flat)
        if self._even:
            torch.stack([adapter.flat.detach() for adapter in adapters], out=flat)
        else:
            torch._foreach_copy_(
                self._own(self._weights), [w for a in adapters for w in a.low_rank]
            )
        factors = [a.alpha / a.rank / (1.0 - a.dropout * a.drops) for a in adapters]
        self._scale = sent(torch.tensor(factors, dtype=flat.dtype), flat.device).view(-1, 1, 1)
        self._gradient: Tensor | None = None
        self._gradients: list[Tensor] = []

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
        """A backward pass is to come, which adds up gradients."""
        self._gradient = self._room().zero_()
        self._gradients[:] = self._views(self._gradient)

    def learn(self, head_gradients: Sequence[Tensor]) -> None:
        """Adds what the backward pass found to the gradients of the adapters."""
        assert self._gradient is not None
        own = list(self._gradient.unbind())
        if not self._even:
            own = [torch.empty_like(adapter.flat.detach()) for adapter in self._adapters]
            pairs = zip(self._adapters, own, strict=True)
            found = [view for adapter, flat in pairs for view in adapter.low_rank_of(flat)]
            torch._foreach_copy_(found, self._own(self._gradients))
        each = len(head_gradients) // len(own)
        for place, (adapter, gradient) in enumerate(zip(self._adapters, own, strict=True)):
            adapter.take(gradient, head_gradients[place * each : (place + 1) * each])
        self._gradient = None
        self._gradients.clear()

    def _room(self) -> Tensor:
        """(G, P) for as many parameters as the widest has."""
        flat, count = self._widest.flat.detach(), len(self._adapters)
        return flat.new_empty(count, len(flat)) if self._even else flat.new_zeros(count, len(flat))

    def _views(self, flat: Tensor) -> list[Tensor]:
        """(G, r, in), (G, r, out), ... of all layers, r the highest rank."""
        weights = self._widest.low_rank
        sizes = [weight.numel() for weight in weights]
        parts = flat[:, : sum(sizes)].split_with_sizes(sizes, 1)
        return [part.view(-1, *w.shape) for part, w in zip(parts, weights, strict=True)]

    def _own(self, stacked: Sequence[Tensor]) -> list[Tensor]:
        """Of stacked tensors what is each adapter's, in the order of its weights."""
        numbered = enumerate(self._adapters)
        return [one[place, : adapter.rank] for place, adapter in numbered for one in stacked]


Share = Adapter | Stack


def shares(adapters: Sequence[Adapter], rows: Sequence[int]) -> tuple[list[Share], list[int]]:
    """The adapters, stacked with their neighbours on a GPU, and how many rows each then has."""
    found: list[Share] = []
    counts: list[int] = []
    pairs = zip(adapters, rows, strict=False)  # rows of the base alone are nobody's
    for (count, _), group in groupby(pairs, key=lambda pair: (pair[1], pair[0].layers)):
        alike = [adapter for adapter, _ in group]
        stacked = len(alike) > 1 and is_worth_it(alike[0].flat.device)
        found += [Stack(alike)] if stacked else alike
        counts += [count * len(alike)] if stacked else [count] * len(alike)
    return found, counts


def is_worth_it(device: torch.device) -> bool:
    """Whether operations take the device less time than being told of them."""
    return device.type != "cpu"
