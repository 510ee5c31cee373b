"""Model folders that load but are not what they seem are refused before anything is trained."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.normalizers import Replace
from transformers import (
    AutoModelForSequenceClassification,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    OPTConfig,
)

from hpo.errors import HpoError
from hpo.training.base.fit import positions_of
from tests.training import model_folders, tiny_tokenizers
from tests.training.conftest import make_bench

STUDIES = {"captioner": "rsicap", "answerer": "kvasir"}
CJK = ("船在港口里停着", "机场旁边有许多飞机", "两条船", "三架飞机")


def set_up(folder, base, *assignments):
    study = STUDIES.get(base, "classify")
    return make_bench(f"model.name={folder}", "data.samples=40", *assignments, study=study)


def refusal(folder, base, *assignments):
    with pytest.raises(HpoError) as caught:
        set_up(folder, base, *assignments)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def weights(folder, change):
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})


def without(folder, *patterns):
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def part(folder, name, **changes):
    """Changes settings of a part of config.json, or of the image processor."""
    file = "processor_config.json" if name == "image_processor" else "config.json"
    found = json.loads((folder / file).read_text())
    model_folders.edit(folder / file, **{name: found[name] | changes})


@pytest.mark.parametrize("family", ["bert", "llama", "gemma", "opt"])
def test_a_whole_folder_is_taken_and_its_unknown_tokens_are_said(tmp_path, family):
    facts = set_up(model_folders.build(tmp_path / "base", family), family)[1]
    assert any("tokens unknown to the tokenizer" in check for check in facts.checks)


@pytest.mark.parametrize("family", model_folders.FAMILIES)
def test_a_folder_without_a_vocabulary_is_refused(tmp_path, family):
    folder = model_folders.build(tmp_path / "base", family)
    without(folder, "tokenizer.json")
    assert "holds no vocabulary of the tokenizer" in refusal(folder, family)
    without(folder, "tokenizer_config.json")
    assert "holds no vocabulary of the tokenizer" in refusal(folder, family)


@pytest.mark.parametrize("base", ["captioner", "answerer"])
def test_a_processor_without_a_vocabulary_is_refused(tmp_path, base):
    folder = model_folders.copy(tmp_path / "base", base)
    without(folder, "tokenizer.json")
    assert "holds no vocabulary of the tokenizer" in refusal(folder, base)


def test_instructblip_needs_the_tokenizer_of_its_qformer(tmp_path):
    folder = model_folders.copy(tmp_path / "base", "captioner")
    shutil.rmtree(folder / "qformer_tokenizer")
    assert "no vocabulary of the Q-Former's tokenizer" in refusal(folder, "captioner")
    tiny_tokenizers.qwen().save_pretrained(folder / "qformer_tokenizer")
    assert "the Q-Former's tokenizer pads with id" in refusal(folder, "captioner")


def test_a_vocabulary_without_its_merges_is_refused(tmp_path):
    folder = model_folders.build(tmp_path / "base", "qwen2")
    vocabulary = tiny_tokenizers.qwen().get_vocab()
    without(folder, "tokenizer.json")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    assert "vocab.json without merges.txt" in refusal(folder, "qwen2")


@pytest.mark.parametrize(
    ("base", "name", "content", "packages"),
    [
        ("llama", "tokenizer.model", b"\n\x0e\n\x05<unk>", "sentencepiece protobuf"),
        ("deberta", "spm.model", b"\n\x0e\n\x05[PAD]", "sentencepiece protobuf"),
        ("llama", "tokenizer.model", b"IQ== 0\nIg== 1\n", "tiktoken"),
    ],
)
def test_a_vocabulary_that_no_installed_package_reads_is_refused(
    tmp_path, base, name, content, packages
):
    """Both packages are named: transformers reads pieces with sentencepiece and protobuf only."""
    for module in ("sentencepiece", "google", "tiktoken"):
        if importlib.util.find_spec(module):
            pytest.skip(f"{module} is installed")
    folder = model_folders.build(tmp_path / "base", base)
    without(folder, "tokenizer.json")
    (folder / name).write_bytes(content)
    assert f"run pip install {packages}," in refusal(folder, base) + ","


def test_an_empty_vocabulary_is_refused_with_the_share_of_unknown_tokens(tmp_path):
    folder = model_folders.build(tmp_path / "base", "bert")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "100% of the texts' tokens are unknown to the tokenizer" in refusal(folder, "bert")


def test_an_empty_byte_level_vocabulary_is_refused(tmp_path):
    """It has no unknown token: all texts would be of no tokens at all."""
    folder = model_folders.build(tmp_path / "base", "llama", sentences=["a"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": {}, "merges": [], "unk_token": None, "byte_fallback": False}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "unknown to the tokenizer" in refusal(folder, "llama")


def test_a_text_that_gives_no_token_at_all_is_named(tmp_path):
    folder = model_folders.build(tmp_path / "base", "gpt2")
    tokenizer = tiny_tokenizers.gpt2()
    tokenizer.backend_tokenizer.normalizer = Replace("z", "")
    tokenizer.save_pretrained(folder)
    table = tmp_path / "texts.csv"
    rows = [f"a box {n},{'ab'[n % 2]}" for n in range(20)]
    table.write_text("text,label\n" + "\n".join([*rows, "zzz,a"]) + "\n", encoding="utf-8")
    own = ("data.format=table", f"data.root={table}", "data.max_length=20")
    assert "its text 'zzz' gives no token" in refusal(folder, "gpt2", *own)


def test_texts_in_another_script_than_the_tokenizer_knows_are_refused(tmp_path):
    table = tmp_path / "texts.csv"
    rows = [f"{text} {place},{'ab'[place % 2]}" for place in range(10) for text in CJK]
    table.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    own = ("data.format=table", f"data.root={table}")
    bert = model_folders.build(tmp_path / "bert", "bert")
    assert "tokens are unknown to the tokenizer" in refusal(bert, "bert", *own)
    llama = model_folders.build(tmp_path / "llama", "llama")
    checks = set_up(llama, "llama", *own)[1].checks
    assert any(check.startswith("0.0% of ") for check in checks), "it spells them in bytes"


@pytest.mark.parametrize("other", ["qwen", "llama"])
def test_the_tokenizer_of_a_larger_model_is_refused(tmp_path, other):
    folder = model_folders.build(tmp_path / "base", "bert")
    without(folder, "tokenizer*")
    tiny_tokenizers.KINDS[other]().save_pretrained(folder)
    message = refusal(folder, "bert")
    assert "has a vocabulary of" in message and "belongs to the weights" in message


def test_a_tokenizer_to_which_padding_is_a_word_is_refused(tmp_path):
    folder = model_folders.build(tmp_path / "base", "bert", vocab_size=600, pad_token_id=80)
    assert "the model pads with id 80, which is the word" in refusal(folder, "bert")


def test_an_added_token_outside_of_the_embedding_is_refused_where_a_text_has_it(tmp_path):
    folder = model_folders.build(tmp_path / "base", "llama", vocab_size=700)
    tokenizer = tiny_tokenizers.llama()
    tokenizer.add_tokens([f"word{place}" for place in range(400)])
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) > 700 > tokenizer.vocab_size
    set_up(folder, "llama")
    table = tmp_path / "texts.csv"
    table.write_text("text,label\n" + "".join(f"word399 {n},{'ab'[n % 2]}\n" for n in range(40)))
    own = ("data.format=table", f"data.root={table}")
    assert "word399' the id" in refusal(folder, "llama", *own)


@pytest.mark.parametrize("family", ["bert", "captioner"])
def test_adapter_files_next_to_the_weights_are_refused(tmp_path, family):
    make = model_folders.copy if family == "captioner" else model_folders.build
    folder = make(tmp_path / "base", family)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "holds an adapter (adapter_config.json)" in refusal(folder, family)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: {f"module.x.{n}": v for n, v in t.items()}, "of 41 tensors that config.json"),
        (lambda t: {n: t[n] for n in list(t)[:20]}, "it lacks"),
        (lambda t: t | {"bert.embeddings.word_embeddings.weight": torch.zeros(9, 32)}, "(9, 32)"),
        (lambda t: t | {"bert.encoder.layer.2.output.dense.bias": torch.zeros(9)}, "no place for"),
        (lambda t: t | {"bert.pooler.dense.scale_weight": torch.zeros(9)}, None),
        (lambda t: t | {"cls.predictions.bias": torch.zeros(9)}, None),
        (lambda t: {n.removeprefix("bert."): v for n, v in t.items()}, None),
        (lambda t: {n: v for n, v in t.items() if "classifier" not in n}, None),
    ],
)  # fmt: skip
def test_weights_that_are_not_those_of_the_configuration_are_refused(tmp_path, change, why):
    folder = model_folders.build(tmp_path / "base", "bert")
    weights(folder, change)
    if why is None:
        set_up(folder, "bert")
    else:
        assert why in refusal(folder, "bert")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"num_hidden_layers": 1}, "its weights hold 16 tensors that the model has no place for"),
        ({"num_hidden_layers": 3}, "it lacks 16 of 57 tensors"),
        ({"model_type": "gpt2"}, "and holds bert.embeddings.LayerNorm.bias and the like instead"),
        ({"model_type": "vit"}, "no model for sequence classification of architecture 'vit'"),
        ({"model_type": "no-such"}, "is no architecture that transformers"),
        ({"num_attention_heads": 0}, "the weights in"),
        ({"hidden_size": "32"}, "the configuration in"),
        ({"hidden_act": "no-such"}, "cannot be loaded"),
    ],
)
def test_a_configuration_of_another_model_is_one_sentence(tmp_path, changes, why):
    folder = model_folders.build(tmp_path / "base", "bert")
    model_folders.edit(folder / "config.json", **changes)
    message = refusal(folder, "bert")
    assert why in message and "--model DIR" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    folder = model_folders.build(tmp_path / "base", "bert")
    name = next(n for n in load_file(folder / "model.safetensors") if n.endswith("query.weight"))

    def spoilt(tensors):
        tensors[name][1, 2] = value
        return tensors

    weights(folder, spoilt)
    message = refusal(folder, "bert")
    assert "1 tensors of its weights hold NaN or infinity" in message and name in message


def test_weights_of_which_the_sum_overflows_are_taken(tmp_path):
    folder = model_folders.build(tmp_path / "base", "bert")

    def large(tensors):
        return {n: t + 8000 if n.endswith("LayerNorm.bias") else t for n, t in tensors.items()}

    weights(folder, large)
    set_up(folder, "bert", "model.precision=float16")


def test_a_bias_that_the_configuration_leaves_out_is_refused(tmp_path):
    folder = model_folders.build(tmp_path / "base", "llama")
    weights(folder, lambda t: t | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})
    assert "q_proj.bias" in refusal(folder, "llama")


def test_heads_that_do_not_fit_fail_in_a_sentence(tmp_path):
    folder = model_folders.build(tmp_path / "base", "llama")
    model_folders.edit(folder / "config.json", num_attention_heads=1, num_key_value_heads=1)
    assert "config.json" in refusal(folder, "llama")


@pytest.mark.parametrize("base", ["captioner", "answerer"])
def test_a_text_model_is_refused_by_tasks_with_images(tmp_path, base):
    folder = model_folders.build(tmp_path / "base", "bert")
    assert "model_type = 'bert', and this task takes" in refusal(folder, base)


@pytest.mark.parametrize("base", ["captioner", "answerer"])
def test_a_model_of_images_is_refused_by_classification(tmp_path, base):
    folder = model_folders.copy(tmp_path / "base", base)
    assert "no model for sequence classification of architecture" in refusal(folder, "classifier")


@pytest.mark.parametrize("setting", ["patch_size", "merge_size", "temporal_patch_size"])
def test_an_image_processor_of_another_tower_is_refused(tmp_path, setting):
    folder = model_folders.copy(tmp_path / "base", "answerer")
    part(folder, "image_processor", **{setting: 4})
    assert f"its processor has {setting} = 4" in refusal(folder, "answerer")


def test_images_of_another_size_than_the_tower_takes_are_refused(tmp_path):
    folder = model_folders.copy(tmp_path / "base", "captioner")
    part(folder, "image_processor", size={"height": 32, "width": 32})
    assert "takes 64 x 64 pixels" in refusal(folder, "captioner")
    without(folder, "processor_config.json")
    assert "say how images are prepared" in refusal(folder, "captioner")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "it has no chat template"),
        ("{% if %}", "its chat template cannot write"),
        ("{{ raise_exception('no images') }}", "no images"),
        ("{{ messages[0]['role'] }}", "0 times for one image"),
    ],
)
def test_a_chat_template_that_does_not_ask_is_refused(tmp_path, template, why):
    folder = model_folders.copy(tmp_path / "base", "answerer")
    without(folder, "chat_template.jinja")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    assert why in refusal(folder, "answerer")


def test_custom_code_is_never_run_and_never_asked_about(tmp_path):
    folder = model_folders.build(tmp_path / "base", "bert")
    code = {"AutoConfig": "modeling.C", "AutoModelForSequenceClassification": "modeling.M"}
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    model_folders.edit(folder / "config.json", auto_map=code)
    set_up(folder, "bert")
    model_folders.edit(folder / "config.json", model_type="modern-custom")
    assert "needs Python code that came with the model" in refusal(folder, "bert")
    model_folders.edit(folder / "config.json", model_type="bert", auto_map=None)
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["modeling.T", "modeling.F"]}}
    model_folders.edit(folder / "tokenizer_config.json", **own)
    set_up(folder, "bert")
    without(folder, "tokenizer.json")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    assert "'Own' needs Python code" in refusal(folder, "bert")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("family", ["bert", "opt"])
def test_texts_are_cut_at_the_positions_that_a_model_has(tmp_path, family):
    folder = model_folders.build(tmp_path / "base", family, max_position_embeddings=24)
    bench, facts = set_up(folder, family, "data.max_length=200")
    assert max(row.length for row in bench.train) == 24
    assert any(check.startswith("texts cut at 24 tokens") for check in facts.checks)


def test_a_model_without_learned_positions_reads_texts_of_any_length(tmp_path):
    folder = model_folders.build(tmp_path / "base", "llama", max_position_embeddings=24)
    bench, facts = set_up(folder, "llama", "data.max_length=200")
    assert max(row.length for row in bench.train) > 24
    assert not any("texts cut" in check for check in facts.checks)


def test_captions_longer_than_the_positions_of_the_language_model_are_refused(tmp_path):
    folder = model_folders.copy(tmp_path / "base", "captioner")
    config = InstructBlipConfig.from_pretrained(folder).to_dict()
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 32}
    text = OPTConfig(
        vocab_size=1024,
        word_embed_proj_dim=32,
        max_position_embeddings=40,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        **sizes,
    )
    config |= {"text_config": text.to_dict(), "use_decoder_only_language_model": True}
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(InstructBlipConfig.from_dict(config))
    model.save_pretrained(folder)
    assert "the language model has positions for 40; set it lower" in refusal(folder, "captioner")
    set_up(folder, "captioner", "data.max_length=8")


def test_a_tokenizer_without_an_end_is_refused_for_captions(tmp_path):
    folder = model_folders.copy(tmp_path / "base", "captioner")
    model_folders.edit(folder / "tokenizer_config.json", eos_token=None)
    message = refusal(folder, "captioner")
    assert "no end token" in message


@pytest.mark.parametrize("family", model_folders.FAMILIES)
def test_a_model_reads_as_many_tokens_as_its_positions_and_no_more(tmp_path, family):
    folder = model_folders.build(tmp_path / "base", family, max_position_embeddings=24)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    most = positions_of(model)
    expected = {"roberta": 22, "llama": None, "gemma": None, "qwen2": None}
    assert most == expected.get(family, 24)

    def read(tokens):
        return model(input_ids=torch.full((1, tokens), 7)).logits

    assert bool(read(most or 60).isfinite().all())
    if most is not None:
        with pytest.raises((IndexError, RuntimeError)):
            read(most + 1)
