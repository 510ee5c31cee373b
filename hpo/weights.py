"""Where a model's weights lie on this machine. Nothing is ever downloaded."""

import hashlib
import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from hpo.errors import MissingError
from hpo.mini import ANSWERER, CAPTIONER, CLASSIFIER
from hpo.model_folder import CONFIG, check_model_folder, read_object, refuse_adapter, weight_files

EMBEDDED = {"mini": CAPTIONER, "mini-classifier": CLASSIFIER, "mini-answerer": ANSWERER}
SAMPLE = 1 << 20  # bytes of a weights file, at each end, that go into `digest`
PROCESSOR_FOLDERS = ("", "qformer_tokenizer", "additional_chat_templates")
PROCESSOR_SUFFIXES = (".json", ".txt", ".jinja", ".model", ".spm", ".bpe", ".codes", ".tiktoken")
NOT_PROCESSOR = ("config.json", "generation_config.json", "trainer_state.json", "modelcard.json")
PAPERS = ("readme", "license", "notice", "use_policy", "requirements")


def find_weights(name: str, revision: str | None = None) -> Path:
    """The directory of a model: an embedded one, a directory, or a hub name in the local cache.

    Raises:
        MissingError: there is none, or it lacks config.json or safetensors weights.
        ModelError: an adapter lies in it.
    """
    folder = EMBEDDED.get(name) or Path(os.path.expanduser(name))
    if not folder.is_dir():
        folder = _cached(name, revision)
    refuse_adapter(name, folder)
    for pattern in ("config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise MissingError(
                f"model {name}: {folder} holds no {pattern}; give a directory that "
                "save_pretrained wrote (safetensors), with its processor, by --model DIR"
            )
    return folder


def find_model(name: str, revision: str | None = None) -> Path:
    """The directory of a model, its files checked to be what their names say.

    Raises:
        MissingError: there is none.
        ModelError: a file in it is something else, or damaged.
    """
    folder = find_weights(name, revision)
    check_model_folder(name, folder)
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
            f"`hf download {name}`, give a directory by --model DIR, or try the study at --scale "
            "mini, which needs neither weights nor data"
        ) from error


def model_files(folder: Path) -> list[Path]:
    """The configuration, and the files that transformers loads the weights from.

    Raises:
        ModelError: they are not what their names say.
    """
    config = folder / CONFIG
    return [config, *weight_files(folder, read_object(config))]


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
