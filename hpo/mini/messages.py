"""Drawn-up messages of customers, labelled by what has to be done about them.

Message `index` of `seed` is always the same text and label, on any machine. It says of one to
three acts whether the customer still wants them, and at most one is: that one is the label.
"""

from functools import cache

import numpy as np

from hpo.mini.clauses import ME, clause, joined, pick

DECK: tuple[str, ...] = (
    *("nothing",) * 22,
    *("delivery",) * 10,
    *("refund",) * 7,
    *("bill",) * 5,
    *("cancel",) * 4,
    *("fraud",) * 2,
)
"""The labels of 50 messages that follow each other."""
LABELS = tuple(dict.fromkeys(DECK))
ACTS = {
    "delivery": (
        "have the {thing} sent to {whose} new address|get the {thing} that {who} ordered"
        "|know when the {thing} will be here|receive the missing part of the {thing}"
    ),
    "refund": (
        "get back what {who} paid for the {thing}|have {whose} money for the {thing} back"
        "|return the {thing} and be paid for it|be paid back the price of the {thing}"
    ),
    "bill": (
        "pay what {who} owe for the {thing}|have the bill for the {thing} corrected"
        "|pay for the {thing} in two parts|get a bill for the {thing} that {who} ordered"
    ),
    "cancel": (
        "cancel the order of the {thing}|end the contract for the {thing}"
        "|take back the order of the {thing}|keep the contract for the {thing} from going on"
    ),
    "fraud": (
        "report that a stranger ordered a {thing} with {whose} card"
        "|block the card that a stranger paid for a {thing} with"
        "|object to a {thing} that was ordered in {whose} name"
        "|report that {who} was charged for a {thing} of somebody else"
    ),
}
THINGS = (
    "lamp|jacket|kettle|phone|bicycle|carpet|mirror|printer|tent|camera|desk|guitar|toaster|sofa"
    "|watch|heater|radio|ladder|blender|chair|keyboard|suitcase|drill|bed|coat|clock|oven|fridge"
)
OTHERS = "my sister|my neighbour|my son|your colleague|my wife|my flatmate|your driver|my father"
GREETINGS = "Hello. |Hello, |Good morning. |Dear team, |Hi, |To whom it may concern: "
ENDINGS = " Thank you.| Best regards.| Please write back.| Thanks a lot!| Have a nice day."


def message(seed: int, index: int) -> tuple[str, str]:
    """(text, label) of message `index` of the endless inbox `seed`."""
    label = DECK[int(_shuffled(seed, index // len(DECK))[index % len(DECK)])]
    return write(np.random.default_rng([seed, index]), label), label


@cache
def _shuffled(seed: int, deck: int) -> np.ndarray:
    return np.random.default_rng([seed, deck, 0]).permutation(len(DECK))


def write(rng: np.random.Generator, label: str) -> str:
    """A message with that label."""
    topics = list(ACTS)
    count = int(rng.choice(3, p=[0.3, 0.5, 0.2])) + 1
    acts = [(topics[int(rng.integers(len(topics)))], False) for _ in range(count)]
    if label in ACTS:
        acts[int(rng.integers(count))] = (label, True)
    text = joined(rng, [_clause(rng, topic, is_open) for topic, is_open in acts])
    greeting = pick(rng, GREETINGS) if rng.random() < 0.3 else ""
    return greeting + text + (pick(rng, ENDINGS) if rng.random() < 0.3 else "")


def _clause(rng: np.random.Generator, topic: str, is_open: bool) -> str:
    act = pick(rng, ACTS[topic]).replace("{thing}", pick(rng, THINGS)).replace("{who}", "I")
    return clause(rng, ME, act, pick(rng, OTHERS), is_open)
