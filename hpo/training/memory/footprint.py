"""How much memory a trial needs, counted from what single rows keep in a forward pass.

Counted, not measured: the same on every device and in every run, so that a study whose trials run
out of memory repeats like any other. Knows no torch; `memory.probe` counts.
"""

from dataclasses import dataclass

from hpo.specs import Demand

BACKWARD = 1.6  # peak over what is kept, gradients on their way included; on the embedded base
OPTIMIZER_BYTES = 16  # a trainable parameter: itself, its gradient, two moments, in float32


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of the frozen base, and of a row by its length, the rank and dropout.

    All that is per row is a lower bound: a row of a batch is padded, and can only hold more.
    """

    base_bytes: int = 0
    row_bytes: float = 0.0
    """Of a row without tokens, rank and dropout."""
    token_bytes: float = 0.0
    rank_bytes: float = 0.0
    """Added to a row by each rank."""
    dropout_bytes: float = 0.0
    """Added to a row by LoRA dropout above 0."""
    eval_bytes: int = 0
    """Of a batch in evaluation; the same for all trials."""

    def demand(
        self, *, rows: int, length: int, rank: int, dropout: float, trainable: int
    ) -> Demand:
        """Of a trial whose longest batch has `rows` rows, the longest of `length` tokens."""
        row = self.row_bytes + length * self.token_bytes + rank * self.rank_bytes
        row += self.dropout_bytes if dropout > 0.0 else 0.0
        return Demand(activation_bytes=round(max(0.0, rows * row)), trainable=trainable)

    def floor(self, demand: Demand, parameter_bytes: int) -> int:
        """Bytes that a trial surely needs at once, base included."""
        activations = max(demand.activation_bytes, self.eval_bytes)
        return self.base_bytes + activations + demand.trainable * parameter_bytes

    def estimate(self, demand: Demand) -> int:
        """Bytes of a trial at its peak, base included, about."""
        activations = round(BACKWARD * demand.activation_bytes)
        return self.base_bytes + activations + demand.trainable * OPTIMIZER_BYTES
