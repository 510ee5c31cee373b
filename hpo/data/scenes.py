"""Drawn aerial scenes: endless, without a file, the same on every machine."""

from functools import partial

from hpo.data.examples import Example, Examples, split
from hpo.mini.scenes import describe, picture
from hpo.specs import DataSpec

ALBUM = 0  # the seed of the drawings: fixed, so that all studies on scenes see the same ones
DEFAULT_SAMPLES = 400


def read(data: DataSpec) -> Examples:
    """`data.samples` scenes; every scene is a group of its own."""
    count = data.samples or DEFAULT_SAMPLES
    rows = [_example(index) for index in range(count)]
    train, val = split(rows, data.val_share)
    return Examples(
        train=train, val=val, total=count, digest=f"scenes album {ALBUM}", source="drawn scenes"
    )


def _example(index: int) -> Example:
    prompt, caption = describe(ALBUM, index)
    return Example(
        name=f"scene {index}",
        group=str(index),
        prompt=prompt,
        target=caption,
        image=partial(picture, ALBUM, index),
    )
