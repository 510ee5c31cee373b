"""Names of images in rows, and as they stand on the disk."""

import json
import unicodedata

import pytest
from PIL import Image

from hpo.data import read_examples
from hpo.errors import DataError
from hpo.specs import DataSpec
from tests.data.complaints import sentence

NFC, NFD = (unicodedata.normalize(form, "Zürich été.png") for form in ("NFC", "NFD"))


@pytest.fixture(params=["rsicap", "vqa"])
def read(request, tmp_path):
    """Reads data whose rows have these names and whose folder has these images."""
    (tmp_path / "images").mkdir()

    def reader(names, files):
        for number, name in enumerate(files):
            Image.new("RGB", (8 + number, 8)).save(tmp_path / "images" / name, format="png")
        if request.param == "rsicap":
            rows = [{"filename": name, "text_output": "x"} for name in names]
            (tmp_path / "captions.json").write_text(json.dumps({"annotations": rows}))
        else:
            rows = [{"image_id": name, "question": "q", "answer": "a"} for name in names]
            (tmp_path / "annotations.json").write_text(json.dumps(rows))
        examples = read_examples(DataSpec(format=request.param, root=str(tmp_path)))
        return examples.train + examples.val

    return reader


@pytest.mark.parametrize(("row", "file"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_a_name_is_found_however_its_letters_are_composed(read, row, file):
    sizes = sorted(example.image().size for example in read(["b.png", row], ["b.png", file]))
    assert sizes == [(8, 8), (9, 8)]


def test_an_exact_name_comes_before_one_that_looks_the_same(read):
    sizes = [example.image().size for example in read([NFC, NFD], [NFC, NFD])]
    assert sorted(sizes) == [(8, 8), (9, 8)]


def test_rows_of_one_image_in_two_spellings_stay_on_one_side(read):
    examples = read([NFC, NFD, "b.png"], [NFC, "b.png"])
    assert len({example.group for example in examples}) == 2


def test_a_name_in_another_case_is_named_with_the_file_there_is(read):
    text = sentence(lambda: read(["IMG_1.PNG", "b.png"], ["img_1.png", "b.png"]), DataError)
    assert "[0]: the image 'IMG_1.PNG' is not there, but 'img_1.png' is" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (3, " is 3; it must be"),
        (1.5, " is 1.5; it must be"),
        (None, " is None; it must be"),
        (["a"], " is ['a']; it must be"),
        ("  ", " is '  '; it must be"),
        ("..", "not a path"),
        ("a\u0000.png", r"'a\x00.png' cannot be the name of a file"),
        ("a\n.png", r"'a\n.png' cannot be the name of a file"),
        ("x" * 300, "at most 255 bytes"),
        ("é" * 200, "at most 255 bytes"),
    ],
)
def test_what_cannot_be_a_name_is_named_with_its_row(read, name, words):
    text = sentence(lambda: read(["b.png", name], ["b.png"]), DataError)
    assert "[1]" in text and words in text and len(text) < 500


def test_an_id_without_ending_finds_a_file_of_a_camera(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.JPG", "b.PNG"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    rows = [{"image_id": name, "question": "q", "answer": "a"} for name in "ab"]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    examples = read_examples(DataSpec(format="vqa", root=str(tmp_path)))
    assert {e.image_name for e in examples.train + examples.val} == {
        "images/a.JPG",
        "images/b.PNG",
    }
