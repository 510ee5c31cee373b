"""Bases with random weights, for measurements at sizes that nobody needs to download.

A step takes as long with random weights as with trained ones. `random:instructblip-flan-t5-xl` has
the published dimensions (Dai et al. 2023, arXiv:2305.06500) and wants a GPU.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from hpo.weights import EMBEDDED

MARK = "random:"
PRECISIONS = ("float32", "bf16")
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "instructblip-flan-t5-xl": {
        "vision": {},  # the defaults of transformers are the published dimensions
        "qformer": {"vocab_size": 30523},
        "text": {
            "vocab_size": 32128,
            "d_model": 2048,
            "d_kv": 64,
            "d_ff": 5120,
            "num_layers": 24,
            "num_heads": 32,
        },
    },
    "instructblip-100m": {
        "vision": {
            "hidden_size": 448,
            "intermediate_size": 1792,
            "num_hidden_layers": 8,
            "num_attention_heads": 7,
            "image_size": 196,  # the vision tower's share of a step is that of the large one
        },
        "qformer": {
            "vocab_size": 4096,
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
        },
        "text": {
            "vocab_size": 8192,
            "d_model": 640,
            "d_kv": 64,
            "d_ff": 1600,
            "num_layers": 6,
            "num_heads": 10,
        },
    },
}


def count(text: str) -> int:
    """A whole number above 0, as an option has it."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number above 0")
    return int(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a benchmark is told of the base that it measures."""
    names = " or ".join(MARK + name for name in SHAPES)
    parser.add_argument("--model", default="mini", help=f"the embedded one, or {names}")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)


def chosen(options: argparse.Namespace) -> dict[str, str]:
    """What was told, for the results."""
    return {name: getattr(options, name) for name in ("model", "device", "precision")}


def settings(options: argparse.Namespace) -> list[str]:
    """The same as settings of a study, the base built if it is not there."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU on this machine; use --device cpu")
    return [
        f"model.name={find(options.model, options.device)}",
        f"model.precision={options.precision}",
        f"model.device={options.device}",
    ]


def find(name: str, device: str) -> str:
    """What `model.name` is to be: a random base is built once, on the device."""
    if not name.startswith(MARK):
        return name
    shape = name.removeprefix(MARK)
    if shape not in SHAPES:
        raise SystemExit(f"--model {name}: there are {', '.join(MARK + s for s in SHAPES)}")
    return made(shape, SHAPES[shape], lambda folder: build(SHAPES[shape], folder, device))


def made(name: str, shape: dict[str, Any], make: Callable[[Path], None]) -> str:
    """The folder of a random base, which is made once and stays among the temporary files."""
    state = hashlib.sha256(json.dumps(shape).encode()).hexdigest()
    folder = Path(tempfile.gettempdir()) / "hpo-random-bases" / f"{name}-{state[:8]}"
    if not folder.is_dir():
        scratch = folder.with_name(f"{folder.name}.writing")
        make(scratch)
        scratch.rename(folder)
    return str(folder)


def build(shape: dict[str, dict[str, Any]], folder: Path, device: str) -> None:
    """Draws the weights on the device and writes them in bf16, with a processor."""
    processor = InstructBlipProcessor.from_pretrained(EMBEDDED["mini"], local_files_only=True)
    config = _config(shape, processor)
    model = drawn(InstructBlipForConditionalGeneration, config, device)
    head = model.language_model.lm_head  # untied, as FLAN-T5's
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight) / head.in_features**0.5)
    size = config.vision_config.image_size
    images = BlipImageProcessorPil(size={"height": size, "width": size})
    tokenizer, queries = processor.tokenizer, config.num_query_tokens
    processor = InstructBlipProcessor(images, tokenizer, tokenizer, num_query_tokens=queries)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def drawn(kind: type[Any], config: Any, device: str) -> Any:
    """A model of that configuration in bf16, its weights drawn on the device."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return kind(config)
    finally:
        torch.set_default_dtype(torch.float32)


def _config(
    shape: dict[str, dict[str, Any]], processor: InstructBlipProcessor
) -> InstructBlipConfig:
    tokenizer = processor.tokenizer
    vision = InstructBlipVisionConfig(**shape["vision"])
    return InstructBlipConfig(
        vision_config=vision,
        qformer_config=InstructBlipQFormerConfig(
            encoder_hidden_size=vision.hidden_size, **shape["qformer"]
        ),
        text_config=T5Config(
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
            **shape["text"],
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
