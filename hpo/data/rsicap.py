"""RSICap as published: captions.json and images/ (Hu et al. 2023, arXiv:2307.15266).

`{"annotations": [{"filename": "P0378_0001.png", "text_input": ..., "text_output": ...}]}`. Many
crops come from one source image (`P0378`): they stay on one side of the split. The folder may
hold images without captions; a caption without its image is an error.
"""

import hashlib
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from hpo.data.examples import Example, Examples, capped, split
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec

PROMPT = "Describe this image in detail."
SOURCE = re.compile(r"^P\d+")
SHOWN = 3  # names in a message


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
    _check_images(root, rows)
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
    source = SOURCE.match(name)
    prompt = row.get("text_input")
    return Example(
        name=name,
        group=source.group() if source else Path(name).stem,
        prompt=_tidy(prompt) if isinstance(prompt, str) and prompt.strip() else PROMPT,
        target=_tidy(target),
        content=partial(_content, root / "images" / name),
        image=partial(load_image, root / "images" / name),
    )


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "not there"


def _tidy(text: str) -> str:
    """The text with single spaces: the published captions have double and trailing ones."""
    return " ".join(text.split())


def _check_images(root: Path, rows: list[Example]) -> None:
    """Reads every image's header."""
    folder = root / "images"
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = sorted({row.name for row in rows} - present)
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} captions without image: {_few(missing)}; "
            "add the images or take their rows out of captions.json"
        )
    broken = [name for name in sorted({row.name for row in rows}) if not _is_image(folder / name)]
    if broken:
        raise DataError(
            f"{folder}: {len(broken)} files are not images: {_few(broken)}; replace them or take "
            "their rows out of captions.json"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _is_image(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return False


def load_image(path: Path) -> Image.Image:
    """The image in RGB.

    Raises:
        DataError: it is missing or broken.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{path}: the image is gone; restore it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image cannot be read: {error}; replace it") from error
