"""A frozen Linear and what trials add to it, as one operation with one backward.

Autograd alone would record a dozen small operations a layer and copy the result twice; it is not
told of A and B, whose gradients are added up where the trial wants them. Products with a side of
`rank` are computed transposed, (r, in) (in, n): CPU libraries take three times as long for them
the other way round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpo.training.base.kernels import gradient_product, product

ANCHOR = torch.zeros((), requires_grad=True)
"""Whoever asks for its gradient, which there is none of, has those of all parts computed."""


Kept = tuple[Tensor, Tensor]
"""What the backward pass of a part needs: what it was given, dropout done, and that times A; in a
stack, scaled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one trial adds: `scale * dropped(x) A^T B^T` on its own rows."""

    a: Tensor
    """(r, in)."""
    b: Tensor
    """(r, out): B transposed."""
    scale: float
    keep: Tensor | None
    """(n, in): 0 where dropout strikes, else 1 / (1 - dropout); None without dropout."""
    gradients: Sequence[Tensor]
    """Of the trial's weights, there by the time of the backward pass; added to."""
    place: int
    """Of A's among them; B's is the next."""

    def add(self, x: Tensor, result: Tensor) -> Kept:
        """Adds its part to the result (n, out) for x (n, in)."""
        dropped = x if self.keep is None else x * self.keep
        low_rank = self.a.mm(dropped.t())
        result.addmm_(low_rank.t(), self.b, alpha=self.scale)
        return dropped, low_rank

    def learn(self, kept: Kept, gradient: Tensor, to_x: Tensor | None) -> None:
        """Adds to the gradients of A and B, and to that of x, given that of the result."""
        dropped, low_rank = kept
        to_low_rank = self.b.mm(gradient.t())
        self.gradients[self.place].addmm_(to_low_rank, dropped, alpha=self.scale)
        self.gradients[self.place + 1].addmm_(low_rank, gradient, alpha=self.scale)
        if to_x is None:
            return
        if self.keep is not None:
            to_x.addcmul_(to_low_rank.t().mm(self.a), self.keep, value=self.scale)
        elif to_x.dtype == self.a.dtype:
            to_x.addmm_(to_low_rank.t(), self.a, alpha=self.scale)
        else:
            to_x.add_(to_low_rank.t().mm(self.a), alpha=self.scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class StackedPart:
    """What G trials of n rows each add to their own, one after the other, by batched products."""

    a: Tensor
    """(G, r, in); 0 beyond a trial's rank."""
    b: Tensor
    """(G, r, out): B transposed; the same."""
    scale: Tensor
    """(G, 1, 1), divided by 1 - dropout where there is dropout."""
    keep: Tensor | None
    """(G n, in): 0 where dropout strikes, else 1; None without dropout."""
    gradients: Sequence[Tensor]
    """As a part's, stacked."""
    place: int

    def add(self, x: Tensor, result: Tensor) -> Kept:
        """Adds their parts to the result (G n, out) for x (G n, in)."""
        dropped = self._apart(x if self.keep is None else x * self.keep)
        low_rank = self.a.bmm(dropped.mT).mul_(self.scale)
        self._apart(result).baddbmm_(low_rank.mT, self.b)
        return dropped, low_rank

    def learn(self, kept: Kept, gradient: Tensor, to_x: Tensor | None) -> None:
        """Adds to the gradients of A and B, and to that of x, given that of the result."""
        dropped, low_rank = kept
        apart = self._apart(gradient)
        to_low_rank = self.b.bmm(apart.mT).mul_(self.scale)
        self.gradients[self.place].baddbmm_(to_low_rank, dropped)
        self.gradients[self.place + 1].baddbmm_(low_rank, apart)
        if to_x is None:
            return
        to_dropped = to_low_rank.mT.bmm(self.a).flatten(0, 1)
        if self.keep is None:
            to_x.add_(to_dropped)
        else:
            to_x.addcmul_(to_dropped, self.keep)

    def _apart(self, rows: Tensor) -> Tensor:
        """(G n, width) -> (G, n, width)."""
        return rows.view(len(self.a), -1, rows.shape[-1])


AnyPart = Part | StackedPart


def adapted(
    base: nn.Linear, x: Tensor, rows: Sequence[int], parts: Sequence[AnyPart | None]
) -> Tensor:
    """(N, in) -> (N, out): the base of all rows, each part added to its own.

    Args:
        rows: how many each part has, one after the other.
        parts: None for rows that get nothing.
    """
    part = parts[0]
    if len(parts) == 1 and isinstance(part, Part) and _is_better_merged(base, x, part):
        merged = torch.addmm(base.weight, part.b.t(), part.a, alpha=part.scale)
        return product(base, x, merged)
    result = _Adapted.apply(x, base, rows, parts, ANCHOR)  # type: ignore[no-untyped-call]
    return cast(Tensor, result)


def _is_better_merged(base: nn.Linear, x: Tensor, part: Part) -> bool:
    """Whether W + BA is had with fewer operations than the part's own product, and as exact."""
    inputs, outputs = base.in_features, base.out_features
    learns = torch.is_grad_enabled() or part.keep is not None
    many = len(x) * (inputs + outputs) > inputs * outputs
    return many and not learns and base.weight.dtype == torch.float32 == part.a.dtype


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: nn.Linear,
        rows: Sequence[int],
        parts: Sequence[AnyPart | None],
        anchor: Tensor,
    ) -> Tensor:
        result, dtype = product(base, x), next(part.a.dtype for part in parts if part)
        x, wide = x.to(dtype), result.to(dtype)
        own = zip(parts, _split(x, rows), _split(wide, rows), strict=True)
        kept = [(part, part.add(*given)) if part else None for part, *given in own]
        ctx.base, ctx.rows, ctx.dtype, ctx.kept = base, rows, dtype, kept
        return wide.to(result.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_x = gradient_product(ctx.base, gradient) if ctx.needs_input_grad[0] else None
        to_own = repeat(None) if to_x is None else _split(to_x, ctx.rows)
        kept, ctx.kept = ctx.kept, None  # let go of layer by layer
        own_gradients = _split(gradient.to(ctx.dtype), ctx.rows)
        for one, own, to in zip(kept, own_gradients, to_own, strict=False):
            if one is None:
                continue
            part, tensors = one
            part.learn(tensors, own, to)
        return to_x, None, None, None, None


def _split(x: Tensor, rows: Sequence[int]) -> tuple[Tensor, ...]:
    return x.split_with_sizes(rows)
