"""Captioning with InstructBLIP (Dai et al. 2023, arXiv:2305.06500), FLAN-T5 and Vicuna variants.

The stock transformers model and processor. The forward pass goes through the model's own
`get_image_features` and `forward`, in two calls, so that query embeddings and projection can be
checked on the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from hpo.data import Example
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec, ModelSpec
from hpo.training.finite import check_finite
from hpo.training.pixels import PixelCache
from hpo.training.tasks import Row, require
from hpo.weights import find_weights

IGNORED = -100
QFORMER = (
    r"^(?:.*\.)?qformer\.encoder\.layer\.\d+\.(?:(?:cross)?attention\."
    r"(?:attention\.(?:query|key|value)|output\.dense)|(?:intermediate|output)(?:_query)?\.dense)$"
)


@dataclass(frozen=True, kw_only=True)
class CaptionRow:
    """An example as token ids; its pixels are read when a batch needs them."""

    example: Example
    prompt: list[int]
    qformer_prompt: list[int]
    target: list[int]

    @property
    def length(self) -> int:
        """Tokens that the language model sees."""
        return len(self.prompt) + len(self.target)


class Captioning:
    """A frozen InstructBLIP and its processor."""

    target_pattern = QFORMER
    target_scope = "qformer"

    def __init__(self, model: Any, processor: Any, data: DataSpec, cache_bytes: int) -> None:
        self.model: nn.Module = model.eval().requires_grad_(False)
        self._stock = model
        self._processor = processor
        self._max_length = data.max_length
        self._seq2seq = not model.config.use_decoder_only_language_model
        self._queries = int(model.config.num_query_tokens)
        self._pixels = PixelCache(processor.image_processor, cache_bytes)

    @property
    def held_bytes(self) -> int:
        """Pixels that are kept for later trials."""
        return self._pixels.held_bytes

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Token ids of the examples, captions cut at `data.max_length` tokens."""
        return [self._row(example) for example in examples]

    def _row(self, example: Example) -> CaptionRow:
        tokenizer = self._processor.tokenizer
        qformer_prompt = self._processor.qformer_tokenizer(example.prompt).input_ids
        longest = self._stock.config.qformer_config.max_position_embeddings
        if "<image>" in example.prompt or len(qformer_prompt) > longest:
            raise DataError(
                f"{example.name}: its instruction has {len(qformer_prompt)} tokens; it may have "
                f"{longest}, and no <image> in it; change text_input"
            )
        image = [self._stock.config.image_token_id] * self._queries
        target = tokenizer(example.target, add_special_tokens=False).input_ids
        target = target[: self._max_length - 1]
        return CaptionRow(
            example=example,
            prompt=image + tokenizer(example.prompt).input_ids,
            qformer_prompt=qformer_prompt,
            target=[*target, tokenizer.eos_token_id],
        )

    def collate(self, rows: Sequence[CaptionRow]) -> dict[str, Tensor]:
        """A batch on the device, padded on the right.

        pixel_values (B, 3, H, W), qformer_input_ids (B, Tq), input_ids (B, T) with masks, and
        labels: (B, Tl) captions for FLAN-T5; (B, T) like input_ids for a decoder-only model.
        """
        prompts = [row.prompt for row in rows]
        labels = [row.target for row in rows]
        if not self._seq2seq:
            labels = [[IGNORED] * len(r.prompt) + r.target for r in rows]
            prompts = [r.prompt + r.target for r in rows]
        input_ids, attention_mask = self._pad(prompts, self._processor.tokenizer)
        qformer_ids, qformer_mask = self._pad(
            [row.qformer_prompt for row in rows], self._processor.qformer_tokenizer
        )
        batch = {
            "pixel_values": torch.stack([self._pixels.get(row.example) for row in rows]),
            "qformer_input_ids": qformer_ids,
            "qformer_attention_mask": qformer_mask,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": pad_sequence([torch.tensor(ids) for ids in labels], True, IGNORED),
        }
        counts = (input_ids == self._stock.config.image_token_id).sum(1)
        if not bool((counts == self._queries).all()):
            raise AssertionError(f"{counts.tolist()} image tokens in the rows of a batch")
        return {name: tensor.to(self._stock.device) for name, tensor in batch.items()}

    def _pad(self, ids: list[list[int]], tokenizer: Any) -> tuple[Tensor, Tensor]:
        """(ids, mask), both (B, T)."""
        padding = tokenizer.pad_token_id or 0
        padded = pad_sequence([torch.tensor(row) for row in ids], True, padding)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in ids], True, 0)
        return padded, mask

    def token_losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Summed loss and number of target tokens of every row, both (B,).

        Raises:
            NonFiniteError: names the first of query embeddings, projection and loss that holds
                a NaN or an infinity.
        """
        features = self._stock.get_image_features(
            batch["pixel_values"],
            qformer_input_ids=batch["qformer_input_ids"],
            qformer_attention_mask=batch["qformer_attention_mask"],
        )
        query_embeddings = features.qformer_outputs.last_hidden_state[:, : self._queries]
        check_finite("query embeddings", query_embeddings)
        check_finite("language projection", features.pooler_output)
        labels = batch["labels"]
        extra = {}
        if self._seq2seq:
            shift = self._stock.language_model.prepare_decoder_input_ids_from_labels
            extra["decoder_input_ids"] = shift(labels)
        logits_BTV = self._stock(
            pixel_values=None,
            qformer_input_ids=batch["qformer_input_ids"],
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            mm_encoder_outputs={"image": features},
            use_cache=False,
            **extra,
        ).logits
        if not self._seq2seq:
            logits_BTV, labels = logits_BTV[:, :-1], labels[:, 1:]
        losses_BT = functional.cross_entropy(
            logits_BTV.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="none"
        )
        losses_B = losses_BT.sum(1)
        check_finite("loss", losses_B)
        return losses_B, (labels != IGNORED).sum(1)

    def verify(self) -> list[str]:
        """What the traps of this model are, each held; raises HpoError where one is not."""
        config, tokenizer = self._stock.config, self._processor.tokenizer
        image_id = tokenizer.convert_tokens_to_ids("<image>")
        require(
            config.image_token_id == image_id,
            f"the tokenizer's <image> has id {image_id}, the model expects "
            f"{config.image_token_id}; use the processor that belongs to the weights",
        )
        held = [f"{self._queries} image tokens a row"]
        if self._seq2seq:
            language_model = self._stock.language_model
            require(
                language_model.lm_head.weight is not language_model.shared.weight,
                "lm_head is tied to the embeddings, which throws FLAN-T5's trained head away; "
                "load weights that hold both",
            )
            held.append("lm_head untied")
        return held


def load(
    model: ModelSpec, data: DataSpec, *, device: torch.device, dtype: torch.dtype, cache_bytes: int
) -> Captioning:
    """Loads base and processor from this machine.

    Raises:
        MissingError: weights or processor are not there, or of another architecture.
    """
    folder = find_weights(model.name, model.revision)
    try:
        processor = InstructBlipProcessor.from_pretrained(folder, local_files_only=True)
        stock, info = InstructBlipForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise MissingError(
            f"model {model.name}: {folder} is not a complete InstructBLIP with its processor "
            f"({str(error).splitlines()[0]}); download all of it, or give another by --model DIR"
        ) from error
    missing = sorted(info["missing_keys"])
    require(
        not missing,
        f"model {model.name}: {folder} lacks {len(missing)} tensors of an InstructBLIP, such as "
        f"{missing[:1]}; download all of it, or give another by --model DIR",
    )
    return Captioning(stock.to(device), processor, data, cache_bytes)
