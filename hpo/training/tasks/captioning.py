"""Captioning with InstructBLIP (Dai et al. 2023, arXiv:2305.06500), FLAN-T5 and Vicuna variants.

The stock transformers model and processor. The forward pass goes through the model's own
`get_image_features` and then its language model, so that query embeddings and projection can be
checked on the way. What an image's tokens are takes the first places of its prompt, as in the
model's own `forward`, which looks for them token by token: a GPU would be waited for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hpo.data import Example
from hpo.data.examples import tidy
from hpo.data.rendering import RENDERING
from hpo.errors import DataError
from hpo.specs import TrialConfig
from hpo.training.base.batch import send
from hpo.training.base.cross_entropy import head_losses
from hpo.training.base.features import SLOT, Features, Prefix
from hpo.training.base.fit import positions_of
from hpo.training.base.losses import Losses, row_sums
from hpo.training.base.pixels import PixelCache
from hpo.training.base.pretrained import identity_of, load_pretrained
from hpo.training.base.processors import QFORMER_TOKENIZER, check_instructblip, check_squares
from hpo.training.base.rows import ImageRow
from hpo.training.base.targets import ATTENTION, complete
from hpo.training.base.text_ids import TextTokenizer
from hpo.training.base.texts import caption_scorer
from hpo.training.tasks import Row, Scorer, Source, require, targets_of

IGNORED = -100
IMAGE = "<image>"
TOKENIZERS = {"": "the tokenizer", "qformer_tokenizer": QFORMER_TOKENIZER}
QFORMER = (
    r"^(?:.*\.)?qformer\.encoder\.layer\.\d+\.(?:(?:cross)?attention\."
    r"(?:attention\.(?:query|key|value)|output\.dense)|(?:intermediate|output)(?:_query)?\.dense)$"
)
LANGUAGE = (
    r"^(?:.*\.)?language_model\.(?:.*\.)?(?:SelfAttention|EncDecAttention|self_attn)\."
    r"(?:q|k|v|o)(?:_proj)?$"
)
TARGETS = {"qformer": QFORMER, "qformer+lm": f"(?:{QFORMER})|(?:{LANGUAGE})"}


@dataclass(frozen=True, kw_only=True)
class CaptionRow(ImageRow):
    """An image with its instruction, once more for the Q-Former, and its caption."""

    qformer_prompt: list[int]


class Known(nn.Module):
    """Stands where the vision tower was, and hands on what the tower made of an image before."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Outputs (B, N, D), which come in the place of pixels."""
        return BaseModelOutputWithPooling(last_hidden_state=pixel_values)


class Captioning:
    """A frozen InstructBLIP and its processor."""

    target_scope = ""
    heads = ()
    label_names = ()
    prefix = ("vision_model",)
    metrics = ()
    generates = True

    def __init__(self, model: Any, processor: Any, source: Source) -> None:
        self.model: nn.Module = model.eval().requires_grad_(False)
        self.target_pattern = _targets(model, source.model.adapt)
        if source.model.adapt == "qformer":
            self.target_scope = "qformer"
        self._stock = model
        self._processor = processor
        self._max_length = source.data.max_length
        self._texts = TextTokenizer(processor.tokenizer, [IMAGE])
        self._captions = TextTokenizer(processor.tokenizer, [IMAGE])
        self._qformer_texts = TextTokenizer(processor.qformer_tokenizer)
        self._seq2seq = not model.config.use_decoder_only_language_model
        self._queries = int(model.config.num_query_tokens)
        self._pixels = PixelCache(self._process, source.cache_bytes, source.ahead_bytes)
        self._features: Features | None = None
        self._longest_prompt = self._longest_row = self.longest = 0
        self._positions = positions_of(model.language_model)
        model.language_model.generation_config = self._greedy()
        # nothing reads what the last layer makes of instruction tokens: only queries go on
        model.qformer.encoder.layer[-1].feed_forward_chunk = lambda states: states

    @property
    def held_bytes(self) -> int:
        """Pixels that are kept for later trials."""
        return self._pixels.held_bytes

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Token ids of the examples, captions cut at `data.max_length` tokens."""
        rows = [self._row(example) for example in examples]
        lengths = (row.length if not self._seq2seq else len(row.prompt) for row in rows)
        self._longest_row = max(self._longest_row, *lengths)
        longest = (len(row.qformer_prompt) for row in rows)
        self._longest_prompt = max(self._longest_prompt, *longest)
        if self.target_scope != "qformer":  # the language model's shapes vary
            ids = (max(len(row.prompt), len(row.target)) for row in rows)
            self.longest = max(self.longest, *ids)
        return list(rows)

    def expect(self, rows: Sequence[CaptionRow]) -> None:
        """Begins to read their images, where outputs of the vision tower are not known."""
        if self._features is None:
            self._pixels.expect([row.example for row in rows])

    def frozen_prefix(self) -> Prefix:
        """The vision tower and what goes into it."""
        tower, device = self._stock.vision_model, self._stock.device
        images = self._processor.image_processor.to_json_string()

        def forward(pixels: Sequence[Tensor]) -> Sequence[Tensor]:
            batch = torch.stack(list(pixels)).to(device, self._stock.dtype)
            return list(tower(batch).last_hidden_state)

        known = identity_of(
            tower,
            self._stock.config.vision_config,
            images,
            together=f"{SLOT} images",
            pixels=RENDERING,
        )
        return Prefix(identity=known, read=self._pixels.read, forward=forward)

    def use(self, features: Features) -> Callable[[], None]:
        """From now on outputs of the vision tower come from here; its weights are let go of."""
        tower = self._stock.vision_model
        self._features, self._stock.vision_model = features, Known()

        def undo() -> None:
            self._features, self._stock.vision_model = None, tower

        return undo

    def _greedy(self) -> GenerationConfig:
        """Greedy decoding, whatever the base's own settings are."""
        tokenizer, text = self._processor.tokenizer, self._stock.config.text_config
        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._max_length,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id or 0,
            decoder_start_token_id=getattr(text, "decoder_start_token_id", None),
        )

    def _process(self, image: Image.Image) -> Tensor:
        """(3, H, W)."""
        process = self._processor.image_processor
        pixels: Tensor = process(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def _images(self, rows: Sequence[CaptionRow]) -> Tensor:
        """Pixels (B, 3, H, W), or what the vision tower made of them (B, N, D)."""
        if self._features is not None:
            return torch.stack(self._features.get([row.example for row in rows]))
        return torch.stack([self._pixels.get(row.example) for row in rows])

    def _row(self, example: Example) -> CaptionRow:
        tokenizer = self._processor.tokenizer
        qformer_prompt = self._qformer_texts.ids(example.prompt)
        longest = self._stock.config.qformer_config.max_position_embeddings
        if len(qformer_prompt) > longest:
            raise DataError(
                f"{example.name}: its instruction has {len(qformer_prompt)} tokens; it may have "
                f"{longest}; change text_input"
            )
        image = [self._stock.config.image_token_id] * self._queries
        target = self._captions.ids(example.target, add_special_tokens=False)[
            : self._max_length - 1
        ]
        return CaptionRow(
            example=example,
            prompt=image + self._texts.ids(example.prompt),
            qformer_prompt=qformer_prompt,
            target=[*target, tokenizer.eos_token_id],
        )

    def collate(self, rows: Sequence[CaptionRow]) -> dict[str, Tensor]:
        """A batch on the device, padded on the right.

        pixel_values as `_images` gives them, qformer_input_ids (B, Tq), input_ids (B, T), masks,
        and labels: (B, Tl) captions for FLAN-T5; (B, T) like input_ids for a decoder-only model.
        """
        prompts = [row.prompt for row in rows]
        labels = [row.target for row in rows]
        if not self._seq2seq:
            labels = [[IGNORED] * len(r.prompt) + r.target for r in rows]
            prompts = [r.prompt + r.target for r in rows]
        input_ids, attention_mask = self._pad(prompts, self._processor.tokenizer)
        # where adapters are, shapes must not depend on the other rows, or dropout would, too
        qformer_ids, qformer_mask = self._pad(
            [row.qformer_prompt for row in rows],
            self._processor.qformer_tokenizer,
            least=self._longest_prompt,
        )
        batch = {
            "pixel_values": self._images(rows),
            "qformer_input_ids": qformer_ids,
            "qformer_attention_mask": qformer_mask,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": pad_sequence([torch.tensor(ids) for ids in labels], True, IGNORED),
        }
        of_image = input_ids == self._stock.config.image_token_id
        if not of_image[:, : self._queries].all() or of_image[:, self._queries :].any():
            raise AssertionError(f"image tokens are not the first {self._queries} of a prompt")
        return send(batch, self._stock.device)

    def _pad(
        self, ids: list[list[int]], tokenizer: Any, *, least: int = 0
    ) -> tuple[Tensor, Tensor]:
        """(ids, mask), both (B, T), T at least `least`."""
        padding, width = tokenizer.pad_token_id or 0, max(least, *map(len, ids))
        padded = torch.tensor([row + [padding] * (width - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        return padded, mask

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        """The loss of every row; query embeddings and projection are looked at on the way."""
        features = self._stock.get_image_features(
            batch["pixel_values"],
            qformer_input_ids=batch["qformer_input_ids"],
            qformer_attention_mask=batch["qformer_attention_mask"],
        )
        query_embeddings = features.qformer_outputs.last_hidden_state[:, : self._queries]
        labels = batch["labels"]
        extra = {}
        if self._seq2seq:
            shift = self._stock.language_model.prepare_decoder_input_ids_from_labels
            extra["decoder_input_ids"] = shift(labels)
        with self._without_head() as head:
            hidden_BTD = self._stock.language_model(
                inputs_embeds=self._embedded(batch["input_ids"], features.pooler_output),
                attention_mask=batch["attention_mask"],
                use_cache=False,
                **extra,
            ).logits
        if not self._seq2seq:
            hidden_BTD, labels = hidden_BTD[:, :-1], labels[:, 1:]
        losses_N = head_losses(head, hidden_BTD.flatten(0, 1), labels.flatten())
        places = {
            "query embeddings": row_sums(query_embeddings),
            "language projection": row_sums(features.pooler_output),
        }
        return Losses(rows=losses_N.view(labels.shape).sum(1), places=places)

    def _embedded(self, input_ids: Tensor, image: Tensor) -> Tensor:
        """Tokens (B, T) as the language model takes them (B, T, D), images (B, Q, D) first."""
        words: Tensor = self._stock.get_input_embeddings()(input_ids)
        return torch.cat([image.to(words.dtype), words[:, self._queries :]], 1)

    @contextmanager
    def _without_head(self) -> Iterator[nn.Module]:
        """Within it the language model gives hidden states as its logits; its head."""
        language = self._stock.language_model
        head, language.lm_head = language.lm_head, nn.Identity()
        try:
            yield head
        finally:
            language.lm_head = head

    def weights(self, rows: Sequence[CaptionRow], config: TrialConfig) -> Tensor | None:
        """Captions weigh the same."""

    def measure(self, rows: Sequence[CaptionRow], predictions: Tensor) -> dict[str, float]:
        """Val loss is all that is measured."""
        return {}

    def answers(self, rows: Sequence[CaptionRow]) -> list[str]:
        """Captions by the model's own greedy `generate`, at most `data.max_length` tokens."""
        batch = self.collate([replace(row, target=[]) for row in rows])
        del batch["labels"]
        ids, tokenizer = batch["input_ids"], self._processor.tokenizer
        if not self._seq2seq:  # what is generated follows the last token
            masks = batch["attention_mask"]
            batch |= {"input_ids": _to_the_right(ids, masks)}
            batch |= {"attention_mask": _to_the_right(masks, masks)}
        generated = self._stock.generate(**batch)
        if not self._seq2seq:
            generated = generated[:, ids.shape[1] :]
        texts: list[str] = tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [tidy(text) for text in texts]

    def scorer(self) -> Scorer:
        """BLEU, CIDEr and ROUGE-L against all captions that an image has."""
        score = caption_scorer()

        def scored(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
            wanted: dict[str, list[str]] = {}
            generated: dict[str, str] = {}
            for example, answer in zip(examples, answers, strict=True):
                asked = f"{example.image_name}\n{example.prompt}"
                wanted.setdefault(asked, []).append(example.target)
                generated[asked] = answer
            return score(wanted, generated)

        return scored

    def verify(self) -> list[str]:
        """What the traps of this model are, each held; raises HpoError where one is not."""
        require(
            isinstance(self._stock.language_model.lm_head, nn.Linear),
            "model.adapt: its expression matches language_model.lm_head, which losses are computed "
            "from without adapters; leave it out, as (?!.*lm_head).* does",
        )
        config, tokenizer = self._stock.config, self._processor.tokenizer
        image_id = tokenizer.convert_tokens_to_ids(IMAGE)
        require(
            config.image_token_id == image_id,
            f"the tokenizer's {IMAGE} has id {image_id}, the model expects "
            f"{config.image_token_id}; use the processor that belongs to the weights",
        )
        least, longest = self._positions, self._longest_row
        require(
            least is None or longest <= least,
            f"data.max_length = {self._max_length}: a row has {longest} tokens with its image, and "
            f"the language model has positions for {least}; set it lower",
        )
        vocabularies = check_instructblip(
            self._stock,
            self._processor,
            captions=self._captions,
            instructions=self._texts,
            qformer=self._qformer_texts,
        )
        held = [*vocabularies, f"{self._queries} image tokens a row"]
        if self._seq2seq:
            language_model = self._stock.language_model
            require(
                language_model.lm_head.weight is not language_model.shared.weight,
                "lm_head is tied to the embeddings, which throws FLAN-T5's trained head away; "
                "load weights that hold both",
            )
            held.append("lm_head untied")
        return held


def _to_the_right(values: Tensor, mask: Tensor) -> Tensor:
    """Values (B, T), padded on the right by their mask (B, T), padded on the left instead."""
    width = mask.shape[1]
    places = torch.arange(width, device=mask.device) - (width - mask.sum(1, keepdim=True))
    return values.gather(1, places % width)


def _targets(model: nn.Module, adapt: str) -> str:
    """The regular expression that `model.adapt` stands for; verified for this language model."""
    expression = targets_of(adapt, TARGETS)
    if adapt != "qformer+lm":
        return expression
    found = complete(model, LANGUAGE, (ATTENTION,), adapt=adapt, within="language_model.")
    return expression if found == LANGUAGE else f"(?:{QFORMER})|(?:{found})"


def load(source: Source) -> Captioning:
    """Loads base and processor from this machine.

    Raises:
        MissingError: weights or processor are not there.
        ModelError: they are damaged, of another architecture, or do not fit each other.
    """
    stock, processor = load_pretrained(
        source.model,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        dtype=source.dtype,
        what="InstructBLIP",
        tokenizers=TOKENIZERS,
    )
    check_squares(source.model.name, stock.config.vision_config, processor.image_processor)
    return Captioning(stock.to(source.device), processor, source)
