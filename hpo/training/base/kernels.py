"""Faster kernels for the operations of a frozen base: they compute the same, but for rounding.

Norms pass over memory less often, and their backward is written out.

torch multiplies float32 on the CPU by MKL, which leaves half of AVX-512 unused on processors that
are not Intel's; oneDNN, which torch takes for other types, does not, and is twice as fast on AMD's
since Zen 5 (before, their AVX-512 was no faster than AVX2). It compiles a kernel for every shape
and keeps it, some hundred kB each, so where memory is limited it is left alone.
"""

import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.activations import NewGELUActivation

AMD = "AuthenticAMD"
ZEN_5 = 26  # the family of its processors


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


def product(linear: nn.Linear, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """(N, in) -> (N, out) of a frozen Linear, bias included; with another weight, where given."""
    weight = linear.weight if weight is None else weight
    if isinstance(linear, OneDnnLinear):
        return _one_dnn(x, weight, linear.bias)
    return functional.linear(x, weight, linear.bias)


def gradient_product(linear: nn.Linear, gradient: Tensor) -> Tensor:
    """(N, out) -> (N, in): the gradient of a frozen Linear's input, from that of its output."""
    if isinstance(linear, OneDnnLinear):
        return _one_dnn(gradient, linear.weight.t(), None)
    return gradient @ linear.weight


def _one_dnn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return cast(Tensor, result)


class RmsNorm(nn.Module):
    """The norm of T5, Llama and Qwen in float32; one of theirs becomes it in place."""

    weight: Tensor
    """(D,), frozen."""
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., D): x / sqrt(mean x^2 + epsilon), times the weight."""
        result = _RmsNorm.apply(hidden_states, self)  # type: ignore[no-untyped-call]
        return cast(Tensor, result)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: RmsNorm) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
        ctx.weight = norm.weight
        ctx.save_for_backward(x, scale)
        return cast(Tensor, (x * scale).mul_(norm.weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, scale = ctx.saved_tensors
        to_x = gradient * ctx.weight
        along = (to_x * x).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(x.shape[-1])
        return to_x.mul_(scale).addcmul_(x, along, value=-1.0), None


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
            elif _is_rms_norm(child):
                child.__class__ = RmsNorm
        if one_dnn and type(module) is nn.Linear and module.weight.dtype == torch.float32:
            module.__class__ = OneDnnLinear


def _is_rms_norm(module: nn.Module) -> bool:
    """Every architecture has a class of its own; half precision is left to them."""
    if not type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")):
        return False
    weight, epsilon = (getattr(module, name, None) for name in ("weight", "variance_epsilon"))
    is_float32 = isinstance(weight, Tensor) and weight.dtype == torch.float32
    return is_float32 and isinstance(epsilon, float)


def _one_dnn_is_faster() -> bool:
    """By the kind of processor alone, not measured: trials are to repeat to the bit."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _is_zen_5(Path("/proc/cpuinfo").read_text())
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _is_zen_5(cpuinfo: str) -> bool:
    """Whether it is that, or later."""
    family = re.search(r"^cpu family\s*: (\d+)", cpuinfo, re.MULTILINE)
    return AMD in cpuinfo and family is not None and int(family.group(1)) >= ZEN_5
