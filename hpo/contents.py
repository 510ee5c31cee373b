"""What a study is made from, as digests: files of model and processor, images, order of stages.

Driver and runners compute the same, so that a study can recognise what it was made from.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.data import Examples
from hpo.data.labels import labels
from hpo.digests import file_digests
from hpo.errors import MissingError
from hpo.weights import digest, model_files, processor_files

SHOWN = 16  # hexadecimal digits of a digest that are stored and shown
LISTED = 4096  # characters of names that are stored one by one; a database takes 64 KB in all


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What the values of a study depend on besides its settings."""

    data: str
    weights: str
    """Digest by which earlier versions knew them, which read both ends of each file."""
    whole: dict[str, Any]
    """By fingerprint key: one digest, digests by file name, or names in their order."""
    former: dict[str, Any]
    """The order that stages and labels had in earlier versions, by fingerprint key."""

    @property
    def parts(self) -> dict[str, Any]:
        """Digests of all but images by fingerprint key, as every runner must find them.

        A broken image may be mended while a study runs: trials read it again.
        """
        return {"data": self.data, **{k: v for k, v in self.whole.items() if k != "images"}}


def read_contents(
    folder: Path, examples: Examples, *, say: Callable[[str], None] = lambda text: None
) -> Contents:
    """Digests of all files that a study of this model and these examples reads, each whole.

    Args:
        folder: of the model.
        say: receives one line if files must be read that take long.

    Raises:
        MissingError: a file went away or cannot be read.
        DataError: a file is being written.
    """
    rows = (*examples.train, *examples.val)
    images = {row.image_name: row.file for row in rows if row.file is not None}
    model, processor = model_files(folder), processor_files(folder)
    try:
        found = file_digests([*model, *processor, *images.values()], say=say)
        weights = digest(folder)
    except OSError as error:
        raise MissingError(
            f"{error.filename}: cannot be read ({error.strerror}); restore the file, or give "
            "another model by --model DIR or other data by --data"
        ) from error
    whole: dict[str, Any] = {
        "model files": _by_name(folder, model, found),
        "processor files": _by_name(folder, processor, found),
    }
    if images:
        whole["images"] = _joint({name: found[path] for name, path in images.items()})
    orders = {"stages": examples.stages, "labels": _labels(examples)}
    former = {"stages": examples.former_stages, "labels": tuple(sorted(orders["labels"]))}
    whole |= {key: _listed(names) for key, names in orders.items() if names}
    return Contents(
        data=examples.digest,
        weights=weights,
        whole=whole,
        former={key: _listed(names) for key, names in former.items() if names},
    )


def _by_name(
    folder: Path, paths: Sequence[Path], found: Mapping[Path, str]
) -> dict[str, str] | str:
    digests = {os.path.relpath(path, folder): found[path][:SHOWN] for path in paths}
    return digests if len(json.dumps(digests)) <= 4 * LISTED else _joint(digests)


def _joint(digests: Mapping[str, str]) -> str:
    """One digest of many, with their names."""
    return f"sha256 {_of(sorted(digests.items()))}"


def _listed(names: Sequence[str]) -> list[str] | str:
    """Names in their order; of very many, a digest, as a database would not store them."""
    if len(json.dumps(names)) <= LISTED:
        return list(names)
    return f"{len(names)} names, sha256 {_of(list(names))}"


def _of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:SHOWN]


def _labels(examples: Examples) -> tuple[str, ...]:
    """The labels of texts in their order; captions and answers have none."""
    return labels(examples) if examples.train and examples.train[0].image is None else ()
