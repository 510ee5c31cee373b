"""LoRA on a frozen base (Hu et al. 2021, arXiv:2106.09685).

Every adapted Linear computes `base(x) + alpha/r * dropout(x) A^T B^T`, A (r, in), B (out, r).
The base is wrapped once and never written to: an adapter is put in and taken out, and without
one the base answers as if nothing had been wrapped.
"""

import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.errors import MissingError


class LoraLinear(nn.Module):
    """A frozen Linear with a slot for one trial's A and B."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.adapter: Adapter | None = None
        self.index = 0

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        result: Tensor = self.base(x)
        if self.adapter is None:
            return result
        return (result + self.adapter.delta(self.index, x)).to(result.dtype)


class LoraBase:
    """A model whose target Linears are wrapped; `unwrap` puts everything back."""

    def __init__(self, model: nn.Module, pattern: str) -> None:
        self.model = model
        found = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and re.match(pattern, name)
        ]
        if not found:
            raise MissingError(f"no Linear of this model matches {pattern}; it cannot be adapted")
        self.names = [name for name, _ in found]
        self.layers = [LoraLinear(module) for _, module in found]
        for index, layer in enumerate(self.layers):
            layer.index = index
            self._replace(self.names[index], layer)

    def unwrap(self) -> None:
        """Puts the original Linears back."""
        for name, layer in zip(self.names, self.layers, strict=True):
            self._replace(name, layer.base)

    def attach(self, adapter: "Adapter | None") -> None:
        """Puts an adapter in, or with None takes it out."""
        for layer in self.layers:
            layer.adapter = adapter

    def shapes(self) -> list[tuple[int, int]]:
        """(in, out) of every adapted Linear."""
        return [(layer.base.in_features, layer.base.out_features) for layer in self.layers]

    def trainable(self, rank: int) -> int:
        """Parameters of an adapter of this rank."""
        return sum(rank * (inputs + outputs) for inputs, outputs in self.shapes())

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)


class Adapter:
    """One trial's A and B of all layers, views into one flat parameter (P,).

    Flat, because clipping, the optimizer and the copy of the best state are then one operation
    each. `refresh` makes the views anew before every forward pass: `split` gives them one joint
    backward, where slices would fill the whole gradient with zeros once for each.
    """

    def __init__(
        self,
        base: LoraBase,
        *,
        rank: int,
        alpha: float,
        dropout: float,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
    ) -> None:
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.training = True
        self._shapes = [shape for i, o in base.shapes() for shape in ((rank, i), (o, rank))]
        self.generator = torch.Generator(device).manual_seed(seed)
        flat = self._initial(torch.Generator().manual_seed(seed))
        self.flat = nn.Parameter(flat.to(device=device, dtype=dtype))
        self._views: list[Tensor] = []
        self.refresh()

    def _initial(self, generator: torch.Generator) -> Tensor:
        """A as PEFT draws it (Kaiming uniform, a = sqrt 5), B zero; on the CPU, in float32."""
        parts = []
        for index, shape in enumerate(self._shapes):
            part = torch.zeros(shape)
            if index % 2 == 0:
                nn.init.kaiming_uniform_(part, a=math.sqrt(5), generator=generator)
            parts.append(part.flatten())
        return torch.cat(parts)

    def refresh(self) -> None:
        """Makes the views of the present weights."""
        self._views = self.tensors(self.flat)

    def tensors(self, flat: Tensor) -> list[Tensor]:
        """A, B, A, B, ... of the layers as views into a flat tensor (P,)."""
        pieces = torch.split(flat, [rows * columns for rows, columns in self._shapes])
        return [piece.view(s) for piece, s in zip(pieces, self._shapes, strict=True)]

    def delta(self, index: int, x: Tensor) -> Tensor:
        """What the adapter adds to layer `index` for its input (..., in)."""
        a, b = self._views[2 * index], self._views[2 * index + 1]
        dropped = self._drop(x.to(a.dtype))
        return functional.linear(functional.linear(dropped, a), b) * (self.alpha / self.rank)

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout from the trial's own generator, so that no other trial changes it."""
        if not self.training or self.dropout == 0.0:
            return x
        keep = torch.empty_like(x).bernoulli_(1.0 - self.dropout, generator=self.generator)
        return x * keep / (1.0 - self.dropout)
