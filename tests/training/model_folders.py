"""Model folders of many families: tiny, with random weights and a tokenizer of their kind."""

import json
import shutil

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GemmaConfig,
    GemmaForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hpo.mini import ANSWERER, CAPTIONER, CLASSIFIER
from tests.training import tiny_tokenizers

LABELS = 3  # of the drawn messages
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "bert": (BertConfig, BertForSequenceClassification, "bert", {}),
    "roberta": (RobertaConfig, RobertaForSequenceClassification, "roberta", {}),
    "deberta": (DebertaV2Config, DebertaV2ForSequenceClassification, "t5", {}),
    "gemma": (GemmaConfig, GemmaForSequenceClassification, "llama", {"head_dim": 16}),
    "llama": (LlamaConfig, LlamaForSequenceClassification, "llama", {}),
    "qwen2": (Qwen2Config, Qwen2ForSequenceClassification, "qwen", {}),
    "gpt2": (GPT2Config, GPT2ForSequenceClassification, "gpt2", {}),
    "opt": (OPTConfig, OPTForSequenceClassification, "roberta", {"word_embed_proj_dim": 32}),
}
EMBEDDED = {"captioner": CAPTIONER, "answerer": ANSWERER, "classifier": CLASSIFIER}


def build(folder, family, *, sentences=tiny_tokenizers.SENTENCES, **changes):
    """A folder as save_pretrained writes it; `changes` go into the configuration."""
    config_kind, kind, tokenizer_kind, more = FAMILIES[family]
    tokenizer = tiny_tokenizers.KINDS[tokenizer_kind](sentences)
    sizes = SIZES if family != "gpt2" else {"n_embd": 32, "n_layer": 2, "n_head": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "num_labels": LABELS}
    ids |= {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    settings = {"vocab_size": len(tokenizer), **ids, **sizes, **more, **changes}
    torch.manual_seed(0)
    kind(config_kind(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def copy(folder, name):
    """A copy of an embedded model."""
    return shutil.copytree(EMBEDDED[name], folder)


def edit(path, **changes):
    """Changes settings of a JSON file; None takes one out."""
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
