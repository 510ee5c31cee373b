"""Makes the embedded answerer: `python -m hpo.mini.pretrain_answerer --out hpo/mini/answerer`.

A tiny `Qwen2VLForConditionalGeneration`, trained in full on questions about plain shapes
(`hpo.mini.shapes`) and on text alone, saved with its processor in half precision. It reads the
words of aerial scenes in text; what an airport looks like it never sees.

The shipped one was trained in both parts twice, the second time from the first by `--start`.
"""

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen2VLTextConfig,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from hpo.mini.drawing import SIZE
from hpo.mini.pretrain import optimize
from hpo.mini.questions import STAGES, Question, Shown, ask, shown
from hpo.mini.scenes import PROMPTS, caption, draw_facts
from hpo.mini.shapes import FACTS, general_sentence, shape_picture
from hpo.training.base.stills import StillsProcessor

VOCABULARY = 1024
WIDTH = 128
PATCH, MERGE = 8, 2
TEXT_SHARE = 0.2  # of the batches
PROBE_WEIGHT = 0.1  # of the facts, while everything is trained: the tower does not forget them
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's, without the words of a system that it begins with by default."""
ONE_FACT = ("ground", "is_ground", "color", "side", "thing", "count")
SEVERAL_FACTS = ("count_thing", "summary", "more")
SEVERAL_SHARE = 0.4  # of the batches with pictures: one question about several facts

Turn = tuple[str, str]  # what the user says, what the assistant says


def build_tokenizer(rng: np.random.Generator) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: knows the words of questions, encodes any text."""
    said = [turn for _ in range(10_000) for turn in text_turns(rng)]
    for index in range(500):
        said += turns(rng, seen_shapes(shape_picture(rng).facts), several=index % 2 == 0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words = [word for turn in said for word in turn]
    tokenizer.train_from_iterator([*words, *["user\n", "assistant\n", "system\n"] * 100], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        extra_special_tokens=list(SPECIAL),
        model_max_length=1024,
    )


def build_processor(rng: np.random.Generator) -> StillsProcessor:
    """The processor of the tiny base; larger images are reduced to four times a picture."""
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": SIZE * SIZE, "longest_edge": 4 * SIZE * SIZE},
        patch_size=PATCH,
        merge_size=MERGE,
    )
    return StillsProcessor(images, build_tokenizer(rng), chat_template=TEMPLATE)


def build_model(processor: StillsProcessor) -> Qwen2VLForConditionalGeneration:
    """The tiny Qwen2-VL, freshly initialised."""
    ids = {name: processor.tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    vision = Qwen2VLVisionConfig(
        depth=3,
        embed_dim=96,
        hidden_size=WIDTH,
        num_heads=4,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
        initializer_range=0.05,
        rope_parameters={"rope_type": "axial", "rope_theta": 30.0},
    )
    # a picture is four tokens wide: slow rotations would leave left and right alike
    rope = {"rope_type": "default", "rope_theta": 20.0, "mrope_section": [4, 6, 6]}
    text = Qwen2VLTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.05,
        rope_parameters=rope,
        bos_token_id=None,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return Qwen2VLForConditionalGeneration(config)


def seen_shapes(facts: tuple[int, ...]) -> Shown:
    """What a picture of shapes shows, from its facts."""
    count, color, shape, ground, side = (n[fact] for n, fact in zip(FACTS, facts, strict=True))
    things = "crosses" if shape == "cross" else f"{shape}s"
    number = FACTS[0].index(count) + 1
    return Shown(count=number, color=color, thing=shape, things=things, side=side, ground=ground)


def turns(rng: np.random.Generator, seen: Shown, *, several: bool) -> list[Turn]:
    """Questions about shapes: one about several facts, or four about one fact each."""
    if several:
        return [_turn(ask(rng, str(rng.choice(SEVERAL_FACTS)), seen))]
    return [_turn(ask(rng, str(kind), seen)) for kind in rng.permutation(ONE_FACT)[:4]]


def text_turns(rng: np.random.Generator) -> list[Turn]:
    """Text alone: a question about a scene in words, or a sentence as captions have it."""
    if rng.random() < 0.3:
        return [(str(rng.choice(PROMPTS)), general_sentence(rng))]
    facts = draw_facts(rng)
    kinds = [kind for kinds in STAGES.values() for kind in kinds]
    question = ask(rng, str(rng.choice(kinds)), shown(facts))
    return [(f"{caption(facts)} {question.text}", question.answer)]


def _turn(question: Question) -> Turn:
    return question.text, question.answer


def conversation(said: list[Turn], *, with_image: bool) -> list[dict[str, Any]]:
    """Messages as chat templates want them; an image comes before the first words."""
    messages: list[dict[str, Any]] = []
    for user, assistant in said:
        image = [{"type": "image"}] if with_image and not messages else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": user}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": assistant}]})
    return messages


def encode(
    processor: StillsProcessor, said: list[list[Turn]], images: list[Image.Image] | None
) -> dict[str, torch.Tensor]:
    """Inputs of the model for conversations, with labels on what the assistant says."""
    texts = [
        processor.apply_chat_template(conversation(row, with_image=images is not None))
        for row in said
    ]
    batch = processor(text=texts, images=images, padding=True, return_tensors="pt")
    return {**batch, "labels": _labels(processor, batch["input_ids"])}


def _labels(processor: StillsProcessor, ids_BT: torch.Tensor) -> torch.Tensor:
    """The ids from `<|im_start|>assistant` to `<|im_end|>`, which is one; -100 elsewhere."""
    tokenizer = processor.tokenizer
    start, end = tokenizer("<|im_start|>assistant\n").input_ids, tokenizer.eos_token_id
    labels_BT = torch.full_like(ids_BT, -100)
    for ids, labels in zip(ids_BT.tolist(), labels_BT, strict=True):
        for place in range(len(ids) - len(start)):
            if ids[place : place + len(start)] == start:
                begin = place + len(start)
                stop = ids.index(end, begin) + 1
                labels[begin:stop] = torch.tensor(ids[begin:stop])
    return labels_BT


class Album:
    """Pictures of shapes drawn once, and batches of conversations about them."""

    def __init__(self, processor: StillsProcessor, rng: np.random.Generator, pictures: int) -> None:
        self.processor, self.rng = processor, rng
        drawn = [shape_picture(rng) for _ in range(pictures)]
        self.pixels_NHWC = np.stack([np.asarray(picture.image) for picture in drawn])
        self.facts = [picture.facts for picture in drawn]

    def _chosen(self, size: int) -> tuple[list[Image.Image], list[tuple[int, ...]]]:
        chosen = self.rng.integers(0, len(self.facts), size)
        return [Image.fromarray(self.pixels_NHWC[i]) for i in chosen], [
            self.facts[i] for i in chosen
        ]

    def vision_batch(self, size: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Patches and grids of pictures, and facts (B, F)."""
        images, facts = self._chosen(size)
        return self.processor.image_processor(images, return_tensors="pt"), torch.tensor(facts)

    def picture_batch(self, size: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Conversations about pictures, and facts (B, F)."""
        images, facts = self._chosen(size)
        several = self.rng.random() < SEVERAL_SHARE  # all rows alike: little padding
        said = [turns(self.rng, seen_shapes(row), several=several) for row in facts]
        return encode(self.processor, said, images), torch.tensor(facts)

    def text_batch(self, size: int) -> dict[str, torch.Tensor]:
        """Conversations without a picture."""
        return encode(self.processor, [text_turns(self.rng) for _ in range(size)], None)


class FactHeads(torch.nn.Module):
    """Linear probes on the mean token of a picture, only to pretrain the vision tower."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList([torch.nn.Linear(WIDTH, len(names)) for names in FACTS])

    def forward(self, hidden_ND: torch.Tensor, facts_BF: torch.Tensor) -> torch.Tensor:
        """Cross entropy of each fact (F), from the tokens of all pictures one after another."""
        mean_BD = hidden_ND.view(len(facts_BF), -1, WIDTH).mean(1)
        parts = [
            functional.cross_entropy(head(mean_BD), facts_BF[:, index])
            for index, head in enumerate(self.heads)
        ]
        return torch.stack(parts)


def vision_losses(
    model: Qwen2VLForConditionalGeneration, heads: FactHeads, album: Album, size: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """The endless stream of losses of the vision tower alone."""
    while True:
        batch, facts = album.vision_batch(size)
        hidden = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
        yield "facts", heads(hidden.pooler_output, facts).sum()


def losses(
    model: Qwen2VLForConditionalGeneration, heads: FactHeads, album: Album, size: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """The endless stream of training losses, each with its kind: text or picture."""
    while True:
        if album.rng.random() < TEXT_SHARE:
            yield "text", model(**album.text_batch(size)).loss
            continue
        batch, facts = album.picture_batch(size)
        grid = batch["image_grid_thw"]
        images = model.model.get_image_features(batch.pop("pixel_values"), grid)
        loss = model(**batch, mm_encoder_outputs={"image": images}).loss
        yield "picture", loss + PROBE_WEIGHT * heads(torch.cat(images.pooler_output), facts).sum()


def pretrain(
    out: Path,
    *,
    start: Path | None,
    vision_steps: int,
    steps: int,
    size: int,
    pictures: int,
    rate: float,
    seed: int,
) -> None:
    """Trains first the vision tower in batches of `size`, then everything; writes to `out`.

    A picture of the second part is asked about up to four times, so half a batch is enough.
    `start` is a base that was written before; None for a fresh one.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    if start is None:
        processor = build_processor(rng)
        model = build_model(processor).train()
    else:
        processor = StillsProcessor.from_pretrained(start)
        model = Qwen2VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32).train()
    print(f"{model.num_parameters()} parameters", flush=True)
    album = Album(processor, rng, pictures)
    heads = FactHeads()
    vision = [*model.model.visual.parameters(), *heads.parameters()]
    if vision_steps:
        optimize(vision, vision_losses(model, heads, album, size), steps=vision_steps, rate=rate)
        save(model, processor, out)
    everything = [*model.parameters(), *heads.parameters()]
    optimize(everything, losses(model, heads, album, size // 2), steps=steps, rate=rate)
    save(model, processor, out)


def save(model: Qwen2VLForConditionalGeneration, processor: StillsProcessor, out: Path) -> None:
    """Writes weights (half precision), configuration and processor."""
    copy.deepcopy(model).to(torch.float16).save_pretrained(out)
    processor.save_pretrained(out)
    for path in out.glob("*_config.json"):
        text = path.read_text().replace(StillsProcessor.__name__, Qwen2VLProcessor.__name__)
        path.write_text(text)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="base to go on from")
    parser.add_argument("--vision-steps", type=int, default=1_800)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--size", type=int, default=32, help="pictures in a batch")
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pretrain(
        args.out,
        start=args.start,
        vision_steps=args.vision_steps,
        steps=args.steps,
        size=args.size,
        pictures=args.pictures,
        rate=args.rate,
        seed=args.seed,
    )


if __name__ == "__main__":
    main()
