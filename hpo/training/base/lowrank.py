"""A frozen Linear and what trials add to it, as one operation with one backward.

Autograd alone would record a dozen small operations a layer and copy the result twice. Products
with a side of `rank` are computed transposed, (r, in) (in, n): CPU libraries take three times as
long for them the other way round.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpo.training.base.kernels import gradient_product, product


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


def adapted(
    base: nn.Linear, x: Tensor, rows: Sequence[int], parts: Sequence[Part | None]
) -> Tensor:
    """(N, in) -> (N, out): the base of all rows, each part added to its own.

    Args:
        rows: how many each part has, one after the other.
        parts: None for rows that get nothing.
    """
    if len(parts) == 1 and (part := parts[0]) and _is_better_merged(base, x, part):
        merged = torch.addmm(base.weight, part.b.t(), part.a, alpha=part.scale)
        return product(base, x, merged)
    weights = [weight for part in parts if part for weight in (part.a, part.b)]
    result = _Adapted.apply(x, base, rows, parts, *weights)  # type: ignore[no-untyped-call]
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
        parts: Sequence[Part | None],
        *weights: Tensor,
    ) -> Tensor:
        result = product(base, x)
        wide = result.to(weights[0].dtype)
        kept: list[Tensor] = []
        for part, own, added in zip(parts, _split(x, rows), _split(wide, rows), strict=True):
            if part is None:
                continue
            dropped = own.to(part.a.dtype)
            dropped = dropped if part.keep is None else dropped * part.keep
            low_rank = part.a.mm(dropped.t())
            added.addmm_(low_rank.t(), part.b, alpha=part.scale)
            kept += (dropped, low_rank)
        ctx.base, ctx.rows, ctx.parts = base, rows, parts
        ctx.save_for_backward(*kept)
        return wide.to(result.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept = _pairs(ctx.saved_tensors)
        to_x = gradient_product(ctx.base, gradient) if ctx.needs_input_grad[0] else None
        to_own = repeat(None) if to_x is None else _split(to_x, ctx.rows)
        to_weights: list[Tensor] = []
        for part, own, to in zip(ctx.parts, _split(gradient, ctx.rows), to_own, strict=False):
            if part is None:
                continue
            dropped, low_rank = next(kept)
            own = own.to(part.a.dtype)
            to_low_rank = _scaled(part.b, own.t(), part.scale)
            to_weights += (to_low_rank.mm(dropped), _scaled(low_rank, own, part.scale))
            if to is not None:
                _add(to, to_low_rank.t(), part)
        del ctx.parts  # masks are let go of layer by layer
        return to_x, None, None, None, *to_weights


def _pairs(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(tensors[::2], tensors[1::2], strict=True)


def _split(x: Tensor, rows: Sequence[int]) -> tuple[Tensor, ...]:
    return x.split_with_sizes(rows)


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Their product times a number, in one operation."""
    return torch.addmm(left.new_empty(()), left, right, beta=0.0, alpha=scale)


def _add(to_x: Tensor, to_low_rank: Tensor, part: Part) -> None:
    """Adds the gradient of a part's input (n, in) to that of the layer's, in place."""
    if part.keep is None and to_x.dtype == part.a.dtype:
        to_x.addmm_(to_low_rank, part.a)
        return
    added = to_low_rank.mm(part.a)
    to_x.add_(added if part.keep is None else added.mul_(part.keep))
