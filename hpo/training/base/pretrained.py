"""Loads the parts of a base from this machine, and tells what they are known by."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import PIL
import torch
import transformers
from torch import nn

from hpo.errors import MissingError
from hpo.specs import ModelSpec
from hpo.weights import find_weights

SAMPLE = 4096  # values of a tensor, at each end, that go into a digest


def load_pretrained(
    model: ModelSpec,
    kind: type[Any],
    processor_kind: type[Any],
    *,
    dtype: torch.dtype,
    what: str,
    fresh: Sequence[str] = (),
    **options: Any,
) -> tuple[Any, Any]:
    """(model, processor) of these transformers classes.

    Args:
        what: the architecture, for people.
        fresh: names of modules whose weights need not be there.
        options: what else `from_pretrained` is to know of the model.

    Raises:
        MissingError: weights or processor are not there, or of another architecture.
    """
    folder = find_weights(model.name, model.revision)
    try:
        processor = processor_kind.from_pretrained(folder, local_files_only=True)
        stock, info = kind.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError) as error:
        raise MissingError(
            f"model {model.name}: {folder} is not a complete {what} with its processor "
            f"({str(error).splitlines()[0]}); download all of it, or give another by --model DIR"
        ) from error
    known = tuple(f"{name}." for name in fresh)
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith(known)):
        raise MissingError(
            f"model {model.name}: {folder} lacks {len(missing)} tensors of {what}, such as "
            f"{missing[:1]}; download all of it, or give another by --model DIR"
        )
    return stock, processor


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
        "convolutions": "tf32" if torch.backends.cudnn.allow_tf32 else "float32",
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
