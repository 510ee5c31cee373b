"""Attention masks that nobody reads.

transformers leaves a mask out that hides nothing, and reads it to know: on a GPU, every such look
waits until all work that was sent there is done, four times in a pass of InstructBLIP. The price:
a batch without padding is not given to kernels that take no mask. Only torch's own attention is
meant, which is what transformers takes where nothing else is asked for.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask


def leave_masks_unread(device: torch.device) -> None:
    """From now on masks are made without a look at them, where a look would wait."""
    if device.type != "cpu":
        AttentionMaskInterface.register("sdpa", unread_mask)


def unread_mask(*sizes: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """transformers' `sdpa_mask` (B, 1, T, S), which is left out only where none is asked for."""
    if attention_mask is not None:
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(*sizes, attention_mask=attention_mask, **options)
    return mask
