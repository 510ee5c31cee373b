"""The three tasks as plain transformers and PEFT have them: what ours is held against."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    InstructBlipForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)

from hpo.mini import ANSWERER, CAPTIONER, CLASSIFIER
from hpo.training.trial.schedule import factor
from hpo.training.trial.trial import course

IGNORED = -100
TOO_LARGE = 120


@dataclass(frozen=True)
class Subject:
    """A task, a small study of it, and its oracle."""

    study: str
    settings: tuple[str, ...]
    changes: dict[str, Any]
    """Of a trial's configuration, so that all that the task has is in it."""
    cached: tuple[str, ...]
    """Settings under which a part of the base goes first for all trials alike."""
    memory_limit: int
    """Bytes that hold base and small batches, but no batch of `TOO_LARGE`."""
    stock: Callable[..., torch.nn.Module]
    """A bench -> the model as transformers loads it."""
    losses: Callable[..., torch.Tensor]
    """(model, bench, rows) -> loss of every row, summed over its targets."""


def caption_losses(model, bench, rows):
    """Of the stock forward pass on pixels."""
    batch = bench.task.collate(rows)
    images = [row.example.image() for row in rows]
    process = bench.task._processor.image_processor
    batch["pixel_values"] = process(images, return_tensors="pt")["pixel_values"]
    labels = batch.pop("labels")
    inputs = model.language_model.prepare_decoder_input_ids_from_labels(labels)
    logits = model(**batch, decoder_input_ids=inputs).logits
    return _row_losses(logits, labels)


def label_losses(model, bench, rows):
    """Cross entropy of the stock classifier."""
    batch = bench.task.collate(rows)
    return functional.cross_entropy(
        model(**batch).logits.float(), batch["labels"], reduction="none"
    )


def answer_losses(model, bench, rows):
    """Of the stock forward pass on what the processor makes of conversations."""
    processor = bench.task._processor
    processor.tokenizer.padding_side = "right"
    turns = [
        [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": row.example.prompt}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": row.example.target}]},
        ]
        for row in rows
    ]
    batch = processor(
        text=[processor.apply_chat_template(turn) for turn in turns],
        images=[row.example.image() for row in rows],
        padding=True,
        return_tensors="pt",
    )
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for index, row in enumerate(rows):
        answer = slice(len(row.prompt), row.length)
        labels[index, answer] = batch["input_ids"][index, answer]
    return _row_losses(model(**batch).logits[:, :-1], labels[:, 1:])


def _row_losses(logits, labels):
    return functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    ).sum(1)


def _stock(kind, folder, **options):
    """The model as transformers loads it."""
    return kind.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, **options
    ).eval()


def stock_captioner(bench):
    return _stock(InstructBlipForConditionalGeneration, CAPTIONER)


def stock_classifier(bench):
    """Backbone and the head that the bench drew."""
    model = _stock(
        AutoModelForSequenceClassification, CLASSIFIER, num_labels=len(bench.task.labels)
    )
    model.config.pad_token_id = bench.task.model.config.pad_token_id
    model.score.weight.data.copy_(bench.base.head_tensors()[0])
    return model


def stock_answerer(bench):
    return _stock(Qwen2VLForConditionalGeneration, ANSWERER)


SUBJECTS = {
    "captioning": Subject(
        study="rsicap",
        settings=("data.samples=40", "trial.epochs=1", "trial.evals=2", "known=[]"),
        changes={},
        cached=(),
        memory_limit=220_000_000,
        stock=stock_captioner,
        losses=caption_losses,
    ),
    "classification": Subject(
        study="classify",
        settings=("data.samples=100", "trial.epochs=1", "trial.evals=2", "known=[]"),
        changes={"class_weight": 0.7, "weight_decay": 0.1, "last_n": 2},
        cached=("space.last_n=2",),
        memory_limit=240_000_000,
        stock=stock_classifier,
        losses=label_losses,
    ),
    "vqa": Subject(
        study="kvasir",
        settings=("data.samples=60", "trial.epochs=1", "trial.evals=2", "known=[]"),
        changes={"stage_1": 0.5, "weight_decay": 0.1},
        cached=(),
        memory_limit=120_000_000,
        stock=stock_answerer,
        losses=answer_losses,
    ),
}


def wrapped(bench, order, adapter, stock):
    """The stock model under PEFT, with the weights of an adapter of ours."""
    config = order.config
    model = get_peft_model(
        stock,
        LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            target_modules=[bench.base.names[layer] for layer in adapter.layers],
            modules_to_save=bench.base.head_names or None,
        ),
    )
    weights = adapter.tensors(adapter.flat.detach().clone())
    for place, layer in enumerate(adapter.layers):
        module = model.base_model.model.get_submodule(bench.base.names[layer])
        module.lora_A["default"].weight.data.copy_(weights[2 * place])
        module.lora_B["default"].weight.data.copy_(weights[2 * place + 1])
    return model


def train(subject, bench, order, adapter):
    """The training losses of a plain loop over PEFT's model, from the same start."""
    config, spec = order.config, bench.study.trial
    model = wrapped(bench, order, adapter, subject.stock(bench))
    trainable = [p for p in model.parameters() if p.requires_grad]
    decay = spec.weight_decay if config.weight_decay is None else config.weight_decay
    optimizer = torch.optim.AdamW(trainable, lr=0.0, weight_decay=decay)
    batches = list(course(bench, order).batches())
    warmup, losses = round(spec.warmup_share * len(batches)), []
    for step, batch in enumerate(batches):
        rows = [bench.train[i] for i in batch]
        weights = bench.task.weights(rows, config)
        counts = torch.tensor([float(row.targets) for row in rows])
        weights = torch.ones(len(rows)) if weights is None else weights
        loss = (subject.losses(model, bench, rows) * weights).sum() / (counts * weights).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, spec.max_grad_norm)
        rate = config.learning_rate * factor(config.scheduler, step, len(batches), warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def val_loss(subject, model, bench):
    """Mean over the target tokens of the last stage's val rows."""
    last = max(row.stage for row in bench.val)
    rows = [row for row in bench.val if row.stage == last]
    total = sum(float(subject.losses(model, bench, [row])) for row in rows)
    return total / sum(row.targets for row in rows)
