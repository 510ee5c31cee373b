"""The embedded language model: really pretrained, and a base as any other."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from hpo.mini import CLASSIFIER
from hpo.mini.messages import LABELS, message
from hpo.mini.pretrain_classifier import batch, prose
from hpo.mini.stories import note, story

UNSEEN = 2**31  # no seed of the pretraining


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CLASSIFIER, local_files_only=True)


@pytest.fixture(scope="module")
def language_model():
    return AutoModelForCausalLM.from_pretrained(CLASSIFIER, dtype=torch.float32).eval()


@pytest.fixture
def no_network(monkeypatch):
    """Every connection fails."""

    def refuse(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.socket.connect", refuse)


def loss(model, tokenizer, texts):
    with torch.no_grad():
        return model(**batch(tokenizer, texts)).loss.item()


def test_a_classifier_with_a_fresh_head_is_loaded_from_it(no_network, tokenizer):
    model = AutoModelForSequenceClassification.from_pretrained(
        CLASSIFIER, num_labels=len(LABELS), dtype=torch.float32
    ).eval()
    texts = [message(UNSEEN, index)[0] for index in range(4)]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        alone = model(**tokenizer(texts[1], return_tensors="pt")).logits
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert logits.shape == (4, len(LABELS))
    assert torch.allclose(logits[1], alone[0], atol=1e-4), "padding changes what is predicted"


def test_it_is_small_and_half_precision():
    weights = CLASSIFIER / "model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    config = AutoConfig.from_pretrained(CLASSIFIER)
    assert config.dtype == torch.float16
    assert config.num_key_value_heads < config.num_attention_heads


def test_the_tokenizer_pads_to_the_right_and_begins_every_text(tokenizer):
    encoded = tokenizer(["Hello.", "Hello, is anybody there?"], padding=True)
    short, long = encoded["input_ids"]
    assert tokenizer.pad_token_id == AutoConfig.from_pretrained(CLASSIFIER).pad_token_id
    assert short[-1] == tokenizer.pad_token_id != long[-1]
    assert {short[0], long[0]} == {tokenizer.bos_token_id}


@pytest.mark.parametrize(
    "text",
    [
        "Why was my transfer declined?",
        "FREE entry!! txt WIN to 80086, £1.50/msg",
        "naïve — 你好 🙂\n",
        "",
    ],
)
def test_any_text_is_encoded_and_comes_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text.strip()
    assert len(ids) <= 2 + len(text.encode())


def test_it_has_read_text_of_every_kind(language_model, tokenizer):
    rng = np.random.default_rng(UNSEEN)
    fresh = type(language_model)(language_model.config).float().eval()
    kinds = {
        "stories": [story(rng) for _ in range(32)],
        "messages": [message(UNSEEN, index)[0] for index in range(32)],
        "notes": [note(rng) for _ in range(32)],
        "prose": prose()[::200],
    }
    for kind, texts in kinds.items():
        ours, theirs = (loss(model, tokenizer, texts) for model in (language_model, fresh))
        assert ours < {"prose": 0.6}.get(kind, 0.4) * theirs, kind
