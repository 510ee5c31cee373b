"""Clauses that say of an act whether somebody still wants it: the grammar of all drawn-up text.

Every open clause has a settled one of nearly the same words. Which of the two it is depends on
negation, on who wants it and on what happened, never on a single word.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody, in the forms that clauses need."""

    who: str
    whom: str
    whose: str
    have: str
    want: str
    do: str
    be: str


def named(name: str, whose: str = "their") -> Person:
    """A third person: Tom, my sister."""
    return Person(who=name, whom=name, whose=whose, have="has", want="wants", do="does", be="is")


ME = Person(who="I", whom="me", whose="my", have="have", want="want", do="do", be="am")
# (still wanted, no longer or never wanted)
PAIRS = (
    ("{who} would like to {act}", "{who} would not like to {act}"),
    ("{who} {want} to {act}", "{who} {do} not want to {act}"),
    ("{who} still {want} to {act}", "{who} no longer {want} to {act}"),
    ("{who} still {have} to {act}", "{who} no longer {have} to {act}"),
    (
        "{who} {have} not been able to {act} so far",
        "{who} {have} been able to {act} by now",
    ),
    ("nobody has helped {whom} to {act}", "somebody has helped {whom} to {act}"),
    (
        "there is no reason for {whom} not to {act}",
        "there is no reason for {whom} to {act}",
    ),
    (
        "it is not true that {who} no longer {want} to {act}",
        "it is not true that {who} still {want} to {act}",
    ),
    (
        "{who} asked to {act} and nothing has happened",
        "{who} asked to {act} and it has happened",
    ),
    (
        "{who} did not want to {act} but now {want} to",
        "{who} wanted to {act} but now {do} not",
    ),
    (
        "it is {whom} who would like to {act}, not {other}",
        "it is {other} who would like to {act}, not {whom}",
    ),
    (
        "{other} said that {who} {want} to {act}, which is right",
        "{other} said that {who} {want} to {act}, which is wrong",
    ),
    (
        "if nobody minds, {who} would like to {act} now",
        "if {who} would like to {act} one day, nobody will mind",
    ),
    (
        "what {who} asked for and never got was to {act}",
        "what {who} never asked for but got was to {act}",
    ),
)  # fmt: skip


def clause(rng: np.random.Generator, person: Person, act: str, other: str, is_open: bool) -> str:
    """One clause about `act` ("sell {whose} boat"), open or settled; `other` is somebody else."""
    frame = PAIRS[int(rng.integers(len(PAIRS)))][0 if is_open else 1]
    return frame.format(
        who=person.who,
        whom=person.whom,
        have=person.have,
        want=person.want,
        do=person.do,
        other=other,
        act=act.format(whose=person.whose),
    )


def joined(rng: np.random.Generator, clauses: list[str]) -> str:
    """The clauses as sentences, in their order."""
    text = _capital(clauses[0])
    for following in clauses[1:]:
        link = (". ", "; ", ", and ", ", but ")[int(rng.integers(4))]
        text += link + (_capital(following) if link == ". " else following)
    return text + "."


def pick(rng: np.random.Generator, choices: str) -> str:
    """One of `choices`, which are parted by |."""
    options = choices.split("|")
    return options[int(rng.integers(len(options)))]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
