"""Whether quotes in a table are marks of a writer or characters of its texts.

Writers of quoted tables follow a rule, so a rule that explains every cell of a column is evidence
of a writer; quotes that no rule explains were typed by people.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import DataError
from hpo.units import show_text

ENOUGH = 3  # quoted cells that are no accident, where a comma alone explains the quotes

Rule = Callable[[str], bool]  # whether a writer quotes that value


@dataclass(frozen=True, kw_only=True, slots=True)  # one for every field of a file
class Cell:
    """A field as it stands in the file, and as a reader of quotes reads it."""

    line: int
    column: int
    raw: str
    value: str

    @property
    def is_quoted(self) -> bool:
        """Whether the reader has taken quotes away."""
        return self.raw.startswith('"')

    @property
    def has_doubled_quote(self) -> bool:
        """Whether it has a quote inside that is written twice, as only writers do."""
        return self.is_quoted and '"' in self.value


def is_quoted_table(path: Path, cells: Sequence[Cell]) -> bool:
    """Whether a table is of the quoted dialect, by its cells below the header.

    Args:
        cells: each on one line, in either dialect.

    Raises:
        DataError: the evidence is of both, or of too few cells; names the line.
    """
    columns = _columns(cells)
    strange = [cell for column in columns for cell in _unexplained(column)]
    doubled = [cell for cell in cells if cell.has_doubled_quote]
    if strange and doubled:
        raise _ambiguous(path, min(strange, key=lambda cell: cell.line))
    if strange:
        return False
    for column in columns:
        quoted = [cell for cell in column if cell.is_quoted]
        if quoted and len(quoted) < ENOUGH and not _is_explained(column, MARKS_OF_WRITERS):
            raise _ambiguous(path, quoted[0])
    return any(cell.is_quoted for cell in cells)


def _ambiguous(path: Path, cell: Cell) -> DataError:
    return DataError(
        f"{path}, line {cell.line}: the quotes in {show_text(cell.raw)} may be part of the text or "
        "quote the field, and the rest of the file does not tell; quote all fields, with every "
        "quote inside doubled, or give the table as JSON lines (.jsonl)"
    )


def _columns(cells: Sequence[Cell]) -> list[list[Cell]]:
    columns: dict[int, list[Cell]] = defaultdict(list)
    for cell in cells:
        columns[cell.column].append(cell)
    return list(columns.values())


def _unexplained(column: Sequence[Cell]) -> list[Cell]:
    """The cells that the rule which explains most does not explain; empty if one explains all."""
    return min((_breaks(column, rule) for rule in RULES), key=len)


def _is_explained(column: Sequence[Cell], rules: Sequence[Rule]) -> bool:
    return any(not _breaks(column, rule) for rule in rules)


def _breaks(column: Sequence[Cell], rule: Rule) -> list[Cell]:
    return [cell for cell in column if cell.is_quoted != rule(cell.value)]


def _where_needed(value: str) -> bool:
    """Python's csv, pandas, polars: a quote inside; tabs and line ends are not on one line."""
    return '"' in value


def _where_excel_does(value: str) -> bool:
    """Excel: also a comma, whatever separates the fields."""
    return '"' in value or "," in value


def _everywhere(_: str) -> bool:
    """R, and writers that are asked to."""
    return True


def _where_no_number(value: str) -> bool:
    """Writers that leave numbers as they are."""
    try:
        float(value)
    except ValueError:
        return True
    return False


MARKS_OF_WRITERS: tuple[Rule, ...] = (_where_needed, _everywhere, _where_no_number)
RULES: tuple[Rule, ...] = (*MARKS_OF_WRITERS, _where_excel_does)
