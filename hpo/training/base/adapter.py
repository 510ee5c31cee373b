"""One trial's adapter: its weights, their gradients, and the dropout in front of them."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.training.base.lowrank import Part


class Adapter:
    """One trial's A and B of its layers, and its head, views into one flat parameter (P,).

    Flat, because clipping, the optimizer and the copy of the best state are then one operation
    each. The views share its memory.
    """

    def __init__(
        self,
        layers: Mapping[int, tuple[int, int]],
        head: Sequence[Tensor],
        *,
        rank: int,
        alpha: float,
        dropout: float,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
    ) -> None:
        """A fresh one, which changes nothing yet.

        Args:
            layers: (in, out) of the adapted Linears that it has a part in, by their index.
            head: the base's own, of which it trains a copy; empty without.
        """
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.training = True
        self.layers = list(layers)
        self._places = {layer: 2 * place for place, layer in enumerate(self.layers)}
        low_rank = [s for i, o in layers.values() for s in ((rank, i), (rank, o))]
        self._shapes: list[tuple[int, ...]] = [*low_rank, *(tuple(t.shape) for t in head)]
        self.generator = torch.Generator(device).manual_seed(seed)
        flat = self._initial(torch.Generator().manual_seed(seed), len(low_rank), head)
        self.flat = nn.Parameter(flat.to(device=device, dtype=dtype))
        self.low_rank = self.matrices(self.flat.detach())
        """A, B transposed, A, B transposed, ... of its layers."""
        heads = self._views(self.flat.detach())[len(low_rank) :]
        self.head_weights = [view.requires_grad_() for view in heads]
        """Leaves: their gradients are asked for one by one."""
        self._gradient: Tensor | None = None
        self.gradients: list[Tensor] = []
        """Those of a backward pass under way, views into one tensor like the flat one."""

    def _initial(self, generator: torch.Generator, low_rank: int, head: Sequence[Tensor]) -> Tensor:
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

    def matrices(self, flat: Tensor) -> list[Tensor]:
        """A, B transposed, A, B transposed, ... of its layers, as views into a flat tensor (P,)."""
        return self._views(flat)[: 2 * len(self.layers)]

    def _views(self, flat: Tensor) -> list[Tensor]:
        pieces = torch.split(flat, [math.prod(shape) for shape in self._shapes])
        return [piece.view(s) for piece, s in zip(pieces, self._shapes, strict=True)]

    def begin(self) -> None:
        """A backward pass is to come, which adds up the gradients of A and B."""
        self._gradient = torch.zeros_like(self.flat.detach())
        self.gradients[:] = self.matrices(self._gradient)

    def learn(self, head_gradients: Sequence[Tensor]) -> None:
        """Adds what the backward pass found to the gradient of the flat parameter."""
        assert self._gradient is not None
        self.take(self._gradient, head_gradients)
        self._gradient = None
        self.gradients.clear()

    def take(self, gradient: Tensor, head_gradients: Sequence[Tensor]) -> None:
        """Puts the head's part into a gradient (P,) and adds it; keeps the tensor."""
        heads = self._views(gradient)[len(self.low_rank) :] if head_gradients else []
        for own, found in zip(heads, head_gradients, strict=True):
            own.copy_(found)
        self.flat.grad = gradient if self.flat.grad is None else self.flat.grad.add_(gradient)

    def part(self, index: int, shape: Sequence[int], longest: int) -> Part | None:
        """What it adds to layer `index`; None if it has none there.

        Args:
            shape: of its rows of the layer's input, (B, ..., in).
            longest: tokens that dropout is drawn for at least.
        """
        place = self.place(index)
        if place is None:
            return None
        keep = keep_masks([self], shape, longest)
        return Part(
            a=self.low_rank[place],
            b=self.low_rank[place + 1],
            scale=self.alpha / self.rank,
            keep=None if keep is None else keep.div_(1.0 - self.dropout),
            gradients=self.gradients,
            place=place,
        )

    def place(self, index: int) -> int | None:
        """Of layer `index`'s A among the weights, B's is the next; None if it has none there."""
        return self._places.get(index)

    def head(self, base: nn.Module, tensors: slice, x: Tensor) -> Tensor:
        """(B, ..., out) of its own copy of a module of the head for x (B, ..., in).

        Args:
            tensors: places of the module's among all tensors of the head.
        """
        weight, *bias = self.head_weights[tensors]
        x = x.to(weight.dtype)
        if isinstance(base, nn.LayerNorm):
            shift = bias[0] if bias else None
            return functional.layer_norm(x, base.normalized_shape, weight, shift, base.eps)
        return functional.linear(x, weight, *bias)

    @property
    def drops(self) -> bool:
        """Whether dropout strikes."""
        return self.training and self.dropout > 0.0


def keep_masks(adapters: Sequence[Adapter], shape: Sequence[int], longest: int) -> Tensor | None:
    """Masks of adapters with as many rows each, one after the other (G n, in): 0 where dropout
    strikes, else 1. None where it never does.

    Each is drawn from the trial's own generator, so that no other trial changes it.

    Args:
        adapters: dropout strikes all of them, or none.
        shape: of the rows of one of them, (B, ..., in).
        longest: tokens that are drawn for at least.
    """
    if not adapters[0].drops:
        return None
    drawn = [len(adapters) * shape[0], *shape[1:]]
    if len(shape) == 3:
        drawn[1] = max(shape[1], longest)
    flat = adapters[0].flat
    keep = torch.empty(drawn, dtype=flat.dtype, device=flat.device)
    for adapter, own in zip(adapters, torch.split(keep, shape[0]), strict=True):
        own.bernoulli_(1.0 - adapter.dropout, generator=adapter.generator)
    keep = keep[:, : shape[1]] if len(shape) == 3 else keep
    return keep.flatten(0, -2)
