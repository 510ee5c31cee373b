"""Sets up what a runner keeps warm: device, base, rows; and verifies it."""

import importlib.metadata
import os
import platform
import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch.utils import deterministic

import hpo
from hpo.contents import read_contents
from hpo.data import Examples, read_examples
from hpo.errors import DataError, HpoError, MissingError, ModelError
from hpo.gpus import find_gpus
from hpo.protocol import BaseFacts, Setup
from hpo.specs import Objective
from hpo.training.base.forward import Forward, alone, compute
from hpo.training.base.kernels import use_faster_kernels
from hpo.training.base.lora import LoraBase
from hpo.training.base.losses import NonFiniteError
from hpo.training.base.masks import leave_masks_unread
from hpo.training.cache import cache_features, share
from hpo.training.claim import claim_gpu
from hpo.training.memory.gauge import MemoryGauge, is_out_of_memory
from hpo.training.memory.prediction import MemoryModel
from hpo.training.memory.probe import count, one_row_order
from hpo.training.tasks import Source, Task, load_task
from hpo.training.trial.evaluate import evaluate
from hpo.training.trial.trial import Bench, new_adapter
from hpo.weights import find_model

BASE_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}
ADAPTER_DTYPES = {"float32": torch.float32, "bf16": torch.float32, "float16": torch.float16}
CACHE_BYTES = 512 << 20  # of preprocessed images
AHEAD_BYTES = 128 << 20  # of images that are read before they are asked for


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch, and asks torch for deterministic and sound kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # slow
    # torch prefers cuDNN's attention on H100 and later; with a mask in bf16, cuDNN 9.20 gives NaN
    # in gradients (pytorch#196678), and compiles a graph for every new length
    torch.backends.cuda.enable_cudnn_sdp(False)


def set_precision(*, tf32: bool) -> None:
    """Whether float32 products and convolutions of a GPU may be rounded to TF32.

    Both are said, as torch allows it for convolutions unless set otherwise.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def pick_device(*, gpu: bool) -> torch.device:
    """The device that the driver's placement has decided on.

    Raises:
        MissingError: it is a GPU, and torch cannot use it.
    """
    if not gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise MissingError(cannot_use_gpu(find_gpus().driver_version, torch.version.cuda))
    return torch.device("cuda", 0)


def cannot_use_gpu(driver_version: str, cuda_version: str | None) -> str:
    """What is to be done where nvidia-smi lists a GPU and torch sees none.

    Args:
        driver_version: empty where nvidia-smi does not say.
        cuda_version: what torch was built with; None for a build without CUDA.
    """
    driver = f"driver {driver_version}" if driver_version else "a driver of unknown version"
    built = f"CUDA {cuda_version}" if cuda_version else "no CUDA"
    needs = ", which needs driver 580 or later" if (cuda_version or "").startswith("13.") else ""
    return (
        f"nvidia-smi lists a GPU with {driver}, but torch {torch.__version__} cannot use it: it "
        f"was built with {built}{needs}; update the driver, install a torch that suits it (pip "
        "install torch --index-url https://download.pytorch.org/whl/cuXYZ), or use "
        "--set model.device=cpu"
    )


def set_up(setup: Setup) -> tuple[Bench, BaseFacts]:
    """Loads, wraps and verifies; evaluates the base where it is asked to.

    Raises:
        HpoError: what is missing or broken.
    """
    study = setup.study
    torch.set_num_threads(1)  # two threads on a busy core wait for each other at every step
    seed_everything(study.search.seed)
    set_precision(tf32=study.model.tf32)
    device = pick_device(gpu=setup.gpu)
    sharing = claim_gpu(device)
    gauge = MemoryGauge(device, setup.memory_limit_bytes)
    examples = read_examples(study.data)
    task = _load(setup, examples, device)
    leave_masks_unread(device)
    use_faster_kernels(task.model, device, limited=setup.memory_limit_bytes is not None)
    _hold_objective(study.objective, task)
    base_parameters = sum(p.numel() for p in task.model.parameters())
    with _computable(study.model.name):
        train, val = task.encode(examples.train), task.encode(examples.val)
    base = LoraBase(
        task.model, task.target_pattern, heads=task.heads, longest=task.longest, last_n=study.last_n
    )
    bench = Bench(
        study=study,
        task=task,
        base=base,
        train=train,
        val=val,
        device=device,
        adapter_dtype=ADAPTER_DTYPES[study.model.precision],
        gauge=gauge,
        memory=MemoryModel(),
        eval_rows=study.trial.eval_batch_size,
    )
    with _computable(study.model.name):
        checks = [*verify(task, base), cache_features(bench, examples, setup), *sharing]
        zero_shot = _zero_shot(bench) if setup.zero_shot else None
        warm_up(bench)
    bench = replace(bench, memory=memory_model(bench))
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
        generates=task.generates,
        labels=task.label_names,
    )
    return bench, facts


@contextmanager
def _computable(name: str) -> Iterator[None]:
    """Says which model is at fault where its parts do not fit, or its first forward passes fail.

    Raises:
        ModelError: they do, but not for want of memory; the traceback is in the runner's log.
    """
    try:
        yield
    except ModelError as error:
        raise ModelError(f"model {name}: {error}") from error
    except HpoError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise  # the device is at fault, not the model
        traceback.print_exc()
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ModelError(
            f"model {name}: its first forward pass fails ({why}); its config.json does not belong "
            "to its weights, or this task cannot use the architecture: give another by --model DIR"
        ) from error


def _load(setup: Setup, examples: Examples, device: torch.device) -> Task:
    study, limited = setup.study, setup.memory_limit_bytes is not None
    source = Source(
        model=study.model,
        data=study.data,
        examples=examples,
        device=device,
        dtype=BASE_DTYPES[study.model.precision],
        cache_bytes=share(setup, CACHE_BYTES),
        ahead_bytes=0 if limited and device.type == "cpu" else AHEAD_BYTES,  # threads take space
        last_n=study.last_n,
    )
    task = load_task(study.task, source)
    _compare_contents(setup, examples)  # after loading: what has been read is what is compared
    return task


def _compare_contents(setup: Setup, examples: Examples) -> None:
    """Raises DataError where model or data are not what the driver, or another runner, has read."""
    if not setup.contents:
        return
    model = setup.study.model
    parts = read_contents(find_model(model.name, model.revision), examples).parts
    wanted = setup.contents
    if changed := [key for key in parts | wanted if parts.get(key) != wanted.get(key)]:
        raise DataError(
            f"{' and '.join(changed)}: changed since this command started, so its runners would "
            "not train on the same; type the same command again, or restore the files"
        )


def verify(task: Task, base: LoraBase) -> list[str]:
    """Holds that the base is frozen and adapters lie in their scope only; says what held."""
    scope = task.target_scope
    outside = [name for name in base.names if scope and scope not in name.split(".")]
    if outside:
        raise HpoError(
            f"model.adapt: its expression matches {outside[0]}, and adapters may lie in the "
            f"{scope} only; give one that leaves all else out"
        )
    if any(p.requires_grad for p in task.model.parameters()):
        raise HpoError("the base is not frozen: a parameter of it requires a gradient")
    where = f"all in the {scope}" if scope else f"from {base.names[0]} to {base.names[-1]}"
    head = f", {' and '.join(task.heads)} trained as a whole" if task.heads else ""
    adapted = f"{2 * len(base.names)} LoRA tensors, {where}{head}, base frozen"
    return [adapted, *task.verify()]


def _hold_objective(objective: Objective, task: Task) -> None:
    if objective.metric not in ("val_loss", *task.metrics):
        raise MissingError(
            f"objective.metric = {objective.metric!r}: this task does not measure it; use "
            f"{' or '.join(('val_loss', *task.metrics))}"
        )


def warm_up(bench: Bench) -> None:
    """One step on the longest row, thrown away: shows that gradients flow where they should.

    What libraries keep for ever after their first step belongs to the memory baseline.

    Raises:
        HpoError: the adapter gets no gradient.
    """
    adapter = new_adapter(bench, one_row_order())
    row = max(bench.train, key=lambda row: row.length)
    asked = Forward(rows=[row], adapter=adapter, learns=True, targets=row.targets)
    losses = compute(bench.task, bench.base, [asked])[0]
    if not bool(torch.isfinite(losses.rows).all()):
        return  # trials will say so, each with step and place
    if adapter.flat.grad is None or not bool(adapter.flat.grad.any()):
        raise HpoError("the adapter gets no gradient: nothing would be trained")


def memory_model(bench: Bench) -> MemoryModel:
    """What is known of the memory of trials before the first of them."""
    return MemoryModel(
        footprint=count(bench),
        capacity_bytes=bench.gauge.capacity_bytes,
        parameter_bytes=bench.adapter_dtype.itemsize,
        exact_peaks=bench.device.type == "cuda",
    )


def _zero_shot(bench: Bench) -> float | None:
    """The objective of the base alone; None where its precision gives no finite one."""
    try:
        work = evaluate(bench.task, bench.val, None, bench.eval_rows)
        found = alone(bench.task, bench.base, work)
        return None if found is None else bench.study.objective.of(found)
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
