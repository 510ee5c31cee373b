"""Loads the parts of a base from this machine, and tells what they are known by."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL
import torch
import transformers
from torch import nn

from hpo.errors import HpoError, ModelError
from hpo.model_folder import CONFIG, read_object
from hpo.specs import ModelSpec
from hpo.training.base.fit import known_architecture, refuse_misfits, require_tokenizer
from hpo.training.memory.gauge import is_out_of_memory
from hpo.weights import find_model

TOKENIZER: Mapping[str, str] = {"": "the tokenizer"}
QUOTED = 200  # characters of a library's own sentence
SAMPLE = 4096  # values of a tensor, at each end, that go into a digest


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
    with _as_one_sentence(f"model {model.name}", folder, what):
        architecture = known_architecture(folder)
        own = getattr(kind, "config_class", None)
        if own is not None and own.model_type != architecture:
            raise ModelError(
                f"{folder / CONFIG}: model_type = {architecture!r}, and this task takes "
                f"{own.model_type!r}"
            )
        for place, tokenizer in tokenizers.items():
            require_tokenizer(folder / place, tokenizer)
        safe = {"local_files_only": True, "trust_remote_code": False}
        processor = processor_kind.from_pretrained(folder, **safe)
        stock, info = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in a sentence of our own
            **safe,
            **options,
        )
        refuse_misfits(stock, info, what=what, fresh=tuple(f"{name}." for name in fresh))
    return stock, processor


@contextmanager
def _as_one_sentence(name: str, folder: Path, what: str) -> Iterator[None]:
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
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if lines[0].startswith("Unrecognized configuration class"):
            kind = read_object(folder / CONFIG)["model_type"]
            raise ModelError(
                f"{name}: transformers has no {what} of architecture {kind!r}; give one of another "
                "architecture by --model DIR"
            ) from error
        raise ModelError(
            f"{name}: {folder} cannot be loaded as a {what} ({lines[0][:QUOTED]}); download all of "
            f"it again, {remedy}"
        ) from error


def identity_of(tower: nn.Module, config: Any, preprocessing: str, **more: str) -> str:
    """All that the outputs of a frozen module depend on but the image or text, as text."""
    device = next(tower.parameters()).device
    parts = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "device": str(torch.cuda.get_device_name(device) if device.type == "cuda" else device),
        "weights": _digest(tower),
        "tower": config.to_json_string(),
        "products": torch.get_float32_matmul_precision(),
        "kinds": " ".join(sorted({type(module).__name__ for module in tower.modules()})),
        "pillow": PIL.__version__,
        "preprocessing": preprocessing,
        **more,
    }
    return json.dumps(parts, sort_keys=True)


def _digest(module: nn.Module) -> str:
    """Identifies weights: of every tensor name, shape, type and its first and last values."""
    state = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        flat = tensor.flatten()
        ends = torch.cat([flat[:SAMPLE], flat[-SAMPLE:]]).float().cpu()
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(ends.numpy().tobytes())
    return state.hexdigest()
