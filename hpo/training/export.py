"""A trial's adapter as PEFT reads it: `PeftModel.from_pretrained(base, folder)`."""

import os
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from hpo.training.lora import Adapter, LoraBase


def export(
    folder: Path, base: LoraBase, adapter: Adapter, flat: Tensor, *, pattern: str, model_name: str
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, each in one piece or not at all."""
    scratch = folder / "writing"
    scratch.mkdir(parents=True, exist_ok=True)
    tensors = adapter.tensors(flat)
    weights = {}
    for index, name in enumerate(base.names):
        for part, tensor in (("A", tensors[2 * index]), ("B", tensors[2 * index + 1])):
            key = f"base_model.model.{name}.lora_{part}.weight"
            weights[key] = tensor.detach().cpu().clone().contiguous()
    save_file(weights, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
    LoraConfig(
        base_model_name_or_path=model_name,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=pattern,
        inference_mode=True,
    ).save_pretrained(scratch)
    for path in scratch.iterdir():
        os.replace(path, folder / path.name)
    scratch.rmdir()
