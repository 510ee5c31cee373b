"""Sets up what a runner keeps warm: device, base, rows; and verifies it."""

import importlib.metadata
import os
import platform
import random
from dataclasses import replace

import numpy as np
import torch
from torch.utils import deterministic

import hpo
from hpo.data import read_examples
from hpo.errors import HpoError, MissingError
from hpo.protocol import BaseFacts, Setup
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.evaluate import val_loss
from hpo.training.finite import NonFiniteError
from hpo.training.footprint import Footprint, measure
from hpo.training.lora import LoraBase
from hpo.training.memory import MemoryGauge
from hpo.training.tasks import Task, load_task
from hpo.training.trial import Bench, new_adapter

BASE_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}
ADAPTER_DTYPES = {"float32": torch.float32, "bf16": torch.float32, "float16": torch.float16}
CACHE_BYTES = 512 << 20  # of preprocessed images; an eighth of a memory limit


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch, and asks torch for deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # slow


def pick_device(*, gpu: bool) -> torch.device:
    """The device that the driver's placement has decided on.

    Raises:
        MissingError: it is a GPU, and torch cannot use it.
    """
    if not gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise MissingError(
            "nvidia-smi lists a GPU, but torch cannot use it: install a torch with CUDA that suits "
            "the driver, or use --set model.device=cpu"
        )
    return torch.device("cuda", 0)


def set_up(setup: Setup) -> tuple[Bench, BaseFacts]:
    """Loads, wraps and verifies; evaluates the base where it is asked to.

    Raises:
        HpoError: what is missing or broken.
    """
    study = setup.study
    torch.set_num_threads(1)  # two threads on a busy core wait for each other at every step
    seed_everything(study.search.seed)
    device = pick_device(gpu=setup.gpu)
    gauge = MemoryGauge(device, setup.memory_limit_bytes)
    examples = read_examples(study.data)
    task = load_task(
        study,
        device=device,
        dtype=BASE_DTYPES[study.model.precision],
        cache_bytes=min(CACHE_BYTES, (setup.memory_limit_bytes or CACHE_BYTES * 8) // 8),
    )
    base_parameters = sum(p.numel() for p in task.model.parameters())
    base = LoraBase(task.model, task.target_pattern)
    bench = Bench(
        study=study,
        task=task,
        base=base,
        train=task.encode(examples.train),
        val=task.encode(examples.val),
        device=device,
        adapter_dtype=ADAPTER_DTYPES[study.model.precision],
        gauge=gauge,
        footprint=Footprint(),
    )
    checks = verify(task, base)
    zero_shot = _zero_shot(bench) if setup.zero_shot else None
    bench = replace(bench, footprint=warm_up(bench))
    gauge.mark_baseline()
    facts = BaseFacts(
        device=device_name(device),
        memory_capacity_bytes=gauge.capacity_bytes,
        base_parameters=base_parameters,
        adapted_layers=len(base.layers),
        train_samples=len(bench.train),
        val_samples=len(bench.val),
        checks=tuple(checks),
        versions=versions(),
        zero_shot=zero_shot,
    )
    return bench, facts


def verify(task: Task, base: LoraBase) -> list[str]:
    """Holds that the base is frozen and adapters lie in their scope only; says what held."""
    outside = [name for name in base.names if task.target_scope not in name.split(".")]
    if outside:
        raise HpoError(f"adapters outside {task.target_scope}: {outside[0]}")
    if any(p.requires_grad for p in task.model.parameters()):
        raise HpoError("the base is not frozen: a parameter of it requires a gradient")
    adapted = f"{2 * len(base.names)} LoRA tensors, all in the {task.target_scope}, base frozen"
    return [adapted, *task.verify()]


def warm_up(bench: Bench) -> Footprint:
    """One step on the longest row, thrown away: shows what it keeps, and that gradients flow.

    What libraries keep for ever after their first step belongs to the memory baseline.

    Raises:
        HpoError: the adapter gets no gradient, or the base does.
    """
    order = TrialOrder(
        number=0,
        seed_number=0,
        folder="",
        config=TrialConfig(learning_rate=1.0, lora_r=1, lora_alpha=1.0, batch_size=1),
    )
    adapter = new_adapter(bench, order)
    bench.base.attach(adapter)
    batch = bench.task.collate([max(bench.train, key=lambda row: row.length)])
    try:
        loss, footprint = measure(bench.task.model, lambda: bench.task.token_losses(batch)[0].sum())
        torch.autograd.backward(loss)
    except NonFiniteError:
        return Footprint()  # trials will say so, each with step and place
    finally:
        bench.base.attach(None)
    if adapter.flat.grad is None or not bool(adapter.flat.grad.any()):
        raise HpoError("the adapter gets no gradient: nothing would be trained")
    if any(p.grad is not None for p in bench.task.model.parameters()):
        raise HpoError("the base gets a gradient: it would not stay frozen")
    return footprint


def _zero_shot(bench: Bench) -> float | None:
    """Val loss of the base alone; None where its precision gives no finite one."""
    try:
        return val_loss(bench.task, bench.val, bench.study.trial.eval_batch_size)
    except NonFiniteError:
        return None


def device_name(device: torch.device) -> str:
    """What people call the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores)"


def versions() -> dict[str, str]:
    """Versions of what a val loss depends on."""
    names = ("torch", "transformers", "peft", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), "hpo": hpo.__version__, **found}
