"""Blocks before the first adapted one: which they are, and that known outputs take their place."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    LlamaConfig,
    Qwen2Config,
)

from hpo.training.base.blocks import adaptable, blocks_before, in_last_blocks, stand_in
from hpo.training.tasks.classification import ATTENTION

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
DISTIL = {"vocab_size": 30, "dim": 16, "n_heads": 2, "hidden_dim": 24, "n_layers": 4}
CONFIGS = [
    BertConfig(**SIZES, num_hidden_layers=4),
    DistilBertConfig(**DISTIL),
    LlamaConfig(**SIZES, num_hidden_layers=4, num_key_value_heads=2),
    Qwen2Config(**SIZES, num_hidden_layers=4, num_key_value_heads=2),
]


def name_of(config):
    return config.model_type


@pytest.fixture
def model(request):
    torch.manual_seed(0)
    config = request.param
    config.num_labels, config.pad_token_id = 3, 0
    return AutoModelForSequenceClassification.from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize("model", CONFIGS, ids=name_of, indirect=True)
@pytest.mark.parametrize("last_n", [1, 3])
def test_known_outputs_take_the_place_of_the_first_blocks(model, last_n):
    ids = torch.tensor([[5, 6, 7, 8, 9], [7, 8, 9, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    wanted = model(**batch).logits
    first = blocks_before(list(adaptable(model, ATTENTION, last_n)))
    assert [name.rpartition(".")[2] for name in first] == [str(n) for n in range(4 - last_n)]
    states = model.base_model(**batch, output_hidden_states=True).hidden_states[len(first)]
    before = sum(p.numel() for p in model.parameters())
    known = stand_in(model, first)
    assert sum(p.numel() for p in model.parameters()) < before
    with known.as_of(states):
        torch.testing.assert_close(model(**batch).logits, wanted)
    with known.as_of(states + torch.randn(16)):
        assert not torch.allclose(model(**batch).logits, wanted, atol=1e-3)


@pytest.mark.parametrize("model", CONFIGS[:1], ids=name_of, indirect=True)
def test_blocks_follow_from_the_layer_list(model):
    everything = list(adaptable(model, ATTENTION, None))
    assert blocks_before(everything) == ()
    assert in_last_blocks(everything, 9) == in_last_blocks(everything, None)
    some = list(adaptable(model, r".*layer\.[23]\.attention\.self\.query$", None))
    assert blocks_before(some) == ("bert.encoder.layer.0", "bert.encoder.layer.1")


def test_two_stacks_have_no_first_blocks():
    def stack():
        return nn.ModuleList([nn.ModuleDict({"q_proj": nn.Linear(2, 2)}) for _ in range(3)])

    model = nn.ModuleDict({"encoder": nn.ModuleDict({"layers": stack()}), "layers": stack()})
    assert len(adaptable(model, r".*q_proj$", 1)) == 2
    assert blocks_before(list(adaptable(model, r".*q_proj$", 1))) == ()
