"""The embedded Qwen2-VL: really pretrained on shapes, and a base as any other."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration

from hpo.mini import ANSWERER
from hpo.mini.pretrain_answerer import conversation, encode, seen_shapes
from hpo.mini.questions import ask, shown
from hpo.mini.scenes import picture, scene_facts
from hpo.mini.shapes import shape_picture
from hpo.training.base.stills import StillsProcessor

UNSEEN = 2**31  # no seed of the pretraining
PICTURES = 60


@pytest.fixture(scope="module")
def processor():
    return StillsProcessor.from_pretrained(ANSWERER, local_files_only=True)


@pytest.fixture(scope="module")
def model():
    return Qwen2VLForConditionalGeneration.from_pretrained(
        ANSWERER, dtype=torch.float32, local_files_only=True
    ).eval()


@pytest.fixture
def no_network(monkeypatch):
    """Every connection fails."""

    def refuse(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture(scope="module")
def shapes():
    """Pictures of shapes, and what they show."""
    rng = np.random.default_rng(UNSEEN)
    drawn = [shape_picture(rng) for _ in range(PICTURES)]
    return [(one.image, seen_shapes(one.facts)) for one in drawn]


@pytest.fixture(scope="module")
def scenes():
    """Pictures of aerial scenes, and what they show."""
    return [
        (picture(UNSEEN, index), shown(scene_facts(UNSEEN, index))) for index in range(PICTURES)
    ]


@torch.no_grad()
def answered(model, processor, pictures, kind):
    """Share of the questions of a kind that are answered word by word."""
    rng = np.random.default_rng(UNSEEN)
    asked = [ask(rng, kind, seen) for _, seen in pictures]
    said = [[(question.text, question.answer)] for question in asked]
    batch = encode(processor, said, [image for image, _ in pictures])
    labels = batch.pop("labels")[:, 1:]
    given = model(**batch).logits[:, :-1].argmax(-1)
    return ((given == labels) | (labels == -100)).all(1).float().mean().item()


def test_it_is_loaded_without_a_network_and_answers_in_words(no_network):
    processor = StillsProcessor.from_pretrained(ANSWERER, local_files_only=True)
    model = Qwen2VLForConditionalGeneration.from_pretrained(ANSWERER, local_files_only=True)
    messages = conversation([("How many objects are there?", "")], with_image=True)[:1]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=text, images=[picture(UNSEEN, 0)], return_tensors="pt")
    said = model.float().generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = processor.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.endswith(".") and answer[0].isupper()


def test_it_is_small_and_half_precision(model):
    assert (ANSWERER / "model.safetensors").stat().st_size <= 3_500_000
    config = json.loads((ANSWERER / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert config["model_type"] == "qwen2_vl"
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_its_files_name_the_stock_processor():
    for name in ("processor_config.json", "tokenizer_config.json"):
        assert json.loads((ANSWERER / name).read_text())["processor_class"] == "Qwen2VLProcessor"


def test_a_processor_as_the_hub_has_it_is_loaded(processor, tmp_path):
    processor.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    images = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    template = json.dumps({"chat_template": processor.chat_template})
    (tmp_path / "chat_template.json").write_text(template)
    loaded = StillsProcessor.from_pretrained(tmp_path, local_files_only=True)
    batch = encode(loaded, [[("What is it?", "A ship.")]], [Image.new("RGB", (448, 280))])
    assert (batch["input_ids"] == loaded.image_token_id).sum() == 16 * 10
    assert loaded.chat_template == processor.chat_template


def test_the_template_is_that_of_qwen2_vl(processor):
    messages = conversation([("What is it?", "A ship.")], with_image=True)
    assert processor.apply_chat_template(messages) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is it?<|im_end|>\n"
        "<|im_start|>assistant\nA ship.<|im_end|>\n"
    )
    start = processor.apply_chat_template(messages[:1], add_generation_prompt=True)
    assert start.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert processor.apply_chat_template([{"role": "system", "content": "Be brief."}]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("size", "tokens"), [((64, 64), 16), ((32, 32), 16), ((128, 64), 32), ((900, 900), 64)]
)
def test_an_image_takes_as_many_tokens_as_its_size_asks_for(processor, size, tokens):
    batch = encode(processor, [[("What is it?", "A ship.")]], [Image.new("RGB", size)])
    assert (batch["input_ids"] == processor.image_token_id).sum() == tokens
    assert batch["image_grid_thw"].prod() == 4 * tokens


def test_what_the_assistant_says_is_what_is_learnt(processor):
    said = [("What is it?", "A ship."), ("How many?", "Two.")]
    batch = encode(processor, [said, said[:1]], None)
    texts = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert texts == ["A ship.<|im_end|>Two.<|im_end|>", "A ship.<|im_end|>"]


@pytest.mark.parametrize("text", ["Is a polyp there?", "naïve — 你好 🙂\n", "¿Cuántos?", ""])
def test_any_text_is_encoded_and_comes_back(processor, text):
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.decode(ids) == text
    assert len(ids) <= len(text.encode())


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("ground", 0.9),
        ("color", 0.8),
        ("side", 0.6),
        ("count", 0.4),
        ("thing", 0.4),
        ("is_ground", 0.65),
    ],
)
def test_it_sees_shapes(model, processor, shapes, kind, least):
    assert answered(model, processor, shapes, kind) >= least


@pytest.mark.parametrize(("kind", "most"), [("place", 0.4), ("thing", 0.4), ("summary", 0.1)])
def test_it_has_never_seen_a_place(model, processor, scenes, kind, most):
    assert answered(model, processor, scenes, kind) <= most
