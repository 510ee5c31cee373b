"""Drawn messages are the same everywhere and for ever."""

from collections import Counter

from hpo.data import read_examples
from hpo.data.labels import labels
from hpo.mini.messages import DECK, LABELS, message
from hpo.specs import DataSpec


def read(**settings):
    defaults = {"root": None, "val_share": 0.2, "samples": None, "max_length": 256}
    return read_examples(DataSpec(format="messages", **defaults | settings))


def plain(side):
    return [(e.name, e.group, e.prompt, e.target, e.content()) for e in side]


def test_as_many_messages_as_were_asked_for_and_enough_by_default():
    examples = read(samples=100)
    assert examples.total == 100
    assert len(examples.train) + len(examples.val) == 100
    assert read().total >= 600


def test_the_same_messages_every_time():
    first, second = read(samples=30), read(samples=30)
    assert first.digest == second.digest
    assert plain(first.train) == plain(second.train)
    assert plain(first.val) == plain(second.val)


def test_a_message_is_the_same_for_ever():
    text, label = message(0, 0)
    assert (text[:58], len(text), label) == (
        "I would not like to have the bill for the jacket corrected",
        144,
        "nothing",
    )
    assert message(7, 123) == (
        "Good morning. I want to receive the missing part of the camera. Have a nice day.",
        "delivery",
    )


def test_a_message_does_not_depend_on_how_many_there_are():
    few, many = (set(plain((*x.train, *x.val))) for x in (read(samples=9), read()))
    assert few < many


def test_labels_have_their_shares_on_both_sides():
    examples = read(samples=500, val_share=0.2)
    for side, decks in ((examples.train, 8), (examples.val, 2)):
        assert Counter(e.target for e in side) == {k: decks * n for k, n in Counter(DECK).items()}
    assert labels(examples) == tuple(sorted(LABELS))


def test_examples_are_texts_without_image():
    example = read(samples=10).train[0]
    assert example.image is None
    assert example.prompt.strip() == example.prompt != ""
    assert example.target in LABELS
    assert example.content() != read(samples=10).train[1].content()


def test_no_text_stands_on_both_sides():
    examples = read()
    assert not {e.prompt.lower() for e in examples.train} & {e.prompt.lower() for e in examples.val}
    assert not {e.name for e in examples.train} & {e.name for e in examples.val}


def test_single_words_do_not_tell_the_label():
    """Every word of wanting and not wanting is common in messages with and without a wish."""
    written = [message(1, index) for index in range(3000)]
    wished = [set(text.lower().split()) for text, label in written if label != "nothing"]
    idle = [set(text.lower().split()) for text, label in written if label == "nothing"]
    for word in ("not", "want", "longer", "still", "nobody", "wrong", "right,", "never"):
        shares = [sum(word in words for words in side) / len(side) for side in (wished, idle)]
        assert max(shares) < 3 * min(shares) + 0.05, word
