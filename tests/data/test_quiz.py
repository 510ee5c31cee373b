"""Drawn questions are the same everywhere and for ever, and their answers are true."""

from collections import Counter

import numpy as np
import pytest

from hpo.data import read_examples
from hpo.errors import DataError
from hpo.mini.drawing import COUNTS, SIDES
from hpo.mini.questions import STAGES, WHERE, Shown, ask
from hpo.specs import DataSpec


def read(**settings):
    return read_examples(DataSpec(format="quiz", **settings))


def everything(**settings):
    examples = read(**settings)
    return {e.name: e for e in examples.train + examples.val}


def test_as_many_questions_as_were_asked_for_in_three_stages():
    examples = read(samples=60, val_share=0.2)
    assert examples.stages == ("easy", "medium", "hard")
    assert (examples.total, len(examples.train), len(examples.val)) == (60, 48, 12)
    for side, each in ((examples.train, 16), (examples.val, 4)):
        assert Counter(e.stage for e in side) == {0: each, 1: each, 2: each}


def test_questions_about_one_scene_share_its_picture_and_its_side():
    examples = read(samples=60)
    train, val = ({e.image_name for e in side} for side in (examples.train, examples.val))
    assert len(train) + len(val) == 20 and not train & val
    assert {e.group for e in examples.train} & {e.group for e in examples.val} == set()
    first, second = (e for e in examples.train[:2])
    assert first.image().tobytes() == second.image().tobytes()
    assert first.content() == second.content() != examples.train[3].content()


def test_the_size_is_that_of_the_picture():
    example = read(samples=6).train[0]
    assert example.size() == example.image().size


def test_the_same_questions_every_time_however_many_there_are():
    few, many = everything(samples=12), everything(samples=90)
    assert read(samples=12).digest == read(samples=12).digest
    assert few.keys() < many.keys()
    for name, example in few.items():
        assert (example.prompt, example.target) == (many[name].prompt, many[name].target)


def test_questions_and_answers_are_tidy():
    for example in everything(samples=300).values():
        assert example.prompt.endswith("?") and example.prompt[0].isupper()
        assert example.target.endswith(".") and example.target[0].isupper()
        assert "{" not in example.prompt + example.target
        assert example.prompt == " ".join(example.prompt.split())


def test_yes_and_no_are_about_as_frequent():
    answers = Counter(e.target for e in everything(samples=900).values())
    assert 0.6 < answers["Yes."] / answers["No."] < 1.6


def test_stages_may_be_named_by_stage_or_by_kind():
    examples = read(samples=120, stages=("easy+medium", "count+count_thing"))
    assert examples.stages == ("easy+medium", "count+count_thing")
    prompts = {e.prompt for e in examples.train if e.stage == 1}
    assert prompts and all("How many" in prompt for prompt in prompts)
    assert read(samples=120, stages=("hard",)).stages == ()


def test_a_stage_that_there_is_not_is_named_with_those_there_are():
    with pytest.raises(DataError, match=r"data\.stages\[0\] = 'harder'.*easy.*hard"):
        read(samples=60, stages=("harder",))


def test_too_few_questions_are_named_with_what_is_enough():
    with pytest.raises(DataError, match=r"data\.samples = 3 .* at least 6"):
        read(samples=3)
    assert read(samples=6).val


def seen(**more):
    facts = {
        "count": 3,
        "color": "red",
        "thing": "plane",
        "things": "planes",
        "side": "left",
        "ground": "green",
        "place": "airport",
    }
    return Shown(**facts | more)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("ground", "Green."),
        ("place", "An airport."),
        ("color", "Red."),
        ("side", "On the left."),
        ("thing", "Planes."),
        ("count", "Three."),
        ("count_thing", "Three planes."),
        ("summary", "Three red planes on the left."),
    ],
)
def test_answers_are_true(kind, answer):
    assert ask(np.random.default_rng(0), kind, seen()).answer == answer


def test_one_object_is_not_several():
    question = ask(np.random.default_rng(0), "summary", seen(count=1, place="harbour"))
    assert question.answer == "One red plane on the left."


@pytest.mark.parametrize("count", range(1, 6))
def test_yes_and_no_are_true(count):
    rng = np.random.default_rng(count)
    for _ in range(60):
        ground, place, more = (
            ask(rng, kind, seen(count=count)) for kind in ("is_ground", "is_place", "more")
        )
        assert (ground.answer == "Yes.") == ("green" in ground.text)
        assert (place.answer == "Yes.") == ("an airport" in place.text)
        above = count > COUNTS.index(more.text.rstrip("?").split()[-1]) + 1
        assert (more.answer == "Yes.") == (above and " red " in more.text)


def test_every_kind_is_of_one_stage_and_every_side_has_words():
    kinds = [kind for kinds in STAGES.values() for kind in kinds]
    assert len(set(kinds)) == len(kinds)
    assert set(WHERE) == set(SIDES)
