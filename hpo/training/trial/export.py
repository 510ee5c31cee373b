"""A trial's adapter as PEFT reads it: `PeftModel.from_pretrained(base, folder)`."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from hpo.protocol import ADAPTER
from hpo.training.base.adapter import Adapter
from hpo.training.base.lora import LoraBase
from hpo.training.trial.trial import Run

EPOCH = "epoch-"


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
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, each in one piece or not at all.

    Args:
        flat: the weights (P,), which may be others than the adapter's present ones.
        fence: called before anything is written.

    Raises:
        OSError, SafetensorError: the disk is full, or not there; nothing half-written is left.
    """
    config = LoraConfig(
        base_model_name_or_path=model_name,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=_targets(base, adapter, pattern),
        modules_to_save=[base.head_name] if base.head_name else None,
        inference_mode=True,
    )
    scratch = folder / "writing"
    fence()
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        weights = named(base, adapter, flat)
        save_file(weights, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(scratch)
        fence()
        for path in scratch.iterdir():
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _targets(base: LoraBase, adapter: Adapter, pattern: str) -> str | list[str]:
    """The expression where it names all of the adapter's layers, else their names."""
    if base.whole and len(adapter.layers) == len(base.names):
        return pattern
    return [base.names[layer] for layer in adapter.layers]


def named(base: LoraBase, adapter: Adapter, flat: Tensor) -> dict[str, Tensor]:
    """A and B of every layer, and the head, by PEFT's names."""
    layers = (base.names[layer] for layer in adapter.layers)
    names = [f"base_model.model.{n}.lora_{part}.weight" for n in layers for part in "AB"]
    head = ("weight", "bias")[: len(base.head_tensors())]
    names += [f"base_model.model.{base.head_name}.{part}" for part in head]
    copies = (tensor.detach().cpu().clone().contiguous() for tensor in adapter.tensors(flat))
    return dict(zip(names, copies, strict=True))
