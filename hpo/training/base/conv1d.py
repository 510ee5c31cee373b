"""transformers' Conv1D as a Linear: GPT-2 and its kin store their matrices transposed.

Both compute `x W + b`; a Conv1D has W as (in, out) where a Linear has (out, in). As Linears their
modules take adapters like all others. PEFT reads such an adapter with `fan_in_fan_out`.
"""

from torch import nn
from transformers.pytorch_utils import Conv1D


class TransposedLinear(nn.Linear):
    """A Linear (out, in) that is a Conv1D in the checkpoint, where its weight is (in, out)."""


def replace_conv1d(model: nn.Module) -> None:
    """Replaces every Conv1D of a model by the Linear that computes the same, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                setattr(module, name, _linear(child))


def _linear(conv: Conv1D) -> TransposedLinear:
    inputs, outputs = conv.weight.shape
    linear = TransposedLinear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().t().contiguous(), requires_grad=False)
    linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
    return linear
