"""Where weights lie, and what identifies them."""

import shutil

import pytest

from hpo.errors import MissingError
from hpo.mini import ANSWERER, CAPTIONER, CLASSIFIER
from hpo.weights import digest, find_weights


@pytest.fixture
def folder(tmp_path):
    """A directory that looks like a model."""
    path = tmp_path / "base"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "instructblip"}')
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    return path


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mini", CAPTIONER), ("mini-classifier", CLASSIFIER), ("mini-answerer", ANSWERER)],
)
def test_mini_is_an_embedded_base(name, folder):
    assert find_weights(name) == folder
    assert (folder / "model.safetensors").stat().st_size < 8 << 20


def test_a_directory_is_taken_as_it_is(folder, monkeypatch):
    assert find_weights(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert find_weights("base").resolve() == folder
    assert find_weights("./base").resolve() == folder


def test_a_directory_below_home_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_weights("~/base") == folder


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors"])
def test_a_directory_without_its_files_is_refused(folder, lacking):
    (folder / lacking).unlink()
    with pytest.raises(MissingError) as caught:
        find_weights(str(folder))
    assert str(folder) in str(caught.value)
    assert lacking.split(".")[1] in str(caught.value)
    assert "--model DIR" in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/base", "./base", "~/base-that-is-not", "base"])
def test_a_directory_that_is_not_there_is_named(name):
    with pytest.raises(MissingError, match="no such directory") as caught:
        find_weights(name)
    assert name in str(caught.value)
    assert "--model DIR" in str(caught.value)


def test_a_home_that_nobody_has_is_no_such_directory():
    with pytest.raises(MissingError, match="no such directory"):
        find_weights("~nobody-of-that-name/base")


def test_a_hub_name_that_is_not_on_this_machine_says_how_to_get_it():
    with pytest.raises(MissingError) as caught:
        find_weights("nobody/no-such-model")
    assert "nobody/no-such-model" in str(caught.value)
    assert "hf download nobody/no-such-model" in str(caught.value)


def test_the_digest_of_a_copy_is_the_same(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert digest(tmp_path / "copy") == digest(folder)


def test_the_digest_changes_with_weights_configuration_and_files(folder):
    found = {digest(folder)}
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    found.add(digest(folder))
    (folder / "config.json").write_text("{}")
    found.add(digest(folder))
    shutil.copy(weights, folder / "more.safetensors")
    found.add(digest(folder))
    assert len(found) == 4


def test_both_ends_of_a_large_file_are_in_the_digest(folder):
    weights = folder / "model.safetensors"
    found = set()
    for place in (0, 3 << 20):
        content = bytearray(4 << 20)
        content[place] = 1
        weights.write_bytes(content)
        found.add(digest(folder))
    assert len(found) == 2
