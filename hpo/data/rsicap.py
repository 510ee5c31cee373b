"""RSICap as published: captions.json and images/ (Hu et al. 2023, arXiv:2307.15266).

`{"annotations": [{"filename": "P0378_0001.png", "text_input": ..., "text_output": ...}]}`. Many
crops come from one source image (`P0378`): they stay on one side of the split. The folder may
hold images without captions; a caption without its image is an error.
"""

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

from hpo.data.examples import Example, Examples, capped, split, tidy
from hpo.data.image_names import ImageNames, image_name
from hpo.data.images import check_images, image_digest, image_size, load_image, source_of
from hpo.data.json_text import read_json
from hpo.data.labels import is_blank
from hpo.data.text_file import read_file
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec
from hpo.units import show_data

PROMPT = "Describe this image in detail."
FORM = '{"annotations": [{"filename", "text_input", "text_output"}]}'


def read(data: DataSpec) -> Examples:
    """The captions below `data.root`, every image checked to be one; pixels are read later."""
    root = Path(os.path.expanduser(data.root or ""))
    captions = root / "captions.json"
    if data.root is None or not captions.is_file():
        raise MissingError(
            f"data {data.root or '(data.root is not set)'}: no captions.json there; "
            "give the folder that holds captions.json and images/ with --data DIR"
        )
    text = read_file(captions)
    images = root / "images"
    there = ImageNames([images] if images.is_dir() else [])
    rows = [
        _example(images, there, f"{captions}: annotations[{index}]", row)
        for index, row in enumerate(_annotations(captions, text))
    ]
    paths = [path for path, _ in rows]
    check_images(paths, lacking="captions without image", where=captions.name)
    chosen = capped([row for _, row in rows], data.samples)
    if len({row.group for row in chosen}) < 2:
        raise DataError(f"{captions}: {len(chosen)} source images; a split needs at least two")
    train, val = split(chosen, data.val_share)
    digest = hashlib.sha256(text).hexdigest()
    return Examples(
        train=train,
        val=val,
        total=len(rows),
        digest=f"captions sha256 {digest[:16]}",
        source=str(root),
    )


def _annotations(path: Path, text: bytes) -> list[Any]:
    content = read_json(path, text, form=FORM)
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: no rows; it must be {FORM}")
    return rows


def _example(images: Path, there: ImageNames, place: str, row: Any) -> tuple[Path, Example]:
    """(its image, the row as an example)."""
    name, target = (_text(place, row, key) for key in ("filename", "text_output"))
    image_name(place, "filename", name)
    path = there.find([name], place=place) or images / name
    prompt = row.get("text_input")
    if prompt is not None and not isinstance(prompt, str):
        raise DataError(f"{place}: text_input is {show_data(prompt)}; it must be a text, or null")
    example = Example(
        name=name,
        group=source_of(path.name),
        prompt=PROMPT if prompt is None or is_blank(prompt) else tidy(prompt),
        target=tidy(target),
        content=partial(image_digest, path),
        image=partial(load_image, path),
        size=partial(image_size, path),
    )
    return path, example


def _text(place: str, row: Any, key: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str) or is_blank(value):
        shown = f"{key} is {show_data(value)}" if isinstance(row, dict) else show_data(row)
        raise DataError(f"{place} must have a filename and a text_output, both text: {shown}")
    return value
