"""What a study is made from: every byte that training reads, and none that it does not."""

import json
import shutil

import pytest
from PIL import Image

from hpo.contents import read_contents
from hpo.data import read_examples
from hpo.data.stages import former_order
from hpo.errors import ModelError
from hpo.specs import DataSpec
from hpo.weights import digest, model_files, processor_files

MIDDLE = 2 << 20
INDEX = "model.safetensors.index.json"
NAMES = ("P0001_0001.png", "P0002_0001.png", "P0003_0001.png")


@pytest.fixture
def base(tmp_path):
    """A model folder with one weights file, a tokenizer, and one for the Q-Former."""
    folder = tmp_path / "base"
    (folder / "qformer_tokenizer").mkdir(parents=True)
    write(folder / "config.json", b"{}")
    write(folder / "model.safetensors", bytes(2 * MIDDLE))
    write(folder / "tokenizer.json", b"{}")
    write(folder / "preprocessor_config.json", b"{}")
    write(folder / "qformer_tokenizer" / "vocab.txt", b"a\nb\n")
    return folder


@pytest.fixture
def pictures(tmp_path):
    """An RSICap folder of three images."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(root / "images" / name)
    rows = [{"filename": name, "text_output": f"It is {name}."} for name in NAMES]
    write(root / "captions.json", json.dumps({"annotations": rows}).encode())
    return root


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def whole(base, root=None, **settings):
    """The digests by key."""
    data = DataSpec(format="rsicap" if root else "scenes", root=str(root or ""), **settings)
    return read_contents(base, read_examples(data)).whole


def change_middle(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_one_byte_in_the_middle_of_the_weights_counts(base):
    before, ends = whole(base), digest(base)
    change_middle(base / "model.safetensors")
    after = whole(base)
    assert digest(base) == ends, "which earlier versions compared"
    differing = {
        name for name, value in before["model files"].items() if after["model files"][name] != value
    }
    assert differing == {"model.safetensors"}
    assert after["processor files"] == before["processor files"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("config.json", "model files"),
        ("tokenizer.json", "processor files"),
        ("preprocessor_config.json", "processor files"),
        ("qformer_tokenizer/vocab.txt", "processor files"),
        ("chat_template.jinja", "processor files"),
        ("additional_chat_templates/tool.jinja", "processor files"),
        ("special_tokens_map.json", "processor files"),
        ("spiece.model", "processor files"),
    ],
)
def test_every_file_that_loading_reads_counts(base, name, key):
    before = whole(base)
    write(base / name, b'{"other": 1}')
    after = whole(base)
    assert {k for k in after if after[k] != before[k]} == {key}
    assert name in after[key]


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE.txt",
        "generation_config.json",
        "trainer_state.json",
        "all_results.json",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "checkpoint-500/model.safetensors",
        "checkpoint-500/tokenizer.json",
    ],
)
def test_a_file_that_nothing_reads_does_not_count(base, name):
    before = whole(base)
    write(base / name, b'{"other": 1}')
    assert whole(base) == before


def test_an_index_of_shards_that_are_gone_does_not_count_next_to_the_whole_weights(base):
    before = whole(base)
    write(base / INDEX, b'{"weight_map": {"weight": "model-00001-of-00002.safetensors"}}')
    assert whole(base) == before


def sharded(base, *names):
    (base / "model.safetensors").unlink()
    for name in names:
        write(base / name, bytes(2 * MIDDLE))
    weight_map = {f"weight {index}": name for index, name in enumerate((*names, *names))}
    write(base / INDEX, json.dumps({"weight_map": weight_map}).encode())


def test_of_shards_those_count_that_the_index_names(base):
    sharded(base, "a.safetensors", "b.safetensors")
    write(base / "old.safetensors", b"old")
    before = whole(base)["model files"]
    assert set(before) == {"config.json", "a.safetensors", "b.safetensors"}
    change_middle(base / "b.safetensors")
    after = whole(base)["model files"]
    assert [name for name in before if before[name] != after[name]] == ["b.safetensors"]


def test_the_file_that_the_configuration_names_counts(base):
    write(base / "config.json", b'{"transformers_weights": "best.safetensors"}')
    write(base / "best.safetensors", b"best")
    assert [path.name for path in model_files(base)] == ["config.json", "best.safetensors"]


def test_a_shard_that_is_not_there_is_named(base):
    sharded(base, "a.safetensors", "b.safetensors")
    (base / "b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"1 of them are not there, such as b\.safetensors"):
        whole(base)


@pytest.mark.parametrize(
    "content", [b"", b"[", b"[1]", b'{"weight_map": 3}', b"\xff", b"[" * 99999]
)
def test_an_index_that_is_damaged_is_refused(base, content):
    sharded(base, "a.safetensors")
    write(base / INDEX, content)
    with pytest.raises(ModelError, match=INDEX):
        model_files(base)
    assert len(processor_files(base)) == 3


def test_an_edited_image_counts_and_a_copy_elsewhere_is_the_same(base, pictures, tmp_path):
    before = whole(base, pictures)
    shutil.copytree(pictures, tmp_path / "copy")
    shutil.copytree(base, tmp_path / "copied base")
    assert whole(tmp_path / "copied base", tmp_path / "copy") == before
    Image.new("RGB", (8, 8), (0, 0, 1)).save(pictures / "images" / NAMES[1])
    after = whole(base, pictures)
    assert {key for key in after if after[key] != before[key]} == {"images"}


def test_two_images_that_change_places_count(base, pictures):
    Image.new("RGB", (8, 8), (9, 9, 9)).save(pictures / "images" / NAMES[1])
    before = whole(base, pictures)["images"]
    one, other = (pictures / "images" / name for name in NAMES[:2])
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert whole(base, pictures)["images"] != before


def test_an_image_that_no_chosen_row_uses_does_not_count(base, pictures):
    read = read_examples(DataSpec(format="rsicap", root=str(pictures), samples=2))
    used = {example.name for example in read.train + read.val}
    (unused,) = set(NAMES) - used
    before = whole(base, pictures, samples=2)
    Image.new("RGB", (8, 8), (0, 0, 1)).save(pictures / "images" / unused)
    assert whole(base, pictures, samples=2) == before


def test_drawn_data_have_no_images_to_compare(base):
    assert set(whole(base)) == {"model files", "processor files"}


def contents_of(base, path, rows, **settings):
    """Contents of questions whose images all are one."""
    path.mkdir()
    for row in rows:
        Image.new("RGB", (8, 8)).save(path / f"{row['image_id']}.png")
    (path / "annotations.json").write_text(json.dumps(rows))
    return read_contents(base, read_examples(DataSpec(format="vqa", root=str(path), **settings)))


def test_the_order_of_stages_is_stored_and_the_one_of_before_known(base, tmp_path):
    rows = [
        {"image_id": f"s{index}", "question": "What?", "answer": "A.", "stage": stage}
        for index, stage in enumerate(["easy", "medium", "hard"] * 12)
    ]
    given = ("easy", "medium", "hard")
    found = contents_of(base, tmp_path / "one", rows, stages=given)
    assert found.whole["stages"] == list(given)
    assert found.former["stages"] == ["easy", "hard", "medium"]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["easy", "medium", "hard"], ("easy", "hard", "medium")),
        (["10", "2", "1"], ("1", "2", "10")),
        (["b", "10", "a", "2"], ("2", "10", "a", "b")),
        (["one"], ()),
        ([], ()),
    ],
)
def test_the_former_order_is_that_of_earlier_versions(names, order):
    assert former_order(names) == order


def labelled(base, path, names):
    lines = [f"text {name} {number},{name}" for name in names for number in range(4)]
    path.write_text("\n".join(["text,label", *lines]))
    return read_contents(base, read_examples(DataSpec(format="table", root=str(path))))


def test_the_order_of_labels_is_stored_and_the_one_of_before_known(base, tmp_path):
    names = [str(number) for number in range(12)]
    found = labelled(base, tmp_path / "data.csv", names)
    assert sorted(found.whole["labels"], key=int) == names
    assert found.former["labels"] == sorted(names)


def test_very_many_labels_are_stored_as_a_digest(base, tmp_path):
    names = [f"a label with a long name {number}" for number in range(1000)]
    found = labelled(base, tmp_path / "data.csv", names)
    assert found.whole["labels"].startswith("1000 names, sha256 ")
    assert len(json.dumps(found.whole)) < 5000
