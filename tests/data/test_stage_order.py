"""The order of stages is that of their names, or it is asked for."""

import json
import shlex
from itertools import permutations

import pytest

from hpo.data.stage_order import ordered_stages
from hpo.errors import DataError
from hpo.files.settings import parse_assignment
from tests.data.complaints import sentence

ORDERED = [
    ("easy", "medium", "hard"),
    ("Easy", "Medium", "HARD"),
    ("very easy", "easy", "normal", "difficult", "very_hard"),
    ("simple", "complex"),
    ("simple", "moderate", "complex"),
    ("beginner", "intermediate", "advanced", "expert"),
    ("basic", "intermediate", "advanced"),
    ("low", "medium", "high"),
    ("very-low", "low", "high"),
    ("first", "second", "third"),
    ("one", "two", "three"),
    ("start", "middle", "end"),
    ("early", "mid", "late"),
    ("warm-up", "main"),
    ("short", "long"),
    ("1", "2", "10"),
    ("-1", "0", "1"),
    ("0.5", "1", "1.5"),
    ("0.25", "0.5", "1.0"),
    ("1.10", "1.25", "1.90"),
    ("stage 1", "stage 2", "stage 10"),
    ("Stage-1", "stage_2", "STAGE 10"),
    ("s2", "s3", "s11"),
    ("level-9", "level-10"),
    ("1st", "2nd", "3rd", "4th"),
    ("phase 1 of it", "phase 2 of it"),
    ("1_simple", "2_long", "10_counts"),
    ("1. size", "2. place"),
    ("v1.8", "v1.9", "v2.0"),
    ("p0.5", "p1", "p1.5"),
    ("a", "b", "c"),
    ("I", "II", "III", "IV", "V"),
    ("only",),
    (),
]
UNKNOWN = [
    ("colour", "size"),
    ("easy", "high"),
    ("easy", "medium", "other"),
    ("1", "2", "late"),
    ("hard", "difficult"),
    ("1", "1.0"),
    ("stage 1", "stage 01"),
    ("stage 1", "level 2"),
    ("5mm", "1cm"),
    ("v1.2.3", "v1.2.10"),
    ("v1.9", "v1.10"),
    ("v1.8", "v1.9", "v1.10"),
    ("1.8", "1.9", "1.10"),
    ("part 2.5", "part 2.11", "part 3"),
    ("p", "q"),
    ("first", "2"),
    ("easy", "EASY"),
]


def counts(names):
    return {name: 4 for name in names}


@pytest.mark.parametrize("names", ORDERED, ids=str)
def test_names_that_state_an_order_are_in_it(names):
    for order in list(permutations(names))[:24]:
        assert ordered_stages(counts(order), where="d") == names


@pytest.mark.parametrize("names", UNKNOWN, ids=str)
def test_any_other_order_is_asked_for_with_a_line_to_copy(names):
    text = sentence(lambda: ordered_stages(counts(names), where="data.json"), DataError)
    for name in names:
        assert f"{name!r} (4 rows)" in text
    assert "data.json" in text
    option, assignment = shlex.split(text[text.index("--set") :])
    assert option == "--set"
    assert parse_assignment(assignment) == (("data", "stages"), sorted(names))


def test_many_stages_are_not_all_shown():
    names = [f"what {'abcdefghijklmnopqrstuvwxyz'[n]}" for n in range(26)]
    text = sentence(lambda: ordered_stages(counts(names), where="d"), DataError)
    assert "the 26 values of stage" in text and "what a" in text and "what z" not in text
    assert json.dumps("...") in text


def test_a_name_with_a_quote_can_be_copied_too():
    text = sentence(lambda: ordered_stages(counts(["it's", 'a "b"']), where="d"), DataError)
    assignment = shlex.split(text[text.index("--set") :])[1]
    assert parse_assignment(assignment)[1] == ['a "b"', "it's"]
