"""RSICap as published: captions.json and images/ (Hu et al. 2023, arXiv:2307.15266).

`{"annotations": [{"filename": "P0378_0001.png", "text_input": ..., "text_output": ...}]}`. Many
crops come from one source image (`P0378`): they stay on one side of the split. The folder may
hold images without captions; a caption without its image is an error.
"""

import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from hpo.data.examples import Example, Examples, capped, split, tidy
from hpo.data.images import check_images, image_digest, image_size, load_image, source_of
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec

PROMPT = "Describe this image in detail."


def read(data: DataSpec) -> Examples:
    """The captions below `data.root`, every image checked to be one; pixels are read later."""
    root = Path(os.path.expanduser(data.root or ""))
    captions = root / "captions.json"
    if data.root is None or not captions.is_file():
        raise MissingError(
            f"data {data.root or '(data.root is not set)'}: no captions.json there; "
            "give the folder that holds captions.json and images/ with --data DIR"
        )
    text = captions.read_bytes()
    rows = [_example(root, captions, i, row) for i, row in enumerate(_annotations(captions, text))]
    images = [root / "images" / row.name for row in rows]
    check_images(images, lacking="captions without image", where=captions.name)
    chosen = capped(rows, data.samples)
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
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON: {error}; give RSICap's captions.json") from error
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(f'{path}: no rows; it must be {{"annotations": [{{"filename", ...}}]}}')
    return rows


def _example(root: Path, captions: Path, index: int, row: Any) -> Example:
    name = row.get("filename") if isinstance(row, dict) else None
    target = row.get("text_output") if isinstance(row, dict) else None
    if not isinstance(name, str) or not isinstance(target, str) or not target.strip():
        raise DataError(
            f"{captions}: annotations[{index}] must have a filename and a text_output, both text"
        )
    if Path(name).name != name:
        raise DataError(f"{captions}: filename {name!r} must be a name inside images/, not a path")
    prompt = row.get("text_input")
    return Example(
        name=name,
        group=source_of(name),
        prompt=tidy(prompt) if isinstance(prompt, str) and prompt.strip() else PROMPT,
        target=tidy(target),
        content=partial(image_digest, root / "images" / name),
        image=partial(load_image, root / "images" / name),
        file=root / "images" / name,
        size=partial(image_size, root / "images" / name),
    )
