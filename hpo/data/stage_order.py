"""The order of a curriculum's stages, from their names alone."""

import json
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from hpo.data.labels import to_number
from hpo.errors import DataError
from hpo.units import SHOWN_CHARACTERS, show_text

SHOWN = 12  # stages in a message
VERSION = re.compile(r"\d+\.\d+0")  # 1.10, which follows 1.9 as a version, not as a decimal
NUMBERED = re.compile(r"(\D*)(\d+(?:\.\d+)?)(\D*)")
ORDINALS = ("st", "nd", "rd", "th")
LETTERS = "a b c d e f g h i j k l"
ROMAN = "i ii iii iv v vi vii viii ix x xi xii"
SCALES = tuple(
    tuple(step.split("|") for step in scale.split())
    for scale in (
        "trivial|easiest veryeasy easy medium|moderate|normal|intermediate|average "
        "hard|difficult|challenging veryhard|verydifficult|expert extreme|hardest",
        "verysimple simple medium|moderate|normal|intermediate|average complex verycomplex",
        "beginner|novice intermediate advanced expert",
        "basic|elementary|fundamental intermediate|medium advanced expert",
        "verylow|lowest low medium|middle|mid|moderate|normal high veryhigh|highest",
        "veryshort short medium long verylong",
        "start|beginning middle|mid end",
        "early middle|mid late",
        "warmup main|training cooldown",
        "pretraining|pretrain finetuning|finetune",
        "primary secondary tertiary",
        "coarse medium fine",
        "one two three four five six seven eight nine ten",
        "first second third fourth fifth sixth seventh eighth ninth tenth",
    )
)
"""Steps of the usual words, the easiest first; | stands between words for one step."""


def ordered_stages(counts: Mapping[str, int], *, where: str) -> tuple[str, ...]:
    """Stages in the order that their names state: numbers, words of one usual scale, or a, b, c.

    Numbers may all stand behind the same words (`stage 1`, `Stage-2`), or before words of their
    own (`1_easy`). Where 1.9 and 1.10 may be versions or decimals, no order is stated.

    Args:
        counts: rows of each stage.
        where: the data, for messages.

    Raises:
        DataError: the names state no order; shows how to give it.
    """
    names = sorted(counts)
    if len(names) < 2:
        return tuple(names)
    scales = (_steps(names, scale) for scale in SCALES)
    lists = (_listed(names, signs.split()) for signs in (LETTERS, ROMAN))
    for ranks in (_numbers(names), _numbers_inside(names), *scales, *lists):
        if None not in ranks and len(set(ranks)) == len(names):
            return tuple(sorted(names, key=dict(zip(names, ranks, strict=True)).__getitem__))
    raise DataError(_question(counts, where))


def _numbers(names: Sequence[str]) -> Sequence[Any]:
    """The value of each name; none where 1.8, 1.9 and 1.10 may be versions or sections."""
    decimals = [name for name in names if re.fullmatch(r"\d+\.\d+", name)]
    digits = {len(name.partition(".")[2]) for name in decimals}
    if len(digits) > 1 and any(map(VERSION.fullmatch, decimals)):
        return [None]
    return [to_number(name) for name in names]


def _numbers_inside(names: Sequence[str]) -> Sequence[Any]:
    """The one number in each name, where the names differ in nothing else that may rank them."""
    parts = [part for name in names if (part := NUMBERED.fullmatch(name.casefold()))]
    before = {_word(part[1]) for part in parts}
    after = [part[3] for part in parts]
    same = len({_word(end) for end in after if end not in ORDINALS}) < 2
    apart = all(end.startswith(("_", "-", ".", ":", ")")) for end in after)  # never a unit: 5mm
    if len(parts) < len(names) or len(before) > 1 or not (same or apart):
        return [None]
    return _unambiguous([part[2] for part in parts])


def _unambiguous(numbers: Sequence[str]) -> Sequence[Any]:
    """Their values, unless they may be versions or sections of another order: 1.10 after 1.9."""
    values = [Decimal(number) for number in numbers]
    versions = [[int(Decimal(part)) for part in number.split(".")] for number in numbers]
    places = range(len(numbers))
    same = sorted(places, key=values.__getitem__) == sorted(places, key=versions.__getitem__)
    return values if same else [None]


def _steps(names: Sequence[str], scale: Sequence[Sequence[str]]) -> list[int | None]:
    """The place of each name on a scale; None for one that is not there."""
    places = {_word(word): place for place, words in enumerate(scale) for word in words}
    return [places.get(_word(name)) for name in names]


def _listed(names: Sequence[str], signs: Sequence[str]) -> Sequence[Any]:
    """The place of each name among the signs of a list, of which the first must all be there."""
    words = [_word(name) for name in names]
    whole = set(words) == set(signs[: len(words)])
    return [signs.index(word) for word in words] if whole else [None]


def _word(name: str) -> str:
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFKC", name).casefold())


def _question(counts: Mapping[str, int], where: str) -> str:
    names = sorted(counts)[:SHOWN]
    more = ", ..." if len(counts) > SHOWN else ""
    shown = ", ".join(f"{show_text(name)} ({counts[name]} rows)" for name in names)
    names = names if max(map(len, names)) <= SHOWN_CHARACTERS and not more else ["...", "..."]
    listed = json.dumps(names, ensure_ascii=False)
    example = shlex.quote(f"data.stages={listed}")
    return (
        f"{where}: the {len(counts)} values of stage state no order: {shown}{more}; list them from "
        f"the first stage to the last, in your order: --set {example}"
    )
