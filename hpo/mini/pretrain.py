"""Makes the embedded base: `python -m hpo.mini.pretrain --out hpo/mini/captioner`.

A tiny `InstructBlipForConditionalGeneration`, trained in full on plain shapes with captions and on
text alone (`hpo.mini.shapes`), saved with its processor in half precision.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from hpo.mini.drawing import SIZE
from hpo.mini.scenes import PROMPTS
from hpo.mini.shapes import FACTS, shape_picture, text_pair

VOCABULARY = 1024
WIDTH = 128
QUERIES = 8
TEXT_SHARE = 0.25  # of the batches


def build_tokenizer(rng: np.random.Generator) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: knows the words of captions, encodes any text."""
    texts = [shape_picture(rng).caption for _ in range(500)]
    texts += [f"{words} {target}" for words, target in (text_pair(rng) for _ in range(20_000))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        model_max_length=512,
    )


def build_processor(rng: np.random.Generator) -> InstructBlipProcessor:
    """The processor of the tiny base; the Q-Former has the same tokenizer."""
    tokenizer = build_tokenizer(rng)
    images = BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    return InstructBlipProcessor(images, tokenizer, tokenizer, num_query_tokens=QUERIES)


def build_model(processor: InstructBlipProcessor) -> InstructBlipForConditionalGeneration:
    """The tiny InstructBLIP, freshly initialised."""
    tokenizer = processor.tokenizer
    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "initializer_range": 0.02,
    }
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**shape, image_size=SIZE, patch_size=8),
        qformer_config=InstructBlipQFormerConfig(
            **shape,
            vocab_size=VOCABULARY,
            pad_token_id=tokenizer.pad_token_id,
            max_position_embeddings=256,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        text_config=T5Config(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=32,
            d_ff=2 * WIDTH,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        ),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = InstructBlipForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=0.5)  # zeros would leave all queries equal
    positions = model.vision_model.embeddings.position_embedding
    torch.nn.init.normal_(positions, std=0.3)  # as large as patches are, or "left" is not learnt
    head = model.language_model.lm_head
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight) * 0.05)  # untied, as FLAN-T5's
    return model


class Album:
    """Shape pictures drawn once, their captions, and batches of them."""

    def __init__(
        self, processor: InstructBlipProcessor, rng: np.random.Generator, pictures: int
    ) -> None:
        self.processor, self.rng = processor, rng
        drawn = [shape_picture(rng) for _ in range(pictures)]
        self.pixels_NHWC = np.stack([np.asarray(picture.image) for picture in drawn])
        self.captions = [picture.caption for picture in drawn]
        self.facts_NF = torch.tensor([picture.facts for picture in drawn])

    def labels(self, texts: list[str]) -> torch.Tensor:
        """Token ids (B, T) with -100 on padding."""
        encoded = self.processor.tokenizer(texts, padding=True, return_tensors="pt")
        ids: torch.Tensor = encoded["input_ids"]
        return ids.masked_fill(encoded["attention_mask"] == 0, -100)

    def vision_batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels (B, 3, H, W) and facts (B, F)."""
        chosen = self.rng.integers(0, len(self.captions), size)
        images = [Image.fromarray(self.pixels_NHWC[i]) for i in chosen]
        pixels = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        return pixels, self.facts_NF[chosen]

    def picture_batch(self, size: int) -> dict[str, torch.Tensor]:
        """Inputs of the whole model."""
        chosen = self.rng.integers(0, len(self.captions), size)
        images = [Image.fromarray(self.pixels_NHWC[i]) for i in chosen]
        prompts = [str(self.rng.choice(PROMPTS)) for _ in chosen]
        batch = self.processor(images=images, text=prompts, padding=True, return_tensors="pt")
        return {**batch, "labels": self.labels([self.captions[i] for i in chosen])}

    def text_batch(self, size: int) -> dict[str, torch.Tensor]:
        """Inputs of the language model alone."""
        pairs = [text_pair(self.rng) for _ in range(size)]
        batch = self.processor.tokenizer([w for w, _ in pairs], padding=True, return_tensors="pt")
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "labels": self.labels([target for _, target in pairs]),
        }


class FactHeads(torch.nn.Module):
    """Linear probes on the mean patch, only to pretrain the vision tower."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList([torch.nn.Linear(WIDTH, len(names)) for names in FACTS])

    def forward(self, hidden_BTD: torch.Tensor, facts_BF: torch.Tensor) -> torch.Tensor:
        """Summed cross entropy of all facts."""
        mean_BD = hidden_BTD.mean(1)
        parts = [
            functional.cross_entropy(head(mean_BD), facts_BF[:, index])
            for index, head in enumerate(self.heads)
        ]
        return torch.stack(parts).sum()


def vision_losses(
    model: InstructBlipForConditionalGeneration, heads: FactHeads, album: Album, size: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """The endless stream of losses of the vision tower alone."""
    while True:
        pixels, facts = album.vision_batch(size)
        yield "facts", heads(model.vision_model(pixels).last_hidden_state, facts)


def losses(
    model: InstructBlipForConditionalGeneration, album: Album, size: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """The endless stream of training losses, each with its kind: text or picture."""
    while True:
        if album.rng.random() < TEXT_SHARE:
            batch = album.text_batch(size)
            labels = batch.pop("labels")
            kind, logits = "text", model.language_model(**batch, labels=labels).logits
        else:
            batch = album.picture_batch(size)
            labels = batch.pop("labels")
            inputs = model.language_model._shift_right(labels)
            kind, logits = "picture", model(**batch, decoder_input_ids=inputs).logits
        yield kind, functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def optimize(
    parameters: list[torch.nn.Parameter],
    stream: Iterator[tuple[str, torch.Tensor]],
    *,
    steps: int,
    rate: float,
) -> None:
    """AdamW with one cycle over `steps` losses; prints means by kind."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    begin = time.monotonic()
    recent: dict[str, list[float]] = {}
    for step, (kind, loss) in zip(range(1, steps + 1), stream, strict=False):
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recent.setdefault(kind, []).append(loss.item())
        if step % 250 == 0:
            means = " ".join(f"{k} {np.mean(v):.4f}" for k, v in sorted(recent.items()))
            print(f"{step} {means} {time.monotonic() - begin:.0f} s", flush=True)
            recent.clear()


def pretrain(
    out: Path, *, vision_steps: int, steps: int, size: int, pictures: int, rate: float, seed: int
) -> None:
    """Trains first the vision tower, then everything, in batches of `size`; writes to `out`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    processor = build_processor(rng)
    model = build_model(processor).train()
    album = Album(processor, rng, pictures)
    heads = FactHeads()
    vision = [*model.vision_model.parameters(), *heads.parameters()]
    optimize(vision, vision_losses(model, heads, album, size), steps=vision_steps, rate=rate)
    save(model, processor, out)
    optimize(list(model.parameters()), losses(model, album, size), steps=steps, rate=rate)
    save(model, processor, out)


def save(
    model: InstructBlipForConditionalGeneration, processor: InstructBlipProcessor, out: Path
) -> None:
    """Writes weights (half precision), configuration and processor."""
    weights = {k: v.to(torch.float16) for k, v in model.state_dict().items()}
    model.save_pretrained(out, state_dict=weights)
    processor.save_pretrained(out)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vision-steps", type=int, default=6_000)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--size", type=int, default=32, help="rows in a batch")
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pretrain(
        args.out,
        vision_steps=args.vision_steps,
        steps=args.steps,
        size=args.size,
        pictures=args.pictures,
        rate=args.rate,
        seed=args.seed,
    )


if __name__ == "__main__":
    main()
