"""Questions about images with short answers, as RSIEval and Kvasir-VQA have them.

`data.root` is a JSON file, or a folder that holds annotations.json. Rows are RSIEval's
(Hu et al. 2023, arXiv:2307.15266), `{"annotations": [{"filename", "qa_pairs": [{"question",
"answer", "type"}]}]}`, or a list of `{"image_id", "question", "answer", "stage", "type"}`, of which
the last two may be left out. Images lie in images/ beside the file, or beside the file itself.

Entries of `data.stages` that end in .json are files below the folder, all of one stage each.
Without `data.stages` the values of `stage` are the stages, where rows have any.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hpo.data.examples import Example, Examples, capped, split, tidy
from hpo.data.images import check_images, image_digest, image_size, load_image, source_of
from hpo.data.stages import Labelled, check_sides, former_order, staged
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec

NAME = "annotations.json"
ENDINGS = ("", ".jpg", ".jpeg", ".png")
FORM = '[{"image_id", "question", "answer"}] or {"annotations": [{"filename", "qa_pairs"}]}'


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A row: an image by its name, a question, its answer, and what a stage may call it by."""

    image: str
    question: str
    answer: str
    labels: tuple[str, ...]
    stage: str | None


def read(data: DataSpec) -> Examples:
    """The questions below `data.root` in their stages, every image checked to be one."""
    files = _files(data)
    contents = {path: path.read_bytes() for path in files.values()}
    folder = _folder(data)
    asked = [row for name, path in files.items() for row in _rows(path, contents[path], name)]
    stages = data.stages or _stages_of(asked)
    former = former_order({row.stage for row in asked if row.stage})
    if not data.stages:
        asked = [replace(row, labels=(row.stage or "",)) for row in asked]
    rows = _examples(folder, asked)
    check_images(
        [folder / row.example.image_name for row in rows],
        lacking="images of questions are missing",
        where=" and ".join(path.name for path in contents),
    )
    examples = _split(data, rows, stages, contents.values())
    return replace(examples, former_stages=former)


def _split(
    data: DataSpec, rows: list[Labelled], stages: tuple[str, ...], contents: Iterable[bytes]
) -> Examples:
    where = str(data.root)
    chosen = capped(staged(rows, stages, where=where), data.samples)
    if len({row.group for row in chosen}) < 2:
        raise DataError(f"{where}: questions about fewer than two images; a split needs two")
    train, val = split(chosen, data.val_share)
    check_sides(train, val, stages, where=where)
    digest = hashlib.sha256(b"\n".join(contents)).hexdigest()
    return Examples(
        train=train,
        val=val,
        total=len(rows),
        digest=f"questions sha256 {digest[:16]}",
        source=where,
        stages=stages if len(stages) > 1 else (),
    )


def _folder(data: DataSpec) -> Path:
    root = Path(os.path.expanduser(data.root or ""))
    return root.parent if root.is_file() else root


def _files(data: DataSpec) -> dict[str, Path]:
    """The files to read, by what `data.stages` calls them; "" is the one of all stages."""
    root = Path(os.path.expanduser(data.root or ""))
    names = [stage for stage in data.stages if stage.endswith(".json")]
    found = {name: _folder(data) / name for name in names}
    if len(names) < len(data.stages) or not names:
        found[""] = root if root.is_file() else root / NAME
    for path in found.values():
        if data.root is None or not path.is_file():
            raise MissingError(
                f"data {data.root or '(data.root is not set)'}: no {path.name} there; give a JSON "
                f"file of questions, or the folder that holds {NAME} and images/, with --data PATH"
            )
    return found


def _rows(path: Path, content: bytes, name: str) -> Iterator[Asked]:
    """The rows of a file; all have its name for a label."""
    try:
        table = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}; it must be {FORM}") from error
    rows = table.get("annotations") if isinstance(table, dict) else table
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: no rows; it must be {FORM}")
    for index, row in enumerate(rows):
        place = f"{path}: {'annotations' if isinstance(table, dict) else 'row '}[{index}]"
        pairs = row.get("qa_pairs") if isinstance(row, dict) else None
        if pairs is None:
            yield _asked(place, row, "image_id", row, name)
            continue
        if not isinstance(pairs, list):
            raise DataError(f"{place}: qa_pairs must be a list of questions and answers")
        for number, pair in enumerate(pairs):
            yield _asked(f"{place}.qa_pairs[{number}]", row, "filename", pair, name)


def _asked(place: str, row: Any, key: str, pair: Any, file: str) -> Asked:
    image = row.get(key) if isinstance(row, dict) else None
    texts = [pair.get(name) if isinstance(pair, dict) else None for name in ("question", "answer")]
    if not all(isinstance(text, str) and text.strip() for text in (image, *texts)):
        raise DataError(f"{place} must have {key}, question and answer, all text")
    if Path(str(image)).name != image:
        raise DataError(f"{place}: {key} {image!r} must be a name inside images/, not a path")
    labels = [_label(place, pair, "type"), _label(place, pair, "stage")]
    return Asked(
        image=str(image),
        question=tidy(str(texts[0])),
        answer=tidy(str(texts[1])),
        labels=tuple(label for label in (file, *labels) if label),
        stage=labels[1],
    )


def _label(place: str, pair: dict[str, Any], key: str) -> str | None:
    value = pair.get(key)
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise DataError(f"{place}: {key} is {value!r}; it must be a text or a whole number")
    return None if value is None else tidy(str(value))


def _stages_of(asked: list[Asked]) -> tuple[str, ...]:
    """The values of `stage` in their order: numbers by size, before words."""
    found = {row.stage for row in asked if row.stage}
    return tuple(sorted(found, key=lambda s: (not s.isdigit(), int(s) if s.isdigit() else 0, s)))


def _examples(folder: Path, asked: Iterable[Asked]) -> list[Labelled]:
    """The rows as examples, each with a name of its own."""
    images = folder / "images"
    shelves = [shelf for shelf in (folder, images) if shelf.is_dir()]
    there = {path.name: path for shelf in shelves for path in shelf.iterdir()}
    counts: Counter[Path] = Counter()
    rows = []
    for row in asked:
        names = [row.image + ending for ending in ENDINGS]
        path = next((there[name] for name in names if name in there), shelves[-1] / row.image)
        counts[path] += 1
        example = _example(row, path, str(path.relative_to(folder)), counts[path])
        rows.append(Labelled(example=example, labels=row.labels))
    return rows


def _example(row: Asked, path: Path, picture: str, number: int) -> Example:
    return Example(
        name=f"{picture} #{number}",
        picture=picture,
        group=source_of(path.name),
        prompt=row.question,
        target=row.answer,
        content=partial(image_digest, path),
        image=partial(load_image, path),
        file=path,
        size=partial(image_size, path),
    )
