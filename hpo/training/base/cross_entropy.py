"""Cross entropy of tokens, with fewer passes over memory than torch's.

Where the head is frozen, logits of all tokens never exist at once: each part of them is turned
into losses and the gradient of the hidden states while it is at hand. A vocabulary is many times
as wide as hidden states (Hsu et al. 2024, arXiv:2410.10989).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpo.training.base.kernels import gradient_product, product

LOGITS_BYTES = {"cpu": 1 << 20, "cuda": 64 << 20}  # a CPU's cache; enough to fill a GPU
LEAST = 128  # tokens at a time, or the head's weights are what passes through memory
_single: ContextVar[bool] = ContextVar("single", default=False)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, labels_N: Tensor) -> Tensor:
        losses_N, shares_NV = _found(logits_NV, labels_N)
        ctx.save_for_backward(shares_NV, labels_N)
        return losses_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, None]:
        shares_NV, labels_N = ctx.saved_tensors
        gradient_N = gradient_N.masked_fill(labels_N < 0, 0.0)
        return _add_at_labels(shares_NV * gradient_N.unsqueeze(1), labels_N, -gradient_N), None


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, labels_N: Tensor, head: nn.Linear) -> Tensor:
        tokens = _tokens(head, hidden_ND.device)
        losses, to_hidden = [], []
        parts = zip(torch.split(hidden_ND, tokens), torch.split(labels_N, tokens), strict=True)
        for hidden, labels in parts:
            found, shares = _found(product(head, hidden).float(), labels)
            losses.append(found)
            if ctx.needs_input_grad[0]:
                _add_at_labels(shares, labels, shares.new_full((), -1.0))
                to_hidden.append(gradient_product(head, shares.to(hidden.dtype)))
        if to_hidden:
            ctx.save_for_backward(labels_N, torch.cat(to_hidden))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, None, None]:
        labels_N, to_hidden_ND = ctx.saved_tensors
        gradient_N1 = gradient_N.masked_fill(labels_N < 0, 0.0).unsqueeze(1)
        return to_hidden_ND * gradient_N1.to(to_hidden_ND.dtype), None, None


def _tokens(head: nn.Linear, device: torch.device) -> int:
    """How many are turned into logits at a time."""
    if _single.get():
        return 1
    return max(LEAST, LOGITS_BYTES[device.type] // (4 * head.out_features))


def _found(logits_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """(losses (N,), softmax (N, V))."""
    shares_NV = logits_NV.softmax(1)
    places_N1 = labels_N.clamp(min=0).unsqueeze(1)
    below_N = logits_NV.amax(1).sub_(logits_NV.gather(1, places_N1).squeeze(1))
    losses_N = below_N.sub_(shares_NV.amax(1).log_()).masked_fill_(labels_N < 0, 0.0)
    return losses_N, shares_NV


def _add_at_labels(values_NV: Tensor, labels_N: Tensor, added: Tensor) -> Tensor:
    """Adds `added`, () or (N,), in place to the value of each token's label; returns `values_NV`.

    Not by `scatter_add_`: with deterministic algorithms, torch copies the strides of its index
    from the host, and waits until the GPU has done all that it was sent. Negative labels count
    as 0, so callers see to it that what is added there is never used.
    """
    tokens_N = torch.arange(len(labels_N), device=labels_N.device)
    return values_NV.index_put_((tokens_N, labels_N.clamp(min=0)), added, accumulate=True)


def token_losses(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Cross entropy (N,) of float32 logits.

    It is 0 where a label is negative, and has no gradient there.
    """
    return cast(Tensor, _TokenLosses.apply(logits_NV, labels_N))  # type: ignore[no-untyped-call]


def head_losses(head: nn.Module, hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
    """The same of the logits that a language model's head makes of hidden states."""
    if not isinstance(head, nn.Linear):  # it has adapters
        return token_losses(head(hidden_ND).float(), labels_N)
    return cast(Tensor, _HeadLosses.apply(hidden_ND, labels_N, head))  # type: ignore[no-untyped-call]


@contextmanager
def token_by_token() -> Iterator[None]:
    """Within it there are logits of one token at a time: what a pass then holds is the least."""
    before = _single.set(True)
    try:
        yield
    finally:
        _single.reset(before)
