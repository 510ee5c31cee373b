"""How long what is stored may be: MySQL's and MariaDB's TEXT holds 65,535 bytes.

Optuna stores attributes as JSON in ASCII, so that no character set, no NUL and no half of a
surrogate pair matters; only their length does.
"""

import json
from typing import Any

from sqlalchemy import Engine

TEXT_BYTES = 65_535
ELLIPSIS = "..."


def fitting(value: Any, engine: Engine) -> Any:
    """The value of an attribute, or as much of it as the database stores.

    A text is cut; a structure that is too long becomes a text, which says so by its end.
    """
    if engine.dialect.name != "mysql" or len(json.dumps(value)) <= TEXT_BYTES:
        return value
    return _cut(value if isinstance(value, str) else json.dumps(value))


def _cut(text: str) -> str:
    """The longest beginning of a text that fits as JSON, with an ellipsis."""
    room, low, high = TEXT_BYTES - len(ELLIPSIS) - 2, 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if len(json.dumps(text[:middle])) - 2 <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low] + ELLIPSIS
