"""Faster kernels for the operations of a frozen base: they compute the same, but for rounding.

torch multiplies float32 on the CPU by MKL, which leaves half of AVX-512 unused on processors that
are not Intel's; oneDNN, which torch takes for other types, does not, and is twice as fast there.
It compiles a kernel for every shape and keeps it, some hundred kB each, so where memory is
limited it is left alone.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.activations import NewGELUActivation

OTHER_MAKERS = ("AuthenticAMD", "HygonGenuine")  # of processors that may have AVX-512


class OneDnnLinear(nn.Linear):
    """A frozen Linear whose products are oneDNN's; a plain one becomes it in place."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        flat = input.reshape(-1, self.in_features)
        result = _Frozen.apply(flat, self)  # type: ignore[no-untyped-call]
        return cast(Tensor, result).view(*input.shape[:-1], self.out_features)


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: nn.Linear) -> Tensor:
        ctx.linear = linear
        return product(linear, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient_product(ctx.linear, gradient), None


def product(linear: nn.Linear, x: Tensor) -> Tensor:
    """(N, in) -> (N, out) of a frozen Linear, bias included."""
    if isinstance(linear, OneDnnLinear):
        return _one_dnn(x, linear.weight, linear.bias)
    return functional.linear(x, linear.weight, linear.bias)


def gradient_product(linear: nn.Linear, gradient: Tensor) -> Tensor:
    """(N, out) -> (N, in): the gradient of a frozen Linear's input, from that of its output."""
    if isinstance(linear, OneDnnLinear):
        return _one_dnn(gradient, linear.weight.t(), None)
    return gradient @ linear.weight


def _one_dnn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return cast(Tensor, result)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, labels_N: Tensor) -> Tensor:
        log_shares_NV = functional.log_softmax(logits_NV, 1)
        ctx.save_for_backward(log_shares_NV, labels_N)
        picked_N = log_shares_NV.gather(1, labels_N.clamp(min=0).unsqueeze(1)).squeeze(1)
        return picked_N.neg().masked_fill(labels_N < 0, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, None]:
        log_shares_NV, labels_N = ctx.saved_tensors
        gradient_N1 = gradient_N.masked_fill(labels_N < 0, 0.0).unsqueeze(1)
        to_logits_NV = log_shares_NV.exp().mul_(gradient_N1)
        return to_logits_NV.scatter_add_(1, labels_N.clamp(min=0).unsqueeze(1), -gradient_N1), None


def token_losses(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Cross entropy (N,) of float32 logits, with fewer passes over memory than torch's.

    It is 0 where a label is negative, and has no gradient there.
    """
    return cast(Tensor, _TokenLosses.apply(logits_NV, labels_N))  # type: ignore[no-untyped-call]


def use_faster_kernels(model: nn.Module, device: torch.device, *, limited: bool) -> None:
    """Replaces operations of a frozen model on the device, in place.

    Args:
        limited: whether the memory is.
    """
    one_dnn = device.type == "cpu" and not limited and _one_dnn_is_faster()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:  # written out in Python there, six operations
                setattr(module, name, nn.GELU(approximate="tanh"))
        if one_dnn and type(module) is nn.Linear and module.weight.dtype == torch.float32:
            module.__class__ = OneDnnLinear


def _one_dnn_is_faster() -> bool:
    """By the kind of processor alone, not measured: trials are to repeat to the bit."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and any(maker in Path("/proc/cpuinfo").read_text() for maker in OTHER_MAKERS)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
