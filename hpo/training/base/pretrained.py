"""Loads the parts of a base from this machine, and tells what they are known by."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig

import hpo
from hpo.digests import THREADS
from hpo.errors import HpoError, ModelError
from hpo.model_folder import CONFIG, read_object
from hpo.specs import ModelSpec
from hpo.training.base.fit import (
    known_architecture,
    refuse_misfits,
    require_image_processor,
    require_tokenizer,
)
from hpo.training.memory.gauge import is_out_of_memory
from hpo.weights import find_model

TOKENIZER: Mapping[str, str] = {"": "the tokenizer"}
QUOTED = 200  # characters of a library's own sentence


def load_pretrained(
    model: ModelSpec,
    kind: Any,
    processor_kind: Any,
    *,
    dtype: torch.dtype,
    what: str,
    fresh: Sequence[str] = (),
    tokenizers: Mapping[str, str] = TOKENIZER,
    **options: Any,
) -> tuple[Any, Any]:
    """(model, processor) of these transformers classes; code that came with a model is never run.

    Args:
        what: the architecture, for people.
        fresh: names of modules whose weights need not be there, or may be of another size.
        tokenizers: what must be there, for people, by its folder in the model's.
        options: what else `from_pretrained` is to know of the model.

    Raises:
        MissingError: there is no such model.
        ModelError: weights or processor are damaged, of another architecture, or do not fit.
    """
    folder = find_model(model.name, model.revision)
    name = f"model {model.name}"
    safe = {"local_files_only": True, "trust_remote_code": False}
    with _translated(name, folder, what, "configuration"):
        _check_architecture(folder, getattr(kind, "config_class", None))
        AutoConfig.from_pretrained(folder, **safe)
    with _translated(name, folder, what, "tokenizer or processor"):
        if hasattr(kind, "config_class"):  # models of images have classes of their own
            require_image_processor(folder)
        for place, tokenizer in tokenizers.items():
            require_tokenizer(folder / place, tokenizer)
        processor = processor_kind.from_pretrained(folder, **safe)
    with _translated(name, folder, what, "weights"):
        stock, info = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in a sentence of our own
            **safe,
            **options,
        )
        refuse_misfits(stock, info, fresh=tuple(f"{name}." for name in fresh))
    return stock, processor


def _check_architecture(folder: Path, wanted: Any) -> None:
    """`wanted`: the only class of configurations that will do; None for any."""
    architecture = known_architecture(folder)
    if wanted is not None and wanted.model_type != architecture:
        raise ModelError(
            f"{folder / CONFIG}: model_type = {architecture!r}, and this task takes "
            f"{wanted.model_type!r}"
        )


@contextmanager
def _translated(name: str, folder: Path, what: str, part: str) -> Iterator[None]:
    """Turns whatever goes wrong within it into one sentence with the model's name and a remedy."""
    remedy = "or give another by --model DIR"
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name}: {error}, {remedy}") from error
    except HpoError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if "Unrecognized configuration class" in why:
            kind = read_object(folder / CONFIG)["model_type"]
            raise ModelError(
                f"{name}: transformers has no {what} of architecture {kind!r}; give one of another "
                "architecture by --model DIR"
            ) from error
        raise ModelError(
            f"{name}: the {part} in {folder} cannot be loaded ({why[:QUOTED]}); download all of it "
            f"again, {remedy}"
        ) from error


def identity_of(tower: nn.Module, config: Any, preprocessing: str, **more: str) -> str:
    """All that the outputs of a frozen module depend on but the image or text, as text."""
    device = next(tower.parameters()).device
    parts = {
        "hpo": hpo.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "device": str(torch.cuda.get_device_name(device) if device.type == "cuda" else device),
        "weights": _digest(tower),
        "tower": config.to_json_string(),
        "products": torch.get_float32_matmul_precision(),
        "convolutions": "tf32" if torch.backends.cudnn.allow_tf32 else "float32",
        "kinds": " ".join(sorted({type(module).__name__ for module in tower.modules()})),
        "pillow": PIL.__version__,
        "preprocessing": preprocessing,
        **more,
    }
    return json.dumps(parts, sort_keys=True)


def _digest(module: nn.Module) -> str:
    """Digest of weights: of the name, shape, type and all values of every tensor."""
    tensors = module.state_dict()
    with ThreadPoolExecutor(THREADS) as threads:  # hashlib releases the interpreter's lock
        digests = list(threads.map(_tensor_digest, tensors.values()))
    named = [
        (name, list(tensor.shape), str(tensor.dtype), digest)
        for (name, tensor), digest in zip(tensors.items(), digests, strict=True)
    ]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _tensor_digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(content.numpy().data).hexdigest()
