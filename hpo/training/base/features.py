"""What the frozen prefix of a base makes of each image or text, computed once for all trials.

A vision tower without adapters gives the same output for an image in every step of every trial;
of InstructBLIP it is 38% of a training step and over half of an evaluation. So do the blocks of a
language model before the first that has adapters, for a text. The outputs lie in
memory, or in a file of the host that all runners map, so that its pages are shared. The file's
name is the hash of all that its content depends on, and its checksum lies beside it.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hpo.data import Example
from hpo.errors import DataError

PATIENCE_S = 1800.0  # what others may take to compute
LOOK_S = 0.02
SLOT = 8  # inputs of one pass: always so many, as results may depend on it in the last bit


@dataclass(kw_only=True)
class Prefix:
    """The frozen first part of a base, with what goes into it."""

    identity: str
    """All that its output depends on but the input: weights, precision, preprocessing, device."""
    read: Callable[[Example], Any]
    """An example's input; raises DataError where its image is missing or broken."""
    forward: Callable[[Sequence[Any]], Sequence[Tensor]]
    """Inputs -> outputs (N, D), on the device; N may differ from input to input."""


@dataclass(kw_only=True)
class Features:
    """Outputs (N, D) of images or texts by name."""

    values: list[Tensor]
    index: dict[str, int]
    prefix: Prefix | None
    """Still there while an image could not be read; None when nothing needs it any more."""
    broken: dict[str, list[Example]] = field(default_factory=dict)
    """By the name of an image that could not be read: those of its pass."""

    @property
    def nbytes(self) -> int:
        """Of all outputs."""
        return sum(output.nbytes for output in self.values)

    def to(self, device: torch.device) -> None:
        """Brings them there."""
        self.values = [output.to(device) for output in self.values]

    def get(self, examples: Sequence[Example]) -> list[Tensor]:
        """Outputs (N, D) of a batch.

        Raises:
            DataError: an image is missing or broken, still.
        """
        for example in examples:
            if example.image_name in self.broken:
                self._mend(example)
        return [self.values[self.index[example.image_name]] for example in examples]

    def problems(self) -> dict[str, str]:
        """A sentence about each image that could not be read, and still cannot, by its name."""
        unread = {one.image_name: one for slot in self.broken.values() for one in slot}
        found = {}
        for name in sorted(self.broken, key=self.index.__getitem__):
            try:
                self.get([unread[name]])
            except DataError as error:
                found[name] = str(error)
        return found

    def _mend(self, example: Example) -> None:
        """Reads an image that was not there, in its place among those of its pass."""
        assert self.prefix is not None
        blank = self.prefix.read(example)
        slot = self.broken[example.image_name]
        outputs, broken = _one_pass(self.prefix, slot, blank)
        for one, output in zip(slot, outputs, strict=True):
            if one.image_name not in broken:
                self.broken.pop(one.image_name, None)
                place = self.index[one.image_name]
                self.values[place] = output.to(self.values[place].device)


def build(
    prefix: Prefix, examples: Sequence[Example], *, folder: Path | None, limit_bytes: int
) -> Features | None:
    """The outputs for all examples, from a file where they were computed before.

    Args:
        folder: where files lie; None keeps them in memory only.
        limit_bytes: of all files, or of the memory. Files that were not used for longest go.

    Returns:
        None if the outputs are larger than the limit, or if no image can be read: then trials
        compute them, and say what is wrong.
    """
    unique = list({example.image_name: example for example in examples}.values())
    blank = _blank(prefix, unique)
    if blank is None:
        return None
    some, _ = _one_pass(prefix, unique[:: -(-len(unique) // SLOT)], blank)
    size = sum(output.nbytes for output in some) * len(unique) // len(some)  # about
    if size > limit_bytes:
        return None
    if folder is None:
        return _computed(prefix, unique, blank, limit_bytes)
    path = folder / f"{_address(prefix, unique)}.safetensors"
    try:
        with _locked(path):  # one runner of a host computes, the others wait for it
            return _shared(prefix, unique, path, blank, limit_bytes)
    except OSError:  # nothing can be written there, or locked
        return _computed(prefix, unique, blank, limit_bytes)


def _shared(
    prefix: Prefix, examples: Sequence[Example], path: Path, blank: Any, limit_bytes: int
) -> Features | None:
    """The outputs in a file, computed into it where it is not there."""
    values = _read(path)
    if values is None:
        found = _computed(prefix, examples, blank, limit_bytes)
        if found is None or found.broken:
            return found
        _make_room(path.parent, limit_bytes - found.nbytes)
        _write(path, found.values)
        values = _read(path)
        if values is None:
            return found
    return Features(values=values, index=_index(examples), prefix=None)


def _blank(prefix: Prefix, examples: Sequence[Example]) -> Any | None:
    """What stands for an image that cannot be read; None if none can be."""
    for example in examples:
        try:
            return prefix.read(example)
        except DataError:
            continue
    return None


def _computed(
    prefix: Prefix, examples: Sequence[Example], blank: Any, limit_bytes: int
) -> Features | None:
    """None where they turn out larger than the limit."""
    found = Features(values=[], index=_index(examples), prefix=prefix)
    for start in range(0, len(examples), SLOT):
        slot = list(examples[start : start + SLOT])
        outputs, broken = _one_pass(prefix, slot, blank)
        found.values += outputs
        found.broken |= dict.fromkeys(broken, slot)
        if found.nbytes > limit_bytes:
            return None
    if not found.broken:
        found.prefix = None
    return found


@torch.no_grad()
def _one_pass(prefix: Prefix, slot: Sequence[Example], blank: Any) -> tuple[list[Tensor], set[str]]:
    """(outputs (N, D) on the CPU, names of the images that cannot be read)."""
    inputs, broken = [blank] * SLOT, set()
    for position, example in enumerate(slot):
        try:
            inputs[position] = prefix.read(example)
        except DataError:
            broken.add(example.image_name)
    return [output.cpu() for output in prefix.forward(inputs)[: len(slot)]], broken


def _index(examples: Sequence[Example]) -> dict[str, int]:
    return {example.image_name: position for position, example in enumerate(examples)}


def _address(prefix: Prefix, examples: Sequence[Example]) -> str:
    """The hash of what the outputs depend on."""
    state = hashlib.sha256(prefix.identity.encode())
    for example in examples:
        state.update(f"\n{example.image_name} {example.content()}".encode())
    return state.hexdigest()[:32]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for others that compute the same; not for ever, as one of them may hang.

    It looks often: a runner that takes no processor time while it sets up is held to hang.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE_S
    with path.with_suffix(".lock").open("a") as file:
        while not _took(file) and time.monotonic() < until:
            time.sleep(LOOK_S)
        yield


def _took(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> list[Tensor] | None:
    """The outputs in a file, mapped; None where there is none or it is damaged."""
    try:
        if json.loads(path.with_suffix(".json").read_text())["sha256"] != _checksum(path):
            return None
        os.utime(path)  # it was used
        with safe_open(path, framework="pt") as file:
            values, lengths = file.get_tensor("values"), file.get_tensor("lengths")
        return list(torch.split(values, lengths.tolist()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None


def _write(path: Path, values: Sequence[Tensor]) -> None:
    """Writes a file and its checksum; where the disk is full, nothing: memory holds it too."""
    scratch = path.with_suffix(".writing")
    try:
        lengths = torch.tensor([len(output) for output in values])
        save_file({"values": torch.cat(list(values)), "lengths": lengths}, scratch)
        path.with_suffix(".json").write_text(json.dumps({"sha256": _checksum(scratch)}) + "\n")
        os.replace(scratch, path)
    except (OSError, SafetensorError):
        scratch.unlink(missing_ok=True)


def _make_room(folder: Path, free_bytes: int) -> None:
    """Removes what a killed runner left, and files not used for longest until the rest fits."""
    for unfinished in folder.glob("*.writing"):
        if time.time() - unfinished.stat().st_mtime > PATIENCE_S:  # its writer was killed
            unfinished.unlink()
    files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    held = sum(path.stat().st_size for path in files)
    for path in files:
        if held <= free_bytes:
            return
        held -= path.stat().st_size
        path.unlink()  # who has mapped it keeps it
        path.with_suffix(".json").unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
