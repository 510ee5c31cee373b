"""What the embedded language model is pretrained on: everyday stories with questions, and notes.

From questions it learns who wants what in clauses of every kind. What customers want it is never
asked: it reads their messages without labels, and that is left for an adapter to learn.
"""

import numpy as np

from hpo.mini.clauses import ME, Person, clause, joined, named, pick
from hpo.mini.messages import LABELS, THINGS, write

NAMES = (
    "Tom|Anna|Peter|Maria|Ali|Sara|John|Lucy|Omar|Nina|Paul|Emma|my sister|my neighbour|my son"
    "|your colleague|my wife|my flatmate|your driver|my father|the teacher|our cousin"
)
ACTS = (
    "sell the {thing}|buy a {thing}|repair the {thing}|clean the {thing}|paint the {thing}"
    "|borrow the {thing} of {name}|lend the {thing} to {name}|give the {thing} back to {name}"
    "|get the {thing} back from {name}|pay {name} for the {thing}|be paid for the {thing}"
    "|move to {place}|visit {name} in {place}|stay in {place}|leave {place}|work in {place}"
    "|learn to cook|learn to swim|call {name}|wait for {name}|write to {name}|meet {name}"
    "|cook for {name}|end the lessons|keep the garden|report the noise to {name}"
    "|have the {thing} sent to {place}|know where the {thing} is|order a {thing} for {name}"
    "|owe {name} nothing for the {thing}|take the {thing} to {place}|stop the work on the {thing}"
)
PLACES = "Rome|London|the city|the village|Paris|the mountains|the harbour|Berlin|the old house"
PEOPLE = tuple(named(name) for name in NAMES.split("|")) + (ME,) * 8
NOTES = (
    "Call {number} now and win a {thing}!",
    "Only {price} this week: the new {thing}. Text YES to {number}.",
    "Are you free on {day}? We could meet in {place}.",
    "I will be home at {hour}, see you then.",
    "{name} is in {place} until {day}, so call {number} instead.",
    "Sorry, I was asleep. I will call you on {day}.",
    "Your {thing} costs {price} and arrives on {day}.",
    "Did you get my message? The {thing} is still here.",
    "What time is it in {place}? I have to be there at {hour}.",
    "Your card was charged {price} on {day}. Reply STOP to {number} to end this.",
    "Why was my transfer of {price} declined?",
    "How long does it take until my card works in {place}?",
    "ok, lol, see u at {hour} then",
    "pls send me the address of {name}, thx",
)
DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"


def story(rng: np.random.Generator) -> str:
    """One to three clauses, at most one of them open, and one to three questions about them."""
    count = int(rng.integers(1, 4))
    people = [PEOPLE[int(rng.integers(len(PEOPLE)))] for _ in range(count)]
    if rng.random() < 0.7:
        people = [people[0]] * count
    acts = [_act(rng) for _ in range(count)]
    chosen = int(rng.integers(count)) if rng.random() < 0.6 else None
    clauses = [
        clause(rng, person, act, _other(rng, person), index == chosen)
        for index, (person, act) in enumerate(zip(people, acts, strict=True))
    ]
    asked = people[int(rng.integers(count)) if chosen is None else chosen]
    questions = [_wish(asked, None if chosen is None else acts[chosen])]
    for index in rng.permutation(count)[: int(rng.integers(0, 3))]:
        answer = "Yes" if index == chosen else "No"
        questions.append(f"{_do(people[index])} want to {acts[index]}? {answer}.")
    rng.shuffle(questions)
    return " ".join([joined(rng, clauses), *questions])


def _wish(person: Person, act: str | None) -> str:
    answer = f"To {act}" if act else "Nothing"
    return f"What {person.do} {person.who} still want? {answer}."


def _do(person: Person) -> str:
    return f"{person.do.capitalize()} {person.who}"


def _act(rng: np.random.Generator) -> str:
    return pick(rng, ACTS).format(
        thing=pick(rng, THINGS), name=pick(rng, NAMES), place=pick(rng, PLACES)
    )


def _other(rng: np.random.Generator, person: Person) -> str:
    return next(name for _ in range(99) if (name := pick(rng, NAMES)) != person.who)


def unlabelled(rng: np.random.Generator) -> str:
    """A message of a customer, all kinds equally often, and nothing that says which."""
    return write(rng, LABELS[int(rng.integers(len(LABELS)))])


def note(rng: np.random.Generator) -> str:
    """A short note or notice with numbers, typed with more or less care."""
    digits = "".join(str(d) for d in rng.integers(0, 10, int(rng.integers(4, 12))))
    text = NOTES[int(rng.integers(len(NOTES)))].format(
        number=digits,
        price=f"{pick(rng, '£|$|€')}{rng.integers(1, 2000)}{pick(rng, '|.50|.99')}",
        hour=f"{rng.integers(1, 12)}{pick(rng, 'am|pm|')}",
        day=pick(rng, DAYS),
        name=pick(rng, NAMES),
        place=pick(rng, PLACES),
        thing=pick(rng, THINGS),
    )
    return typed(rng, text)


def typed(rng: np.random.Generator, text: str) -> str:
    """The text as somebody in a hurry types it: now and then in one case, or without stops."""
    kind = rng.random()
    if kind < 0.15:
        return text.lower()
    if kind < 0.25:
        return text.upper()
    return text.rstrip(".!") if kind < 0.35 else text
