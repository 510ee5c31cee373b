"""Visual question answering with Qwen2-VL (Wang et al. 2024, arXiv:2409.12191).

The stock transformers model and processor. What the vision tower makes of an image takes the
places of the image's tokens in the text, as in the model's own `forward`; the head then answers
only where a token of the answer is wanted: a vocabulary of 152,064 words is large.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from hpo.data import Example
from hpo.data.examples import tidy
from hpo.data.rendering import RENDERING
from hpo.errors import DataError
from hpo.specs import TrialConfig
from hpo.training.base.batch import send
from hpo.training.base.cross_entropy import token_losses
from hpo.training.base.features import Features, Prefix
from hpo.training.base.fit import check_vocabulary
from hpo.training.base.losses import Losses
from hpo.training.base.pixels import PixelCache
from hpo.training.base.pretrained import identity_of, load_pretrained
from hpo.training.base.processors import check_patches, rendered
from hpo.training.base.rows import ImageRow
from hpo.training.base.stills import StillsProcessor
from hpo.training.base.targets import complete
from hpo.training.base.text_ids import TextTokenizer
from hpo.training.base.texts import exact_matches
from hpo.training.tasks import Row, Scorer, Source, require, targets_of

LAYER = r"^(?:.*\.)?language_model\.layers\.\d+\."
ATTENTION = rf"{LAYER}self_attn\.[qkvo]_proj$"
MLP = rf"{LAYER}mlp\.(?:gate|up|down)_proj$"
TARGETS = {"attention": ATTENTION, "attention+mlp": f"(?:{ATTENTION})|(?:{MLP})"}
BLOCKS = "model.language_model.layers."
IMAGE = {"type": "image"}
MOST_RATIO = 200  # of an image's sides, as `smart_resize` has it


@dataclass(frozen=True, kw_only=True)
class AnswerRow(ImageRow):
    """A question about an image, and the answer."""

    grid: tuple[int, int, int]
    """Patches of its image: (1, high, wide)."""
    positions: Tensor = field(repr=False)
    """Of every token in time, height and width (3, T)."""


class Answering:
    """A frozen Qwen2-VL and its processor."""

    target_scope = "language_model"
    heads = ()
    label_names = ()
    prefix = ("model.visual",)
    metrics = ("exact_match",)
    generates = True

    def __init__(self, model: Any, processor: Any, source: Source) -> None:
        self.model: nn.Module = model.eval().requires_grad_(False)
        self.target_pattern = _targets(model, source.model.adapt)
        self.longest = 0
        self._stock, self._processor = model, processor
        self._max_length = source.data.max_length
        self._texts = TextTokenizer(processor.tokenizer, [processor.image_token])
        self._image_size = source.data.image_size
        self._image_token = int(model.config.image_token_id)
        self._pixels = PixelCache(self._process, source.cache_bytes, source.ahead_bytes)
        self._features: Features | None = None

    @property
    def held_bytes(self) -> int:
        """Pixels that are kept for later trials."""
        return self._pixels.held_bytes

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Token ids of the examples, answers cut at `data.max_length` tokens."""
        rows = [self._row(example) for example in examples]
        self.longest = max(self.longest, *(row.length for row in rows))
        return list(rows)

    def _row(self, example: Example) -> AnswerRow:
        prompt, answer = map(self._texts.masked, (example.prompt, example.target))
        asks = {"role": "user", "content": [IMAGE, {"type": "text", "text": prompt}]}
        says = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        question = rendered(self._processor, [asks], add_generation_prompt=True)
        whole = rendered(self._processor, [asks, says])
        require(whole.startswith(question), "the chat template writes a question in two ways")
        image, grid = self._processor.image_token, self._grid(example)
        require(
            question.count(image) == 1 and image not in whole[len(question) :],
            f"the chat template writes {image} {whole.count(image)} times for one image; use the "
            "processor that belongs to the weights",
        )
        merge = self._processor.image_processor.merge_size**2
        ids = self._texts.rendered_ids
        *said, end = ids(whole[len(question) :].rstrip())
        asked = ids(question.replace(image, image * (grid[1] * grid[2] // merge)))
        target = [*said[: self._max_length - 1], end]
        positions = self._positions([*asked, *target], grid)
        return AnswerRow(
            example=example, prompt=asked, target=target, grid=grid, positions=positions
        )

    def _positions(self, ids: list[int], grid: tuple[int, int, int]) -> Tensor:
        """By the model's own rule (3, T)."""
        tokens = torch.tensor([ids])
        found, _ = self._stock.model.get_rope_index(
            tokens,
            mm_token_type_ids=(tokens == self._image_token).int(),
            image_grid_thw=torch.tensor([grid]),
        )
        positions: Tensor = found[:, 0].to(torch.int32)
        return positions

    def _grid(self, example: Example) -> tuple[int, int, int]:
        """Patches of an example's image, by its header."""
        if example.size is None:
            raise DataError(f"{example.name}: it has no image; use a data.format with images")
        images, size = self._processor.image_processor, example.size()
        if max(size) > MOST_RATIO * min(size):
            raise DataError(
                f"{example.name}: its image has {size[0]} x {size[1]} pixels, and Qwen2-VL takes "
                f"no side of more than {MOST_RATIO} times the other; crop it, or take it out of "
                "the data"
            )
        width, height = fitted(size, self._image_size)
        high, wide = smart_resize(
            height,
            width,
            images.patch_size * images.merge_size,
            min_pixels=images.size["shortest_edge"],
            max_pixels=images.size["longest_edge"],
        )
        return 1, high // images.patch_size, wide // images.patch_size

    def _process(self, image: Image.Image) -> Tensor:
        """Patches (P, values of one)."""
        size = fitted(image.size, self._image_size)
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        found = self._processor.image_processor(image, return_tensors="pt")
        pixels: Tensor = found["pixel_values"]
        return pixels

    def expect(self, rows: Sequence[AnswerRow]) -> None:
        """Begins to read their images, where outputs of the vision tower are not known."""
        if self._features is None:
            self._pixels.expect([row.example for row in rows])

    def frozen_prefix(self) -> Prefix:
        """The vision tower with its merger, and what goes into it."""
        tower = self._stock.model.visual
        known = identity_of(
            tower,
            self._stock.config.vision_config,
            self._processor.image_processor.to_json_string(),
            longest_side=str(self._image_size),
            pixels=RENDERING,
        )

        def read(example: Example) -> tuple[Tensor, tuple[int, int, int]]:
            return self._pixels.read(example), self._grid(example)

        def forward(inputs: Sequence[tuple[Tensor, tuple[int, int, int]]]) -> Sequence[Tensor]:
            return [self._seen(tower, pixels, torch.tensor([grid])) for pixels, grid in inputs]

        return Prefix(identity=known, read=read, forward=forward)

    def use(self, features: Features) -> Callable[[], None]:
        """From now on outputs of the vision tower come from here; its weights are let go of."""
        tower = self._stock.model.visual
        self._features, self._stock.model.visual = features, None

        def undo() -> None:
            self._features, self._stock.model.visual = None, tower

        return undo

    def _seen(self, tower: nn.Module, pixels: Tensor, grids: Tensor) -> Tensor:
        """What the vision tower makes of images (N, D): patches (P, ...), grids (B, 3)."""
        device = self._stock.device
        seen = tower(pixels.to(device, self._stock.dtype), grid_thw=grids.to(device))
        features: Tensor = seen.pooler_output
        return features

    def collate(self, rows: Sequence[AnswerRow]) -> dict[str, Tensor]:
        """A batch on the device, padded on the right.

        input_ids and attention_mask (B, T), position_ids (3, B, T); of the N tokens of images
        `image_at` (N,) places in the flattened batch and `image_row` (N,); of the A tokens of
        answers `answer_at` (A,), the places before them, `answer_row` (A,) and `answers` (A,);
        and `features` (N, D), or `pixels` (P, values) with `grids` (B, 3).
        """
        ids = [torch.tensor([*row.prompt, *row.target]) for row in rows]
        input_ids = pad_sequence(ids, True, self._processor.tokenizer.pad_token_id)
        width = input_ids.shape[1]
        mask = pad_sequence([torch.ones(len(one), dtype=torch.long) for one in ids], True)
        positions = [row.positions.T.long() for row in rows]
        places = [
            torch.arange(row.targets) + width * index + len(row.prompt) - 1
            for index, row in enumerate(rows)
        ]
        image_at = (input_ids.flatten() == self._image_token).nonzero().flatten()
        batch = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "position_ids": pad_sequence(positions, True).permute(2, 0, 1),
            "image_at": image_at,
            "image_row": image_at // width,
            "answer_at": torch.cat(places),
            "answer_row": torch.cat(places) // width,
            "answers": torch.tensor([token for row in rows for token in row.target]),
            **self._images(rows),
        }
        return send(batch, self._stock.device)

    def _images(self, rows: Sequence[AnswerRow]) -> dict[str, Tensor]:
        examples = [row.example for row in rows]
        if self._features is not None:
            return {"features": torch.cat(self._features.get(examples))}
        pixels = torch.cat([self._pixels.get(example) for example in examples])
        return {"pixels": pixels, "grids": torch.tensor([row.grid for row in rows])}

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        """The loss of every row, and whether its answer would be found word for word."""
        rows = len(batch["input_ids"])
        words_BTD, features = self._embedded(batch)
        hidden_BTD = self._stock.model.language_model(
            inputs_embeds=words_BTD,
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            use_cache=False,
        ).last_hidden_state
        logits_AV = self._stock.lm_head(hidden_BTD.flatten(0, 1)[batch["answer_at"]]).float()
        losses_A = token_losses(logits_AV, batch["answers"])
        wrong_A = (logits_AV.detach().argmax(1) != batch["answers"]).float()
        return Losses(
            rows=_summed(losses_A, batch["answer_row"], rows),
            places={
                "image features": _summed(features.float().sum(1), batch["image_row"], rows),
                "hidden states": hidden_BTD.detach().flatten(1).sum(1, dtype=torch.float32),
            },
            predictions=_summed(wrong_A, batch["answer_row"], rows) == 0,
        )

    def _embedded(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The tokens of a batch (B, T, D), and those of them that are of images (N, D)."""
        features = batch.get("features")
        if features is None:
            features = self._seen(self._stock.model.visual, batch["pixels"], batch["grids"])
        words_BTD = self._stock.model.get_input_embeddings()(batch["input_ids"])
        flat = words_BTD.flatten(0, 1)
        flat = flat.index_copy(0, batch["image_at"], features.to(flat.dtype))
        return flat.view_as(words_BTD), features

    def weights(self, rows: Sequence[AnswerRow], config: TrialConfig) -> Tensor | None:
        """Answers weigh the same."""

    def measure(self, rows: Sequence[AnswerRow], predictions: Tensor) -> dict[str, float]:
        """Share of the last stage's answers that greedy decoding would give word for word."""
        last = max(row.stage for row in rows)
        chosen = torch.tensor([row.stage == last for row in rows])
        return {"exact_match": float(predictions[chosen].double().mean())}

    def answers(self, rows: Sequence[AnswerRow]) -> list[str]:
        """Answers by greedy decoding, at most `data.max_length` tokens."""
        tokenizer, end = self._processor.tokenizer, rows[0].target[-1]
        batch = self.collate([_question(row) for row in rows])
        tokens_BA = self._decode(batch, end)
        texts = []
        for tokens in tokens_BA.tolist():
            answer = tokens[: tokens.index(end)] if end in tokens else tokens
            texts.append(tidy(tokenizer.decode(answer, skip_special_tokens=True)))
        return texts

    def _decode(self, batch: dict[str, Tensor], end: int) -> Tensor:
        """Tokens (B, A), each the likeliest after those before, until all rows had an `end`.

        What comes next stands behind the padding of its row, which the mask hides.
        """
        language, mask = self._stock.model.language_model, batch["attention_mask"]
        words, positions = self._embedded(batch)[0], batch["position_ids"]
        last = mask.sum(1) - 1  # of every prompt
        rows = torch.arange(len(last), device=last.device)
        following = positions[:, rows, last]
        cache = DynamicCache(config=language.config)
        found: list[Tensor] = []
        ended = torch.zeros_like(last, dtype=torch.bool)
        while len(found) < self._max_length and not bool(ended.all()):
            hidden_BTD = language(
                inputs_embeds=words,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            found.append(self._stock.lm_head(hidden_BTD[rows, last]).argmax(1))
            ended |= found[-1] == end
            words = self._stock.model.get_input_embeddings()(found[-1])[:, None]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            following = following + 1
            positions, last = following[:, :, None], torch.zeros_like(last)
        return torch.stack(found, 1)

    def scorer(self) -> Scorer:
        """Exact match but for case and the final full stop: of all, and of every stage."""
        return _score

    def verify(self) -> list[str]:
        """What could silently be wrong, each held; raises HpoError where it is not."""
        token = self._processor.image_token
        expected = self._processor.tokenizer.convert_tokens_to_ids(token)
        require(
            expected == self._image_token,
            f"the tokenizer's {token} has id {expected}, the model expects {self._image_token}; "
            "use the processor that belongs to the weights",
        )
        tokenizer = self._processor.tokenizer
        special = {"padding": tokenizer.pad_token_id, token: self._image_token}
        words = self._stock.get_input_embeddings()
        lines = check_vocabulary(self._texts, words, what="the tokenizer", special=special)
        return [*lines, "loss on answers only"]


def fitted(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """(width, height) scaled down until neither is above `longest`.

    The shorter side is not rounded to less than the model's aspect ratio allows.
    """
    scale = min(1.0, (longest or max(size)) / max(size))
    least = math.ceil(round(max(size) * scale) / MOST_RATIO)
    width, height = (max(least, round(side * scale)) for side in size)
    return width, height


def _question(row: AnswerRow) -> AnswerRow:
    """The row without its answer."""
    return replace(row, target=[], positions=row.positions[:, : len(row.prompt)])


def _score(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    wanted, stages = zip(*((one.target, one.stage) for one in examples), strict=True)
    return exact_matches(wanted, answers, stages)


def _summed(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sums of values (A,) by row (B,)."""
    return values.new_zeros(count).index_add(0, rows, values)


def _targets(model: nn.Module, adapt: str) -> str:
    """The regular expression that `model.adapt` stands for; of a name, verified for this model."""
    expression = targets_of(adapt, TARGETS)
    if adapt not in TARGETS:
        return expression
    return complete(model, expression, adapt.split("+"), adapt=adapt, within=BLOCKS)


def load(source: Source) -> Answering:
    """Loads base and processor from this machine.

    Raises:
        MissingError: weights or processor are not there.
        ModelError: they are damaged, of another architecture, or do not fit each other.
    """
    stock, processor = load_pretrained(
        source.model,
        Qwen2VLForConditionalGeneration,
        StillsProcessor,
        dtype=source.dtype,
        what="Qwen2-VL",
    )
    check_patches(source.model.name, stock.config.vision_config, processor)
    return Answering(stock.to(source.device), processor, source)
