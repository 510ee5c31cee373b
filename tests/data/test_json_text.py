"""JSON of data: every fault is one sentence with file, line and column."""

import json

import pytest

from hpo.data import read_examples
from hpo.data.json_text import read_json
from hpo.errors import DataError
from hpo.specs import DataSpec
from tests.data.complaints import sentence

HALVES = (r"\ud83d", r"\ude00", r"\ude00\ud83d", r"x \uD83D y", r"\\\ud83d")
BIG = "9" * 5000


def value(tmp_path, content):
    return read_json(tmp_path / "a.json", content, form="a list")


def refused(tmp_path, content):
    return sentence(lambda: value(tmp_path, content), DataError)


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        (b'{"a": 1,\n  "b": x}', "line 2: not valid JSON at column 8", "expecting value"),
        (b"", "line 1: not valid JSON at column 1", "expecting value"),
        (b'[1,\n "a\tb"]', "line 2: not valid JSON at column 4", "invalid control character"),
        (f"[0.{BIG},\n {BIG}]".encode(), "line 2: not valid JSON at column 2", "5000 digits"),
        (f'["{BIG}",\n -{BIG}]'.encode(), "line 2: not valid JSON at column 2", "5000 digits"),
        (b"[\n" * 5000, "line 101: not valid JSON at column 1", "more than 100 levels"),
        (b'{"a":' * 5000, "line 1: not valid JSON at column 501", "more than 100 levels"),
        (b'[{"a": 1},\n {"a": 1, "a": 2}]', "line 2: not valid JSON at column 11", "'a' has two"),
        (b'["a",\n "\xff"]', "line 2: not valid JSON: byte 0xff is not UTF-8", "save the file"),
        (b'["a",\n "\xed\xa0\xbd"]', "line 2: not valid JSON: byte 0xed", "UTF-8"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path, content, place, reason):
    text = refused(tmp_path, content)
    assert f"{tmp_path}/a.json, {place}" in text and reason in text


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("form", ['["ok",\n "{}"]', '["ok",\n {{"{}": 1}}]'])
def test_half_a_surrogate_pair_is_named_wherever_it_stands(tmp_path, half, form):
    text = refused(tmp_path, form.format(half).encode())
    assert "a.json, line 2: not valid JSON at column" in text and "half a surrogate pair" in text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_every_unicode_encoding_is_read(tmp_path, encoding):
    assert value(tmp_path, '{"ä": "\\ud83d\\ude00 \\\\ud83d"}'.encode(encoding)) == {
        "ä": "😀 \\ud83d"
    }


def test_a_missing_value_of_pandas_is_null_and_a_key_that_says_the_same_twice_is_read(tmp_path):
    assert value(tmp_path, b'[{"a": NaN, "b": 1, "b": 1}]') == [{"a": None, "b": 1}]


@pytest.mark.parametrize("name", ["half_surrogate.jsonl", "big_integer.json"])
def test_what_ended_in_a_traceback_is_one_sentence(tmp_path, shared, name):
    source = shared / "field_cases" / name
    root, format = source, "table"
    if name.endswith(".json"):
        root, format = tmp_path, "rsicap"
        (tmp_path / "captions.json").write_bytes(source.read_bytes())
    text = sentence(lambda: read_examples(DataSpec(format=format, root=str(root))), DataError)
    column = 24 if format == "table" else 92
    assert f"{name if format == 'table' else 'captions.json'}, line 1:" in text
    assert f"at column {column}" in text


def texts(folder, text):
    """(format, root) of data that have this piece of JSON as a text, a label and a name."""
    raw = f'"{text}"'
    (folder / "data.jsonl").write_text(f'{{"text": "a", "label": {raw}}}\n')
    pair = f'{{"filename": "a.png", "text_input": {raw}, "text_output": "x"}}'
    (folder / "captions.json").write_text(f'{{"annotations": [{pair}]}}')
    row = f'{{"image_id": {raw}, "question": "q", "answer": "a", "stage": 1}}'
    (folder / "annotations.json").write_text(f"[{row}]")
    return [("table", folder), ("rsicap", folder), ("vqa", folder)]


@pytest.mark.parametrize("text", [r"\ud83d", "x" * 5 + r"\udfff"])
def test_no_reader_passes_on_what_is_not_utf_8(tmp_path, text):
    for format, root in texts(tmp_path, text):
        spec = DataSpec(format=format, root=str(root))
        complaint = sentence(lambda spec=spec: read_examples(spec), DataError)
        assert "half a surrogate pair" in complaint and "line 1:" in complaint


def test_a_missing_key_is_named_with_those_there_are(tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"Text": "a", "label": "b"}))
    spec = DataSpec(format="table", root=str(tmp_path))
    text = sentence(lambda: read_examples(spec), DataError)
    assert "line 1: no text among its keys ('Text', 'label')" in text


@pytest.mark.parametrize("levels", [90, 500, 900, 950, 980, 990, 2000])
def test_values_of_many_levels_are_named_or_refused(tmp_path, levels):
    deep = "[" * levels + "]" * levels
    (tmp_path / "data.jsonl").write_text(f'{{"text": {deep}, "label": "a"}}')
    spec = DataSpec(format="table", root=str(tmp_path))
    text = sentence(lambda: read_examples(spec), DataError)
    assert "line 1" in text and len(text) < 300
