"""Inputs, masks and losses of InstructBLIP, against the stock processor and forward pass."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
)

from hpo.data import read_examples
from hpo.errors import HpoError
from hpo.mini import CAPTIONER
from hpo.specs import DataSpec, ModelSpec
from hpo.training.base.lora import LoraLinear
from hpo.training.base.losses import NonFiniteError
from hpo.training.tasks import Source
from hpo.training.tasks.captioning import Captioning
from tests.training.conftest import make_bench

DATA = DataSpec(format="scenes", samples=10)
CACHE = 64 << 20


def source(data):
    """Where a task comes from that works on these data."""
    return Source(
        model=ModelSpec(name="mini"),
        data=data,
        examples=read_examples(data),
        device=torch.device("cpu"),
        dtype=torch.float32,
        cache_bytes=CACHE,
    )


def processor():
    return InstructBlipProcessor.from_pretrained(CAPTIONER, local_files_only=True)


@pytest.fixture(scope="module")
def examples():
    return read_examples(DATA).train


@pytest.fixture(scope="module")
def flan():
    model = InstructBlipForConditionalGeneration.from_pretrained(
        CAPTIONER, dtype=torch.float32, local_files_only=True
    )
    return Captioning(model, processor(), source(DATA))


@pytest.fixture(scope="module")
def vicuna():
    """A tiny decoder-only InstructBLIP with random weights."""
    torch.manual_seed(0)
    config = InstructBlipConfig.from_pretrained(CAPTIONER).to_dict()
    text = LlamaConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
        eos_token_id=1,
    )
    config["text_config"] = text.to_dict()
    model = InstructBlipForConditionalGeneration(InstructBlipConfig.from_dict(config))
    return Captioning(model, processor(), source(DATA))


def test_inputs_are_those_of_the_processor(flan, examples):
    rows = flan.encode(examples[:4])
    ours = flan.collate(rows)
    theirs = processor()(
        images=[example.image() for example in examples[:4]],
        text=[example.prompt for example in examples[:4]],
        padding=True,
        return_tensors="pt",
    )
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, msg=name)


@pytest.mark.parametrize("which", ["flan", "vicuna"])
def test_loss_is_that_of_the_stock_forward_pass(which, examples, request):
    task = request.getfixturevalue(which)
    rows = task.encode(examples[:5])
    batch = task.collate(rows)
    with torch.no_grad():
        losses = task.losses(batch).rows
        stock = task.model(**batch).loss
    assert losses.shape == (5,)
    targets = sum(row.targets for row in rows)
    torch.testing.assert_close(losses.sum() / targets, stock, rtol=0, atol=1e-5)


def test_flan_labels_are_caption_and_end_with_padding_masked(flan, examples):
    rows = flan.encode(examples[:4])
    labels = flan.collate(rows)["labels"]
    tokenizer = processor().tokenizer
    for example, ids in zip(examples, labels.tolist(), strict=False):
        kept = [i for i in ids if i != -100]
        assert kept[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(kept[:-1]).strip() == example.target


def test_decoder_only_labels_mask_image_prompt_and_padding(vicuna, examples):
    rows = vicuna.encode(examples[:4])
    batch = vicuna.collate(rows)
    assert batch["labels"].shape == batch["input_ids"].shape
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        start, end = len(row.prompt), len(row.prompt) + len(row.target)
        assert labels[:start].eq(-100).all() and labels[end:].eq(-100).all()
        assert labels[start:end].equal(ids[start:end])


def test_captions_are_cut_at_max_length_with_their_end(examples):
    short = DATA.model_copy(update={"max_length": 8})
    model = InstructBlipForConditionalGeneration.from_pretrained(CAPTIONER, local_files_only=True)
    rows = Captioning(model, processor(), source(short)).encode(examples[:3])
    assert [len(row.target) for row in rows] == [8, 8, 8]
    assert all(row.target[-1] == processor().tokenizer.eos_token_id for row in rows)


def test_too_few_image_tokens_are_an_error(flan, examples):
    row = flan.encode(examples[:1])[0]
    cut = type(row)(
        example=row.example,
        prompt=row.prompt[1:],
        qformer_prompt=row.qformer_prompt,
        target=row.target,
    )
    with pytest.raises(AssertionError, match="image tokens"):
        flan.collate([cut])


@pytest.mark.parametrize(
    "module, where",
    [
        ("qformer", "query embeddings"),
        ("language_projection", "language projection"),
        ("language_model.lm_head", "loss"),
    ],
)
def test_the_place_of_the_first_nan_is_named(module, where, examples):
    model = InstructBlipForConditionalGeneration.from_pretrained(CAPTIONER, local_files_only=True)
    task = Captioning(model, processor(), source(DATA))
    with torch.no_grad():
        next(model.get_submodule(module).parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError) as caught:
        task.losses(task.collate(task.encode(examples[:2]))).check()
    assert caught.value.where == where


def test_verification_holds_the_untied_head(flan):
    assert "lm_head untied" in flan.verify()
    model = InstructBlipForConditionalGeneration.from_pretrained(CAPTIONER, local_files_only=True)
    model.language_model.lm_head.weight = model.language_model.shared.weight
    with pytest.raises(HpoError, match="tied"):
        Captioning(model, processor(), source(DATA)).verify()


def test_the_tokenizer_encodes_any_text():
    tokenizer = processor().tokenizer
    text = "Zürich: 遥感图像 \N{ROCKET} x=1e-4; grassland"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text


def test_real_captions_stay_short_enough(shared, flan):
    real = read_examples(DataSpec(format="rsicap", root=str(shared / "rsscn7"), samples=50))
    lengths = [len(row.target) for row in flan.encode(real.train)]
    assert max(lengths) < 256


@pytest.mark.parametrize("which", ["flan", "vicuna"])
def test_a_caption_does_not_depend_on_longer_prompts_beside_it(which, examples, request):
    task = request.getfixturevalue(which)
    prompts = ("Describe it.", "Which ships are there, and how many of each?", "Colors?")
    rows = task.encode(
        [replace(one, prompt=text) for one, text in zip(examples, prompts, strict=False)]
    )
    assert len({len(row.prompt) for row in rows}) == 3
    together = task.answers(rows)
    assert together == [task.answers([row])[0] for row in rows]
    assert len(set(together)) > 1 and all(together)


def test_every_linear_can_be_adapted_but_the_head_that_losses_are_computed_from():
    bench, facts = make_bench("model.adapt=(?!.*lm_head).*")
    linears = [n for n, m in bench.task.model.named_modules() if isinstance(m, LoraLinear)]
    assert facts.adapted_layers == len(linears)
    assert any(name.endswith("DenseReluDense.wo") for name in linears), "T5 asks for its dtype"
    assert any(name.startswith("vision_model") for name in linears)
    with pytest.raises(HpoError, match="lm_head"):
        make_bench("model.adapt=.*")


def test_adapters_in_the_vision_tower_of_an_answerer_are_refused():
    with pytest.raises(HpoError, match=r"matches model\.visual.*language_model only"):
        make_bench("model.adapt=.*", study="kvasir")
