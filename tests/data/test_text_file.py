"""Text files of data: what stands in their place after a download that went wrong is named."""

import gzip

import pytest

from hpo.data import read_examples
from hpo.errors import DataError
from hpo.specs import DataSpec
from tests.data.complaints import sentence

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
OTHER_KINDS = [
    (POINTER, "it is a git-lfs pointer, not the data; fetch the file itself with git lfs pull"),
    (b"\n<!DOCTYPE html><html>404</html>", "it is an HTML page, not the data; download it again"),
    (b"PK\x03\x04\x14\0", "it is a ZIP archive or an Excel workbook, not the data; unpack it"),
    (gzip.compress(b"text,label"), "it is a gzip file, not the data; unpack it"),
    (b"PAR1\x15\x04", "it is a Parquet file, not the data; save it as text in UTF-8"),
]
FILES = [
    ("table", "data.csv"),
    ("table", "data.tsv"),
    ("table", "data.jsonl"),
    ("rsicap", "captions.json"),
    ("vqa", "annotations.json"),
]


@pytest.mark.parametrize(("format", "name"), FILES, ids=str)
@pytest.mark.parametrize(("content", "words"), OTHER_KINDS, ids=lambda value: str(value)[:20])
def test_a_file_of_another_kind_is_named_with_its_remedy(tmp_path, format, name, content, words):
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_bytes(content)
    spec = DataSpec(format=format, root=str(tmp_path))
    assert f"{tmp_path / name}: {words}" in sentence(lambda: read_examples(spec), DataError)
