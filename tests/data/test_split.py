"""Splits and caps: by source image, the same everywhere."""

import random

import pytest
from PIL import Image

from hpo.data.examples import Example, capped, split


def row(name, group):
    return Example(
        name=name,
        group=group,
        prompt="p",
        target="t",
        content=str,
        image=lambda: Image.new("RGB", (1, 1)),
    )


def rows(groups, each=3):
    return [row(f"P{g:04d}_{i:04d}.png", f"P{g:04d}") for g in range(groups) for i in range(each)]


def groups(side):
    return {example.group for example in side}


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_no_source_image_stands_on_both_sides(count, share):
    everything = rows(count)
    train, val = split(everything, share)
    assert groups(train) & groups(val) == set()
    assert len(train) + len(val) == len(everything)
    assert train and val


def test_the_share_is_one_of_source_images():
    train, val = split(rows(10) + [row(f"P0000_9{i}.png", "P0000") for i in range(50)], 0.2)
    assert len(groups(val)) == 2
    assert len(groups(train)) == 8


def test_the_split_does_not_depend_on_the_order_of_the_rows():
    everything = rows(20)
    shuffled = random.Random(0).sample(everything, len(everything))
    assert groups(split(everything, 0.3)[1]) == groups(split(shuffled, 0.3)[1])


def test_rows_keep_their_order():
    everything = rows(10)
    train, val = split(everything, 0.2)
    assert list(train) == [r for r in everything if r in train]
    assert list(val) == [r for r in everything if r in val]


def test_a_source_image_stays_on_its_side_when_the_share_grows():
    sides = [groups(split(rows(40), share)[1]) for share in (0.1, 0.2, 0.4)]
    assert sides[0] < sides[1] < sides[2]


def test_a_cap_takes_that_many_rows_in_their_order():
    everything = rows(30)
    few = capped(everything, 12)
    assert len(few) == 12
    assert few == [r for r in everything if r in few]
    assert few == capped(everything, 12)
    assert few != everything[:12]


@pytest.mark.parametrize("samples", [None, 9, 100])
def test_a_cap_that_is_not_reached_changes_nothing(samples):
    everything = rows(3)
    assert capped(everything, samples) == everything


def test_a_larger_cap_only_adds_rows():
    everything = rows(30)
    names = [{r.name for r in capped(everything, n)} for n in (5, 20, 50)]
    assert names[0] < names[1] < names[2]
