"""LoRA on a frozen base (Hu et al. 2021, arXiv:2106.09685), for several trials at a time.

Every adapted Linear computes `base(x) + alpha/r * dropout(x) A^T B^T`, A (r, in), B (out, r). In
a batch that holds the rows of several trials, the base computes all rows at once and every trial
adds its part to its own. The base is wrapped once and never written to: without adapters it
answers as if nothing had been wrapped. A head, where there is one, is each trial's own.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.errors import DataError, MissingError
from hpo.training.base.blocks import adaptable, in_last_blocks
from hpo.training.base.lowrank import Part, adapted


class Attached:
    """The adapters in a base, each with its number of consecutive rows; shared by all layers."""

    def __init__(self) -> None:
        self.adapters: Sequence[Adapter] = ()
        self.rows: list[int] = []
        self.longest = 0
        """Tokens of the longest row there is; dropout is drawn for so many."""

    def compute(self, index: int, base: nn.Linear, x: Tensor) -> Tensor:
        """(B, ..., out) of layer `index` for x (B, ..., in), adapters included."""
        if not self.adapters:
            result: Tensor = base(x)
            return result
        rows = self._rows_of(x)
        parts = [
            adapter.part(index, (own, *x.shape[1:]), self.longest)
            for adapter, own in zip(self.adapters, rows, strict=True)
        ]
        if not any(parts):
            result = base(x)
            return result
        flat = x.flatten(0, -2)
        each = len(flat) // len(x)  # rows of the flat input for a row of the batch
        result = adapted(base, flat, [own * each for own in rows], parts)
        return result.view(*x.shape[:-1], -1)

    def _rows_of(self, x: Tensor) -> Sequence[int]:
        """How many rows of a layer's input (B, ..., in) are each adapter's."""
        if len(self.adapters) == 1:  # also of what all rows of a batch share
            return [len(x)]
        if sum(self.rows) != len(x):
            raise DataError(
                f"model.adapt: an adapted layer sees {len(x)} rows of a batch of {sum(self.rows)}, "
                "so trials cannot share a pass; use --pack 1, or adapt other layers"
            )
        return self.rows

    def head(self, base: nn.Linear, x: Tensor) -> Tensor:
        """(B, ..., out) of the head for x (B, ..., in): of each trial's own."""
        if not self.adapters:
            result: Tensor = base(x)
            return result
        own = zip(self.adapters, torch.split(x, self.rows), strict=True)
        return torch.cat([adapter.head(rows) for adapter, rows in own])


class LoraLinear(nn.Module):
    """A frozen Linear with room for adapters."""

    def __init__(self, base: nn.Linear, index: int, attached: Attached) -> None:
        super().__init__()
        self.base = base
        self.index = index
        self._attached = attached

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) -> (B, ..., out)."""
        return self._attached.compute(self.index, self.base, x)


class Head(nn.Module):
    """A Linear of which every trial trains its own copy."""

    def __init__(self, base: nn.Linear, attached: Attached) -> None:
        super().__init__()
        self.base = base
        self._attached = attached

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) -> (B, ..., out)."""
        return self._attached.head(self.base, x)


class LoraBase:
    """A model whose target Linears are wrapped; `unwrap` puts everything back."""

    def __init__(
        self,
        model: nn.Module,
        pattern: str,
        *,
        head: str | None = None,
        longest: int = 0,
        last_n: int | None = None,
    ) -> None:
        """Wraps.

        Args:
            longest: tokens that dropout is drawn for, where rows are padded to others' length.
            last_n: blocks, counted from the last, that may hold adapters; None for all.
        """
        self.model = model
        found = adaptable(model, pattern, last_n, head=head)
        if not found:
            raise MissingError(
                f"model.adapt: no Linear of this model matches {pattern}; give another expression"
            )
        self.whole = last_n is None or len(found) == len(adaptable(model, pattern, None, head=head))
        """Whether every Linear that matches is wrapped."""
        self._attached = Attached()
        self._attached.longest = longest
        self.names = list(found)
        self.layers = [LoraLinear(m, i, self._attached) for i, m in enumerate(found.values())]
        for name, layer in zip(self.names, self.layers, strict=True):
            self._replace(name, layer)
        self.head_name = head
        self.head: Head | None = None
        if head is not None:
            linear = model.get_submodule(head)
            assert isinstance(linear, nn.Linear)
            self.head = Head(linear, self._attached)
            self._replace(head, self.head)

    def unwrap(self) -> None:
        """Puts the original Linears back."""
        for name, layer in zip(self.names, self.layers, strict=True):
            self._replace(name, layer.base)
        if self.head is not None and self.head_name is not None:
            self._replace(self.head_name, self.head.base)

    @contextmanager
    def attached(
        self, adapters: Sequence["Adapter"], rows: Sequence[int], *, learns: bool
    ) -> Iterator[None]:
        """Within it the base computes with these adapters, each for its number of rows.

        Args:
            learns: whether adapters drop out, and their present weights get gradients.
        """
        with torch.set_grad_enabled(learns):
            for adapter in adapters:
                adapter.training = learns
            self._attached.adapters, self._attached.rows = adapters, list(rows)
            try:
                yield
            finally:
                self._attached.adapters = ()

    def touches(self, module: str) -> bool:
        """Whether an adapted Linear lies in this module of the model."""
        return any(name.startswith(f"{module}.") for name in self.names)

    def covered(self, last_n: int | None) -> list[int]:
        """Which adapted layers an adapter of the last `last_n` blocks has; None for all."""
        return in_last_blocks(self.names, last_n)

    def shapes(self, last_n: int | None = None) -> list[tuple[int, int]]:
        """(in, out) of every adapted Linear."""
        linears = [self.layers[index].base for index in self.covered(last_n)]
        return [(linear.in_features, linear.out_features) for linear in linears]

    def head_tensors(self) -> list[Tensor]:
        """Weight (C, H) and, where there is one, bias (C,) of the head; none without a head."""
        if self.head is None:
            return []
        linear = self.head.base
        return [linear.weight] if linear.bias is None else [linear.weight, linear.bias]

    def trainable(self, rank: int, last_n: int | None = None) -> int:
        """Parameters of an adapter of this rank, head included."""
        low_rank = sum(rank * (inputs + outputs) for inputs, outputs in self.shapes(last_n))
        return low_rank + sum(tensor.numel() for tensor in self.head_tensors())

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)


class Adapter:
    """One trial's A and B of its layers, and its head, views into one flat parameter (P,).

    Flat, because clipping, the optimizer and the copy of the best state are then one operation
    each. The views share its memory.
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
        last_n: int | None = None,
    ) -> None:
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.training = True
        self.layers = base.covered(last_n)
        self._places = {layer: 2 * place for place, layer in enumerate(self.layers)}
        low_rank = [s for i, o in base.shapes(last_n) for s in ((rank, i), (rank, o))]
        head = base.head_tensors()
        self._shapes: list[tuple[int, ...]] = [*low_rank, *(tuple(t.shape) for t in head)]
        self.generator = torch.Generator(device).manual_seed(seed)
        flat = self._initial(torch.Generator().manual_seed(seed), len(low_rank), head)
        self.flat = nn.Parameter(flat.to(device=device, dtype=dtype))
        views = self._views(self.flat.detach())
        self._low_rank = views[: len(low_rank)]
        """A, B transposed, A, B transposed, ... of its layers."""
        self.head_weights = [view.requires_grad_() for view in views[len(low_rank) :]]
        """Leaves: their gradients are asked for one by one."""
        self._gradient: Tensor | None = None
        self._gradients: list[Tensor] = []
        """Those of a backward pass under way, views into it."""

    def _initial(self, generator: torch.Generator, low_rank: int, head: list[Tensor]) -> Tensor:
        """A as PEFT draws it (Kaiming uniform, a = sqrt 5), B zero; on the CPU, in float32."""
        parts = []
        for index, shape in enumerate(self._shapes[:low_rank]):
            part = torch.zeros(shape)
            if index % 2 == 0:
                nn.init.kaiming_uniform_(part, a=math.sqrt(5), generator=generator)
            parts.append(part.flatten())
        parts += [tensor.detach().flatten().float().cpu() for tensor in head]
        return torch.cat(parts)

    def tensors(self, flat: Tensor) -> list[Tensor]:
        """A, B, A, B, ... of its layers, then the head's, as views into a flat tensor (P,)."""
        views = self._views(flat)
        for place in range(1, 2 * len(self.layers), 2):
            views[place] = views[place].t()
        return views

    def _views(self, flat: Tensor) -> list[Tensor]:
        pieces = torch.split(flat, [math.prod(shape) for shape in self._shapes])
        return [piece.view(s) for piece, s in zip(pieces, self._shapes, strict=True)]

    def begin(self) -> None:
        """A backward pass is to come, which adds up the gradients of A and B."""
        self._gradient = torch.zeros_like(self.flat.detach())
        self._gradients[:] = self._views(self._gradient)

    def learn(self, head_gradients: Sequence[Tensor]) -> None:
        """Adds what the backward pass found to the gradient of the flat parameter."""
        gradient, self._gradient = self._gradient, None
        assert gradient is not None
        for own, found in zip(self._gradients[len(self._low_rank) :], head_gradients, strict=True):
            own.copy_(found)
        self._gradients.clear()
        self.flat.grad = gradient if self.flat.grad is None else self.flat.grad.add_(gradient)

    def part(self, index: int, shape: tuple[int, ...], longest: int) -> Part | None:
        """What it adds to layer `index`; None if it has none there.

        Args:
            shape: of its rows of the layer's input, (B, ..., in).
            longest: tokens that dropout is drawn for at least.
        """
        place = self._places.get(index)
        if place is None:
            return None
        return Part(
            a=self._low_rank[place],
            b=self._low_rank[place + 1],
            scale=self.alpha / self.rank,
            keep=self._keep(shape, longest),
            gradients=self._gradients,
            place=place,
        )

    def head(self, x: Tensor) -> Tensor:
        """(B, ..., out) of its head for x (B, ..., in)."""
        weight, *bias = self.head_weights
        return functional.linear(x.to(weight.dtype), weight, *bias)

    def _keep(self, shape: tuple[int, ...], longest: int) -> Tensor | None:
        """Dropout (N, in) from the trial's own generator, so that no other trial changes it."""
        if not self.training or self.dropout == 0.0:
            return None
        drawn = list(shape)
        if len(shape) == 3:
            drawn[1] = max(shape[1], longest)
        keep = torch.empty(drawn, dtype=self.flat.dtype, device=self.flat.device)
        keep.bernoulli_(1.0 - self.dropout, generator=self.generator)
        keep = keep[:, : shape[1]] if len(shape) == 3 else keep
        return keep.flatten(0, -2).div_(1.0 - self.dropout)
