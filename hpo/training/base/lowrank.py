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
        parts: Sequence[Part | None],
        anchor: Tensor,
    ) -> Tensor:
        result, dtype = product(base, x), next(part.a.dtype for part in parts if part)
        x, wide = x.to(dtype), result.to(dtype)
        kept: list[tuple[Part, Tensor, Tensor] | None] = []
        for part, own, added in zip(parts, _split(x, rows), _split(wide, rows), strict=True):
            if part is None:
                kept.append(None)
                continue
            dropped = own if part.keep is None else own * part.keep
            low_rank = part.a.mm(dropped.t())
            added.addmm_(low_rank.t(), part.b, alpha=part.scale)
            kept.append((part, dropped, low_rank))
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
            part, dropped, low_rank = one
            to_low_rank = part.b.mm(own.t())
            part.gradients[part.place].addmm_(to_low_rank, dropped, alpha=part.scale)
            part.gradients[part.place + 1].addmm_(low_rank, own, alpha=part.scale)
            if to is not None:
                _add(to, to_low_rank.t(), part)
        return to_x, None, None, None, None


def _split(x: Tensor, rows: Sequence[int]) -> tuple[Tensor, ...]:
    return x.split_with_sizes(rows)


def _add(to_x: Tensor, to_low_rank: Tensor, part: Part) -> None:
    """Adds the gradient of a part's input (n, in) to that of the layer's, in place."""
    if part.keep is not None:
        to_x.addcmul_(to_low_rank.mm(part.a), part.keep, value=part.scale)
    elif to_x.dtype == part.a.dtype:
        to_x.addmm_(to_low_rank, part.a, alpha=part.scale)
    else:
        to_x.add_(to_low_rank.mm(part.a), alpha=part.scale)
