"""What both peers share: a job file, its rows as a data set, and a stock model under PEFT."""

import json
import math
import os
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)

IGNORED = -100
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def read_job(path):
    """The job, with this process set to its number of threads."""
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(job["threads"])
    return job


def write_results(path, results):
    """Writes results in one piece."""
    Path(f"{path}.part").write_text(json.dumps(results))
    os.replace(f"{path}.part", path)


def load_processor(job):
    """The processor of the base."""
    return InstructBlipProcessor.from_pretrained(job["base"], local_files_only=True)


def load_base(job):
    """The stock base on its device, without a cache of keys and values, which slows training."""
    config = InstructBlipConfig.from_pretrained(job["base"], local_files_only=True)
    config.text_config.use_cache = False
    base = InstructBlipForConditionalGeneration.from_pretrained(
        job["base"], config=config, dtype=DTYPES[job["precision"]], local_files_only=True
    )
    return base.to(job["device"])


class Rows(torch.utils.data.Dataset):
    """Rows of a job as tensors, each read and preprocessed once, then kept in memory."""

    def __init__(self, rows, processor, max_length):
        self._rows, self._processor, self._max_length = rows, processor, max_length
        self._image = [processor.tokenizer.convert_tokens_to_ids("<image>")]
        self._kept = {}

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        if index not in self._kept:
            row = self._rows[index]
            with Image.open(row["image"]) as image:
                pixels = self._processor.image_processor(image.convert("RGB"), return_tensors="pt")
            self._kept[index] = {"pixel_values": pixels["pixel_values"][0], **self.encode(row)}
        return self._kept[index]

    def encode(self, row):
        """Token ids of a row's instruction and caption."""
        tokenizer = self._processor.tokenizer
        target = tokenizer(row["target"], add_special_tokens=False).input_ids
        image = self._image * self._processor.num_query_tokens
        return {
            "input_ids": torch.tensor(image + tokenizer(row["prompt"]).input_ids),
            "qformer_input_ids": torch.tensor(
                self._processor.qformer_tokenizer(row["prompt"]).input_ids
            ),
            "labels": torch.tensor([*target[: self._max_length - 1], tokenizer.eos_token_id]),
        }


def collate(items):
    """A batch, padded on the right."""
    batch = {"pixel_values": torch.stack([item["pixel_values"] for item in items])}
    for ids, mask in (
        ("input_ids", "attention_mask"),
        ("qformer_input_ids", "qformer_attention_mask"),
    ):
        batch[ids] = pad_sequence([item[ids] for item in items], True, 0)
        batch[mask] = pad_sequence([torch.ones_like(item[ids]) for item in items], True, 0)
    batch["labels"] = pad_sequence([item["labels"] for item in items], True, IGNORED)
    return batch


def count_targets(batch):
    """Target tokens of a batch."""
    return int((batch["labels"] != IGNORED).sum())


def adapted(base, job, config, seed):
    """The base under PEFT, with the initial A of the trial's seed and B at zero."""
    model = get_peft_model(
        base,
        LoraConfig(
            r=config["lora_r"],
            lora_alpha=config["lora_alpha"],
            lora_dropout=config["lora_dropout"],
            target_modules=job["pattern"],
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            weight = module.lora_A["default"].weight
            drawn = torch.empty(weight.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            weight.data.copy_(drawn)
    return model
