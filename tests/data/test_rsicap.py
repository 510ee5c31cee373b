"""RSICap folders as published, and broken in every way."""

import json
import struct
import zlib

import pytest
from PIL import Image

from hpo.data import read_examples
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec
from tests.data.complaints import sentence

NAMES = ("P0001_0001.png", "P0001_0002.png", "P0002_0001.png", "P0003_0001.png", "P0003_0002.png")


def annotation(name, **more):
    text = {"text_input": "Describe this image in detail.", "text_output": f"About {name}."}
    return {"image_id": "0", "filename": name, **text, **more}


@pytest.fixture
def folder(tmp_path):
    """Five crops of three source images, with captions."""
    root = tmp_path / "RSICap"
    (root / "images").mkdir(parents=True)
    for index, name in enumerate(NAMES):
        Image.new("RGB", (8, 8), (index * 40, 0, 0)).save(root / "images" / name)
    write(root, [annotation(name) for name in NAMES])
    return root


def write(root, annotations):
    (root / "captions.json").write_text(json.dumps({"annotations": annotations}))


def read(root, **settings):
    return read_examples(DataSpec(format="rsicap", root=str(root), **settings))


def everything(root, **settings):
    examples = read(root, **settings)
    return {example.name: example for example in examples.train + examples.val}


def complaint(root, kind=DataError):
    return sentence(lambda: read(root), kind)


def test_a_folder_as_published_is_read(folder):
    examples = read(folder)
    assert examples.total == 5
    assert examples.source == str(folder)
    assert set(everything(folder)) == set(NAMES)
    assert everything(folder)["P0002_0001.png"].target == "About P0002_0001.png."


def test_crops_of_one_source_image_stay_on_one_side(folder):
    for share in (0.1, 0.34, 0.5, 0.67, 0.9):
        examples = read(folder, val_share=share)
        train, val = ({e.name[:5] for e in side} for side in (examples.train, examples.val))
        assert train and val
        assert train & val == set()


def test_images_without_a_source_number_are_groups_of_their_own(folder):
    names = ("field_1.png", "field_2.png")
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / "images" / name)
    write(folder, [annotation(name) for name in (*names, names[0])])
    examples = read(folder, val_share=0.5)
    assert {e.name for e in examples.train} != {e.name for e in examples.val}
    assert len(examples.train) + len(examples.val) == 3


def test_whitespace_is_tidied(folder):
    write(folder, [annotation(n, text_output="  A  pier.\n Two\tships. ") for n in NAMES])
    write_prompt = annotation(NAMES[0], text_input=" What  is it? ", text_output="x")
    assert {e.target for e in everything(folder).values()} == {"A pier. Two ships."}
    write(folder, [write_prompt, annotation(NAMES[2])])
    assert everything(folder)[NAMES[0]].prompt == "What is it?"


@pytest.mark.parametrize("prompt", [None, "", "  "])
def test_a_row_without_an_instruction_gets_the_usual_one(folder, prompt):
    write(folder, [annotation(name, text_input=prompt) for name in NAMES])
    prompts = {e.prompt for e in everything(folder).values()}
    assert prompts == {"Describe this image in detail."}


def test_images_are_loaded_late_and_in_rgb(folder):
    Image.new("L", (8, 8), 77).save(folder / "images" / NAMES[0])
    example = everything(folder)[NAMES[0]]
    Image.new("L", (8, 8), 99).save(folder / "images" / NAMES[0])
    assert example.image().mode == "RGB"
    assert example.image().getpixel((0, 0)) == (99, 99, 99)
    assert example.size() == (8, 8)
    assert example.image_name == example.name


def test_images_without_captions_are_fine(folder):
    Image.new("RGB", (8, 8)).save(folder / "images" / "P0009_0001.png")
    (folder / "images" / "notes.txt").write_text("no image, and nobody asks for it")
    assert read(folder).total == 5


def test_at_most_so_many_rows_are_used(folder):
    examples = read(folder, samples=3)
    assert len(examples.train) + len(examples.val) == 3
    assert examples.total == 5


def test_the_digest_follows_the_captions(folder):
    before = read(folder).digest
    assert read(folder).digest == before
    write(folder, [annotation(name, text_output="Something else.") for name in NAMES])
    assert read(folder).digest != before


@pytest.mark.parametrize("root", [None, "no/such/folder", "~nobody-of-that-name/data"])
def test_a_folder_that_is_not_there_is_named_with_the_remedy(root):
    with pytest.raises(MissingError) as caught:
        read_examples(DataSpec(format="rsicap", root=root))
    assert (root or "data.root") in str(caught.value)
    assert "captions.json" in str(caught.value)
    assert "--data DIR" in str(caught.value)


def test_a_folder_without_captions_is_named(folder):
    (folder / "captions.json").unlink()
    assert str(folder) in complaint(folder, MissingError)


@pytest.mark.parametrize("content", [b"not json", b"", b"{", b"\xff\xfe\xfa"])
def test_captions_that_are_not_json_are_named(folder, content):
    (folder / "captions.json").write_bytes(content)
    text = complaint(folder)
    assert str(folder / "captions.json") in text
    assert "not valid JSON" in text


@pytest.mark.parametrize("content", ["[]", "{}", '{"annotations": {}}', '{"annotations": []}', "3"])
def test_captions_without_rows_are_named(folder, content):
    (folder / "captions.json").write_text(content)
    text = complaint(folder)
    assert "captions.json" in text
    assert "no rows" in text
    assert "annotations" in text


@pytest.mark.parametrize(
    "row",
    [
        "text",
        None,
        {},
        {"filename": "P0001_0001.png"},
        {"filename": 3, "text_output": "x"},
        {"filename": "P0001_0001.png", "text_output": None},
        {"filename": "P0001_0001.png", "text_output": "  "},
    ],
)
def test_a_row_that_lacks_something_is_named_by_its_place(folder, row):
    write(folder, [annotation(NAMES[0]), row])
    text = complaint(folder)
    assert "annotations[1]" in text
    assert "filename" in text and "text_output" in text


@pytest.mark.parametrize("name", ["../P0001_0001.png", "/etc/passwd", "a/b.png", "images/"])
def test_a_filename_that_is_a_path_is_refused(folder, name):
    write(folder, [annotation(NAMES[0]), annotation(name)])
    text = complaint(folder)
    assert repr(name) in text
    assert "not a path" in text


def test_captions_without_image_are_counted_and_named(folder):
    gone = [f"P0007_{i:04d}.png" for i in range(5)]
    write(folder, [annotation(name) for name in (*NAMES, *gone)])
    text = complaint(folder)
    assert "5 captions without image" in text
    assert gone[0] in text and gone[2] in text and gone[4] not in text
    assert str(folder / "images") in text


def test_a_folder_without_images_is_named(folder):
    (folder / "images").rename(folder / "pictures")
    assert str(folder / "images") in complaint(folder)


def test_files_that_are_not_images_are_counted_and_named(folder):
    (folder / "images" / NAMES[1]).write_text("<html>404</html>")
    (folder / "images" / NAMES[3]).write_bytes(b"")
    text = complaint(folder)
    assert "2 files are not images" in text
    assert NAMES[1] in text and NAMES[3] in text


def test_a_folder_in_place_of_an_image_is_named(folder):
    (folder / "images" / NAMES[1]).unlink()
    (folder / "images" / NAMES[1]).mkdir()
    assert NAMES[1] in complaint(folder)


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def test_an_image_that_claims_to_be_enormous_is_named(folder):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    start = b"\x89PNG\r\n\x1a\n"
    (folder / "images" / NAMES[1]).write_bytes(start + header + pixels + chunk(b"IEND", b""))
    assert NAMES[1] in complaint(folder)


def test_an_image_that_is_cut_off_is_named_when_it_is_loaded(folder):
    path = folder / "images" / NAMES[0]
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:600])
    example = everything(folder)[NAMES[0]]
    with pytest.raises(DataError) as caught:
        example.image()
    assert str(path) in str(caught.value)


def test_an_image_that_vanishes_is_named_when_it_is_loaded(folder):
    example = everything(folder)[NAMES[0]]
    (folder / "images" / NAMES[0]).unlink()
    with pytest.raises(DataError, match="gone") as caught:
        example.image()
    assert NAMES[0] in str(caught.value)


def test_one_source_image_cannot_be_split(folder):
    write(folder, [annotation(name) for name in NAMES[:2]])
    assert "at least two" in complaint(folder)


def test_the_published_tiles_are_read(shared):
    examples = read(shared / "rsscn7")
    assert len(examples.train) + len(examples.val) == examples.total
    assert examples.train[0].image().mode == "RGB"
