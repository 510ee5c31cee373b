"""Finiteness: where the first NaN or infinity appears."""

import torch
from torch import Tensor


class NonFiniteError(Exception):
    """A NaN or an infinity appeared; says where first."""

    def __init__(self, where: str) -> None:
        self.where = where
        super().__init__(f"NaN or infinity in the {where}")


def check_finite(where: str, tensor: Tensor) -> None:
    """Raises NonFiniteError if any element is NaN or infinite."""
    if not bool(torch.isfinite(tensor.detach()).all()):
        raise NonFiniteError(where)
