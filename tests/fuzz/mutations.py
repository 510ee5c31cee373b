"""Mutations of bytes, text and JSON, each drawn by a seeded `random.Random`."""

import json
from random import Random
from typing import Any

ODD_BYTES = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xc3",
    b"\xed\xa0\x80",  # a surrogate, which UTF-8 does not allow
    b"\r",
    b"\r\n",
    b"\n\n",
    b'"',
    b'""',
    b"'",
    b"\t",
    b",",
    b"\\",
    b"\\ud83d",
    b"\xe2\x80\x8b",  # zero-width space
    b"\xe2\x80\xa8",  # line separator
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"1e999",
    b"NaN",
    b"=",
    b"#",
    b"x" * 200_000,
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    -0.0,
    1e308,
    2**63,
    10**30,
    "",
    " ",
    "\ud800",
    "\x00",
    "\u200b",
    "../../etc/passwd",
    "/",
    "<image>",
    "</s>[SEP]<|im_end|><|image_pad|>",
    "é" * 300,
    "word " * 3000,
    [],
    {},
    [[]],
    {"a": 1},
)


def mutated_bytes(rng: Random, content: bytes) -> bytes:
    """The content after one to three edits: flips, cuts, repeats and insertions."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        edit = rng.choice((_flip, _cut, _repeat, _insert, _insert, _truncate, _encode))
        content = edit(rng, content)
    return content


def _flip(rng: Random, content: bytes) -> bytes:
    at = rng.randrange(max(1, len(content)))
    return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]


def _cut(rng: Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def _repeat(rng: Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:end] + content[start:end] * rng.choice((1, 2, 50)) + content[end:]


def _insert(rng: Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(ODD_BYTES) + content[at:]


def _truncate(rng: Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _encode(rng: Random, content: bytes) -> bytes:
    try:
        return content.decode().encode(rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "cp1252")))
    except UnicodeError:
        return content


def _span(rng: Random, content: bytes) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.choice((1, 2, 10, 100)))


def mutated_json(rng: Random, value: Any) -> Any:
    """The value with one node replaced, removed or renamed."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(ODD_VALUES)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        rest = [] if rng.random() < 0.2 else [mutated_json(rng, value[at])]
        return [*value[:at], *rest, *value[at + 1 :]]
    key = rng.choice(sorted(value))
    kept = {name: child for name, child in value.items() if name != key}
    match rng.randrange(6):
        case 0:
            return kept
        case 1:
            return {**kept, key.upper(): value[key]}
        case _:
            return {**kept, key: mutated_json(rng, value[key])}


def json_bytes(rng: Random, value: Any) -> bytes:
    """A mutation of a JSON document, of its structure or of its bytes."""
    if rng.random() < 0.6:
        return json.dumps(mutated_json(rng, value)).encode()
    return mutated_bytes(rng, json.dumps(value, indent=rng.choice((None, 1))).encode())
