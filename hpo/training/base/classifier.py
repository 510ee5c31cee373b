"""A sequence classifier from a folder, its head fitted to the labels of the data.

A head of the checkpoint is kept where its `id2label` names the same labels, in whatever order, and
that order becomes the data's. Any other head is new: of another size, for other labels, of a
backbone published without one. A pooler that the folder lacks is new, too. Whatever is new is
drawn from the study's seed, and every trial trains its own copy of it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from hpo.errors import MissingError

SHOWN = 12  # labels in a message
TRAINABLE = (nn.Linear, nn.LayerNorm)
"""What a head may consist of to be trained: modules of one input, row by row."""
UNNAMED = re.compile(r"LABEL_(\d+)")
"""What transformers calls a label whose name nobody gave."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head of a classifier, and the labels that its outputs stand for."""

    modules: tuple[str, ...]
    """Names of the modules that every trial trains as a whole, the last Linear at the end."""
    labels: tuple[str, ...]
    """Labels of the data by output."""
    origin: str
    """Where its weights are from and which label is which, for people."""


class ClassifierLoader:
    """Loads a classifier as `from_pretrained` does, and keeps what was found of its head."""

    def __init__(self, labels: Sequence[str]) -> None:
        """`labels`: of the data, in the order that a new head gets."""
        self._labels = tuple(labels)
        self.head: Head | None = None

    def from_pretrained(self, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
        """(model, info) as of transformers; parts of a head do not count as missing.

        Raises:
            MissingError: the model has no Linear with an output for each label as its head, or a
                tensor of another shape than its configuration says.
        """
        offline = {"local_files_only": True, "trust_remote_code": False}
        own = dict(AutoConfig.from_pretrained(folder, **offline).id2label or {})
        options |= {"num_labels": len(self._labels), "ignore_mismatched_sizes": True}
        model, info = AutoModelForSequenceClassification.from_pretrained(folder, **options)
        sizes = {name: shapes for name, *shapes in info["mismatched_keys"]}
        lacking = {*info["missing_keys"], *sizes}
        new = {n for n in lacking if _is_of_head(model, n)}
        if others := sorted(set(sizes) - new):
            there, wanted = (tuple(shape) for shape in sizes[others[0]])
            raise MissingError(
                f"{folder}: {others[0]} is {there} in the weights, and {wanted} by config.json; "
                "download all of the model again, or give another by --model DIR"
            )
        self.head = self._head(model, own, new, sizes)
        return model, {**info, "missing_keys": lacking - new, "mismatched_keys": set()}

    def _head(
        self, model: Any, own: Mapping[int, str], new: set[str], sizes: Mapping[str, Any]
    ) -> Head:
        last = _last_linear(model, len(self._labels))
        fresh = {name.rpartition(".")[0] for name in new}
        labels, why = None, "the checkpoint has none"
        if f"{last}.weight" in sizes:
            outputs = sizes[f"{last}.weight"][0][0]
            why = f"the checkpoint's has {outputs} outputs, {shown(list(own.values()))}"
        elif last not in fresh:
            labels, why = known(own, self._labels)
            if labels is None:
                _draw(model.get_submodule(last), model.config)
        origin = f"new, as {why}" if labels is None else f"of the checkpoint, {why}"
        order = labels or self._labels
        model.config.id2label = dict(enumerate(order))
        model.config.label2id = {label: number for number, label in enumerate(order)}
        modules = [name for name, _ in model.named_modules() if name in fresh and name != last]
        return Head(
            modules=(*modules, last), labels=order, origin=f"{origin}; outputs are {shown(order)}"
        )


def known(own: Mapping[int, str], labels: Sequence[str]) -> tuple[tuple[str, ...] | None, str]:
    """The order of a checkpoint's labels, by the data's spelling, and what there is to say of it.

    Args:
        own: `id2label` of the checkpoint.
        labels: of the data.

    Returns:
        None for the order if the labels are others, or it is not known which is which.
    """
    names = [str(own.get(number, "")) for number in range(len(own))]
    unnamed = [UNNAMED.fullmatch(name) for name in names]
    if sorted(names) == sorted(labels):
        return tuple(names), "whose labels are the data's"
    if all(found and int(found[1]) == number for number, found in enumerate(unnamed)):
        numbers = tuple(str(number) for number in range(len(names)))
        if sorted(numbers) == sorted(labels):
            return numbers, f"whose labels {shown(names)} are taken for those numbers"
        return None, f"the checkpoint names its labels {shown(names)}: which is which is unknown"
    spelt = {_loose(label): label for label in labels}
    loose = [_loose(name) for name in names]
    if len(spelt) == len(labels) and sorted(loose) == sorted(spelt):
        return tuple(
            spelt[name] for name in loose
        ), f"whose labels {shown(names)} are the data's but for case and blanks"
    return None, f"the checkpoint's is for {shown(names)}"


def shown(labels: Sequence[str]) -> str:
    """Labels with their numbers, the first of many."""
    parts = [f"{number} {label!r}" for number, label in enumerate(labels[:SHOWN])]
    return ", ".join(parts) + (f" and {len(labels) - SHOWN} more" if labels[SHOWN:] else "")


def _loose(label: str) -> str:
    return " ".join(label.casefold().split())


def _is_of_head(model: Any, tensor: str) -> bool:
    """Whether a tensor is part of what a head consists of, poolers included."""
    owner = model.get_submodule(tensor.rpartition(".")[0])
    inside = tensor.startswith(f"{model.base_model_prefix}.")
    return isinstance(owner, TRAINABLE) and (not inside or "pooler" in tensor.split("."))


def _outside(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The modules by name that lie outside of the backbone."""
    for name, module in model.named_modules():
        if not f"{name}.".startswith(f"{model.base_model_prefix}."):
            yield name, module


def _last_linear(model: Any, outputs: int) -> str:
    linears = {n: m for n, m in _outside(model) if isinstance(m, nn.Linear)}
    found = [name for name, linear in linears.items() if linear.out_features == outputs]
    if not found:
        raise MissingError(
            f"{type(model).__name__} has no Linear with {outputs} outputs as its head, but "
            f"{', '.join(linears) or 'no Linear at all'}; give another model by --model"
        )
    return found[-1]


def _draw(linear: Any, config: Any) -> None:
    """As transformers draws the weights of a Linear."""
    nn.init.normal_(linear.weight, std=getattr(config, "initializer_range", None) or 0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
