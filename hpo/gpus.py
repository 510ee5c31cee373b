"""GPUs of this machine, as nvidia-smi lists them. Without torch, so that the driver may ask."""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

QUERY = ("nvidia-smi", "--query-gpu=index,memory.total,driver_version", "--format=csv,noheader")
TIMEOUT_S = 60.0  # without persistence mode, 8 GPUs take nvidia-smi more than 25 s
BROKEN = ("lost", "unknown error", "err!")  # in a row: a GPU that no longer answers
CONTAINER = "a container gets it with its GPUs, by docker run --gpus all"
DRIVER_FILES = (Path("/proc/driver/nvidia"), Path("/dev/nvidia0"))


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """What nvidia-smi says, and what of it may be used."""

    names: tuple[str, ...] = ()
    """Names of the usable, visible GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    driver_version: str = ""
    """Empty where nvidia-smi does not say."""
    problem: str = ""
    """What is wrong with nvidia-smi or with a GPU, in one phrase; empty where nothing is known."""
    expected: bool = False
    """Whether there should be a GPU: NVIDIA's driver is loaded, and the user does not hide all."""


def find_gpus(timeout_s: float = TIMEOUT_S) -> Gpus:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves visible.

    Args:
        timeout_s: what nvidia-smi may take.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not _may_be_gpu(visible.split(",")[0].strip()):
        return Gpus()  # the user hides all of them
    lines, problem = _listed(timeout_s)
    rows = [[part.strip() for part in line.split(",")] for line in lines]
    rows = [row for row in rows if row[0].isdigit()]  # all else is a message
    usable = [row for row in rows if not any(word in " ".join(row).lower() for word in BROKEN)]
    if len(usable) < len(rows) and not problem:
        broken = ", ".join(row[0] for row in rows if row not in usable)
        problem = f"nvidia-smi reports GPU {broken} as broken"
    names = _visible([row[0] for row in usable], visible)
    expected = bool(rows) or any(path.exists() for path in DRIVER_FILES)
    return Gpus(
        names=names,
        driver_version=next((row[2] for row in usable if len(row) > 2), ""),
        problem=problem or ("" if names else _nothing_visible(visible, usable)),
        expected=expected,
    )


def _listed(timeout_s: float) -> tuple[list[str], str]:
    """(nvidia-smi's lines, what is wrong with it)."""
    try:
        done = subprocess.run(
            QUERY, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except FileNotFoundError:
        return [], f"there is no nvidia-smi on the PATH ({CONTAINER})"
    except subprocess.TimeoutExpired:
        how = "nvidia-smi -pm 1, as root, makes it faster"
        return [], f"nvidia-smi did not answer within {timeout_s:g} s ({how})"
    except OSError as error:
        return [], f"nvidia-smi cannot be started: {error.strerror}"
    if done.returncode == 0:
        return done.stdout.splitlines(), ""
    said = [line.strip() for line in f"{done.stderr}\n{done.stdout}".splitlines() if line.strip()]
    messages = [line for line in said if not line.split(",")[0].isdigit()]
    why = messages[0] if messages else f"exit status {done.returncode}"
    return done.stdout.splitlines(), f"nvidia-smi failed: {why}"


def _may_be_gpu(name: str) -> bool:
    return name.isdigit() or name.startswith(("GPU-", "MIG-"))


def _visible(present: list[str], visible: str | None) -> tuple[str, ...]:
    """Those of the GPUs that are there which CUDA would show."""
    if visible is None or not present:
        return tuple(present)
    shown: list[str] = []
    for name in (part.strip() for part in visible.split(",")):
        if not (name in present or name.startswith(("GPU-", "MIG-"))):
            break  # as CUDA does: what follows an invalid name is hidden
        shown.append(name)
    return tuple(shown)


def _nothing_visible(visible: str | None, usable: Iterable[list[str]]) -> str:
    present = ", ".join(row[0] for row in usable)
    if not present:
        return "nvidia-smi lists no GPU"
    return f"CUDA_VISIBLE_DEVICES = {visible} names none of the GPUs that are there: {present}"
