"""The Linears that `attention` and `mlp` stand for, found from the structure of a model.

A model is a list of blocks, numbered in module names. In a block, the Linears inside a module
whose class is an attention are the attention: query, key and value, fused or apart, projections of
relative positions, and the output. The other Linears are the MLP. A list of names is not enough:
DeBERTa's `query_proj`, Phi-3's `qkv_proj` and DistilBERT's `lin1` would be left out silently.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from torch import nn

from hpo.errors import MissingError
from hpo.training.base.blocks import NUMBER, adaptable

ATTENTION, MLP = "attention", "mlp"
BOTTLENECK = "bottleneck"  # MobileBERT's, between the widths of two blocks: neither part
SMALL = 2  # a matrix less than one in so many of the largest is a bias, a router or a convolution
SHOWN = 12  # names in a message

Blocks = Mapping[str, Mapping[int, Mapping[str, str]]]
"""By list of blocks and number: the part of each Linear, by its name within the block."""


def complete(
    model: nn.Module, usual: str, parts: Collection[str], *, adapt: str, within: str = ""
) -> str:
    """A regular expression of all Linears of these parts, verified block by block.

    Args:
        usual: an expression of the usual names; returned where it matches exactly these Linears.
        parts: `attention`, `mlp`, or both.
        adapt: `model.adapt` as the user wrote it.
        within: how the names of the blocks that count begin; empty for all.

    Raises:
        MissingError: a part has no Linear, other ones in another block, or large matrices that
            are no Linears; names the Linears that are there.
    """
    blocks = _blocks(model, within)
    if problem := _problem(model, blocks, parts, within):
        raise MissingError(
            f"model.adapt = {adapt!r}: {problem}; give a regular expression of module names "
            f"instead, for the Linears there are {linear_names(model, within)}"
        )
    wanted = {
        f"{stack}.{number}.{name}"
        for stack, numbers in blocks.items()
        for number, linears in numbers.items()
        for name, part in linears.items()
        if part in parts
    }
    matched = {name for name in adaptable(model, usual, None) if name.startswith(within)}
    return usual if matched == wanted else _expression(blocks, parts)


def linear_names(model: nn.Module, within: str = "") -> str:
    """The names of a model's Linears for people, once for all blocks."""
    linears = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    names = (name for name in linears if name.startswith(within))
    short = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".N", name) for name in names))
    more = f" and {len(short) - SHOWN} more" if len(short) > SHOWN else ""
    return f"{', '.join(short[:SHOWN])}{more}" if short else "none"


def part_of(model: nn.Module, name: str) -> str:
    """The part of its block that a module or parameter belongs to; empty for neither."""
    kinds = [type(module).__name__ for module in _around(model, name)]
    if any(kind.endswith("Attention") for kind in kinds):
        return ATTENTION
    return "" if any(BOTTLENECK in kind.lower() for kind in kinds) else MLP


def _around(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules that something in a block lies in, from the block inwards."""
    found = NUMBER.match(name)
    first = found.end() - 1 if found else len(name)
    for place in range(first, len(name)):
        if name[place] == ".":
            yield model.get_submodule(name[:place])


def _blocks(model: nn.Module, within: str) -> Blocks:
    """The Linears in numbered blocks."""
    blocks: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name, module in model.named_modules():
        found = NUMBER.match(name)
        if found and name.startswith(within) and isinstance(module, nn.Linear):
            own = blocks[found.group(1)][int(found.group(2))]
            own[name[found.end() :]] = part_of(model, name)
    return blocks


def _problem(model: nn.Module, blocks: Blocks, parts: Collection[str], within: str) -> str:
    """Why these parts are not whole in every block; empty where they are."""
    all_parts = {p for ns in blocks.values() for own in ns.values() for p in own.values()}
    if lacking := [part for part in parts if part not in all_parts]:
        return f"no block of {type(model).__name__} has a Linear in its {lacking[0]}"
    for stack, numbers in blocks.items():
        first, *others = numbers
        wanted = {name for name, part in numbers[first].items() if part in parts}
        for number in others:
            own = {name for name, part in numbers[number].items() if part in parts}
            if own != wanted:
                name = min(own ^ wanted)
                have, lack = (number, first) if name in own else (first, number)
                return f"{stack}.{have} has a Linear {name} and {stack}.{lack} has none"
    return _left_out(model, parts, within)


def _left_out(model: nn.Module, parts: Collection[str], within: str) -> str:
    """Names a large matrix of these parts that is in no Linear, if there is one."""
    largest, others = 0, dict[str, int]()
    for name, parameter in model.named_parameters():
        if not (NUMBER.match(name) and name.startswith(within) and parameter.dim() > 1):
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, nn.Linear):
            largest = max(largest, parameter.numel())
        elif not isinstance(owner, nn.Embedding) and part_of(model, name) in parts:
            others[name] = parameter.numel()
    found = [name for name, size in others.items() if size * SMALL > largest]
    return f"{found[0]} is a matrix, but in no Linear" if found else ""


def _expression(blocks: Blocks, parts: Collection[str]) -> str:
    """Of exactly these Linears: one alternative a list of blocks, whatever the number."""
    stacks = []
    for stack, numbers in blocks.items():
        every = [re.escape(n) for n, part in next(iter(numbers.values())).items() if part in parts]
        if every:
            stacks.append(rf"{re.escape(stack)}\.\d+\.(?:{'|'.join(every)})")
    return f"^(?:{'|'.join(stacks)})$"
