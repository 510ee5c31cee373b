"""A trial's adapter as PEFT reads it: `PeftModel.from_pretrained(base, folder)`.

A classifier's folder has `labels.json` as well, what its outputs stand for:
`AutoModelForSequenceClassification.from_pretrained(base, num_labels=N, **labels)`.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from hpo.protocol import ADAPTER
from hpo.training.base.adapter import Adapter
from hpo.training.base.conv1d import TransposedLinear
from hpo.training.base.lora import HeadModule, LoraBase, LoraLinear
from hpo.training.trial.trial import Run

EPOCH = "epoch-"
LABELS = "labels.json"


def keep(run: Run, flat: Tensor, fence: Callable[[], None], *, epoch: int | None = None) -> None:
    """Writes an adapter of a trial: the one to use, or that of an epoch."""
    run.phase = "export"
    folder = Path(run.order.folder) / ADAPTER
    export(
        folder if epoch is None else folder / f"{EPOCH}{epoch}",
        run.bench.base,
        run.adapter,
        flat,
        pattern=run.bench.task.target_pattern,
        labels=run.bench.task.label_names,
        model_name=run.bench.study.model.name,
        fence=fence,
    )


def take_over(folder: Path, run: Run, fence: Callable[[], None]) -> None:
    """Takes the adapters of epochs along from an earlier attempt in another folder."""
    own = Path(run.order.folder) / ADAPTER
    for kept in (folder / ADAPTER).glob(f"{EPOCH}*"):
        if kept.parent != own:
            fence()
            shutil.copytree(kept, own / kept.name, dirs_exist_ok=True)


def export(
    folder: Path,
    base: LoraBase,
    adapter: Adapter,
    flat: Tensor,
    *,
    pattern: str,
    model_name: str,
    fence: Callable[[], None],
    labels: Sequence[str] = (),
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, each in one piece or not at all.

    Args:
        flat: the weights (P,), which may be others than the adapter's present ones.
        labels: by output of the head; labels.json is written where there are any.
        fence: called before anything is written.

    Raises:
        OSError, SafetensorError: the disk is full, or not there; nothing half-written is left.
    """
    matched_too = _matched_too(base)
    config = LoraConfig(
        base_model_name_or_path=model_name,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=_targets(base, adapter, pattern),
        modules_to_save=[*matched_too, *base.head_names] or None,
        fan_in_fan_out=any(isinstance(layer.base, TransposedLinear) for layer in base.layers),
        inference_mode=True,
    )
    scratch = folder / "writing"
    fence()
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        weights = named(base, adapter, flat) | _as_they_are(base, matched_too)
        save_file(weights, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(scratch)
        if labels:
            (scratch / LABELS).write_text(_label_maps(labels), encoding="utf-8")
        fence()
        for path in scratch.iterdir():
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _targets(base: LoraBase, adapter: Adapter, pattern: str) -> str | list[str]:
    """The expression where PEFT finds all of the adapter's layers by it and nothing else, else
    their names.
    """
    names = [base.names[layer] for layer in adapter.layers]
    found = {name for name, _ in _stock_modules(base.model) if re.fullmatch(pattern, name)}
    return pattern if base.whole and found == set(names) else names


def _matched_too(base: LoraBase) -> list[str]:
    """Modules that are not trained, but that PEFT takes for those of the head.

    It compares the ends of names: `classifier` is that of `pre_classifier`, too.
    """
    ends = tuple(base.head_names)
    names = [name for name, _ in _stock_modules(base.model) if name.endswith(ends)] if ends else []
    return [name for name in names if name not in base.head_names]


def _as_they_are(base: LoraBase, modules: Sequence[str]) -> dict[str, Tensor]:
    """Tensors of the base by PEFT's names."""
    return {
        f"base_model.model.{module}.{name}": tensor.detach().cpu().clone().contiguous()
        for module in modules
        for name, tensor in base.model.get_submodule(module).state_dict().items()
    }


def _stock_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules by name that the model has without adapters."""
    inside = [
        f"{name}." for name, m in model.named_modules() if isinstance(m, LoraLinear | HeadModule)
    ]
    for name, module in model.named_modules():
        if not name.startswith(tuple(inside)):
            yield name, module


def _label_maps(labels: Sequence[str]) -> str:
    """JSON of `id2label` and `label2id`, as transformers' configurations have them."""
    maps = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    return json.dumps(maps, ensure_ascii=False, indent=2) + "\n"


def named(base: LoraBase, adapter: Adapter, flat: Tensor) -> dict[str, Tensor]:
    """A and B of every layer, and the head, by PEFT's names."""
    layers = (base.names[layer] for layer in adapter.layers)
    names = [f"base_model.model.{n}.lora_{part}.weight" for n in layers for part in "AB"]
    names += [f"base_model.model.{name}" for name in base.head_tensor_names()]
    copies = (tensor.detach().cpu().clone().contiguous() for tensor in adapter.tensors(flat))
    return dict(zip(names, copies, strict=True))
