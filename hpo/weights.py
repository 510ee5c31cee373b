"""Where a model's weights lie on this machine. Nothing is ever downloaded."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from hpo.errors import MissingError
from hpo.mini import ANSWERER, CAPTIONER, CLASSIFIER

EMBEDDED = {"mini": CAPTIONER, "mini-classifier": CLASSIFIER, "mini-answerer": ANSWERER}
SAMPLE = 1 << 20  # bytes of a weights file, at each end, that go into `digest`
INDEX = ".safetensors.index.json"
PROCESSOR_FOLDERS = ("", "qformer_tokenizer", "additional_chat_templates")
PROCESSOR_SUFFIXES = (".json", ".txt", ".jinja", ".model", ".spm", ".bpe", ".codes", ".tiktoken")
NOT_PROCESSOR = ("config.json", "generation_config.json", "trainer_state.json", "modelcard.json")
PAPERS = ("readme", "license", "notice", "use_policy", "requirements")


def find_weights(name: str, revision: str | None = None) -> Path:
    """The directory of a model: an embedded one, a directory, or a hub name in the local cache.

    Raises:
        MissingError: there is none, or it lacks config.json or safetensors weights.
    """
    folder = EMBEDDED.get(name) or Path(os.path.expanduser(name))
    if not folder.is_dir():
        folder = _cached(name, revision)
    for pattern in ("config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise MissingError(
                f"model {name}: {folder} holds no {pattern}; give a directory that "
                "save_pretrained wrote (safetensors), with its processor, by --model DIR"
            )
    return folder


def _cached(name: str, revision: str | None) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise MissingError(
            f"model {name}: no such directory; give one by --model DIR, or a hub name"
        )
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise MissingError(
            f"model {name}: its weights are not on this machine; get them with "
            f"`hf download {name}`, or give a directory by --model DIR"
        ) from error


def model_files(folder: Path) -> list[Path]:
    """The configuration, and the files that transformers loads the weights from.

    These are what config.json names as `transformers_weights`, else model.safetensors, else the
    shards of its index; all others in the folder are left alone.
    """
    config = folder / "config.json"
    named = _table(config).get("transformers_weights")
    first = folder / named if isinstance(named, str) else folder / "model.safetensors"
    if first.is_file() and not first.name.endswith(INDEX):
        return [config, first]
    index = first if first.name.endswith(INDEX) else folder / f"model{INDEX}"
    shards = _table(index).get("weight_map")
    if isinstance(shards, dict) and shards:
        return [config, index, *(folder / n for n in sorted({str(n) for n in shards.values()}))]
    return [config, *sorted(folder.glob("*.safetensors"))]


def processor_files(folder: Path) -> list[Path]:
    """The files that tokenizers, image processors and chat templates may be read from."""
    places = [folder / name for name in PROCESSOR_FOLDERS]
    return sorted(
        path
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if path.name.endswith(PROCESSOR_SUFFIXES)
        and not path.name.lower().startswith(PAPERS)
        and path.name not in NOT_PROCESSOR
        and not path.name.endswith((".index.json", "_results.json"))
        and path.is_file()
    )


def _table(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty where it is not there or not one."""
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def digest(folder: Path) -> str:
    """Digest of the configuration, and of size and both ends of every weights file.

    Studies that were made before whole files were hashed know a base by this alone.
    """
    state = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = path.stat().st_size
            state.update(f"{path.name} {size}".encode())
            state.update(file.read(SAMPLE))
            file.seek(max(0, size - SAMPLE))
            state.update(file.read(SAMPLE))
    return f"sha256 {state.hexdigest()[:16]}"
