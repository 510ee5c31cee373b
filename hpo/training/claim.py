"""Claims of GPUs: how two commands on one GPU learn of each other.

A claim does not refuse anything, as a large GPU has room for several small studies; it lets a
runner say why memory and speed are less than those of the whole device.
"""

import fcntl
import os
import tempfile
from pathlib import Path

import torch

from hpo.training.memory.gauge import gpu_memory
from hpo.units import show_size


def claim_gpu(device: torch.device) -> list[str]:
    """Claims a GPU for as long as this process lives; what to say if another has it already."""
    if device.type != "cuda":
        return []
    other = claim(str(torch.cuda.get_device_properties(device).uuid))
    return [] if other is None else [shared_gpu(other, *gpu_memory(device))]


def claim(uuid: str, folder: Path | None = None) -> str | None:
    """Locks a GPU's file; None if that worked, else the id of the user's process that has it.

    Where there can be no file, nobody is known to have the GPU.
    """
    path = (folder or Path(tempfile.gettempdir())) / f"hpo-{os.getuid()}-gpu-{uuid}.lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.read(file, 20).decode(errors="replace").strip()
        os.close(file)
        return other or "unknown"
    except OSError:  # a file system without locks
        os.close(file)
        return None
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()}\n".encode())
    return None  # the file stays open, and locked, until the process ends


def shared_gpu(process: str, available_bytes: int, total_bytes: int) -> str:
    """That another command of this user is on the GPU, and what that leaves."""
    return (
        f"another hpo command is on this GPU, too (process {process}): "
        f"{show_size(available_bytes)} of {show_size(total_bytes)} are left for this one"
    )
