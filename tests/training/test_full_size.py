"""The published dimensions, on the meta device: what is adapted and how much of it."""

import pytest
import torch
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    T5Config,
)

from hpo.training.base.lora import LoraBase
from hpo.training.tasks.captioning import LANGUAGE, QFORMER
from hpo.training.tasks.classification import ATTENTION
from hpo.training.tasks.vqa import TARGETS
from tests.benchmarks.bases import SHAPES

ADAPTER_OF_RANK_8 = 2_420_736  # the published number of all parameters counts it in
PUBLISHED = SHAPES["instructblip-flan-t5-xl"]
FLAN_T5_XL = T5Config(
    feed_forward_proj="gated-gelu", tie_word_embeddings=False, **PUBLISHED["text"]
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
    qformer = InstructBlipQFormerConfig(**PUBLISHED["qformer"])
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


def test_qformer_and_language_model_are_adapted_together(model):
    base = LoraBase(model, f"(?:{QFORMER})|(?:{LANGUAGE})")
    ours = [name for name in base.names if name.startswith("language_model.")]
    assert 2 * (len(base.names) - len(ours)) == 240
    attentions = 24 + 2 * 24 if "decoder" in " ".join(ours) else 32
    assert len(ours) == 4 * attentions
    assert not any("vision" in name for name in base.names)
    base.unwrap()


@pytest.mark.parametrize(("last_n", "blocks"), [(None, 28), (4, 4)])
def test_llama_3_2_3b_has_adapters_on_its_attention_and_a_head(last_n, blocks):
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        num_labels=2,
    )
    with torch.device("meta"):
        model = LlamaForSequenceClassification(config)
    base = LoraBase(model.requires_grad_(False), ATTENTION, heads=("score",))
    assert len(base.names) == 4 * 28
    a_block = 16 * ((3072 + 3072) * 2 + (3072 + 1024) * 2)
    assert base.trainable(16, last_n) == blocks * a_block + 2 * 3072
    kept = {base.names[layer].split(".")[2] for layer in base.covered(last_n)}
    assert kept == {str(28 - 1 - k) for k in range(blocks)}


def test_qwen2_vl_7b_has_adapters_on_seven_projections_of_its_language_model():
    text = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    config = Qwen2VLConfig(text_config=text, tie_word_embeddings=False)
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == 8_291_375_616, "the published number"
    base = LoraBase(model.requires_grad_(False), TARGETS["attention+mlp"])
    assert len(base.names) == 7 * 28
    assert not base.touches("model.visual")
    assert all(name.startswith("model.language_model.layers.") for name in base.names)
    attention = (3584 + 3584) * 2 + (3584 + 512) * 2
    assert base.trainable(32) == 28 * 32 * (attention + 3 * (3584 + 18944))
