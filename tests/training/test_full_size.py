"""The published dimensions, on the meta device: what is adapted and how much of it."""

import pytest
import torch
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    LlamaConfig,
    T5Config,
)

from hpo.training.lora import LoraBase
from hpo.training.tasks.captioning import QFORMER

ADAPTER_OF_RANK_8 = 2_420_736  # the published number of all parameters counts it in
FLAN_T5_XL = T5Config(
    vocab_size=32128,
    d_model=2048,
    d_kv=64,
    d_ff=5120,
    num_layers=24,
    num_heads=32,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)
VICUNA_7B = LlamaConfig(
    vocab_size=32001,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    pad_token_id=0,
)


def on_meta(text_config):
    """An InstructBLIP of published dimensions, without memory behind it."""
    qformer = InstructBlipQFormerConfig(vocab_size=30523)
    config = InstructBlipConfig(text_config=text_config, qformer_config=qformer)
    with torch.device("meta"):
        return InstructBlipForConditionalGeneration(config)


@pytest.fixture(scope="module", params=[FLAN_T5_XL, VICUNA_7B], ids=["flan-t5-xl", "vicuna-7b"])
def model(request):
    return on_meta(request.param).requires_grad_(False)


def test_adapters_are_the_240_tensors_of_the_qformer_and_no_others(model):
    base = LoraBase(model, QFORMER)
    assert 2 * len(base.names) == 240
    assert base.trainable(8) == ADAPTER_OF_RANK_8
    assert base.trainable(4) == 1_210_368
    assert all(name.startswith("qformer.encoder.") for name in base.names)
    linears = [
        name
        for name, module in model.qformer.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith(".base")
    ]
    assert linears == [], "a Linear of the Q-Former was left out"
    base.unwrap()


def test_flan_t5_has_the_published_number_of_parameters():
    model = on_meta(FLAN_T5_XL)
    counted = sum(p.numel() for p in model.parameters())
    head = model.language_model.lm_head.weight
    tied = head is model.language_model.shared.weight
    assert counted + (head.numel() if tied else 0) == 4_025_389_824 - ADAPTER_OF_RANK_8
