"""A frozen Linear and what trials add to it, as one operation with one backward.

Autograd alone would record a dozen small operations a layer and copy the result twice. Products
with a side of `rank` are computed transposed, (r, in) (in, n): CPU libraries take three times as
long for them the other way round.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpo.training.base.kernels import gradient_product, product


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one trial adds: `scale * dropped(x) A^T B^T` on its own rows."""

    a: Tensor
    """(r, in)."""
    b: Tensor
    """(out, r)."""
    scale: float
    keep: Tensor | None
    """(n, in): 0 where dropout strikes, else 1 / (1 - dropout); None without dropout."""
    first: int
    """The first of its rows."""
    rows: int


def adapted(base: nn.Linear, x: Tensor, parts: Sequence[Part]) -> Tensor:
    """(N, in) -> (N, out): the base of all rows, each part added to its own."""
    weights = [weight for part in parts for weight in (part.a, part.b)]
    result = _Adapted.apply(x, base, parts, *weights)  # type: ignore[no-untyped-call]
    return cast(Tensor, result)


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: nn.Linear,
        parts: Sequence[Part],
        *weights: Tensor,
    ) -> Tensor:
        result = product(base, x)
        wide = result.to(weights[0].dtype)
        kept = []
        for part in parts:
            own = slice(part.first, part.first + part.rows)
            dropped = x[own].to(part.a.dtype)
            dropped = dropped if part.keep is None else dropped * part.keep
            low_rank = part.a @ dropped.t()
            wide[own].addmm_(low_rank.t(), part.b.t(), alpha=part.scale)
            kept += [dropped, low_rank]
        ctx.base = base
        ctx.places = [(part.first, part.rows, part.scale) for part in parts]
        ctx.drops = [part.keep is not None for part in parts]
        masks = [part.keep for part in parts if part.keep is not None]
        ctx.save_for_backward(*weights, *kept, *masks)
        return wide.to(result.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count, saved = len(ctx.places), ctx.saved_tensors
        weights, kept = _pairs(saved[: 2 * count]), _pairs(saved[2 * count : 4 * count])
        masks = iter(saved[4 * count :])
        to_x = gradient_product(ctx.base, gradient) if ctx.needs_input_grad[0] else None
        to_weights: list[Tensor] = []
        for (a, b), (dropped, low_rank), (first, rows, scale), drops in zip(
            weights, kept, ctx.places, ctx.drops, strict=True
        ):
            own = gradient[first : first + rows].to(a.dtype)
            to_low_rank = (b.t() @ own.t()).mul_(scale)
            to_weights += [to_low_rank @ dropped, (low_rank @ own).mul_(scale).t()]
            mask = next(masks) if drops else None
            if to_x is not None:
                _add(to_x[first : first + rows], to_low_rank, a, mask)
        return to_x, None, None, *to_weights


def _pairs(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(tensors[::2], tensors[1::2], strict=True)


def _add(to_x: Tensor, to_low_rank: Tensor, a: Tensor, mask: Tensor | None) -> None:
    """Adds the gradient of the dropped-out input (n, in) to that of the input, in place."""
    if mask is None and to_x.dtype == a.dtype:
        to_x.addmm_(to_low_rank.t(), a)
        return
    added = to_low_rank.t() @ a
    to_x.add_(added if mask is None else added.mul_(mask))
