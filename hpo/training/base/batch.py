"""Batches on their way to the device, and numbers on their way back."""

from collections.abc import Sequence

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


class Fetched:
    """Numbers that were asked of the device; a GPU goes on meanwhile."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._sizes = [tensor.numel() for tensor in tensors]
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        self._arrival: torch.cuda.Event | None = None
        if flat.device.type == "cuda":
            here = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            flat = here.copy_(flat, non_blocking=True)
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record()
        self._flat = flat

    def read(self) -> list[Tensor]:
        """The tensors (n,), flat, on the CPU; waits for them, not for later work of the device."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return list(self._flat.split_with_sizes(self._sizes))
