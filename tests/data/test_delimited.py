"""CSV and TSV: which dialect a file is of, and quotes that would join rows without a word."""

import csv
import io
import os
import random

import pytest

from hpo.data import read_examples
from hpo.data.delimited import csv_rows, tsv_rows
from hpo.errors import DataError
from hpo.specs import DataSpec
from tests.data.complaints import sentence
from tests.data.test_table import complaint, everything, read

COLUMNS = ("text", "label")
TEXTS = ("plain", "with, comma", 'he said "no"', '"all of it"', '"', '""', "two\nlines", "a\ttab")


def rows(reader, content, path="t"):
    return [tuple(values) for _, values in reader(path, content, COLUMNS)]


def refused(reader, content):
    return sentence(lambda: rows(reader, content), DataError)


def test_a_text_that_begins_with_a_quote_keeps_it_and_all_rows(shared):
    found = everything(shared / "field_cases" / "quotes.tsv", val_share=0.5)
    assert [found[f"row {number}"].target for number in range(1, 9)] == [
        *("ham", "spam", "spam", "ham", "ham", "ham", "spam", "spam")
    ]
    assert found["row 1"].prompt == '"I will be late'
    assert found["row 4"].prompt == 'see you soon"'


@pytest.mark.parametrize(
    "quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC], ids=str
)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("reader", "mark"), [(csv_rows, ","), (tsv_rows, "\t")])
def test_what_writers_quote_is_read_as_it_was(reader, mark, seed, quoting):
    rng = random.Random(seed)
    wanted = [(rng.choice(TEXTS) + f" {n}", rng.choice("ab")) for n in range(12)]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark, quoting=quoting)
    writer.writerows([COLUMNS, *wanted])
    assert rows(reader, out.getvalue()) == wanted


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_plain_tsv_keeps_every_quote(seed, end):
    """Half quotes, quotes around words and quotes at both ends, as people type them."""
    rng = random.Random(seed)
    kinds = ('"{} begins', '{} ends"', 'the "{}" one', '"{}"', "{}")
    wanted = [(rng.choice(kinds).format(f"word {n}"), rng.choice("ab")) for n in range(40)]
    wanted += [("no quotes", "a"), ('5" disk', "b")]
    content = end.join("\t".join(row) for row in (COLUMNS, *wanted))
    assert rows(tsv_rows, content) == wanted


def test_commas_are_evidence_of_excel_where_no_other_field_has_any():
    excel = 'text\tlabel\n"one, two"\ta\n"three, four"\tb\n"five, six"\ta\nseven\tb\n'
    assert [text for text, _ in rows(tsv_rows, excel)] == [
        *("one, two", "three, four", "five, six", "seven")
    ]
    plain = excel.replace("seven", "seven, eight")
    assert next(text for text, _ in rows(tsv_rows, plain)) == '"one, two"'


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text\tlabel\n"he said ""no"""\ta\n5" disk\tb\n', 3),
        ('text\tlabel\nx\ta\n"one, two"\ta\nthree\tb\n', 3),
    ],
)
def test_quotes_that_may_be_either_are_refused_with_their_line(content, line):
    text = refused(tsv_rows, content)
    assert f"t, line {line}:" in text and "may be part of the text" in text and ".jsonl" in text


BODY = ["spam,Win money", "spam,Free prize", "ham,hello", "spam,Call now"]


@pytest.mark.parametrize("many", [1, 5, 40])
@pytest.mark.parametrize("label_first", [True, False])
def test_a_quote_that_is_not_closed_names_the_line_where_it_opens(many, label_first):
    """A hundred lines would become fifty-five rows: the next quote closes the field."""
    first, last = ["ham", '"I will be late'], ["ham", 'see you soon"']
    body = [line.split(",") for line in BODY * many]
    lines = [["label", "text"], *body, first, *body, last, *body]
    if not label_first:
        lines = [line[::-1] for line in lines]
    text = refused(csv_rows, "\n".join(",".join(line) for line in lines))
    assert f"t, line {len(body) + 2}:" in text
    assert f"ends on line {2 * len(body) + 3}" in text or "not closed" in text
    plain = "\n".join("\t".join(line) for line in lines)
    assert len(rows(tsv_rows, plain)) == 3 * len(body) + 2


def test_a_plain_tsv_with_a_broken_row_between_quotes_is_refused():
    content = 'label\ttext\nham\t"late\nspam\tone\ttwo\nspam\tthree\nham\tsoon"\nspam\tx\n'
    assert "t, line 2:" in refused(tsv_rows, content)


def test_texts_over_several_lines_stay_whole():
    letter = "Dear Sir, thank you\n\nYours, Ann\nP.S. spam, ham"
    wanted = [(letter, "ham"), ("Win", "spam"), (letter + "!", "spam")]
    for reader, mark in ((csv_rows, ","), (tsv_rows, "\t")):
        for order in (1, -1):
            out = io.StringIO()
            csv.writer(out, delimiter=mark).writerows(row[::order] for row in (COLUMNS, *wanted))
            assert rows(reader, out.getvalue()) == wanted


def test_a_quote_that_nothing_closes_is_named():
    text = refused(csv_rows, 'text,label\na,x\nb,y\n"c,x\nd,y\n')
    assert "t, line 4: a quote opens a field" in text and "line 5" in text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_every_line_end_and_unicode_encoding_is_read(tmp_path, suffix, encoding, end):
    mark = "," if suffix == "csv" else "\t"
    lines = [f"é {number}{mark}{'ab'[number % 2]}" for number in range(6)]
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(end.join([f"text{mark}label", *lines]).encode(encoding))
    found = everything(path)
    assert [found[f"row {number}"].prompt for number in range(1, 7)] == [
        f"é {number}" for number in range(6)
    ]


@pytest.mark.parametrize(
    ("name", "header", "words"),
    [
        ("data.csv", "text;label", "separated by semicolons; save the file with commas"),
        ("data.csv", '"text";"id";"label"', "separated by semicolons"),
        ("data.csv", "id|label|text", "separated by bars"),
        ("data.csv", "text\tlabel", "separated by tabs; save the file with commas"),
        ("data.tsv", "text,label", "separated by commas; save the file with tabs"),
        ("data.csv", "Text,Label", "it has Text, Label; rename 'Text' to text"),
        ("data.csv", "text, label", "rename ' label' to label"),
        ("data.csv", "text,label\u200b", "rename 'label\\u200b' to label"),
        ("data.tsv", '"text"\t"tag"', "it has text, tag"),
        ("data.csv", ",".join(f"c{n}" for n in range(500)), "c11, ..."),
    ],
)
def test_a_header_of_another_form_is_named_with_the_remedy(tmp_path, name, header, words):
    (tmp_path / name).write_text(f"{header}\na{header.lstrip('Ttex')}\n")
    text = complaint(tmp_path / name)
    assert words in text and "line 1:" in text and len(text) < 600


def test_zero_bytes_and_long_fields(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,label\na,x\nb\0c,y\n")
    assert f"{path}, line 3: holds a NUL" in complaint(path)
    long = "word " * 60_000
    path.write_text(f"text,label\n{long},x\nb,x\nc,y\nd,y\n")
    assert everything(path, val_share=0.5)["row 1"].prompt == long.strip()
    path.write_text(f"text,label\na,x\n{long * 4},x\n")
    assert f"{path}, line 3: text has 1,200,000 characters" in complaint(path)


def test_what_is_no_regular_file_is_named(tmp_path):
    (tmp_path / "data.csv").mkdir()
    assert "data.csv: not a regular file" in complaint(tmp_path)
    broken = tmp_path / "broken.csv"
    broken.symlink_to("/proc/self/mem")  # a file that opens and cannot be read
    assert f"{broken}: the file cannot be read" in complaint(broken)


def test_a_pipe_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.csv")
    assert "not a regular file" in complaint(tmp_path)
    assert "not a regular file" in complaint(tmp_path / "data.csv")


def test_published_texts_as_plain_and_as_quoted_tsv_are_the_same(tmp_path, shared):
    """Thousands of real messages, with quotes of every kind, through both dialects."""
    found = everything(shared / "sms_spam")
    wanted = [(e.prompt, e.target) for e in found.values()]
    wanted = [row for row in wanted if not set("\t\r\n") & set(row[0])]
    plain = "\n".join("\t".join(row) for row in [COLUMNS, *wanted])
    assert rows(tsv_rows, plain) == wanted
    out = io.StringIO()
    csv.writer(out, delimiter="\t").writerows([COLUMNS, *wanted])
    (tmp_path / "data.tsv").write_text(out.getvalue(), newline="")
    assert read(tmp_path).total == len(wanted)
    assert rows(tsv_rows, out.getvalue()) == wanted


@pytest.mark.parametrize("format", ["table", "rsicap", "vqa"])
def test_a_path_that_the_system_refuses_is_one_sentence(tmp_path, format):
    spec = DataSpec(format=format, root=str(tmp_path / ("x" * 300 + ".csv")))
    text = sentence(lambda: read_examples(spec), DataError)
    assert "File name too long" in text and "--data PATH" in text


@pytest.mark.parametrize("reader", [csv_rows, tsv_rows])
def test_a_line_of_too_few_fields_is_not_told_to_quote_separators(reader):
    mark = "," if reader is csv_rows else "\t"
    few = refused(reader, f"text{mark}label\na{mark}x\nb\n")
    assert "line 3: 1 fields where the header has 2; add what is missing or remove the line" in few
    many = refused(reader, f"text{mark}label\na{mark}x\nb{mark}c{mark}x\n")
    assert "line 3: 3 fields where the header has 2; quote fields that hold a separator" in many
