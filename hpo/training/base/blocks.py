"""The blocks of a model: which of them adapters lie in, and those that come before all of them.

Blocks are numbered by the first number in a module's name: `model.layers.12.self_attn.q_proj`
lies in block 12 of `model.layers`.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

NUMBER = re.compile(r"^(.+?)\.(\d+)\.")


def block_of(name: str) -> int:
    """The number of the block that a module lies in; 0 where its name has none."""
    found = NUMBER.match(name)
    return int(found.group(2)) if found else 0


def in_last_blocks(names: Sequence[str], last_n: int | None) -> list[int]:
    """Places of the names that lie in the last `last_n` of their blocks; of all for None."""
    blocks = [block_of(name) for name in names]
    kept = sorted(set(blocks))[-last_n:] if last_n is not None else blocks
    return [place for place, block in enumerate(blocks) if block in kept]


def adaptable(
    model: nn.Module, pattern: str, last_n: int | None, *, heads: Collection[str] = ()
) -> dict[str, nn.Linear]:
    """The Linears by name that match, in the last `last_n` blocks; in all for None."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.match(pattern, name) and name not in heads
    }
    names = list(found)
    return {names[place]: found[names[place]] for place in in_last_blocks(names, last_n)}


def blocks_before(names: Sequence[str]) -> tuple[str, ...]:
    """The blocks before the first that holds one of these modules, where all are of one stack."""
    places = [NUMBER.match(name) for name in names]
    stacks = {place.group(1) if place else "" for place in places}
    if len(stacks) != 1 or "" in stacks:
        return ()
    stack, first = stacks.pop(), min(map(block_of, names))
    return tuple(f"{stack}.{number}" for number in range(first))


class Passage(nn.Module):
    """Stands where a block was whose work is done before, and lets everything through."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """(B, T, D), as they are."""
        return hidden_states


class Known(nn.Module):
    """Stands where the last of the first blocks was, and hands on what was made before."""

    _states: Tensor | None = None

    @contextmanager
    def as_of(self, states: Tensor | None) -> Iterator[None]:
        """Within it, the hidden states (B, T, D) of the batch under way are these."""
        self._states = states
        try:
            yield
        finally:
            self._states = None

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """(B, T, D)."""
        assert self._states is not None
        return self._states


def stand_in(model: nn.Module, blocks: Sequence[str]) -> Known:
    """Takes these first blocks out; what hands on their outputs in their place."""
    known = Known()
    put(model, {name: known if name == blocks[-1] else Passage() for name in blocks})
    return known


def put(model: nn.Module, blocks: Mapping[str, nn.Module]) -> None:
    """Puts blocks into the places that names say."""
    for name, block in blocks.items():
        stack, _, number = name.rpartition(".")
        layers = model.get_submodule(stack)
        assert isinstance(layers, nn.ModuleList)
        layers[int(number)] = block
