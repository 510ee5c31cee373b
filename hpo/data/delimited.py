"""Rows of CSV and TSV with the lines that they stand on, and the dialect that a file shows.

CSV has quoted fields (RFC 4180). TSV comes in two dialects that its name does not tell apart:
plain, where a quote is a character like any other (IANA text/tab-separated-values), and quoted, as
Excel, pandas and R write it. The file's own lines are the evidence for one of them.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.data.dialect import Cell, is_quoted_table
from hpo.data.fields import visible
from hpo.data.text_file import refuse_zeros
from hpo.errors import DataError
from hpo.units import show_name, show_text

LINE_END = re.compile(r"\r\n|\r|\n")
SHOWN_COLUMNS = 12
SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
QUOTE = "quote fields that hold a separator"
REMEDY = "or give the table as JSON lines (.jsonl)"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The fields of one row, and the first and last line that it stands on, from 1."""

    fields: list[str]
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All records below the header, and the places of the wanted columns in each."""

    records: list[Record]
    places: list[int]


def csv_rows(path: Path, content: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(first line, values of the columns) of every row of a CSV file.

    Raises:
        DataError: header, quotes or number of fields are wrong; names the line.
    """
    refuse_zeros(path, content)
    _check_separator(path, content, columns, ",")
    reading = _reading(path, _quoted(path, content, ","), columns)
    _refuse_joined_rows(path, content, reading, ",")
    return _values(reading)


def tsv_rows(path: Path, content: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(first line, values of the columns) of every row of a TSV file, of the dialect that it shows.

    Raises:
        DataError: as for CSV, or both dialects would fit and differ; names the line.
    """
    refuse_zeros(path, content)
    _check_separator(path, content, columns, "\t")
    plain = _attempt(path, _plain(content), columns)
    if '"' not in content and isinstance(plain, Reading):
        return _values(plain)
    quoted = _attempt(path, _quoted(path, content, "\t"), columns)
    if isinstance(plain, Reading):
        if isinstance(quoted, Reading) and _is_quoted(path, plain, quoted):
            return _values(quoted)
        return _values(plain)
    if isinstance(quoted, Reading):
        _refuse_joined_rows(path, content, quoted, "\t")
        return _values(quoted)
    if '"' in LINE_END.split(content, 1)[0]:  # no plain header has quotes
        raise quoted
    raise plain if str(plain) == str(quoted) else _neither(plain, quoted)


def _values(reading: Reading) -> Iterator[tuple[int, list[str]]]:
    for record in reading.records:
        yield record.first, [record.fields[place] for place in reading.places]


def _attempt(path: Path, records: Iterator[Record], columns: Sequence[str]) -> Reading | DataError:
    try:
        return _reading(path, records, columns)
    except DataError as error:
        return error


def _neither(plain: DataError, quoted: DataError) -> DataError:
    return DataError(f"{plain}, {REMEDY}; read with quoted fields it fails, too: {quoted}")


def _plain(content: str) -> Iterator[Record]:
    for number, line in enumerate(LINE_END.split(content), start=1):
        if line:
            yield Record(fields=line.split("\t"), first=number, last=number)


def _quoted(path: Path, content: str, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(max(csv.field_size_limit(), len(content) + 1))
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    first = 1
    try:
        for fields in reader:
            if fields:
                yield Record(fields=fields, first=first, last=reader.line_num)
            first = reader.line_num + 1
    except csv.Error as error:
        until = f", read to line {reader.line_num}" if reader.line_num > first else ""
        raise DataError(
            f"{path}, line {first}: a quote opens a field here that is not closed as it must be"
            f'{until} ({error}); double every quote inside a quoted field ("") and close it '
            "before the next separator"
        ) from error


def _reading(path: Path, records: Iterator[Record], columns: Sequence[str]) -> Reading:
    header = next(records, Record(fields=[], first=1, last=1))
    places = [_place(path, header, column) for column in columns]
    found = []
    for record in records:
        if len(record.fields) != len(header.fields):
            few = len(record.fields) < len(header.fields)
            remedy = "add what is missing or remove the line" if few else QUOTE
            raise DataError(
                f"{path}, line {record.first}: {len(record.fields)} fields where the header has "
                f"{len(header.fields)}; {remedy}"
            )
        found.append(record)
    return Reading(records=found, places=places)


def _place(path: Path, header: Record, column: str) -> int:
    names = header.fields
    if names.count(column) == 1:
        return names.index(column)
    shown = [show_name(name) for name in names[:SHOWN_COLUMNS]]
    more = ", ..." if len(names) > SHOWN_COLUMNS else ""
    raise DataError(
        f"{path}, line {header.first}: the header must name the column {column} once; it has "
        f"{', '.join(shown) or 'none'}{more}{_advice(names, column)}"
    )


def _advice(names: Sequence[str], column: str) -> str:
    near = [name for name in names if visible(name).casefold() == column]
    return f"; rename {show_text(near[0])} to {column}" if near and column not in names else ""


def _check_separator(path: Path, content: str, columns: Sequence[str], delimiter: str) -> None:
    """Raises DataError where the header names the columns, but with another separator."""
    lines = enumerate(LINE_END.split(content), start=1)
    number, header = next(((number, line) for number, line in lines if line), (1, ""))
    separators = [
        mark
        for mark in SEPARATORS
        if set(columns) <= {visible(name).strip('"').casefold() for name in header.split(mark)}
    ]
    if separators and delimiter not in separators:
        raise DataError(
            f"{path}, line {number}: the header is separated by {SEPARATORS[separators[0]]}; save "
            f"the file with {SEPARATORS[delimiter]} between its fields, {REMEDY}"
        )


def _is_quoted(path: Path, plain: Reading, quoted: Reading) -> bool:
    """Whether a file that both dialects can read is of the quoted one.

    Raises:
        DataError: nothing tells; names the line.
    """
    if not plain.records or len(plain.records) != len(quoted.records):
        return False  # each line has all fields of a row, so no quote joins lines
    if len(plain.records[0].fields) != len(quoted.records[0].fields):
        return True  # so have all lines, header included: their quotes join fields
    cells = [
        Cell(line=raw.first, column=column, raw=field, value=value)
        for raw, read in zip(plain.records, quoted.records, strict=True)
        for column, (field, value) in enumerate(zip(raw.fields, read.fields, strict=True))
    ]
    return is_quoted_table(path, cells)


def _refuse_joined_rows(path: Path, content: str, reading: Reading, delimiter: str) -> None:
    """Raises DataError where a quote that was never closed has joined rows into one."""
    label = reading.places[-1]
    long = [record for record in reading.records if record.last > record.first]
    if not long:
        return
    known = {record.fields[label].strip() for record in reading.records}
    lines = LINE_END.split(content)
    for record in long:
        rows = [lines[number - 1].split(delimiter) for number in _inner(record, label)]
        whole = [row for row in rows if len(row) == len(record.fields)]
        alike = [row for row in whole if row[label].strip() in known]
        if alike and 2 * len(alike) >= len(rows):
            raise DataError(
                f"{path}, line {record.first}: a quote opens a field here that ends on line "
                f"{record.last}, and lines of it look like rows of their own (label "
                f"{show_text(alike[0][label].strip())}); close the quote, write it twice if it "
                f"is part of the text, {REMEDY}"
            )


def _inner(record: Record, label: int) -> range:
    """The lines of a record that would not have a label if its quotes were right.

    Its own label stands on the last line where it comes after the fields that go over lines, and
    on the first line where it comes before them.
    """
    places = [place for place, field in enumerate(record.fields) if LINE_END.search(field)]
    before = label < max(places, default=label)
    after = label > min(places, default=label)
    return range(record.first + (not after), record.last + before)
