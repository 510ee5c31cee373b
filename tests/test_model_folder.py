"""What the files of a model folder show before anything is loaded."""

import json
import shutil

import pytest

from hpo.errors import ModelError
from hpo.mini import ANSWERER, CAPTIONER, CLASSIFIER
from hpo.model_folder import read_header
from hpo.weights import find_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3021008\n"
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(CLASSIFIER, tmp_path / "base")


def refusal(folder):
    with pytest.raises(ModelError) as caught:
        find_model(str(folder))
    message = str(caught.value)
    assert message.startswith(f"model {folder}: ") and "\n" not in message
    assert "--model DIR" in message
    return message


def settings(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def stored(folder, **tensors):
    """Writes a safetensors file of zeros with these tensors: (dtype, shape, bytes of a value)."""
    header, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        begin, end = end, end + size * shape[0] * shape[1]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


@pytest.mark.parametrize("base", [CAPTIONER, CLASSIFIER, ANSWERER])
def test_the_embedded_models_are_what_they_seem(base):
    assert find_model(str(base)) == base
    assert read_header(base / WEIGHTS)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (WEIGHTS, POINTER, "is a git-lfs pointer"),
        ("tokenizer.json", POINTER, "is a git-lfs pointer"),
        (CONFIG, POINTER, "is a git-lfs pointer"),
        ("tokenizer.model", POINTER, "is a git-lfs pointer"),
        (WEIGHTS, b"<!DOCTYPE html><html></html>", "is a web page"),
        (CONFIG, b"\n<html><body>404</body></html>", "is a web page"),
        (WEIGHTS, b"PK\x03\x04rest of a zip", "is a PyTorch file"),
        (WEIGHTS, b"GGUF\x03\x00", "is a GGUF file"),
        (WEIGHTS, b"", "is empty"),
        (WEIGHTS, bytes(4000), "is no safetensors file"),
        (WEIGHTS, b"\x02\0\0\0\0\0\0\0{}", "holds no tensors"),
        (WEIGHTS, b"\x05\0\0\0\0\0\0\0[[[[[", "is no safetensors file"),
        ("tokenizer.json", b"{", "line 1, column 2"),
        (CONFIG, b"[1]", "is a JSON list, not an object"),
        (CONFIG, b'{"model_type": "b\xffrt"}', "byte 17 is 0xff"),
        (CONFIG, b'{"model_type": "bert"}'.decode().encode("utf-16"), "byte 0 is 0xff"),
        (CONFIG, b'{"a": ' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
        (CONFIG, b'{"vocab_size": ' + b"1" * 5000 + b"}", "a number of thousands of digits"),
        (INDEX, b'{"weight_map": {"a": "../other.safetensors"}}', "no file next to it"),
        ("adapter_config.json", b"{}", "holds an adapter"),
        ("adapter_model.safetensors", b"", "holds an adapter"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(folder, name, content, why):
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert why in message and name in message


@pytest.mark.parametrize("size", [7, 300, 100_000, -1])
def test_weights_that_were_cut_are_refused(folder, size):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    message = refusal(folder)
    assert "safetensors" in message and "download it again" in message


def test_weights_with_something_appended_are_refused(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes() + b"0")
    assert "3,021,009 bytes, and 3,021,008 by its header" in refusal(folder)


def test_a_folder_that_is_only_an_adapter_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "other/base"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "merge_and_unload" in refusal(tmp_path)


def test_shards_that_an_index_names_must_be_there(folder):
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))
    assert "names 2 files of weights and 1 of them are not there" in refusal(folder)
    there = read_header(folder / shards["a"])
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(there, shards["a"])}))
    assert find_model(str(folder)) == folder


def test_tensors_that_an_index_names_must_be_in_its_files(folder):
    """As where one shard was downloaded under two names."""
    shards = [folder / f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    (folder / WEIGHTS).rename(shards[0])
    shutil.copy(shards[0], shards[1])
    where = dict.fromkeys(read_header(shards[0]), shards[0].name)
    where["score.weight"] = shards[1].name
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    assert "1 of which are in none of its files, such as score.weight" in refusal(folder)


def test_two_sets_of_weights_are_refused_and_a_stale_index_is_not(folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "other.safetensors"}}))
    assert find_model(str(folder)) == folder
    shutil.copy(folder / WEIGHTS, folder / "other.safetensors")
    assert f"two sets of weights, {WEIGHTS} and other.safetensors" in refusal(folder)


def test_weights_by_another_name_are_named(folder):
    (folder / WEIGHTS).rename(folder / "consolidated.safetensors")
    assert "but consolidated.safetensors" in refusal(folder)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"layer.q.lora_A.default.weight": ("F32", [2, 2], 4)}, "holds an adapter's tensors"),
        ({"layer.q.weight": ("I8", [2, 2], 1)}, "is stored as I8, of a quantised model"),
        ({"layer.q.qweight": ("I32", [2, 2], 4)}, "is stored as I32, of a quantised model"),
        ({"layer.q.weight": ("F8_E4M3", [2, 2], 1)}, "is stored as F8_E4M3"),
    ],
)
def test_tensors_that_are_no_base_are_refused(folder, tensors, why):
    stored(folder, **tensors)
    assert why in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantised (gptq)"),
        ({"text_config": {"quantization_config": {}}}, "text_config.quantization_config"),
        ({"model_type": None}, "model_type = None"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000, and the weights have"),
        ({"vocab_size": 10**9}, "vocab_size = 1000000000, and the longest side"),
        ({"intermediate_size": 10**12}, "intermediate_size = 1000000000000, and the longest"),
        ({"hidden_size": 10**300}, "hidden_size is a number of 301 digits"),
    ],
)
def test_a_configuration_that_cannot_be_of_these_weights_is_refused(folder, changes, why):
    settings(folder, **changes)
    message = refusal(folder)
    assert why in message and CONFIG in message


def test_no_quantization_is_no_reason_to_refuse(folder):
    settings(folder, quantization_config=None)
    assert find_model(str(folder)) == folder


def test_a_folder_in_the_place_of_a_file_and_a_dangling_link_are_named(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    assert "tokenizer.json is no file" in refusal(folder)
    (folder / "tokenizer.json").rmdir()
    (folder / "tokenizer.json").symlink_to("nowhere")
    assert "a link to a file that is gone" in refusal(folder)
