"""Questions about images with short answers, as RSIEval and Kvasir-VQA have them.

`data.root` is a JSON file, or a folder that holds annotations.json. Rows are RSIEval's
(Hu et al. 2023, arXiv:2307.15266), `{"annotations": [{"filename", "qa_pairs": [{"question",
"answer", "type"}]}]}`, or a list of `{"image_id", "question", "answer", "stage", "type"}`, of which
the last two may be left out. Images lie in images/ beside the file, or beside the file itself.

Entries of `data.stages` that end in .json are files below the folder, all of one stage each.
Without `data.stages` the values of `stage` are the stages, where rows have any, in the order that
`hpo.data.stage_order` finds.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hpo.data.examples import Example, Examples, capped, split, tidy
from hpo.data.fields import filled_text
from hpo.data.image_names import ImageNames, image_name
from hpo.data.images import check_images, image_digest, image_size, load_image, source_of
from hpo.data.json_text import read_json
from hpo.data.stage_order import ordered_stages
from hpo.data.stages import Labelled, check_sides, former_order, staged
from hpo.data.text_file import read_file
from hpo.errors import DataError, MissingError
from hpo.specs import DataSpec
from hpo.units import show_data

NAME = "annotations.json"
ENDINGS = ("", ".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
FORM = '[{"image_id", "question", "answer"}] or {"annotations": [{"filename", "qa_pairs"}]}'


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A row: an image by its name, a question, its answer, and what a stage may call it by."""

    place: str
    """File and index, for messages."""
    image: str
    question: str
    answer: str
    labels: tuple[str, ...]
    stage: str | None


def read(data: DataSpec) -> Examples:
    """The questions below `data.root` in their stages, every image checked to be one."""
    files = _files(data)
    contents = {path: read_file(path) for path in files.values()}
    folder = _folder(data)
    asked = [row for name, path in files.items() for row in _rows(path, contents[path], name)]
    stages = data.stages or _stages_of(asked, str(data.root))
    former = former_order({row.stage for row in asked if row.stage})
    notes = _left_out(asked) if stages and not data.stages else ()
    if not data.stages:
        asked = [replace(row, labels=(row.stage or "",)) for row in asked]
    rows = _examples(folder, asked)
    check_images(
        [folder / row.example.image_name for row in rows],
        lacking="images of questions are missing",
        where=" and ".join(path.name for path in contents),
    )
    examples = _split(data, rows, stages, contents.values())
    return replace(examples, former_stages=former, notes=notes)


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
    table = read_json(path, content, form=FORM)
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
    if not isinstance(row, dict) or not isinstance(pair, dict):
        raise DataError(f"{place} must have {key}, question and answer, all text")
    question, answer = (
        tidy(filled_text(place, name, pair.get(name))) for name in ("question", "answer")
    )
    labels = [_label(place, pair, "type"), _label(place, pair, "stage")]
    return Asked(
        place=place,
        image=image_name(place, key, row.get(key)),
        question=question,
        answer=answer,
        labels=tuple(label for label in (file, *labels) if label),
        stage=labels[1],
    )


def _label(place: str, pair: dict[str, Any], key: str) -> str | None:
    value = pair.get(key)
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise DataError(
            f"{place}: {key} is {show_data(value)}; it must be a text or a whole number"
        )
    return None if value is None else tidy(str(value))


def _stages_of(asked: list[Asked], where: str) -> tuple[str, ...]:
    """The values of `stage` in their order; none where no row has one."""
    return ordered_stages(Counter(row.stage for row in asked if row.stage), where=where)


def _left_out(asked: list[Asked]) -> tuple[str, ...]:
    """What to say of rows without a stage, where others have one."""
    count = sum(not row.stage for row in asked)
    if not count:
        return ()
    return (f"{count} of {len(asked)} questions have no stage and are left out",)


def _examples(folder: Path, asked: Iterable[Asked]) -> list[Labelled]:
    """The rows as examples, each with a name of its own."""
    images = folder / "images"
    shelves = [shelf for shelf in (folder, images) if shelf.is_dir()]
    there = ImageNames(shelves)
    counts: Counter[Path] = Counter()
    rows = []
    for row in asked:
        names = [row.image + ending for ending in ENDINGS]
        path = there.find(names, place=row.place) or shelves[-1] / row.image
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
