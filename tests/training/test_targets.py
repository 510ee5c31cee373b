"""Named targets: the same set in every block, found from structure, or refused by name."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    FNetConfig,
    GPT2Config,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    JambaConfig,
    LlamaConfig,
    MixtralConfig,
    MobileBertConfig,
    OPTConfig,
    PhiConfig,
    SqueezeBertConfig,
    T5Config,
    XLMConfig,
    XLNetConfig,
)

from hpo.errors import MissingError
from hpo.training.base.blocks import adaptable
from hpo.training.base.conv1d import TransposedLinear, replace_conv1d
from hpo.training.base.targets import complete, linear_names
from hpo.training.tasks import captioning
from hpo.training.tasks.classification import TARGETS

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
}
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}


def classifier(config):
    config.num_labels, config.pad_token_id = 3, 0
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def found(model, adapt):
    """The Linears that a name stands for, with `N` for numbers of blocks."""
    expression = complete(model, TARGETS[adapt], adapt.split("+"), adapt=adapt)
    return list(adaptable(model, expression, None))


@pytest.mark.parametrize(
    ("config", "adapt", "names"),
    [
        (
            PhiConfig(**SIZES),
            "attention",
            [f"model.layers.N.self_attn.{end}" for end in ("q_proj", "k_proj", "v_proj", "dense")],
        ),
        (
            XLMConfig(vocab_size=60, emb_dim=32, n_heads=2, n_layers=2),
            "attention+mlp",
            [f"transformer.attentions.N.{end}_lin" for end in ("q", "k", "v", "out")]
            + [f"transformer.ffns.N.lin{end}" for end in (1, 2)],
        ),
        (
            T5Config(**T5),
            "attention",
            [f"transformer.encoder.block.N.layer.0.SelfAttention.{end}" for end in "qkvo"]
            + [f"transformer.decoder.block.N.layer.0.SelfAttention.{end}" for end in "qkvo"]
            + [f"transformer.decoder.block.N.layer.1.EncDecAttention.{end}" for end in "qkvo"],
        ),
    ],
    ids=["phi", "xlm", "t5"],
)
def test_a_name_is_every_linear_of_its_part_in_every_block(config, adapt, names):
    wanted = {name.replace(".N.", f".{n}.", 1) for name in names for n in range(2)}
    assert set(found(classifier(config), adapt)) == wanted


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SIZES, num_key_value_heads=1), MobileBertConfig(num_hidden_layers=2)],
    ids=["llama", "mobilebert"],
)
@pytest.mark.parametrize("adapt", list(TARGETS))
def test_the_usual_expression_stays_where_it_is_complete(config, adapt):
    model = classifier(config)
    assert complete(model, TARGETS[adapt], adapt.split("+"), adapt=adapt) == TARGETS[adapt]


@pytest.mark.parametrize(
    ("config", "adapt", "problem"),
    [
        (
            MixtralConfig(**SIZES, num_key_value_heads=1, num_local_experts=2),
            "attention+mlp",
            r"no block of MixtralForSequenceClassification has a Linear in its mlp; .* "
            r"Linears there are model.layers.N.self_attn.q_proj",
        ),
        (
            XLNetConfig(vocab_size=60, d_model=32, n_head=2, n_layer=2, d_inner=48),
            "attention",
            r"has a Linear in its attention; .* are transformer.layer.N.ff.layer_1",
        ),
        (SqueezeBertConfig(**SIZES, embedding_size=32), "attention", "are .*pooler.dense, classi"),
        (
            FNetConfig(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2),
            "attention",
            "are fnet.embeddings.projection, fnet.encoder.layer.N.intermediate.dense",
        ),
        (
            JambaConfig(
                **SIZES,
                num_key_value_heads=1,
                attn_layer_period=2,
                attn_layer_offset=1,
                mamba_d_state=4,
                num_experts=2,
                use_mamba_kernels=False,
            ),
            "attention",
            r"model.layers.1 has a Linear self_attn.k_proj and model.layers.0 has none",
        ),
    ],
    ids=["mixtral", "xlnet", "squeezebert", "fnet", "jamba"],
)
def test_what_a_name_would_leave_out_is_refused_with_the_names_there_are(config, adapt, problem):
    with pytest.raises(MissingError, match=problem):
        found(classifier(config), adapt)


class ExpertsAttention(nn.Module):
    """An attention most of which is in no Linear."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 4)
        self.projections = nn.Parameter(torch.zeros(3, 4, 4))


def test_a_large_matrix_in_no_linear_is_named():
    block = nn.ModuleDict({"attention": ExpertsAttention()})
    model = nn.ModuleDict({"layers": nn.ModuleList([block])})
    with pytest.raises(MissingError, match=r"layers.0.attention.projections is a matrix, but in"):
        complete(model, "^nothing$", ("attention",), adapt="attention")


def test_names_for_people_are_short():
    model = nn.ModuleDict({f"a{n}": nn.ModuleList([nn.Linear(1, 1)] * 3) for n in range(20)})
    names = linear_names(model)
    assert names.startswith("a0.N, a1.N") and names.endswith("and 8 more")
    assert linear_names(nn.ModuleDict()) == "none"


def test_conv1d_becomes_the_linear_that_computes_the_same():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_embd=32, n_head=2, n_layer=2, num_labels=3)
    config.pad_token_id = 0
    model = AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.tensor([[5, 6, 7, 8], [7, 8, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    before = model(**batch).logits
    replace_conv1d(model)
    kinds = {type(module).__name__ for module in model.modules()}
    assert "Conv1D" not in kinds
    assert sum(isinstance(module, TransposedLinear) for module in model.modules()) == 8
    torch.testing.assert_close(model(**batch).logits, before)


VISION = {**SIZES, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
del VISION["vocab_size"]


@pytest.mark.parametrize(
    ("text", "usual", "count"),
    [
        (LlamaConfig(**SIZES), True, 8),
        (
            T5Config(**T5),
            True,
            24,
        ),
        (
            OPTConfig(
                vocab_size=60,
                hidden_size=32,
                num_attention_heads=2,
                ffn_dim=48,
                num_hidden_layers=2,
                word_embed_proj_dim=32,
            ),
            False,
            8,
        ),
    ],
    ids=["llama", "t5", "opt"],
)
def test_the_language_model_of_a_captioner_is_covered_whatever_it_is(text, usual, count):
    """OPT's output projection has another name than that of Vicuna and FLAN-T5."""
    qformer = {**SIZES, "encoder_hidden_size": 32}
    config = InstructBlipConfig(
        vision_config=VISION, qformer_config=qformer, text_config=text.to_dict()
    )
    with torch.device("meta"):
        model = InstructBlipForConditionalGeneration(config)
    expression = captioning._targets(model, "qformer+lm")
    names = [n for n in adaptable(model, expression, None) if n.startswith("language_model.")]
    assert len(names) == count
    assert (expression == captioning.TARGETS["qformer+lm"]) == usual
