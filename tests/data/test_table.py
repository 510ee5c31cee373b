"""Tables of texts with labels, and tables that are broken in every way."""

import json
from collections import Counter

import pytest

from hpo.data import read_examples
from hpo.data.examples import Example, capped, stratified
from hpo.data.labels import labels
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec
from tests.data.complaints import sentence

ROWS = [(f"message number {i}", "spam" if i % 3 == 0 else "ham") for i in range(12)]


def read(root, **settings):
    defaults = {"val_share": 0.25, "samples": None, "max_length": 256}
    path = None if root is None else str(root)
    return read_examples(DataSpec(format="table", root=path, **defaults | settings))


def everything(root, **settings):
    examples = read(root, **settings)
    return {example.name: example for example in examples.train + examples.val}


def complaint(root, kind=DataError, **settings):
    return sentence(lambda: read(root, **settings), kind)


def written(folder, name, rows=ROWS):
    """A table of that name with the rows."""
    path = folder / name
    if name.endswith("jsonl"):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    else:
        mark = "\t" if name.endswith("tsv") else ","
        lines = [mark.join(row) for row in [("text", "label"), *rows]]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "data.jsonl"])
def test_a_file_or_its_folder_is_read(tmp_path, name):
    path = written(tmp_path, name)
    assert read(path).digest == read(tmp_path).digest
    examples = read(path)
    assert examples.total == 12
    assert examples.source == str(path)
    assert labels(examples) == ("ham", "spam")
    found = everything(path)
    assert [(found[f"row {i}"].prompt, found[f"row {i}"].target) for i in range(1, 13)] == ROWS
    assert found["row 1"].image is None


def test_quotes_separators_and_line_ends_inside_fields(tmp_path):
    path = tmp_path / "any.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,label,text\r\n1,a,"He said ""no"", twice\r\nand left"\r\n\r\n'
        b"2,a,it's \xe2\x80\x9cfine\xe2\x80\x9d \r\n3,b, x\r\n4,b,y\r\n"
    )
    found = everything(path, val_share=0.5)
    assert found["row 1"].prompt == 'He said "no", twice\r\nand left'
    assert found["row 2"].prompt == "it's “fine”"
    assert [found[f"row {i}"].target for i in range(1, 5)] == ["a", "a", "b", "b"]


def test_whole_numbers_are_labels_in_json(tmp_path):
    path = written(tmp_path, "data.jsonl", [("a", 0), ("b", 0), ("c", 1), ("d\u2028e", 1)])
    path.write_text(path.read_text() + "\n \n")
    assert {e.target for e in everything(path).values()} == {"0", "1"}


def test_every_label_stands_on_both_sides(tmp_path):
    rows = [(f"t {i}", "rare" if i < 2 else "often") for i in range(40)]
    examples = read(written(tmp_path, "data.csv", rows), val_share=0.25)
    assert Counter(e.target for e in examples.train) == {"rare": 1, "often": 28}
    assert Counter(e.target for e in examples.val) == {"rare": 1, "often": 10}


def test_equal_texts_stay_on_one_side(tmp_path):
    rows = [(f"{'TEXT' if i % 2 else 'text'} {i // 4}", "ab"[i // 4 % 2]) for i in range(40)]
    examples = read(written(tmp_path, "data.csv", rows), val_share=0.4)
    assert not {e.prompt.lower() for e in examples.train} & {e.prompt.lower() for e in examples.val}
    assert len(examples.val) == 16


def test_at_most_so_many_rows_are_used(tmp_path):
    examples = read(written(tmp_path, "data.csv"), samples=9)
    assert len(examples.train) + len(examples.val) == 9
    assert examples.total == 12


def test_the_digest_follows_the_file_and_the_content_the_text(tmp_path):
    path = written(tmp_path, "data.csv")
    before, text = read(path).digest, everything(path)["row 1"].content()
    path.write_text(path.read_text().replace("number 0", "number zero"))
    assert read(path).digest != before
    assert everything(path)["row 1"].content() != text


@pytest.mark.parametrize("root", [None, "no/such/folder", "no.csv", "~nobody-of-that-name/data"])
def test_a_table_that_is_not_there_is_named_with_the_remedy(root):
    text = complaint(root, MissingError)
    assert (root or "data.root") in text
    assert "data.csv" in text and "--data PATH" in text


def test_a_folder_without_a_table_and_one_with_two_are_named(tmp_path):
    assert str(tmp_path) in complaint(tmp_path, MissingError)
    written(tmp_path, "data.csv")
    written(tmp_path, "data.jsonl")
    assert "data.csv and data.jsonl" in complaint(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "data.xlsx").write_bytes(b"PK")
    assert ".csv, .tsv or .jsonl" in complaint(tmp_path / "data.xlsx")


GOOD = "text,label\na,x\nb,x\nc,y\nd,y\n"


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("", 1, "text"),
        ("text,class\na,x\n", 1, "column label"),
        ("message,label\na,x\n", 1, "message, label"),
        ("text,label,text\na,x,b\n", 1, "column text once"),
        (GOOD + "e\n", 6, "1 fields"),
        (GOOD + "e, f,x\n", 6, "3 fields"),
        (GOOD + ",x\n", 6, "text is empty"),
        (GOOD + "e,\n", 6, "label is empty"),
        (GOOD + '"  ",x\n', 6, "text is empty"),
        (GOOD + '"e" f,x\n', 6, "quote"),
        (GOOD + '"e,x\nf,y\n', 6, "quote"),
    ],
)
def test_a_broken_line_of_csv_is_named(tmp_path, content, line, words):
    path = tmp_path / "data.csv"
    path.write_text(content)
    text = complaint(path)
    assert f"{path}, line {line}:" in text
    assert words in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must be an object"),
        ('{"text": "a"}', "no label"),
        ('{"label": "a"}', "no text"),
        ('{"text": "", "label": "a"}', "text is empty"),
        ('{"text": 3, "label": "a"}', "text is 3"),
        ('{"text": "a", "label": null}', "label is None"),
        ('{"text": "a", "label": true}', "label is True"),
        ('{"text": "a", "label": 0.5}', "label is 0.5"),
    ],
)
def test_a_broken_line_of_json_is_named(tmp_path, content, words):
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"text": "a", "label": "x"}}\n\n{content}\n')
    text = complaint(path)
    assert f"{path}, line 3:" in text
    assert words in text


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl"])
def test_a_file_that_is_not_utf_8_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(GOOD.encode() + "é,x\n".encode("latin-1"))
    text = complaint(path)
    assert f"{path}, line 6:" in text
    assert "UTF-8" in text


@pytest.mark.parametrize("rows", [[], [("a", "x")], [("a", "x"), ("b", "x")]])
def test_fewer_than_two_labels_are_refused(tmp_path, rows):
    text = complaint(written(tmp_path, "data.csv", rows))
    assert "fewer than two labels" in text and str(tmp_path) in text


@pytest.mark.parametrize("second", [[], [("LONELY", "b")]])
def test_a_label_with_a_single_text_is_named(tmp_path, second):
    path = written(tmp_path, "data.csv", [*ROWS, ("lonely", "b"), *second])
    text = complaint(path)
    assert "1 labels with fewer than two different texts" in text and ": b;" in text


def test_a_cap_that_leaves_a_label_alone_names_the_cap(tmp_path):
    path = written(tmp_path, "data.csv", [*ROWS, ("c", "rare"), ("d", "rare")])
    assert "the 2 rows that data.samples leaves" in complaint(path, samples=2)


def row(index, label, group=None):
    name = f"row {index}"
    return Example(name=name, group=group or name, prompt="p", target=label, content=str)


def test_a_stratified_split_keeps_the_order_and_grows_with_the_share():
    rows = [row(i, "aab"[i % 3]) for i in range(60)]
    train, val = stratified(rows, 0.2)
    assert list(train) == [r for r in rows if r in train]
    assert Counter(r.target for r in val) == {"a": 8, "b": 4}
    assert stratified(rows[::-1], 0.2)[1] == val[::-1]
    assert {r.name for r in val} < {r.name for r in stratified(rows, 0.4)[1]}
    assert capped(rows, 10) == [r for r in rows if r in capped(rows, 10)]


def test_a_group_of_two_labels_stays_on_one_side_and_a_lonely_label_is_trained_on():
    rows = [row(0, "a", "g"), row(1, "b", "g"), row(2, "a"), row(3, "a"), row(4, "c")]
    train, val = stratified(rows, 0.5)
    assert {r.group for r in train} & {r.group for r in val} == set()
    assert rows[4] in train and val


@pytest.mark.parametrize(
    ("name", "count", "kinds"), [("sms_spam", 3440, 2), ("banking77", 10003, 77)]
)
def test_published_tables_are_read(shared, name, count, kinds):
    examples = read(shared / name, val_share=0.2)
    assert len(examples.train) + len(examples.val) == examples.total == count
    assert len(labels(examples)) == kinds
    for side in (examples.train, examples.val):
        assert len({e.target for e in side}) == kinds
