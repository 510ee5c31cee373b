"""Whether the parts of a loaded model fit each other and the data: nothing is trained before.

What the files of a folder show by themselves is checked before loading, by `hpo.model_folder`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING
from transformers.utils.import_utils import (
    is_protobuf_available,
    is_sentencepiece_available,
    is_tiktoken_available,
)

from hpo.errors import ModelError
from hpo.model_folder import CONFIG, read_object
from hpo.training.base.text_ids import TextTokenizer, control_tokens

UNKNOWN_LIMIT = 1 / 3
"""Share of unknown tokens above which texts cannot be learned from. With the right tokenizer it is
below 0.05; without a vocabulary, or for another script, all words are unknown, and only
punctuation and digits are not."""
SPARE_ROWS = 1024  # embeddings are padded to a multiple of 64, 128 or so; no model has more spare
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "tekken.json", "dict.txt")
VOCABULARY_SUFFIXES = (".model", ".spm", ".codes", ".tokenizer", ".tiktoken")
WITHOUT_FILES = re.compile(r"byt5|canine|perceiver", re.IGNORECASE)
"""Tokenizers whose vocabulary is bytes or code points."""
POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
NUMBERED = re.compile(r"^(.+?)\.(\d+)\.")


def known_architecture(folder: Path) -> str:
    """The `model_type` of a configuration, which transformers has to know without custom code.

    Raises:
        ModelError: it does not.
    """
    found = read_object(folder / CONFIG)
    kind = found["model_type"]
    if kind in CONFIG_MAPPING:
        return str(kind)
    if "auto_map" in found:
        raise ModelError(
            f"{folder / CONFIG}: model_type = {kind!r} needs Python code that came with the model "
            "(auto_map), and such code is never run, as it could do anything on this machine; "
            "give a model of an architecture that transformers has"
        )
    raise ModelError(
        f"{folder / CONFIG}: model_type = {kind!r} is no architecture that transformers "
        f"{transformers.__version__} knows; give a model of one, or update transformers"
    )


def require_tokenizer(folder: Path, what: str) -> None:
    """Checks that a tokenizer's files are there: transformers makes an empty one where they lack.

    Raises:
        ModelError: they are not, or code that came with the model would be needed to read them.
    """
    config = folder / "tokenizer_config.json"
    settings = read_object(config) if config.is_file() else {}
    named = f"{settings.get('tokenizer_class')} {_model_type(folder)}"
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    files = {name for name in names if name in VOCABULARIES or name.endswith(VOCABULARY_SUFFIXES)}
    if not files and not WITHOUT_FILES.search(named):
        raise ModelError(
            f"{folder} holds no vocabulary of {what} (tokenizer.json, vocab.txt, *.model), without "
            "which every word would be unknown; put the files that belong to the weights there"
        )
    if files == {"vocab.json"} and "merges.txt" not in names:
        raise ModelError(
            f"{folder} holds vocab.json without merges.txt, so that {what} would break all words "
            "into letters; put the merges.txt that belongs to it there"
        )
    pieces = sorted(name for name in files if name.endswith((".model", ".spm")))
    if pieces and "tokenizer.json" not in names and (lacks := _lacking(folder / pieces[0])):
        raise ModelError(
            f"{folder} holds the vocabulary of {what} as {pieces[0]} only, which cannot be read "
            f"without {' and '.join(lacks)}; put the tokenizer.json that belongs to the weights "
            f"there, or run pip install {' '.join(lacks)}"
        )
    if "auto_map" in settings and "tokenizer.json" not in names and not _is_native(settings):
        raise ModelError(
            f"{config}: {settings.get('tokenizer_class')!r} needs Python code that came with the "
            "model (auto_map), and such code is never run, as it could do anything on this "
            "machine; save the tokenizer as tokenizer.json"
        )


def _model_type(folder: Path) -> Any:
    config = folder / CONFIG
    return read_object(config).get("model_type") if config.is_file() else None


def _lacking(vocabulary: Path) -> list[str]:
    """Packages that transformers needs to read a vocabulary of pieces and that are not installed.

    SentencePiece's files are Protocol Buffers, whose first field begins with a line feed;
    tiktoken's are lines of base64.
    """
    with vocabulary.open("rb") as file:
        pieces = file.read(1) == b"\n"
    needed = (
        {"sentencepiece": is_sentencepiece_available, "protobuf": is_protobuf_available}
        if pieces
        else {"tiktoken": is_tiktoken_available}
    )
    return [name for name, available in needed.items() if not available()]


def _is_native(settings: Mapping[str, Any]) -> bool:
    return hasattr(transformers, str(settings.get("tokenizer_class")))


def refuse_misfits(model: nn.Module, info: Mapping[str, Any], *, fresh: tuple[str, ...]) -> None:
    """Checks that the weights are those of the configuration: none lacks, none is left over.

    All of their values must be finite.

    Args:
        info: what `from_pretrained` says of the loading.
        fresh: beginnings of names whose tensors need not be there, or as large.

    Raises:
        ModelError: some are not.
    """
    sizes = {name: shapes for name, *shapes in info["mismatched_keys"]}
    if others := sorted(name for name in sizes if not name.startswith(fresh)):
        there, wanted = (tuple(shape) for shape in sizes[others[0]])
        raise ModelError(
            f"{others[0]} is {there} in the weights and {wanted} by {CONFIG}; take the {CONFIG} "
            "that belongs to the weights"
        )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(fresh))
    if missing:
        every, others = len(list(model.parameters())), sorted(info["unexpected_keys"])
        instead = f", and holds {others[0]} and the like instead" if others else ""
        raise ModelError(
            f"it lacks {len(missing)} of {every} tensors that {CONFIG} asks for, such as "
            f"{missing[0]}{instead}; download all of it"
        )
    if left := [name for name in sorted(info["unexpected_keys"]) if _belongs(model, name)]:
        raise ModelError(
            f"its weights hold {len(left)} tensors that the model has no place for by {CONFIG}, "
            f"such as {left[0]}; take the {CONFIG} that belongs to the weights"
        )
    if broken := [name for name, tensor in model.named_parameters() if not _is_finite(tensor)]:
        raise ModelError(
            f"{len(broken)} tensors of its weights hold NaN or infinity, such as {broken[0]}, so "
            "that no trial could have a value; download them again"
        )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are; by their sum, which needs no memory, unless that overflows."""
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def _belongs(model: nn.Module, name: str) -> bool:
    """Whether a tensor that was left over is of a block behind the last, or of a module there.

    Heads for pretraining are left over as they should be.
    """
    modules = dict(model.named_modules())
    found = NUMBERED.match(name)
    if found and isinstance(stack := modules.get(found[1]), nn.ModuleList):
        return int(found[2]) >= len(stack) or _is_parameter(modules, name)
    return _is_parameter(modules, name)


def _is_parameter(modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether it would be a bias or weight of a leaf: buffers of old versions are not."""
    owner = modules.get(name.rpartition(".")[0])
    if owner is None or list(owner.children()) or not list(owner.parameters()):
        return False
    return name.endswith((".weight", ".bias"))


def check_vocabulary(
    texts: TextTokenizer, embedding: nn.Module, *, what: str, special: Mapping[str, int | None]
) -> list[str]:
    """Checks a tokenizer against the embedding that its ids go into, and against the texts.

    Args:
        texts: it has encoded the data.
        what: the tokenizer, for people.
        special: ids by name of tokens that are put around texts.

    Returns:
        What there is to say.

    Raises:
        ModelError: ids lie outside of the embedding, or texts are unknown to the tokenizer.
    """
    counts, stock = texts.counts, texts.stock
    if isinstance(embedding, nn.Embedding):
        _check_range(texts, embedding.num_embeddings, what, special)
        _check_padding(stock, embedding.padding_idx, what)
    if counts.unknown_share > UNKNOWN_LIMIT:
        raise ModelError(
            f"{counts.unknown_share:.0%} of the texts' tokens are unknown to {what} "
            f"({type(stock).__name__} with {len(stock)} tokens), so that there is nothing to learn "
            "from; use the tokenizer that belongs to the weights, or a model for texts of this "
            "language"
        )
    lines = [f"{counts.unknown_share:.1%} of {counts.tokens:,} tokens unknown to {what}"]
    rows = getattr(embedding, "num_embeddings", len(stock))
    if rows - len(stock) > max(SPARE_ROWS, len(stock) // 50):
        lines.append(
            f"{what} has {len(stock):,} tokens, its embedding {rows:,}: see that it belongs to the "
            "weights"
        )
    return lines


def _check_range(
    texts: TextTokenizer, rows: int, what: str, special: Mapping[str, int | None]
) -> None:
    stock, remedy = texts.stock, "use the tokenizer that belongs to the weights"
    if stock.vocab_size > rows:
        raise ModelError(
            f"{what} has a vocabulary of {stock.vocab_size} tokens, and its embedding {rows} rows; "
            f"{remedy}"
        )
    if texts.counts.largest >= rows:
        token = stock.convert_ids_to_tokens(texts.counts.largest)
        raise ModelError(
            f"{what} gives {token!r} the id {texts.counts.largest}, and its embedding has {rows} "
            f"rows; {remedy}"
        )
    for name, token in special.items():
        if token is not None and not 0 <= token < rows:
            raise ModelError(
                f"{what}: the {name} token has id {token}, and the embedding {rows} rows; {remedy}"
            )


def _check_padding(stock: Any, padding: int | None, what: str) -> None:
    """A token that the model was trained to pad with is no word of its own tokenizer."""
    stands_in = (None, stock.eos_token_id)  # where the tokenizer has no padding of its own
    if padding is None or padding < 0 or stock.pad_token_id in (padding, *stands_in):
        return
    token = stock.convert_ids_to_tokens(padding)
    if token is not None and len(token) > 1 and token not in control_tokens(stock):
        raise ModelError(
            f"the model pads with id {padding}, which is the word {token!r} of {what}, and that "
            f"pads with {stock.pad_token_id}; use the tokenizer that belongs to the weights"
        )


def require_image_processor(folder: Path) -> None:
    """Checks that the file is there which says how images are prepared.

    Raises:
        ModelError: it is not.
    """
    names = ("processor_config.json", "preprocessor_config.json")
    if not any((folder / name).is_file() for name in names):
        raise ModelError(
            f"{folder} holds neither {' nor '.join(names)}, which say how images are prepared; "
            "put the one that belongs to the weights there"
        )


def positions_of(model: nn.Module) -> int | None:
    """Tokens that a model with learned absolute positions can read; None where there is no limit.

    RoBERTa's first position follows its padding index, OPT's an offset of its own.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITIONS:
            behind = -1 if module.padding_idx is None else module.padding_idx
            found.append(module.num_embeddings - int(getattr(module, "offset", behind + 1)))
    return min(found, default=None)
