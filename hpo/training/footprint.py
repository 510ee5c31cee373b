"""How much memory a trial would take, estimated from what one row keeps for its backward pass.

Counted, not measured: the same on every device and in every run, so that a study whose trials run
out of memory repeats like any other.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

BACKWARD = 1.6  # peak over what is kept, gradients on their way included; on the embedded base
OPTIMIZER_BYTES = 16  # a trainable parameter: itself, its gradient, two moments, in float32


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of the frozen base, and bytes that the longest row keeps."""

    base_bytes: int = 0
    row_bytes: int = 0

    def estimate(self, *, batch_size: int, trainable: int) -> int:
        """Bytes of a trial at its peak, base included."""
        activations = round(BACKWARD * batch_size * self.row_bytes)
        return self.base_bytes + activations + trainable * OPTIMIZER_BYTES


def measure(model: nn.Module, forward: Callable[[], Tensor]) -> tuple[Tensor, Footprint]:
    """(result of `forward` for one row, the footprint that it shows)."""
    storages = [parameter.untyped_storage() for parameter in model.parameters()]
    weights = {storage.data_ptr(): storage.nbytes() for storage in storages}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    row_bytes = sum(size for pointer, size in kept.items() if pointer not in weights)
    return result, Footprint(base_bytes=sum(weights.values()), row_bytes=row_bytes)
