"""What a model folder's files show without loading them: whether each is what its name says.

Knows no torch, so that the driver can refuse a folder before any runner starts. Whether the parts
fit each other is checked after loading, by `hpo.training.base.fit`.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpo.errors import ModelError
from hpo.units import show_size

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
JSON_FILES = (
    CONFIG,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
OTHER_FILES = (
    WEIGHTS,
    INDEX,
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
PLACES = ("", "qformer_tokenizer")
LAYERS = re.compile(r"(?:num_(?:\w+_)?layers|n_layers?|depth)")
SIDES = frozenset(
    {
        *("vocab_size", "hidden_size", "d_model", "n_embd", "dim"),
        *("intermediate_size", "d_ff", "ffn_dim", "hidden_dim"),
    }
)
"""Settings that are the length of a tensor's side."""
LORA = re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)\b")
WHOLE = frozenset({"F64", "F32", "F16", "BF16"})
LARGEST = 1 << 40  # no size of a model is above it
HEADER_BYTES = 100 << 20  # what the safetensors library accepts
BEGINNINGS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; run git lfs pull in it"),
    (b"<!doctype", "a web page; download it again"),
    (b"<html", "a web page; download it again"),
    (b"pk\x03\x04", "a PyTorch file, not safetensors; convert it with save_pretrained"),
    (b"\x80\x02", "a pickle, not safetensors; convert it with save_pretrained"),
    (b"gguf", "a GGUF file, not safetensors; give the original weights"),
)


def refuse_adapter(name: str, folder: Path) -> None:
    """Checks that no adapter lies in the folder: transformers would load it into the base.

    Raises:
        ModelError: there is one.
    """
    for adapter in ADAPTERS:
        if (folder / adapter).exists():
            raise ModelError(
                f"model {name}: {folder} holds an adapter ({adapter}), which would silently become "
                "part of the base; merge it (PEFT: merge_and_unload, then save_pretrained), or "
                "move the adapter's files out of the folder and give the base by --model DIR"
            )


def check_model_folder(name: str, folder: Path) -> None:
    """Checks that configuration, weights and tokenizer files are what their names say.

    Raises:
        ModelError: one is not, or belongs to a quantised model or to an adapter.
    """
    refuse_adapter(name, folder)
    try:
        _check(folder)
    except ModelError as error:
        raise ModelError(f"model {name}: {error}, or give another by --model DIR") from error
    except OSError as error:
        raise ModelError(
            f"model {name}: {error.filename or folder} cannot be read ({error.strerror}); make it "
            "readable, or give another by --model DIR"
        ) from error


def _check(folder: Path) -> None:
    for path in (folder / place / file for place in PLACES for file in (*JSON_FILES, *OTHER_FILES)):
        if path.is_symlink() and not path.exists():
            raise ModelError(f"{path} is a link to a file that is gone; download it again")
        if path.exists():
            _refuse_wrong_file(path)
            if path.name in JSON_FILES:
                read_object(path)
    config = read_object(folder / CONFIG)
    _check_config(folder / CONFIG, config)
    tensors: dict[str, dict[str, Any]] = {}
    for path in weight_files(folder, config):
        found = read_header(path)
        _check_tensors(path, found)
        tensors |= found
    if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        _check_index(folder / INDEX, tensors)
    _check_sizes(folder / CONFIG, config, [tensor["shape"] for tensor in tensors.values()])


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ModelError: there is none.
    """
    content = path.read_bytes()
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        _refuse_wrong_file(path)
        raise ModelError(f"{path} is no JSON in UTF-8: {_why(error)}; download it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is a JSON {type(found).__name__}, not an object; mend it")
    return found


def _why(error: Exception) -> str:
    """What is wrong with a JSON file, and where."""
    match error:
        case UnicodeDecodeError():
            return f"byte {error.start} is {error.object[error.start]:#04x}"
        case json.JSONDecodeError():
            return f"line {error.lineno}, column {error.colno}: {error.msg}"
        case RecursionError():
            return "it is nested too deeply"
    return "it has a number of thousands of digits"


def weight_files(folder: Path, config: dict[str, Any]) -> list[Path]:
    """The files that transformers reads weights from.

    Raises:
        ModelError: there are none, an index names others than there are, or two sets are there.
    """
    named = config.get("transformers_weights")
    first = named if isinstance(named, str) else WEIGHTS
    single, index = folder / first, folder / INDEX
    shards = _shards(index) if index.is_file() else []
    if first.endswith(".index.json") and single.is_file():
        return _all_there(single, _shards(single))
    if single.is_file():
        if others := [path.name for path in shards if path.is_file() and path != single]:
            raise ModelError(
                f"{folder} holds two sets of weights, {first} and {others[0]} by {INDEX}; move one "
                "of them out of the folder"
            )
        return [single]
    if index.is_file():
        return _all_there(index, shards)
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    raise ModelError(
        f"{folder} holds neither {WEIGHTS} nor {INDEX}, but {', '.join(there[:3]) or 'no weights'};"
        f" name the weights {WEIGHTS} if that is what they are"
    )


def _shards(index: Path) -> list[Path]:
    where = read_object(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ModelError(f"{index} has no weight_map; download it again")
    names = {str(name) for name in where.values()}
    if outside := sorted(name for name in names if Path(name).name != name):
        raise ModelError(f"{index} names {outside[0]!r}, which is no file next to it; mend it")
    return [index.parent / name for name in sorted(names)]


def _all_there(index: Path, shards: list[Path]) -> list[Path]:
    if missing := [path.name for path in shards if not path.is_file()]:
        raise ModelError(
            f"{index} names {len(shards)} files of weights and {len(missing)} of them are not "
            f"there, such as {missing[0]}; download all of it"
        )
    return shards


def _check_index(index: Path, tensors: dict[str, dict[str, Any]]) -> None:
    """A file that was downloaded twice, under two names, leaves tensors out."""
    named = read_object(index)["weight_map"]
    if missing := sorted(name for name in named if name not in tensors):
        raise ModelError(
            f"{index} names {len(named)} tensors, {len(missing)} of which are in none of its "
            f"files, such as {missing[0]}; download all of it again"
        )


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Names of a safetensors file's tensors, each with `dtype` and `shape`; reads no values.

    Raises:
        ModelError: it is no safetensors file, or was cut.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if size > 8 and length <= HEADER_BYTES else b""
    if not header.startswith(b"{"):
        _refuse_wrong_file(path)
        raise ModelError(f"{path} is no safetensors file ({show_size(size)}); download it again")
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        sizes = [math.prod(tensor["shape"]) for tensor in tensors.values()]
    except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as error:
        cut = f"its header is cut short at {size:,} bytes" if len(header) < length else "damaged"
        raise ModelError(f"{path} is no safetensors file ({cut}); download it again") from error
    if not isinstance(end, int) or 8 + length + end != size:
        raise ModelError(
            f"{path} has {size:,} bytes, and {8 + length + end:,} by its header; download it again"
        )
    if not any(sizes):
        raise ModelError(f"{path} holds no tensors; download it again")
    return dict(tensors)


def _check_tensors(path: Path, tensors: dict[str, dict[str, Any]]) -> None:
    for name, tensor in tensors.items():
        if LORA.search(name):
            raise ModelError(
                f"{path} holds an adapter's tensors ({name}), not a base alone; merge it (PEFT: "
                "merge_and_unload, then save_pretrained)"
            )
        if name.endswith("weight") and tensor.get("dtype") not in WHOLE:
            raise ModelError(
                f"{path}: {name} is stored as {tensor.get('dtype')}, of a quantised model; LoRA "
                "here needs the original weights (float32, bf16 or float16)"
            )


def _check_config(path: Path, config: dict[str, Any]) -> None:
    for place, value in entries(config):
        key = place.rpartition(".")[2]
        if key == "quantization_config" and isinstance(value, dict):
            raise ModelError(
                f"{path}: {place} says that the model is quantised "
                f"({value.get('quant_method', 'by an unnamed method')}); LoRA here needs the "
                "original weights (float32, bf16 or float16)"
            )
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ModelError(
                f"{path}: {place} is a number of {len(str(abs(value)))} digits, larger than any "
                "model; take the config.json that belongs to the weights"
            )
    if not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"{path}: model_type = {config.get('model_type')!r}, but it must name an architecture "
            "of transformers, such as bert; give a directory that save_pretrained wrote"
        )


def _check_sizes(path: Path, config: dict[str, Any], shapes: list[list[int]]) -> None:
    """A model of endless layers, or as wide, would be built before its weights are missed."""
    longest = max((side for shape in shapes for side in shape), default=0)
    for place, value in entries(config):
        key = place.rpartition(".")[2]
        if not isinstance(value, int):
            continue
        if LAYERS.fullmatch(key) and value > len(shapes):
            raise ModelError(
                f"{path}: {place} = {value}, and the weights have {len(shapes)} tensors in all; "
                "take the config.json that belongs to them"
            )
        if key in SIDES and value > longest:
            raise ModelError(
                f"{path}: {place} = {value}, and the longest side of a tensor of the weights is "
                f"{longest}; take the config.json that belongs to them"
            )


def entries(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All settings of a configuration by their dotted names, those of its parts included."""
    rest = [(str(key), value) for key, value in config.items()]
    while rest:  # no recursion: a file may be nested as deep as JSON allows
        place, value = rest.pop()
        yield place, value
        if isinstance(value, dict):
            rest += [(f"{place}.{key}", inner) for key, inner in value.items()]


def _refuse_wrong_file(path: Path) -> None:
    """Names what a file is, where that is something else than its name says."""
    if not path.is_file():
        raise ModelError(f"{path} is no file; put the one that belongs to the model in its place")
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if not start:
        raise ModelError(f"{path} is empty; download it again")
    for beginning, what in BEGINNINGS:
        if start.startswith(beginning):
            raise ModelError(f"{path} is {what}")
