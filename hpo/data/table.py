"""Texts with labels from a table: CSV, TSV or JSON lines with the columns `text` and `label`.

`data.root` is the file, or a folder that holds one data.csv, data.tsv or data.jsonl. Other columns
are left alone. Fields of CSV and TSV may be quoted, and a quoted one may go over several lines.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hpo.data.examples import Example, Examples, capped, groups_by_label, stratified
from hpo.data.labels import labelled
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec

COLUMNS = ("text", "label")
NAMES = ("data.csv", "data.tsv", "data.jsonl")
SHOWN = 3  # labels in a message

Rows = Iterator[tuple[int, Any, Any]]  # line, text, label


def read(data: DataSpec) -> Examples:
    """The rows of the table; each label has `data.val_share` of its texts in val."""
    path = _find(data.root)
    content = path.read_bytes()
    rows = _examples(path, READERS[path.suffix.lower()](path, _decoded(path, content)))
    _check_labels(path, rows, "")
    chosen = capped(rows, data.samples)
    _check_labels(path, chosen, f" among the {len(chosen)} rows that data.samples leaves")
    train, val = stratified(chosen, data.val_share)
    return Examples(
        train=train,
        val=val,
        total=len(rows),
        digest=f"table sha256 {hashlib.sha256(content).hexdigest()[:16]}",
        source=str(path),
    )


def _find(root: str | None) -> Path:
    """The file, or the one that lies in the folder."""
    path = Path(os.path.expanduser(root or ""))
    found = [path / name for name in NAMES if (path / name).is_file()] if path.is_dir() else [path]
    if root is None or not found or not found[0].is_file():
        raise MissingError(
            f"data {root or '(data.root is not set)'}: no table there; give a .csv, .tsv or "
            f".jsonl file, or a folder that holds {_either(NAMES)}, with --data PATH"
        )
    if len(found) > 1:
        raise DataError(f"{path}: holds {' and '.join(p.name for p in found)}; give one of them")
    if found[0].suffix.lower() not in READERS:
        raise DataError(f"{path}: not a table that can be read; it must be {_either(READERS)}")
    return found[0]


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error


def _examples(path: Path, rows: Rows) -> list[Example]:
    return [
        labelled(
            f"row {index}", _filled(path, line, "text", text), _filled(path, line, "label", tag)
        )
        for index, (line, text, tag) in enumerate(rows, start=1)
    ]


def _filled(path: Path, line: int, column: str, value: Any) -> str:
    """The value without the space around it; it must be a text, a label also a whole number."""
    if column == "label" and type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{path}, line {line}: {column} is {value!r}; it must be a text")
    if not value.strip():
        raise DataError(f"{path}, line {line}: {column} is empty; fill it or remove the row")
    return value.strip()


def _separated(path: Path, content: str, *, delimiter: str) -> Rows:
    """The rows of CSV or TSV, each with the line that it ends on."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        places = [_place(path, header, column) for column in COLUMNS]
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} fields where the header has "
                    f"{len(header)}; quote fields that hold a separator"
                )
            if row:
                text, label = (row[place] for place in places)
                yield reader.line_num, text, label
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not readable: {error}; a field with quotes must be "
            'quoted, with every quote inside doubled ("")'
        ) from error


def _place(path: Path, header: list[str], column: str) -> int:
    if header.count(column) != 1:
        raise DataError(
            f"{path}, line 1: the header must name the column {column} once; it has "
            f"{', '.join(header) or 'none'}"
        )
    return header.index(column)


def _json_lines(path: Path, content: str) -> Rows:
    for line, text in enumerate(content.split("\n"), start=1):
        if text.strip():
            row = _parsed(path, line, text)
            missing = [column for column in COLUMNS if column not in row]
            if missing:
                raise DataError(f"{path}, line {line}: no {missing[0]}; every line needs both keys")
            yield line, row["text"], row["label"]


def _parsed(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}, line {line}: not valid JSON: {error}; mend the line") from error
    if not isinstance(row, dict):
        raise DataError(f'{path}, line {line}: must be an object: {{"text": ..., "label": ...}}')
    return row


def _check_labels(path: Path, rows: list[Example], where: str) -> None:
    """Every label must stand on both sides of the split, so it needs two different texts."""
    found = groups_by_label(rows)
    if len(found) < 2:
        names = " ".join(sorted(found)) or "none"
        raise DataError(f"{path}: fewer than two labels{where} ({names}); a classifier needs two")
    scarce = sorted(label for label, groups in found.items() if len(groups) < 2)
    if scarce:
        few = ", ".join(scarce[:SHOWN]) + (", ..." if len(scarce) > SHOWN else "")
        raise DataError(
            f"{path}: {len(scarce)} labels with fewer than two different texts{where}: {few}; "
            "add texts or remove those labels"
        )


def _either(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".csv": partial(_separated, delimiter=","),
    ".tsv": partial(_separated, delimiter="\t"),
    ".jsonl": _json_lines,
}
