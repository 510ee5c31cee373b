"""Drawn aerial scenes: endless, without a file, the same on every machine."""

import hashlib
from functools import cache, partial
from pathlib import Path

from hpo.data.examples import Example, Examples, split
from hpo.mini import drawing, scenes, shapes
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


@cache
def _hand() -> str:
    """What draws: another hand draws other pictures."""
    sources = (Path(module.__file__ or "").read_bytes() for module in (drawing, scenes, shapes))
    return hashlib.sha256(b"".join(sources)).hexdigest()


def scene_digest(index: int) -> str:
    """Changes when the picture of that scene does."""
    return f"album {ALBUM} {index} {_hand()}"


def _example(index: int) -> Example:
    prompt, caption = describe(ALBUM, index)
    return Example(
        name=f"scene {index}",
        group=str(index),
        prompt=prompt,
        target=caption,
        content=partial(scene_digest, index),
        image=partial(picture, ALBUM, index),
    )
