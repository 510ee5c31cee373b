"""Drawn scenes are the same everywhere and for ever."""

import hashlib

from hpo.data import read_examples
from hpo.specs import DataSpec


def read(**settings):
    return read_examples(DataSpec(format="scenes", **settings))


def test_as_many_scenes_as_were_asked_for():
    examples = read(samples=25, val_share=0.2)
    assert examples.total == 25
    assert len(examples.train) == 20
    assert len(examples.val) == 5


def test_scenes_without_a_number_are_enough_to_train_on():
    assert read().total >= 100


def test_the_same_scenes_every_time():
    first, second = read(samples=6), read(samples=6)
    assert first.digest == second.digest
    for ours, theirs in zip(first.train + first.val, second.train + second.val, strict=True):
        assert (ours.name, ours.prompt, ours.target) == (theirs.name, theirs.prompt, theirs.target)
        assert ours.image().tobytes() == theirs.image().tobytes()


def test_a_scene_does_not_depend_on_how_many_there_are():
    few = {e.name: e for e in (*read(samples=4).train, *read(samples=4).val)}
    many = {e.name: e for e in (*read(samples=40).train, *read(samples=40).val)}
    for name, example in few.items():
        assert example.target == many[name].target
        assert example.image().tobytes() == many[name].image().tobytes()


def test_pictures_are_rgb_and_differ():
    examples = read(samples=12)
    images = [example.image() for example in examples.train + examples.val]
    assert {image.mode for image in images} == {"RGB"}
    assert {image.size for image in images} == {(64, 64)}
    assert len({hashlib.sha256(image.tobytes()).digest() for image in images}) == 12


def test_captions_are_two_tidy_sentences():
    for example in read(samples=30).train:
        assert example.target.startswith("This is an aerial image of a")
        assert example.target.count(".") == 2
        assert example.target == " ".join(example.target.split())
        assert example.prompt


def test_train_and_val_share_no_scene():
    examples = read(samples=30)
    assert not {e.name for e in examples.train} & {e.name for e in examples.val}
