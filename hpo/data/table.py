"""Texts with labels from a table: CSV, TSV or JSON lines with the columns `text` and `label`.

`data.root` is the file, or a folder that holds one data.csv, data.tsv or data.jsonl. Other columns
are left alone. `hpo.data.delimited` says how fields of CSV and TSV may be quoted.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hpo.data.delimited import csv_rows, tsv_rows
from hpo.data.examples import Example, Examples, capped, groups_by_label, stratified
from hpo.data.fields import filled_text
from hpo.data.json_text import parse_json
from hpo.data.labels import exact, label_notes, labelled, near_equal_groups
from hpo.data.text_file import decode, read_file
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec
from hpo.units import show_name, show_text

COLUMNS = ("text", "label")
NAMES = ("data.csv", "data.tsv", "data.jsonl")
ROW = '{"text": ..., "label": ...}'
SHOWN = 3  # labels in a message

Rows = Iterator[tuple[int, Sequence[Any]]]  # line, (text, label)


def read(data: DataSpec) -> Examples:
    """The rows of the table; each label has `data.val_share` of its texts in val."""
    path = _find(data.root)
    content = read_file(path)
    rows = _examples(path, READERS[path.suffix.lower()](path, decode(path, content)))
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
        notes=label_notes(row.target for row in rows),
    )


def _find(root: str | None) -> Path:
    """The file, or the one that lies in the folder."""
    path = Path(os.path.expanduser(root or ""))
    there = [path / name for name in NAMES] if path.is_dir() else [path]
    there = [one for one in there if one.exists()]
    if root is None or not there:
        raise MissingError(
            f"data {root or '(data.root is not set)'}: no table there; give a .csv, .tsv or "
            f".jsonl file, or a folder that holds {_either(NAMES)}, with --data PATH"
        )
    files = [one for one in there if one.is_file()]
    if not files:
        raise DataError(f"{there[0]}: not a regular file; give a {_either(READERS)} file by --data")
    if len(files) > 1:
        raise DataError(f"{path}: holds {' and '.join(p.name for p in files)}; give one of them")
    if files[0].suffix.lower() not in READERS:
        raise DataError(f"{path}: not a table that can be read; it must be {_either(READERS)}")
    return files[0]


def _examples(path: Path, rows: Rows) -> list[Example]:
    found = []
    for index, (line, values) in enumerate(rows, start=1):
        place = f"{path}, line {line}"
        text, label = (_filled(place, *field) for field in zip(COLUMNS, values, strict=True))
        found.append(labelled(f"row {index}", text, label))
    return found


def _filled(place: str, column: str, value: Any) -> str:
    """The value without the space around it; it must be a text, a label also a whole number."""
    if column == "label" and type(value) is int:
        return str(value)
    allowed = "a text or a whole number" if column == "label" else "a text"
    return filled_text(place, column, value, allowed=allowed).strip()


def _json_lines(path: Path, content: str) -> Rows:
    for line, text in enumerate(content.split("\n"), start=1):
        if text.strip():
            row = parse_json(path, text, line=line, remedy=f"each line must be an object, {ROW}")
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {line}: each line must be an object, {ROW}")
            missing = [column for column in COLUMNS if column not in row]
            if missing:
                there = ", ".join(show_text(key) for key in row) or "none"
                raise DataError(
                    f"{path}, line {line}: no {missing[0]} among its keys ({there}); every line "
                    "needs text and label"
                )
            yield line, [row[column] for column in COLUMNS]


def _check_labels(path: Path, rows: list[Example], where: str) -> None:
    """Every label must stand on both sides of the split, so it needs two different texts."""
    found = groups_by_label(rows)
    if len(found) < 2:
        names = ", ".join(show_text(label) for label in found) or "none"
        raise DataError(f"{path}: fewer than two labels{where} ({names}); a classifier needs two")
    scarce = sorted(label for label, groups in found.items() if len(groups) < 2)
    if scarce:
        few = ", ".join(show_name(label) for label in scarce[:SHOWN])
        few += ", ..." if len(scarce) > SHOWN else ""
        raise DataError(
            f"{path}: {len(scarce)} labels with fewer than two different texts{where}: {few}; "
            f"add texts or remove those labels{_misspelled(found, scarce)}"
        )


def _misspelled(labels: Iterable[str], scarce: Sequence[str]) -> str:
    """Which other label was perhaps meant, for a message."""
    for group in near_equal_groups(labels):
        if not set(scarce).isdisjoint(group):
            return f", or write {' and '.join(map(exact, group))} the same if they mean one label"
    return ""


def _either(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".csv": partial(csv_rows, columns=COLUMNS),
    ".tsv": partial(tsv_rows, columns=COLUMNS),
    ".jsonl": _json_lines,
}
