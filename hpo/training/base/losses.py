"""What a forward pass found, row by row, and where the first NaN or infinity appeared."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOSS = "loss"


class NonFiniteError(Exception):
    """A NaN or an infinity appeared; says where first, and in which step if not in the last."""

    def __init__(self, where: str, step: int | None = None) -> None:
        self.where, self.step = where, step
        super().__init__(f"NaN or infinity in the {where}")


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The losses of B rows. Nothing in it has been waited for yet on a GPU."""

    rows: Tensor
    """Loss of every row, summed over its targets (B,)."""
    places: dict[str, Tensor]
    """By name, in the order they were computed: (B,), finite where all of a row's values are."""
    predictions: Tensor | None = None
    """What the model answers, as far as the task measures answers (B,)."""

    def split(self, counts: list[int]) -> list["Losses"]:
        """The losses of consecutive groups of rows."""
        rows = torch.split(self.rows, counts)
        places = {name: torch.split(values, counts) for name, values in self.places.items()}
        answers: Sequence[Tensor | None] = [None] * len(counts)
        if self.predictions is not None:
            answers = torch.split(self.predictions, counts)
        return [
            Losses(
                rows=part,
                places={name: parts[i] for name, parts in places.items()},
                predictions=answers[i],
            )
            for i, part in enumerate(rows)
        ]

    def named(self) -> list[tuple[str, Tensor]]:
        """Every place with its values, the losses last."""
        return [*self.places.items(), (LOSS, self.rows)]

    def check(self) -> None:
        """Raises NonFiniteError with the first place that holds a NaN or an infinity."""
        check_finite(self.named())


def check_finite(named: Sequence[tuple[str, Tensor]], step: int | None = None) -> None:
    """Raises NonFiniteError with the first place that holds a NaN or an infinity."""
    for name, values in named:
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteError(name, step)


def row_sums(values: Tensor) -> Tensor:
    """(B, ...) -> (B,): not finite where a row holds a NaN or an infinity, else finite."""
    return values.detach().flatten(1).sum(1, dtype=torch.float32)
