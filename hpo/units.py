"""Sizes, durations, values and texts as people write and read them."""

import re

SHOWN_CHARACTERS = 60  # of a text in a message

SIZES = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
LARGEST_SIZE = 1 << 60  # bytes: what systems take as a limit
LONGEST_S = 1e10  # three hundred years
SECONDS = {"": 1.0, "S": 1.0, "M": 60.0, "H": 3600.0, "D": 86400.0}


def parse_size(text: str) -> int:
    """`2GB`, `512MiB`, `1.5G` -> bytes, with 1 K = 1024. Raises ValueError."""
    found = re.fullmatch(r"(\d+\.?\d*)\s*([BKMGT]?)(?:I?B)?", text.strip().upper())
    size = float(found.group(1)) * SIZES[found.group(2)] if found else 0.0
    if not 1 <= size < LARGEST_SIZE:
        raise ValueError(f"{text}: not a size; write 512MB or 2GB")
    return int(size)


def parse_duration(text: str) -> float:
    """`90s`, `10m`, `1.5h`, `2d`, or plain seconds -> seconds. Raises ValueError."""
    found = re.fullmatch(r"(\d+\.?\d*)\s*([SMHD]?)", text.strip().upper())
    seconds = float(found.group(1)) * SECONDS[found.group(2)] if found else 0.0
    if not 0 < seconds < LONGEST_S:
        raise ValueError(f"{text}: not a duration; write 90s, 30m or 8h")
    return seconds


def show_size(size: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, bound in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= bound:
            return f"{size / bound:.1f} {unit}"
    return f"{size:.0f} B"


def show_duration(seconds: float) -> str:
    """Seconds as `2h 05m`, `3m 20s` or `12s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    if whole >= 60:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{seconds:.1f}s" if seconds < 10 else f"{whole}s"


def show_value(value: object) -> str:
    """A hyperparameter in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_text(text: str) -> str:
    """A text of somebody's data in quotes, cut where it is long; what is invisible is escaped."""
    if len(text) <= SHOWN_CHARACTERS:
        return repr(text)
    return f"{text[:SHOWN_CHARACTERS]!r}... ({len(text)} characters)"


def show_name(name: str) -> str:
    """A short printable name as it is, any other text as `show_text` shows it."""
    clear = name.isprintable() and name == name.strip() and 0 < len(name) <= SHOWN_CHARACTERS
    return name if clear else show_text(name)


def show_data(value: object) -> str:
    """A value of somebody's data, of whatever type, in few characters."""
    if isinstance(value, str):
        return show_text(value)
    try:
        shown = repr(value)
    except RecursionError:  # it could just be read
        shown = f"a {type(value).__name__} of too many levels"
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}..."
