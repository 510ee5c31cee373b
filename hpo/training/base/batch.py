"""Batches on their way to the device."""

import torch
from torch import Tensor


def send(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on the device."""
    return {name: sent(tensor, device) for name, tensor in batch.items()}


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; from pinned memory, so that a GPU is not waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
