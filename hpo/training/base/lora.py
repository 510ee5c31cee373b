"""LoRA on a frozen base (Hu et al. 2021, arXiv:2106.09685), for several trials at a time.

Every adapted Linear computes `base(x) + alpha/r * dropout(x) A^T B^T`, A (r, in), B (out, r). In
a batch that holds the rows of several trials, the base computes all rows at once and every trial
adds its part to its own. The base is wrapped once and never written to: without adapters it
answers as if nothing had been wrapped. A head, where there is one, is each trial's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from hpo.errors import MissingError, UnpackableError
from hpo.training.base.adapter import Adapter
from hpo.training.base.blocks import adaptable, in_last_blocks
from hpo.training.base.lowrank import ANCHOR, adapted
from hpo.training.base.stack import Share, shares
from hpo.training.base.targets import linear_names


class Attached:
    """The adapters in a base, each with its number of consecutive rows; shared by all layers."""

    def __init__(self) -> None:
        self._adapters: Sequence[Adapter] = ()
        self._rows: list[int] = []
        self._shares: Sequence[Share] = ()
        """Who adds a part: adapters, and stacks of some of them."""
        self._share_rows: list[int] = []
        self.longest = 0
        """Tokens of the longest row there is; dropout is drawn for so many."""

    def attach(self, adapters: Sequence[Adapter], rows: Sequence[int]) -> None:
        """From now on layers compute with these adapters, each for its number of rows."""
        self._shares, self._share_rows = shares(adapters, rows)
        self._adapters, self._rows = adapters, list(rows)

    def learn(self, loss: Tensor) -> None:
        """Adds the gradients of a loss to those of the adapters."""
        for share in self._shares:
            share.begin()
        heads = [weight for share in self._shares for weight in share.head_weights]
        _, *found = torch.autograd.grad(loss, [ANCHOR, *heads], materialize_grads=True)
        gradients = iter(found)
        for share in self._shares:
            share.learn(list(islice(gradients, len(share.head_weights))))

    def compute(self, index: int, base: nn.Linear, x: Tensor) -> Tensor:
        """(B, ..., out) of layer `index` for x (B, ..., in), adapters included."""
        if not self._adapters:
            result: Tensor = base(x)
            return result
        rows = self._rows_of(x)
        parts = [
            share.part(index, (own, *x.shape[1:]), self.longest)
            for share, own in zip(self._shares, rows, strict=True)
        ]
        if not any(parts):
            result = base(x)
            return result
        flat = x.flatten(0, -2)
        each = len(flat) // len(x)  # rows of the flat input for a row of the batch
        result = adapted(base, flat, [own * each for own in rows], parts)
        return result.view(*x.shape[:-1], -1)

    def _rows_of(self, x: Tensor) -> Sequence[int]:
        """How many rows of a layer's input (B, ..., in) are each share's."""
        if len(self._adapters) == 1:  # also of what all rows of a batch share
            return [len(x)]
        if sum(self._share_rows) != len(x):
            raise UnpackableError(
                f"model.adapt: an adapted layer sees {len(x)} rows of a batch of "
                f"{sum(self._rows)}, so trials cannot share a pass; use --pack 1, or adapt other "
                "layers"
            )
        return self._share_rows

    def head(self, base: nn.Module, tensors: slice, x: Tensor) -> Tensor:
        """(B, ..., out) of a module of the head for x (B, ..., in): of each trial's own.

        Args:
            tensors: places of its tensors among those of the whole head.
        """
        if not self._adapters:
            result: Tensor = base(x)
            return result
        own = zip(self._adapters, torch.split(x, self._rows), strict=True)
        return torch.cat([adapter.head(base, tensors, rows) for adapter, rows in own])


class LoraLinear(nn.Module):
    """A frozen Linear with room for adapters."""

    def __init__(self, base: nn.Linear, index: int, attached: Attached) -> None:
        super().__init__()
        self.base = base
        self.index = index
        self._attached = attached

    @property
    def weight(self) -> Tensor:
        """(out, in) of the frozen Linear: models ask for its type and device."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) -> (B, ..., out)."""
        return self._attached.compute(self.index, self.base, x)


class HeadModule(nn.Module):
    """A module of the head, Linear or LayerNorm, of which every trial trains its own copy."""

    def __init__(
        self, base: nn.Module, tensors: slice, attached: Attached, *, answers: bool
    ) -> None:
        """`answers`: whether it is the last, whose outputs stay in the adapters' precision."""
        super().__init__()
        self.base = base
        self._tensors, self._attached, self._answers = tensors, attached, answers

    @property
    def weight(self) -> Tensor:
        """Of the frozen module: models ask for its type and device."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) -> (B, ..., out)."""
        result = self._attached.head(self.base, self._tensors, x)
        return result if self._answers else result.to(x.dtype)


class LoraBase:
    """A model whose target Linears are wrapped; `unwrap` puts everything back."""

    def __init__(
        self,
        model: nn.Module,
        pattern: str,
        *,
        heads: Sequence[str] = (),
        longest: int = 0,
        last_n: int | None = None,
    ) -> None:
        """Wraps.

        Args:
            heads: names of the modules that every trial trains as a whole, the last at the end.
            longest: tokens that dropout is drawn for, where rows are padded to others' length.
            last_n: blocks, counted from the last, that may hold adapters; None for all.
        """
        self.model = model
        found = adaptable(model, pattern, last_n, heads=heads)
        if not found:
            raise MissingError(
                f"model.adapt: no Linear of this model matches {pattern}; give another "
                f"expression, for it has {linear_names(model)}"
            )
        every = adaptable(model, pattern, None, heads=heads)
        self.whole = last_n is None or len(found) == len(every)
        """Whether every Linear that matches is wrapped."""
        self._attached = Attached()
        self._attached.longest = longest
        self.names = list(found)
        self.layers = [LoraLinear(m, i, self._attached) for i, m in enumerate(found.values())]
        for name, layer in zip(self.names, self.layers, strict=True):
            self._replace(name, layer)
        self.head_names = list(heads)
        self.heads: list[HeadModule] = []
        for name in heads:
            self._wrap_head(name)

    def unwrap(self) -> None:
        """Puts the original Linears back."""
        for name, layer in zip(self.names, self.layers, strict=True):
            self._replace(name, layer.base)
        for name, head in zip(self.head_names, self.heads, strict=True):
            self._replace(name, head.base)

    @contextmanager
    def attached(
        self, adapters: Sequence[Adapter], rows: Sequence[int], *, learns: bool
    ) -> Iterator[Attached]:
        """Within it the base computes with these adapters, each for its number of rows.

        Args:
            learns: whether adapters drop out, and their present weights get gradients.
        """
        with torch.set_grad_enabled(learns):
            for adapter in adapters:
                adapter.training = learns
            try:
                self._attached.attach(adapters, rows)
                yield self._attached
            finally:
                self._attached.attach((), ())

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
        """Weight and, where there is one, bias of every module of the head; none without a head."""
        return [tensor for head in self.heads for tensor in head.base.parameters()]

    def head_tensor_names(self) -> list[str]:
        """Their names in the model."""
        return [
            f"{name}.{tensor}"
            for name, head in zip(self.head_names, self.heads, strict=True)
            for tensor, _ in head.base.named_parameters()
        ]

    def adapter(self, *, last_n: int | None = None, **options: Any) -> Adapter:
        """A fresh adapter of the last `last_n` blocks, all for None; options are an adapter's."""
        layers = dict(zip(self.covered(last_n), self.shapes(last_n), strict=True))
        return Adapter(layers, self.head_tensors(), **options)

    def trainable(self, rank: int, last_n: int | None = None) -> int:
        """Parameters of an adapter of this rank, head included."""
        low_rank = sum(rank * (inputs + outputs) for inputs, outputs in self.shapes(last_n))
        return low_rank + sum(tensor.numel() for tensor in self.head_tensors())

    def _wrap_head(self, name: str) -> None:
        module, first = self.model.get_submodule(name), len(self.head_tensors())
        tensors = slice(first, first + len(list(module.parameters())))
        last = name == self.head_names[-1]
        self.heads.append(HeadModule(module, tensors, self._attached, answers=last))
        self._replace(name, self.heads[-1])

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)
