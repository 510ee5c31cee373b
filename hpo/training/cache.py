"""Computes once for all trials what the first part of a base makes of images or texts.

Only where no adapter lies in that part; and its outputs are held against the base's own answers.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from hpo.data import Examples
from hpo.data.images import raise_problems
from hpo.errors import DataError
from hpo.protocol import Setup
from hpo.training.base.features import Features, build
from hpo.training.base.forward import Forward, compute
from hpo.training.memory.gauge import is_out_of_memory
from hpo.training.trial.faults import breaks_device
from hpo.training.trial.trial import Bench

CACHE_SHARE = 8  # part of a memory limit that a cache may take is one in so many
FREE_SHARE = 0.1  # of a GPU's free memory that outputs of the prefix may take
EXACT = 1e-4  # difference of a loss in float32
ROUGH = 0.05  # the same in half precision, where it hangs on what is beside a row


def cache_features(bench: Bench, examples: Examples, setup: Setup) -> str:
    """Computes the frozen prefix once for all trials, where no adapter touches it; says so.

    Raises:
        DataError: images cannot be read; names the first ones.
    """
    task, limits = bench.task, setup.study.limits
    if not task.prefix:
        return "no part of the base goes first for all trials alike: nothing is cached"
    first, last = task.prefix[0], task.prefix[-1]
    where = f"the {first}" if first == last else f"{first} to {last}"
    if any(map(bench.base.touches, task.prefix)) or limits.cache_gb == 0:
        return f"{where} is computed at every step"
    features = build(
        task.frozen_prefix(),
        [*examples.train, *examples.val],
        folder=Path(setup.cache_dir) if setup.cache_dir else None,
        limit_bytes=share(setup, int(limits.cache_gb * (1 << 30))),
    )
    if setup.lanes is None:  # where trials have run already, one that needs it says so
        _check_readable(bench, features)
    if features is None:
        why = "its outputs exceed limits.cache_gb, or nothing of the data can be read"
        return f"{where} is computed at every step: {why}"
    if bench.device.type == "cuda" and features.nbytes < FREE_SHARE * _free(bench.device):
        features.to(bench.device)
    if not _answers_as_before(bench, features):
        return f"{where} is computed at every step: this model needs more of it than its outputs"
    inputs = "images" if examples.train[0].image else "texts"
    return f"{len(features.index)} {inputs} went through {where} once for all trials"


def _check_readable(bench: Bench, features: Features | None) -> None:
    """Raises DataError for images that could not be read, once all were tried, and still cannot."""
    if features is None:
        bench.task.collate(bench.train[:1])  # nothing could be read, or there is too much
    else:
        raise_problems(features.problems(), len(features.index))


def _answers_as_before(bench: Bench, features: Features) -> bool:
    """Whether the base with these outputs has the losses that it has without; else it stays so.

    Raises:
        AcceleratorError, RuntimeError: the device broke or is full, which says nothing of outputs.
    """
    before = _first_losses(bench)
    undo = bench.task.use(features)
    try:
        after = _first_losses(bench)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if breaks_device(error) or is_out_of_memory(error):
            raise
        after = None  # its blocks hand on something else than hidden states
    if after is not None and _are_the_same(before, after, bench.study.model.precision):
        return True
    undo()
    return False


def _first_losses(bench: Bench) -> Tensor:
    """Of the base alone on the first rows (B,); NaN where an image cannot be read."""
    rows = bench.train[:2]
    try:
        return compute(bench.task, bench.base, [Forward(rows=rows, adapter=None)])[0].rows
    except DataError:
        return torch.full((len(rows),), math.nan, device=bench.device)


def _are_the_same(losses: Tensor, others: Tensor, precision: str) -> bool:
    """As far as both are numbers."""
    both = losses.isfinite() & others.isfinite()
    exact = EXACT if precision == "float32" else ROUGH
    return torch.allclose(losses[both], others[both], rtol=exact, atol=exact)


def share(setup: Setup, most_bytes: int) -> int:
    """What a cache may take: under a memory limit, a part of it at most."""
    if setup.memory_limit_bytes is None:
        return most_bytes
    return min(most_bytes, setup.memory_limit_bytes // CACHE_SHARE)


def _free(device: torch.device) -> int:
    """Bytes of a GPU's memory that nobody holds."""
    return torch.cuda.mem_get_info(device)[0]
