"""The order of labels, and labels that are nearly the same."""

import json

import pytest

from hpo.data.examples import Examples
from hpo.data.labels import label_notes, labelled, labels
from tests.data.test_table import complaint, read


def of(*names):
    rows = tuple(labelled(f"row {n}", f"text {n}", name) for n, name in enumerate(names))
    return Examples(train=rows, val=(), total=len(rows), digest="", source="")


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        ([str(n) for n in range(12)], [str(n) for n in range(12)]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["1e3", "2.5", "100"], ["2.5", "100", "1e3"]),
        (["10.0", "2.0", "1.0"], ["1.0", "2.0", "10.0"]),
        (["٣", "2", "10"], ["2", "٣", "10"]),
        (["9" * 5000, "8" * 5000, "3"], ["3", "8" * 5000, "9" * 5000]),
        (["1", "01", "2"], ["01", "1", "2"]),
        (["10", "9", "many"], ["10", "9", "many"]),
        (["nan", "10", "9"], ["10", "9", "nan"]),
        (["1_0", "9"], ["1_0", "9"]),
        (["b", "B", "a"], ["B", "a", "b"]),
    ],
)
def test_numbers_are_sorted_as_numbers_and_all_else_as_text(given, ordered):
    assert list(labels(of(*given))) == ordered


def test_twelve_labels_have_the_order_of_numbers(tmp_path, shared):
    wanted = tuple(str(number) for number in range(12))
    assert labels(read(shared / "field_cases" / "twelve_labels.csv")) == wanted
    rows = [{"text": f"t {n}", "label": n % 12} for n in range(48)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert labels(read(tmp_path)) == wanted


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("spam", "Spam", "'Spam' (4 rows) and 'spam' (4 rows)"),
        ("not spam", "not  spam", "'not  spam'"),
        ("not spam", "not\u00a0spam", r"'not\xa0spam'"),
        ("not spam", "notspam", "'notspam'"),
        ("spam", "spam\u200b", r"'spam\u200b'"),
        ("spam", "\ufeffspam", r"'\ufeffspam'"),
        ("spam", "s\u00adpam", r"'s\xadpam'"),
        ("spam", "spam\u3164", r"'spam\u3164'"),
        ("❤", "❤\ufe0f", r"'\u2764\ufe0f'"),
        ("café", "cafe\u0301", r"'cafe\u0301'"),
        ("straße", "STRASSE", "'STRASSE'"),
        ("spam", "ｓｐａｍ", r"'\uff53\uff50\uff41\uff4d'"),
        ("1", "1.0", "'1.0'"),
        ("1", "01", "'01'"),
        ("1", "+1e0", "'+1e0'"),
        ("1", "１", r"'\uff11'"),
    ],
)
def test_labels_that_read_the_same_are_named_with_their_rows(tmp_path, one, other, shown):
    rows = [(f"t {n}", [one, other, "third"][n % 3]) for n in range(12)]
    content = "\n".join(json.dumps({"text": t, "label": label}) for t, label in rows)
    (tmp_path / "data.jsonl").write_text(content)
    examples = read(tmp_path)
    assert len(labels(examples)) == 3, "named, not joined"
    (note,) = examples.notes
    assert shown in note and note.count("(4 rows)") == 2 and "third" not in note


def test_labels_that_differ_are_not_named(shared):
    assert label_notes(["a", "b", "1", "2", "11", "1.1", "ham", "spam"]) == ()
    for name in ("banking77", "sms_spam", "field_cases/twelve_labels.csv"):
        assert read(shared / name).notes == ()


def test_a_label_of_one_text_names_the_one_that_was_perhaps_meant(tmp_path):
    rows = "".join(f"t {n},{'ab'[n % 2]}\n" for n in range(8))
    (tmp_path / "data.csv").write_text(f"text,label\n{rows}once,A\n")
    assert ": A; add texts" in complaint(tmp_path)
    assert "write 'A' and 'a' the same if they mean one label" in complaint(tmp_path)


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff \u00ad", "\u3164"])
@pytest.mark.parametrize("column", ["text", "label"])
def test_what_cannot_be_seen_is_empty(tmp_path, blank, column):
    row = {"text": "a", "label": "b", column: blank}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    assert f"line 1: {column} is empty" in complaint(tmp_path)


def test_notes_are_as_many_as_can_be_read():
    targets = [f"{word}{n}" for n in range(50) for word in ("label", "Label", "x" * 500)]
    notes = label_notes(targets)
    assert len(notes) == 21 and notes[-1] == "30 more groups of labels are nearly the same"
    long = label_notes(["x" * 500, "X" * 500])[0]
    assert "(500 characters)" in long and len(long) < 500
