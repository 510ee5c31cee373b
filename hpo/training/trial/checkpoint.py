"""A trial under way as one file, from which it goes on elsewhere, to the bit on a CPU.

`checkpoint.safetensors` holds, for an adapter of P parameters, `weights`, `exp_avg` and
`exp_avg_sq` (P,), AdamW's `step` (), the dropout generator's state and, once there is an eval
point, the `best` weights (P,). Everything else is JSON in its metadata, beside a sha256 of the
whole file, counted with zeros in the place of the sum itself. Nothing in it is ever executed.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from hpo.protocol import CHECKPOINT
from hpo.specs import EvalPoint, Scalar, Spec, TrialConfig
from hpo.training.trial.trial import Run

LAYOUT = 2  # B lies transposed
ZEROS = b"0" * 64
SUM = b'"sha256":"'


class CheckpointError(Exception):
    """A checkpoint cannot be used; the text goes on from "the checkpoint"."""


class Identity(Spec):
    """What a trial is: another with the same would have the same curve."""

    study: str
    study_seed: int
    seed_number: int
    config: TrialConfig
    samples: int
    evals: int
    device: str
    """cpu or cuda: their random numbers differ."""
    layout: int = 1
    """Of the weights: `LAYOUT` of the version that wrote them; the first did not say."""
    labels: tuple[str, ...] = ()
    """Labels by output of the head; versions that did not say had them in the order of texts."""


class Position(Spec):
    """Where a trial stands, as far as it is no tensor."""

    identity: Identity
    step: int
    samples_seen: int
    points: tuple[EvalPoint, ...]
    """All that were measured, also by the attempts before."""
    line: dict[str, Scalar] | None
    """The line of a step whose evaluation is still to be done."""
    curve: str
    """The text of metrics.csv."""
    seconds: float
    """What all attempts up to here took."""


def save(run: Run, curve: str, fence: Callable[[], None]) -> int:
    """Writes the checkpoint into the trial's folder, whole or not at all; its size in bytes.

    Args:
        curve: the text of metrics.csv up to here.
        fence: called before the file takes the place of the one before.

    Raises:
        OSError: the disk is full, or not there.
    """
    position = Position(
        identity=_identity(run),
        step=run.step,
        samples_seen=run.samples_seen,
        points=tuple(run.points),
        line=run.line,
        curve=curve,
        seconds=run.earlier_seconds + run.seconds,
    )
    metadata = {"position": position.model_dump_json(), "sha256": ZEROS.decode()}
    content = bytearray(safetensors.save(_tensors(run), metadata))
    start = content.index(SUM) + len(SUM)
    content[start : start + len(ZEROS)] = _sum(content, start)
    _replace(Path(run.order.folder) / CHECKPOINT, content, fence)
    return len(content)


def restore(run: Run, folder: Path) -> None:
    """Brings a run that has not begun to where the checkpoint in `folder` was written.

    Raises:
        CheckpointError: it is not there, damaged, or of another trial; the run is as before.
    """
    position, tensors = _read(folder / CHECKPOINT)
    ours, theirs = _identity(run).model_dump(), position.identity.model_dump()
    theirs["labels"] = theirs["labels"] or tuple(sorted(ours["labels"]))
    if different := [name for name in ours if ours[name] != theirs[name]]:
        raise CheckpointError(f"belongs to another trial: its {different[0]} differs")
    _check_shapes(run, position, tensors)
    flat, generator = run.adapter.flat, tensors.pop("generator")
    held = {name: tensor.to(flat.device) for name, tensor in tensors.items()}
    flat.data.copy_(held.pop("weights"))
    run.best_weights = held.pop("best", None)
    if not run.optimizer.defaults["fused"]:  # else it would be waited for at every step
        held["step"] = tensors["step"]
    run.optimizer.state[flat] = held
    run.adapter.generator.set_state(generator)
    run.step, run.samples_seen = position.step, position.samples_seen
    run.resumed_at, run.earlier_seconds = position.samples_seen, position.seconds
    run.line, run.curve, run.points = position.line, position.curve, list(position.points)
    run.grid = run.grid[len(run.points) :]
    run.stopped_early = bool(run.points) and run.points[-1].last and bool(run.grid)


def _identity(run: Run) -> Identity:
    study = run.bench.study
    return Identity(
        study=run.order.study,
        study_seed=study.search.seed,
        seed_number=run.order.seed_number,
        config=run.order.config,
        samples=run.samples,
        evals=study.trial.evals,
        device=run.bench.device.type,
        layout=LAYOUT,
        labels=run.bench.task.label_names,
    )


def _tensors(run: Run) -> dict[str, Tensor]:
    flat = run.adapter.flat
    best = {} if run.best_weights is None else {"best": run.best_weights}
    generator = run.adapter.generator.get_state()
    return {"weights": flat.detach(), "generator": generator, **run.optimizer.state[flat], **best}


def _check_shapes(run: Run, position: Position, tensors: dict[str, Tensor]) -> None:
    names = ["weights", "exp_avg", "exp_avg_sq", *(["best"] if position.points else [])]
    wanted = dict.fromkeys(names, _kind(run.adapter.flat))
    wanted["generator"] = _kind(run.adapter.generator.get_state())
    wanted["step"] = ((), torch.float32)
    if wanted != {name: _kind(tensor) for name, tensor in tensors.items()}:
        raise CheckpointError("is damaged: its tensors are not those of this adapter")


def _kind(tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.dtype


def _read(path: Path) -> tuple[Position, dict[str, Tensor]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError("is not there") from None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}") from error
    start = content.find(SUM) + len(SUM)
    if content[start : start + len(ZEROS)] != _sum(content, start):
        raise CheckpointError("is damaged: its checksum does not hold")
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        position = Position.model_validate_json(header["__metadata__"]["position"])
        return position, safetensors.load(content)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"is damaged: {type(error).__name__}") from error


def _sum(content: bytes | bytearray, start: int) -> bytes:
    """sha256 of a file with zeros where its own checksum stands, in hexadecimal."""
    view = memoryview(content)
    digest = hashlib.sha256(view[:start])
    digest.update(ZEROS)
    digest.update(view[start + len(ZEROS) :])
    return digest.hexdigest().encode()


def _replace(path: Path, content: bytearray, fence: Callable[[], None]) -> None:
    scratch = path.with_name(f"{path.name}.writing")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fence()
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
