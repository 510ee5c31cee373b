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
from hpo.data.fields import filled_text, is_blank
from hpo.data.image_names import ImageNames, image_name
from hpo.data.images import check_images, image_digest, image_size, load_image, source_of
from hpo.data.json_text import read_json
from hpo.data.text_file import read_file
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec
from hpo.units import show_data

PROMPT = "Describe this image in detail."
FORM = '{"annotations": [{"filename", "text_input", "text_output"}]}'
ROW = "as every row has a filename and a text_output"


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
    if not isinstance(row, dict):
        raise DataError(f"{place} is {show_data(row)}; it must be an object, {ROW}")
    name = image_name(place, "filename", row.get("filename"), allowed=f"a name, {ROW}")
    target = filled_text(place, "text_output", row.get("text_output"), allowed=f"a text, {ROW}")
    path = there.find([name], place=place) or images / name
    prompt = row.get("text_input")
    if prompt is None or (isinstance(prompt, str) and is_blank(prompt)):
        prompt = PROMPT
    example = Example(
        name=name,
        group=source_of(path.name),
        prompt=tidy(filled_text(place, "text_input", prompt, allowed="a text or null")),
        target=tidy(target),
        content=partial(image_digest, path),
        image=partial(load_image, path),
        file=path,
        size=partial(image_size, path),
    )
    return path, example
