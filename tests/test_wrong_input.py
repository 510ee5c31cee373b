"""Wrong input: exit 2, one sentence for each problem, nothing begun and nothing left behind."""

import json

import pytest
from PIL import Image

from tests.commands import run


@pytest.mark.parametrize(
    "options, words",
    [
        (
            ("--scale", "full"),
            (
                "hf download Salesforce/instructblip-flan-t5-xl",
                "--scale mini",
                "--model",
                "captions.json",
                "--data",
            ),
        ),
        (("--scale", "full", "--model", "./nowhere"), ("./nowhere: no such directory", "--model")),
        (("--set", "model.device=cuda"), ("shows no GPU", "model.device=auto")),
        (("--set", "trial.epocs=3"), ("trial.epocs", "did you mean epochs?")),
        (("--set", "space.learning_rate.low=1"), ("space.learning_rate.low = 1", "below")),
        (("--set", 'space.lora_r.choices=[4, "x"]'), ("all of one type",)),
        (("--set", "space.batch_size.choices=[8, 4000]"), ("4000", "training samples")),
        (("--name", ""), ("letters, digits",)),
        (("--name", "../../elsewhere"), ("letters, digits", "at most 100")),
        (("--set", "data=5"), ("data = 5", "must be an object")),
        (("--set", "known=[3]"), ("known.0 = 3", "must be an object")),
        (("--trials", "0"), ("--trials", "greater than 0")),
        (("--runners", "0"), ("--runners 0", "auto")),
        (("--pack", "none"), ("--pack none", "auto")),
        (("--memory-limit", "lots"), ("--memory-limit lots", "2GB")),
        (("--timeout", "later"), ("--timeout later", "8h")),
        (("--data", "nowhere"), ("nowhere", "captions.json", "--data DIR")),
        (("--model", "./nowhere"), ("./nowhere", "--model DIR")),
        (("--storage", "mongodb://h/d"), ("mongodb is not supported", "postgresql")),
        (("--storage", "sqlite:////nowhere/hpo.db"), ("/nowhere is not a folder",)),
        (
            ("--dry-run", "--storage", "sqlite:////nowhere/hpo.db"),
            ("/nowhere is not a folder",),
        ),
        (("--dry-run", "--storage", "sqlite:////tmp"), ("it is a folder", "name of a file")),
        (("--storage", "postgresql://me:S3cr3t@127.0.0.1:1/x"), ("a password", "$HPO_STORAGE")),
        (("--storage", "postgresql://me@127.0.0.1:1/x"), ("cannot be used", "the server runs")),
    ],
)
def test_it_is_one_message_with_the_remedy(tmp_path, options, words):
    output = run(tmp_path, *options, settings=(), expect=2, CUDA_VISIBLE_DEVICES="")
    assert all(line.startswith("error: ") for line in output.splitlines()), output
    for word in words:
        assert word in output
    assert "S3cr3t" not in output
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_lists_those_that_there_are(tmp_path):
    output = run(tmp_path, study="rsicup", settings=(), expect=2)
    assert "did you mean rsicap?" in output


def test_with_json_the_message_is_json(tmp_path):
    output = run(tmp_path, "--json", "--trials", "0", settings=(), expect=2)
    assert "greater than 0" in json.loads(output)["message"]


def folder(path, rows, images=("P0001_0001.png", "P0002_0001.png")):
    """An RSICap folder with these rows."""
    (path / "images").mkdir(parents=True)
    for name in images:
        Image.new("RGB", (32, 32)).save(path / "images" / name)
    text = rows if isinstance(rows, str) else json.dumps({"annotations": rows})
    (path / "captions.json").write_text(text)
    return str(path)


ROWS = [
    {"filename": "P0001_0001.png", "text_output": "a"},
    {"filename": "P0002_0001.png", "text_output": "b"},
]


@pytest.mark.parametrize(
    "rows, images, word",
    [
        ("{not json", ("P0001_0001.png",), "not valid JSON"),
        (ROWS, ("P0001_0001.png",), "captions without image: P0002_0001.png"),
        ([{"filename": "P0001_0001.png"}], ("P0001_0001.png",), "annotations[0]"),
    ],
)
def test_broken_data_is_named(tmp_path, rows, images, word):
    data = folder(tmp_path / "data", rows, images)
    output = run(tmp_path, "--data", data, settings=(), expect=2)
    assert word in output
    assert not (tmp_path / "hpo.db").exists()


def test_a_file_that_is_no_image_is_named(tmp_path):
    data = folder(tmp_path / "data", ROWS)
    (tmp_path / "data" / "images" / "P0002_0001.png").write_text("no image")
    output = run(tmp_path, "--data", data, settings=(), expect=2)
    assert "1 files are not images: P0002_0001.png" in output
