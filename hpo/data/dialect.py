"""Whether quotes in a table are marks of a writer or characters of its texts.

Writers of quoted tables follow a rule, so a rule that explains every cell of a column is evidence
of a writer; quotes that no rule explains were typed by people.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import DataError


@dataclass(frozen=True, kw_only=True)
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
        DataError: a writer has doubled quotes inside, and yet no rule explains all; names the line.
    """
    strange = [cell for column in _columns(cells) for cell in _unexplained(column)]
    if not strange:
        return any(cell.is_quoted for cell in cells)
    doubled = [cell for cell in cells if cell.has_doubled_quote]
    if not doubled:
        return False
    first = min(strange, key=lambda cell: cell.line)
    raise DataError(
        f"{path}, line {first.line}: the quotes here may be part of the text or quote the field, "
        f"as on line {doubled[0].line}, and the file shows both; quote all fields with every quote "
        "inside doubled, or give the table as JSON lines (.jsonl)"
    )


def _columns(cells: Sequence[Cell]) -> list[list[Cell]]:
    columns: dict[int, list[Cell]] = defaultdict(list)
    for cell in cells:
        columns[cell.column].append(cell)
    return list(columns.values())


def _unexplained(column: Sequence[Cell]) -> list[Cell]:
    """The cells that the rule which explains most does not explain; empty if one explains all."""
    breaks = [[cell for cell in column if cell.is_quoted != quotes(cell.value)] for quotes in RULES]
    return min(breaks, key=len)


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


RULES: tuple[Callable[[str], bool], ...] = (
    _where_needed,
    _where_excel_does,
    _everywhere,
    _where_no_number,
)
